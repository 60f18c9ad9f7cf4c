"""What is answered of configurations, in the cells of their rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.origins import HOW
from costmodels.serving.closed_loop.client import Answers, Latency
from costmodels.serving.simulator.capacity import LONG
from planner.serving.asked_rows import AskedRow
from planner.serving.laboratories import laboratories
from planner.serving.role_answers import RoleAnswer

FALLS_BEHIND = (
    "falls behind with steps at the slow end of the prediction: the high ends of TTFT and E2E are what "
    f"{LONG:,} requests to one engine would see, and grow with more"
)


def write_role(out: dict[str, np.ndarray], row: AskedRow, answer: RoleAnswer, used: float, kv_tokens: int) -> None:
    for column, text in answer.cells.items():
        out[column][row.index] = text
    out["memory_bytes_per_gpu"][row.index] = f"{used:.0f}"
    out["kv_tokens"][row.index] = f"{kv_tokens}"
    out["step_ms_by_part"][row.index] = "; ".join(f"{name} {ms:.4g}" for name, ms in answer.parts_ms.items())


def write(
    out: dict[str, np.ndarray], rows: list[AskedRow], layouts: Layouts, answer: Answers, used: Floats, kv_tokens: Ints
) -> None:
    answer = as_strangers_measure(answer, rows)
    latencies: dict[str, Latency] = {"ttft_ms": answer.ttft, "tpot_ms": answer.tpot, "e2e_ms": answer.e2e}
    index = [row.index for row in rows]

    def write_cells(name: str, each: Estimates, unit: Floats | float, ends: str = "") -> None:
        for column, values in (
            (name, each.value),
            (f"{ends or name}_low", each.low),
            (f"{ends or name}_high", each.high),
        ):
            out[column][index] = [f"{value:.6g}" for value in values / unit]

    for name, latency in latencies.items():
        write_cells(f"{name}_mean", latency.mean, 1e3, name)
        write_cells(f"{name}_p50", latency.p50, 1e3)
        out[f"{name}_p99"][index] = [f"{value / 1e3:.6g}" for value in latency.p99]
    write_cells("itl_ms_p50", answer.itl_p50, 1e3)
    write_cells("itl_ms_p90", answer.itl_p90, 1e3)
    told_tokens = answer.counted_tokens_per_s or answer.output_tokens_per_s
    write_cells("output_tokens_per_s_per_gpu", told_tokens, layouts.gpus.astype(np.float64))
    watts, tokens = answer.watts, answer.output_tokens_per_s.scaled(1 / layouts.gpus)
    write_cells("watts_per_gpu", watts, 1.0)
    joules = Estimates(
        watts.value / tokens.value, watts.low / tokens.high, watts.high / tokens.low, watts.how, watts.inside
    )
    write_cells("joules_per_output_token", joules, 1.0)
    write_cells("joules_per_input_token", joules.scaled(1 / answer.input_share), 1.0)
    for column, parts in (("tpot_ms_by_part", answer.tpot_parts), ("ttft_ms_by_part", answer.ttft_parts)):
        for k, row in enumerate(rows):
            told = {name: values[k] / 1e3 for name, values in parts.items() if values[k] > 0}
            out[column][row.index] = "; ".join(f"{name} {ms:.4g}" for name, ms in told.items())
    for k, row in enumerate(rows):
        if row.workload.osl == 1:  # no token follows the first
            for name in (each for each in out if each.startswith(("tpot_ms", "itl_ms"))):
                out[name][row.index] = ""
        if answer.falls_behind is not None and answer.falls_behind[k]:
            out["note"][row.index] = "; ".join(filter(None, (out["note"][row.index], FALLS_BEHIND)))
        out["memory_bytes_per_gpu"][row.index] = f"{used[k]:.0f}"
        out["kv_tokens"][row.index] = f"{kv_tokens[k]}"
        origin = HOW[int(answer.tpot.mean.how[k])]
        out["how"][row.index] = origin if answer.tpot.mean.inside[k] else f"{origin}, outside the measured range"


def as_strangers_measure(answer: Answers, rows: list[AskedRow]) -> Answers:
    """``answer`` with the intervals that figures of a laboratory need which no constant knows, in the ``rows`` that one
    measured. What a rate asks for is made whoever measures."""
    strange = np.array([bool(row.stranger) for row in rows])
    if not strange.any():
        return answer
    closed = np.array([row.workload.concurrency is not None for row in rows])
    ttft, tpot, e2e = (strange * getattr(laboratories().others, name) for name in ("ttft", "tpot", "e2e"))

    def wider(latency: Latency, by: Floats) -> Latency:
        return replace(latency, mean=latency.mean.widened(by), p50=latency.p50.widened(by))

    counted = answer.counted_tokens_per_s
    return replace(
        answer,
        ttft=wider(answer.ttft, ttft),
        tpot=wider(answer.tpot, tpot),
        e2e=wider(answer.e2e, e2e),
        itl_p50=answer.itl_p50.widened(tpot),
        itl_p90=answer.itl_p90.widened(tpot),
        output_tokens_per_s=answer.output_tokens_per_s.widened(closed * e2e),
        counted_tokens_per_s=None if counted is None else counted.widened(closed * e2e),
    )
