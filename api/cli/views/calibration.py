"""What measured runs taught, as people read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from api.cli.console import as_json_text, bullet, heading, indented, page, table, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from planner.calibrate.learning import Lesson
    from planner.calibrate.training_runs import TrainingLesson

_HELD = {
    "before": "before: the constants that stood",
    "nothing": "nothing (in sample)",
    "rows": "every fifth run in turn",
    "model": "whole models",
    "gpu": "whole GPU types",
    "campaign": "whole campaigns",
    "date": "the newest releases",
}

_WHAT = {"ttft": "TTFT", "tpot": "TPOT", "iteration": "iteration"}

_CONSTANTS = {
    "elementwise_bandwidth": "share of the memory bandwidth that elementwise work reaches",
    "attention_backward": "attention, backward ÷ forward",
    "fabric": "share of the fabric's rate that exchanges between nodes reach",
    "hidden_cost": "share of a hidden exchange that computation loses to it",
    "expert_overhead": "experts' products ÷ plain products of the same rows",
}


def show(lesson: Lesson | None, trained: TrainingLesson | None, store: Path) -> None:
    with page() as out:
        if lesson is not None:
            _show_serving(out, lesson)
        if trained is not None:
            _show_training(out, trained)
        out.print(Text(f"Written to {store}; use it with --profiles {store}"))


def _show_serving(out: Console, lesson: Lesson) -> None:
    for framework, said in lesson.said().items():
        heading(out, f"{framework}: {said['runs']:,} runs")
        rows = table("left out", "TTFT error", "median", "bias", "TPOT error", "median", "bias")
        for name, figures in said["errors"].items():
            rows.add_row(
                _HELD[name],
                *(_told(figures[metric], part) for metric in ("ttft", "tpot") for part in ("mape", "median", "bias")),
            )
        indented(out, rows)
        for each in said["moved"]:
            bullet(out, each)
        _show_worse(out, said["worse"])
    out.print()
    _show_use(out, lesson.used, lesson.left_out, lesson.needs())


def _show_training(out: Console, lesson: TrainingLesson) -> None:
    heading(out, f"training: {lesson.used:,} runs")
    rows = table("left out", "iteration error", "median", "bias")
    for name, figures in lesson.errors.items():
        rows.add_row(_HELD[name], *(_told(figures, part) for part in ("mape", "median", "bias")))
    indented(out, rows)
    for name, before, after in lesson.moved:
        bullet(out, f"{_CONSTANTS.get(name, name.replace('_', ' '))}: {before:.2f} → {after:.2f}")
    _show_worse(out, lesson.worse)
    out.print()
    _show_use(out, lesson.used, lesson.left_out, lesson.needs)


def _show_worse(out: Console, lost: Sequence[dict[str, Any]]) -> None:
    if not lost:
        return
    heading(out, "Worse than the constants that stood, on runs left out")
    for each in lost:
        held = _HELD[each["left_out"]]
        bullet(out, f"{_WHAT[each['what']]} error, {held} left out: {each['before']:.1f} → {each['after']:.1f} %")
    bullet(out, "the store is written all the same: give more runs, or leave it out of --profiles")


def _show_use(out: Console, used: int, left_out: Sequence[tuple[str, int]], needs: Sequence[str]) -> None:
    left = sum(count for _, count in left_out)
    out.print(Text(f"{used + left:,} runs: {used:,} used, {left:,} not."))
    for reason, count in left_out:
        bullet(out, f"{count:,}: {reason}")
    for need in needs:
        bullet(out, need)


def _told(figures: dict[str, float] | None, part: str) -> str:
    if figures is None:
        return "–"
    text = f"{figures[part]:+.1f} %" if part == "bias" else f"{figures[part]:.1f} %"
    return text.replace("-", "−")


def as_document(lesson: Lesson | None, trained: TrainingLesson | None) -> None:
    document: dict[str, Any] = {}
    if lesson is not None:
        document |= {
            "used": lesson.used,
            "left_out": [{"reason": reason, "rows": count} for reason, count in lesson.left_out],
            "frameworks": lesson.said(),
            "needs": lesson.needs(),
        }
    if trained is not None:
        document["training"] = trained.said()
    write_text(as_json_text(document))
