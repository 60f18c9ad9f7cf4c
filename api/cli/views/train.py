"""Training layouts as people read them, in at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, page, table
from api.cli.views.quantities import gib, number, percent, several
from costmodels.training.layouts import ATTENTION, RECOMPUTED, SCHEDULES
from costmodels.training.memory import TrainingMemory
from planner.training.columns import memory_columns, time_columns
from planner.training.configuration import TrainingConfiguration
from planner.training.places import places_words
from planner.training.places import room as room_of
from planner.training.prediction import Predicted
from planner.training.remedies import Remedy, remedies

VERDICTS = ("fits", "fits only with expandable segments", "does not fit")
MOST_STAGES = 12

_COLUMNS = {
    "weights": ("weights",),
    "grads": ("gradients",),
    "optim.": ("optimizer",),
    "activ.": ("activations",),
    "at peak": ("transient", "logits", "buffers"),
}
"""Columns of the memory table, and the parts that each sums."""


def layout_words(c: TrainingConfiguration) -> str:
    """``TP4 PP8 VPP5 DP2, sequence parallel``."""
    degrees = (("TP", c.tp), ("PP", c.pp), ("VPP", c.vpp), ("DP", c.dp), ("CP", c.cp), ("EP", c.ep), ("MoE-TP", c.etp))
    words = " ".join(f"{name}{degree}" for name, degree in degrees if degree > 1) or "one GPU"
    return words + (", sequence parallel" if c.sequence_parallel else "")


def recompute_words(c: TrainingConfiguration) -> str:
    if c.recomputed is None:
        return "full"
    if c.recomputed:
        return f"full, {c.recomputed} layers of each stage"
    parts = [part for bit, part in enumerate(RECOMPUTED) if c.selective >> bit & 1]
    return f"selective: {', '.join(parts)}" if parts else "none"


def _header(c: TrainingConfiguration, console: Console) -> None:
    console.print(Text(c.model.name, style="bold"))
    sharding = ("none", "optimizer states", "optimizer states and gradients", "all states and weights")[c.sharding]
    group = f" over {c.shard_ranks}" if c.sharding and c.shard_ranks < c.dp * c.cp else ""
    rows = [
        ("layout", f"{layout_words(c)} on {places_words(c.places, c.gpus)}"),
        (
            "framework",
            f"{c.framework.full_name} {c.framework.release}, {c.precision}, {ATTENTION[c.attention]} attention",
        ),
        (
            "batch",
            f"{c.global_batch:,} × {c.sequence:,} tokens in {several(c.microbatches, 'micro-batch', 'es')} "
            f"of {c.micro_batch}",
        ),
        ("schedule", SCHEDULES[c.schedule] if c.pp > 1 else "no pipeline"),
        ("sharding", f"{sharding}{group}"),
        ("recompute", recompute_words(c)),
    ]
    if c.defaults:
        rows.append(("by default", ", ".join(c.defaults)))
    facts(console, rows)


def show_memory(c: TrainingConfiguration, answer: Predicted, *, explain: bool) -> None:
    """Every stage's memory by part, the verdict, and what would make it fit."""
    with page() as out:
        _header(c, out)
        _memory(c, answer.memory, out, explain=explain)


def _memory(c: TrainingConfiguration, memory: TrainingMemory, out: Console, *, explain: bool) -> None:
    used, plain = memory.used()[0, : c.pp], memory.used(expandable=False)[0, : c.pp]
    room = np.broadcast_to(room_of(c.places), c.pp)
    several_types = len(c.places) > 1
    where = " and ".join(dict.fromkeys(gib(float(each)) for each in room))
    heading(out, f"Memory of a GPU at its peak, GiB of {where}")
    stages = list(range(c.pp))
    if c.pp > MOST_STAGES and not explain:
        fullest = int(used.argmax())
        stages = sorted({0, 1, c.pp // 2, c.pp - 2, c.pp - 1, fullest})
    grid = table("stage", "layers", *_COLUMNS, "allocated", "reserved", "all", "", left=0)
    types = [place.gpu.name for place in c.places for _ in range(place.stages)]
    layers = np.array(c.split).reshape(c.vpp, c.pp).sum(axis=0)
    for stage in stages:
        verdict = 0 if plain[stage] <= room[stage] else 1 if used[stage] <= room[stage] else 2
        cells = [sum(getattr(memory, part)[0, stage] for part in parts) for parts in _COLUMNS.values()]
        sums = (memory.allocated[0, stage], memory.reserved[0, stage], used[stage])
        grid.add_row(
            str(stage),
            str(layers[stage]),
            *(f"{each / 2**30:.1f}" for each in (*cells, *sums)),
            ("fits", "tight", "no")[verdict],
        )
    indented(out, grid)
    verdict = 0 if (plain <= room).all() else 1 if (used <= room).all() else 2
    out.print()
    fullest = int((used / room).argmax())
    out.print(
        f"  {VERDICTS[verdict]} (stage {fullest}{f', on {types[fullest]},' if several_types else ''} is the fullest)"
    )
    if verdict:
        heading(out, "What would make it fit, cheapest first")
        found = remedies(c)
        for each in found:
            bullet(out, remedy_words(each))
        if not found:
            bullet(out, "neither two changes nor 32 times the GPUs do: ask plan train for a layout")


def remedy_words(remedy: Remedy) -> str:
    return f"{remedy.change}: {gib(remedy.bytes)} GiB on the fullest GPU"


def show_prediction(c: TrainingConfiguration, answer: Predicted, notes: Sequence[str] = (), *, explain: bool) -> None:
    """Time, its parts, and memory of one layout; ``notes`` on what it rests on."""
    assert answer.times is not None
    times = time_columns(answer, [c])
    memory = memory_columns(answer, [c])

    def value(name: str) -> float:
        return float(str(times[name][0]))

    with page() as out:
        _header(c, out)
        heading(out, "Prediction")
        low, high = value("iteration_s_low"), value("iteration_s_high")
        facts(
            out,
            [
                ("iteration", f"{number(value('iteration_s'))} s  ({number(low)}–{number(high)}, 80 %)"),
                ("throughput", f"{number(value('tokens_per_s_gpu'))} tokens/s a GPU"),
                ("model FLOPs", f"{number(value('model_tflops_gpu'))} TFLOP/s a GPU, MFU {percent(value('mfu'))}"),
                ("bubble", percent(value("bubble_share"))),
                ("exposed exchanges", percent(value("exposed_communication_share"))),
                ("memory", f"{gib(float(str(memory['memory_bytes_per_gpu'][0])))} GiB allocated on the fullest GPU"),
                ("known from", str(times["how"][0])),
            ],
        )
        for note in notes:
            bullet(out, note)
        heading(out, "Where the time goes")
        parts = {name: float(part[0]) for name, part in answer.times.parts.items()}
        total = sum(parts.values())
        grid = table("part", "s", "share")
        for name, part in sorted(parts.items(), key=lambda item: -item[1]):
            if part > 0.005 * total or (explain and part > 0):
                grid.add_row(name.replace("_", " "), number(part / 1e6), percent(part / total))
        indented(out, grid)
        _memory(c, answer.memory, out, explain=explain)
