"""What measured runs taught, as people read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from api.cli.console import as_json_text, bullet, heading, indented, page, table, write_text

if TYPE_CHECKING:
    from planner.calibrate.learning import Lesson

_HELD = {
    "nothing": "nothing (in sample)",
    "rows": "every fifth run in turn",
    "model": "whole models",
    "gpu": "whole GPU types",
    "campaign": "whole campaigns",
    "date": "the newest releases",
}


def show(lesson: Lesson, store: Path) -> None:
    with page() as out:
        for framework, said in lesson.said().items():
            heading(out, f"{framework}: {said['runs']:,} runs")
            rows = table("left out", "TTFT error", "median", "bias", "TPOT error", "median", "bias")
            for name, figures in said["errors"].items():
                rows.add_row(
                    "before: the shipped constants" if name == "before" else _HELD[name],
                    *(
                        _told(figures[metric], part)
                        for metric in ("ttft", "tpot")
                        for part in ("mape", "median", "bias")
                    ),
                )
            indented(out, rows)
            for each in said["moved"]:
                bullet(out, each)
        out.print()
        left = sum(count for _, count in lesson.left_out)
        out.print(Text(f"{lesson.used + left:,} runs: {lesson.used:,} used, {left:,} not."))
        for reason, count in lesson.left_out:
            bullet(out, f"{count:,}: {reason}")
        for need in lesson.needs():
            bullet(out, need)
        out.print(Text(f"Written to {store}; use it with --profiles {store}"))


def _told(figures: dict[str, float] | None, part: str) -> str:
    if figures is None:
        return "–"
    text = f"{figures[part]:+.1f} %" if part == "bias" else f"{figures[part]:.1f} %"
    return text.replace("-", "−")


def as_document(lesson: Lesson) -> None:
    document: dict[str, Any] = {
        "used": lesson.used,
        "left_out": [{"reason": reason, "rows": count} for reason, count in lesson.left_out],
        "frameworks": lesson.said(),
        "needs": lesson.needs(),
    }
    write_text(as_json_text(document))
