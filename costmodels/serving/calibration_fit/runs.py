"""Measured runs as a fit sees them: the kernels' time of each step of their closed loops, by part, asked for once."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costmodels.arrays import take_rows
from costmodels.estimates import Floats, Ints
from costmodels.serving.calibration_fit.asked import AskedLoops
from costmodels.serving.closed_loop.load import Load
from costmodels.serving.closed_loop.loop_grid import grid_questions
from costmodels.serving.frameworks.calibration import NEUTRAL, Calibration

PARTS = ("gemm", "attention_prefill", "attention_decode", "moe", "communication", "elementwise")
_FIRST_DAY = dt.date(2025, 1, 1)

Texts = NDArray[np.object_]


@dataclass(frozen=True)
class MeasuredRuns:
    """``n`` runs.

    Attributes:
        parts_ms: [n, levels, parts] of one step, by :data:`PARTS`, as measured alone.
        uneven: [n, levels], of experts (:class:`~costmodels.serving.step.StepTimes`).
        decode_batch, prompts, chunks, stages, mixed: of the grid that the steps belong to.
        layers: of the model; ``slow_blocks``: whether its experts are blocks of fp8 that the release is slow with;
            ``slow_experts``: whether kernels for experts take longer than their rows say;
            ``launched_early``: whether kernels are launched before the last has ended;
            ``compiled``: whether its kernels are compiled when their shapes first come; ``sequence_ms``: what the
            release takes more of each running sequence; ``first_full_ms``: what prompts that first fill a
            step wait for.
        launched: layers whose kernels are launched one by one for prompts; ``launching_ms``: what the host takes for it
            in a step.
        ranks: attention ranks; ``load``: what clients sent.
        days: of the release, since 2025.
        row: of the table that they came in.
        framework, gpu, generation, vendor, model, kind, campaign: labels.
        offset: effects [n, 4] that are known before anything is fitted.
        at_rate: what came at a rate, None in a closed loop; coming_per_ms: requests, there.
        measured: [statistics, n] by :data:`STATISTICS`, ms, NaN where there is none.
    """

    parts_ms: Floats
    uneven: Floats
    decode_batch: Floats
    prompts: Floats
    chunks: Floats
    stages: Ints
    mixed: NDArray[np.bool_]
    layers: Ints
    slow_blocks: NDArray[np.bool_]
    slow_experts: NDArray[np.bool_]
    launched_early: NDArray[np.bool_]
    compiled: NDArray[np.bool_]
    first_full_ms: Floats
    launched: Ints
    launching_ms: Floats
    sequence_ms: Floats
    greedy: NDArray[np.bool_]
    ranks: Ints
    load: Load
    days: Floats
    row: Ints
    framework: Texts
    gpu: Texts
    generation: Texts
    vendor: Texts
    model: Texts
    kind: Texts
    campaign: Texts
    offset: Floats
    at_rate: NDArray[np.object_]  # RatePlay or None
    coming_per_ms: Floats
    measured: Floats

    def take(self, index: Ints) -> MeasuredRuns:
        out = take_rows(replace(self, measured=self.measured.T), index)
        return replace(out, measured=out.measured.T)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def closed(self) -> NDArray[np.bool_]:
        """Which are of a fixed number of users."""
        return np.isnan(self.coming_per_ms)


def day_number(day: dt.date | None) -> float:
    return float((day - _FIRST_DAY).days) if day is not None else float("nan")


def day_of(number: float) -> dt.date:
    return _FIRST_DAY + dt.timedelta(days=round(number))


def runs_of(loops: Sequence[AskedLoops], campaign: Texts, measured: Floats) -> MeasuredRuns:
    """What is asked of the cost model about every loop.

    Args:
        campaign, measured: of all rows of the table, [rows] and [statistics, rows].
    """
    parts = [_asked(each) for each in loops]
    rows = np.concatenate([each.rows for each in loops])
    columns = {
        field.name: np.concatenate([part[field.name] for part in parts])
        for field in fields(MeasuredRuns)
        if field.name in parts[0]
    }
    joined: dict[str, Any] = {f.name: _joined([getattr(each.load, f.name) for each in loops]) for f in fields(Load)}
    return MeasuredRuns(
        **columns,
        load=Load(**joined),
        row=rows,
        campaign=campaign[rows],
        offset=np.zeros((len(rows), 4)),
        measured=measured[:, rows],
    )


def _joined(values: list[Any]) -> Any:
    """Arrays one after another; dataclasses of arrays (gates) field by field."""
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values)
    names = [f.name for f in fields(values[0])]
    return type(values[0])(*(np.concatenate([getattr(each, name) for each in values]) for name in names))


def _asked(loops: AskedLoops) -> dict[str, np.ndarray]:
    served, n = loops.served, len(loops.layouts)
    running = np.minimum(loops.load.concurrency, loops.load.most_running)
    questions = grid_questions(loops.layouts, running, loops.load, served.framework.scheduler)
    uneven = np.zeros((n, len(questions.layouts) // n))
    without = NEUTRAL.model_copy(update={"factors": {**NEUTRAL.factors, "attention_prefill": 0.0}})

    def parts(calibration: Calibration) -> dict[str, Floats]:
        times = served.step(questions.layouts, questions.batch, loops.routing, calibration=calibration)
        uneven[:] = times.uneven.reshape(-1, n).T
        return {name: values.reshape(-1, n).T / 1e3 for name, values in times.parts.items()}

    every, decoding = parts(NEUTRAL), parts(without)["attention"]
    every |= {"attention_decode": decoding, "attention_prefill": every["attention"] - decoding}
    day = served.framework.nearest.date

    def label(text: str) -> Texts:
        return np.full(n, text, dtype=object)

    return {
        "parts_ms": np.stack([every[name] for name in PARTS], axis=2),
        "uneven": uneven,
        "decode_batch": questions.decode_batch,
        "prompts": questions.prompts,
        "chunks": questions.chunks,
        "stages": questions.stages,
        "mixed": questions.mixed,
        "layers": np.full(n, served.model.layers),
        "slow_blocks": np.full(n, served.slow.block_experts),
        "slow_experts": served.slow_experts(loops.layouts),
        "launched_early": np.full(n, served.slow.launched_early),
        "compiled": np.full(n, served.slow.compiled),
        "first_full_ms": np.full(n, served.slow.full_us / 1e3),
        "launched": np.full(n, served.slow.launched),
        "launching_ms": np.full(n, served.slow.launching_us / 1e3),
        "sequence_ms": np.full(n, served.slow.sequence_us / 1e3),
        "greedy": np.full(n, served.greedy),
        "ranks": loops.layouts.dp,
        "days": np.full(n, day_number(day)),
        "framework": label(served.framework.name),
        "gpu": label(served.gpu.name),
        "generation": label(served.gpu.generation),
        "vendor": label(served.gpu.vendor),
        "model": label(served.model.name),
        "kind": label(served.kind),
        "at_rate": np.array([loops.at_rate] * n, dtype=object),
        "coming_per_ms": np.full(n, np.nan if loops.at_rate is None else loops.at_rate.coming_per_ms),
    }
