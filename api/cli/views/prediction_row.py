"""One configuration's prediction as people read it, and what it consists of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.console import bullet, facts, heading, indented, page, table
from api.cli.views.quantities import gib, milliseconds, milliseconds_range, number, watts, watts_range
from planner.contract.quantities import Interval

if TYPE_CHECKING:
    import pandas as pd


def explained(row: pd.Series, stores: Sequence[Path] = ()) -> None:
    """What times consist of, and what that rests on (``stores``: folders laid over the pack); in a step of an engine
    with one role, what is hidden counts against it."""
    from costmodels.serving.frameworks.framework import find_framework
    from costmodels.serving.frameworks.own_calibration import calibration_in
    from planner.serving.asked_release import with_release

    with page() as out:
        for column, title in (
            ("step_ms_by_part", "One step"),
            ("tpot_ms_by_part", "Time per output token"),
            ("ttft_ms_by_part", "Time to first token"),
        ):
            if not row[column]:
                continue
            heading(out, title)
            rows = table("part", "ms")
            for part in row[column].split("; "):
                name, _, ms = part.rpartition(" ")
                rows.add_row(name, ms)
            indented(out, rows)
        name = with_release({"framework": row["framework"]}, [])["framework"].partition("@")[0]  # as the row was read
        framework = find_framework(f"{name}@{row['release']}")
        fitted = calibration_in(stores, framework.name) or framework.fitted
        heading(out, "What it rests on")
        bullet(out, f"kernels and exchanges: {row['how'] or 'measured and modelled rows'}")
        own = "with" if find_gpu_name(row["gpu"]) in fitted.on_gpus else "without"
        bullet(
            out,
            f"host, steps with prompts and front end: constants fitted to {fitted.rows:,} measured runs of the "
            f"framework, {own} runs on this GPU type ({fitted.fitted_on})",
        )


def find_gpu_name(text: str) -> str:
    """The catalogue's name of a GPU type, or ``text`` where only a store describes it."""
    from profiles.errors import UnknownName
    from profiles.hardware import find_gpu

    try:
        return find_gpu(text).name
    except UnknownName:
        return text


def show_row(row: pd.Series) -> None:

    with page() as out:
        heading(out, "Prediction")
        rows = table("latency", "mean", "80 % interval", "p50", "p99")
        for name, title in (
            ("ttft_ms", "time to first token (TTFT)"),
            ("tpot_ms", "time per output token (TPOT)"),
            ("e2e_ms", "whole request (E2E)"),
        ):
            if not row[f"{name}_mean"]:
                continue  # not of such an engine, or of an answer of one token
            mean, low, high, p50, p99 = (float(row[f"{name}_{part}"]) for part in ("mean", "low", "high", "p50", "p99"))
            interval = milliseconds_range(Interval(value=mean, low=low, high=high))
            rows.add_row(title, milliseconds(mean), interval, milliseconds(p50), milliseconds(p99))
        indented(out, rows)
        facts(
            out,
            [
                *(
                    (name, f"{number(float(row[f'{name}_tokens_per_s_per_gpu']))} tokens/s per GPU")
                    for name in ("input", "output")
                    if row[f"{name}_tokens_per_s_per_gpu"]
                ),
                *([("power", _power(row))] if row["watts_per_gpu"] else []),
                *(
                    [
                        ("memory", f"{gib(float(row['memory_bytes_per_gpu']))} GiB per GPU"),
                        ("KV cache", f"{int(row['kv_tokens']):,} tokens per attention rank"),
                    ]
                    if row["kv_tokens"]
                    else []
                ),
                ("known from", row["how"]),
                *([("note", row["note"])] if row["note"] else []),
            ],
        )


def _power(row: pd.Series) -> str:
    """``524 W per GPU (456–597 W), 0.524 J per output token``."""

    mean, low, high = (float(row[f"watts_per_gpu{end}"]) for end in ("", "_low", "_high"))
    joules = number(float(row["joules_per_output_token"]))
    return (
        f"{watts(mean)} per GPU ({watts_range(Interval(value=mean, low=low, high=high))}), {joules} J per output token"
    )
