"""Engines that prefill or decode alone, as tables ask about them: a step at the load that is given, and what comes of
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Estimates, Floats
from costmodels.operations.exchanges import BALANCES, OVERLAPS
from costmodels.operations.layouts import Layouts
from costmodels.origins import HOW
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from costmodels.serving.steady.disaggregated import decoding, prefill_steps
from costmodels.serving.steady.steady_state import held_batch
from costmodels.serving.step import StepTimes
from planner.serving.asked_engines import AskedEngine
from profiles.errors import InputError

PART_NAMES = {"gemm": "dense", "moe": "experts", "overlap": "hidden"}
"""Parts of a step, as people call them."""


@dataclass(frozen=True)
class RoleAnswer:
    """One engine. ``cells``: column of the answer → text; ``parts_ms``: what a step consists of."""

    cells: dict[str, str]
    parts_ms: dict[str, float]


def shape_of(engine: AskedEngine, served: ServedModel) -> RequestShape:
    """The row's requests, at their mean lengths."""
    work, row = engine.row.workload, engine.row
    shape = work.shape
    drafting = shape.drafting
    if drafting is None and row.drafts:
        tokens = row.drafted(served.framework.defaults.draft_tokens)
        drafting = SpeculativeDecoding(tokens, served.calibration.acceptance)
    return replace(shape, isl=round(work.mean_isl), osl=max(round(work.mean_osl), 1), drafting=drafting)


def answered(engine: AskedEngine, served: ServedModel, layouts: Layouts, running: int) -> RoleAnswer:
    """What an engine does that only prefills or only decodes.

    Args:
        layouts: of the one engine.
        running: sequences that the whole engine holds at once.

    Raises:
        InputError: a load that says nothing of such an engine.
    """
    users = engine.row.workload.concurrency
    assert users is not None
    shape, each = shape_of(engine, served), min(users, running) / float(layouts.dp[0])
    if layouts.overlap[0] == OVERLAPS.index("two_batch") and each < 2 and engine.row.wide.role == "decode":
        raise InputError(
            f"overlap: two_batch needs two sequences on each attention rank, and there are {each:.3g}",
            f"give a concurrency of at least {2 * int(layouts.dp[0])}, or overlap=none",
        )
    if engine.row.wide.role == "decode":
        return _decode(served, shape, layouts, each)
    waiting = users / float(layouts.dp[0])
    return _prefill(served, shape, layouts, (each, waiting), engine.started.max_num_batched_tokens)


def _decode(served: ServedModel, shape: RequestShape, layouts: Layouts, each: float) -> RoleAnswer:
    if shape.osl < 2:
        raise InputError("osl: a decode engine makes the tokens after the first", "give an osl of at least 2")

    def decodes(laid_out: Layouts) -> tuple[Estimates, StepTimes]:
        held = np.array([each])
        once = served.step(laid_out, held_batch(served, shape, laid_out, held), shape.routing)
        found = decoding(served, shape, laid_out, held, served.framework.kv_connector, once)
        return found.tpot_us, found.step

    tpot, step = decodes(layouts)
    output = _rate(each * float(layouts.dp[0]) * 1e6, tpot)
    cells = _latency("tpot_ms", tpot) | _throughput("output", output, layouts) | {"how": _origin(tpot)}
    spread = _latency("itl_ms", tpot.scaled(shape.tokens_per_step))
    for share in ("p50", "p90"):
        cells |= {f"itl_ms_{share}{end}": spread[f"itl_ms_p50{end}"] for end in ("", "_low", "_high")}
    return RoleAnswer(cells, _parts(step, lambda perfect: decodes(perfect)[1], layouts))


def _prefill(
    served: ServedModel, shape: RequestShape, layouts: Layouts, prompts: tuple[float, float], budget: int
) -> RoleAnswer:
    """Each attention rank computes its share of the prompts in flight, as many at once as its budget holds.

    Args:
        prompts: of each rank, those for which its cache has room, and all that wait for their first token.
    """
    each, waiting = prompts

    def prefills(laid_out: Layouts) -> tuple[Estimates, StepTimes, float]:
        steps = prefill_steps(served, shape, laid_out, np.array([budget]), np.array([max(int(np.ceil(each)), 1)]))
        together = float(steps.together[0])
        once = steps.full.latency if together > 1 else steps.one.latency.scaled(steps.chunks)
        return once, steps.full if together > 1 else steps.one, together

    once, step, together = prefills(layouts)
    ttft = once.scaled(max(waiting / together, 1.0))
    tokens = _rate(together * shape.new_tokens * float(layouts.dp[0]) * 1e6, once)
    cells = _latency("ttft_ms", ttft) | _throughput("input", tokens, layouts) | {"how": _origin(once)}
    return RoleAnswer(cells, _parts(step, lambda perfect: prefills(perfect)[1], layouts))


def _rate(amount: float, time: Estimates) -> Estimates:
    """``amount`` ÷ ``time`` µs, a second."""
    return Estimates(amount / time.value, amount / time.high, amount / time.low, time.how, time.inside)


def _latency(name: str, time_us: Estimates) -> dict[str, str]:
    value, low, high = (f"{float(part[0]) / 1e3:.6g}" for part in (time_us.value, time_us.low, time_us.high))
    return {
        f"{name}_mean": value,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_p50": value,
        f"{name}_p50_low": low,
        f"{name}_p50_high": high,
        f"{name}_p99": value,
    }


def _throughput(of: str, rate: Estimates, layouts: Layouts) -> dict[str, str]:
    gpus = float(layouts.gpus[0])
    ends = (("", rate.value), ("_low", rate.low), ("_high", rate.high))
    return {f"{of}_tokens_per_s_per_gpu{end}": f"{float(value[0]) / gpus:.6g}" for end, value in ends}


def _origin(time: Estimates) -> str:
    origin = HOW[int(time.how[0])]
    return origin if time.inside[0] else f"{origin}, outside the measured range"


def _parts(step: StepTimes, balanced: Callable[[Layouts], StepTimes], layouts: Layouts) -> dict[str, float]:
    """Milliseconds of each part of ``step``, and what imbalance costs: ``balanced`` answers the same step of a layout
    whose experts are all as busy."""
    parts: dict[str, Floats] = step.parts
    out = {PART_NAMES.get(name, name): float(values[0]) / 1e3 for name, values in parts.items() if values[0]}
    if layouts.wide[0]:
        even = balanced(replace(layouts, eplb=np.full(1, BALANCES.index("perfect"))))
        out["of which imbalance"] = float(step.latency.value[0] - even.latency.value[0]) / 1e3
    return out
