"""How far predictions are from what was measured, as people read it."""

from __future__ import annotations

import math
from collections.abc import Collection

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, heading, indented, page, table
from planner.serving.measured.document import ALL, Score, Scores
from planner.serving.measured.read import not_read
from planner.serving.measured.suspects import Suspect

MOST = 8
"""Kinds of remarks that are shown."""

FEWEST = 8
"""Rows of a group from which its figures say something."""


def show(scores: Scores) -> None:
    with page() as out:
        cuts = list(dict.fromkeys(score.by for score in scores.scores))
        for cut in cuts:
            of = [score for score in scores.scores if score.by == cut]
            heading(out, "Predicted against measured" if cut == ALL else f"By {cut}")
            _table(out, of, cut)
        left = sum(each.rows for each in scores.left_out)
        out.print()
        out.print(
            Text(
                f"{scores.rows:,} row{'s' if scores.rows > 1 else ''}: {scores.rows - left:,} predicted, {left:,} not."
            )
        )
        for each in scores.left_out:
            bullet(out, f"{each.rows:,}: {each.reason}")
        for each in scores.unread:
            bullet(out, f"{each.rows:,}: {each.reason}, so not measured")
        for each in scores.assumed[:MOST]:
            bullet(out, f"{each.rows:,}: {each.reason}")
        if len(scores.assumed) > MOST:
            bullet(out, f"{len(scores.assumed) - MOST} more kinds of remarks: -o FILE, column note")
        if scores.not_read:
            bullet(out, _nothing_of(scores.not_read))
        if scores.unmeasured:
            several = "rows have" if scores.unmeasured > 1 else "row has"
            bullet(out, f"{scores.unmeasured:,} predicted {several} nothing measured")
        if scores.scores:
            out.print(
                Text(
                    "  Error: |predicted ÷ measured − 1|; bias: its median with its sign; in 80 %: rows within "
                    "their interval; score: interval score ÷ that of the best single width (below 1: intervals know "
                    "what they do not know)."
                )
            )


def told_of_file(columns: Collection[str], rows: int, failed: int) -> str:
    """What is said, in lines, of a file of so many ``rows`` that was predicted."""
    why = " (the column error says why)" if failed else ""
    unread = not_read(columns, ())
    told = [f"{rows - failed:,} predicted, {failed:,} not{why}", *([_nothing_of(unread)] if unread else [])]
    return "\n".join(told)


def _nothing_of(columns: Collection[str]) -> str:
    said = f"columns that say nothing to us: {', '.join(columns)}"
    drawn = any(word in each.casefold() for each in columns for word in ("watt", "power"))
    return f"{said} (watts are read of one GPU, as watts_per_gpu)" if drawn else said


def show_suspects(found: list[Suspect]) -> None:
    with page() as out:
        heading(out, "What is likely off")
        for each in found:
            bullet(
                out,
                f"{each.quantity}: {each.outside:,} of {each.rows:,} rows lie outside their interval; {each.part} at "
                f"{each.factor:.2f} × what is predicted explains most (median error {_pct(each.error)} → "
                f"{_pct(each.left)})",
            )
        if not found:
            bullet(out, "nothing: most rows whose parts are known are within their intervals")
        else:
            bullet(out, "plan calibrate learns it from these rows: --profiles STORE")


def _pct(log_error: float) -> str:
    return f"{100 * math.expm1(log_error):.0f} %"


def _table(out: Console, of: list[Score], cut: str) -> None:
    """Each group has a line of its own above its quantities: names of either may be long."""
    rows = table("quantity" if cut == ALL else cut, "rows", "mean error", "median", "p90", "bias", "in 80 %", "score")
    ordered = of if cut == ALL else sorted(of, key=lambda score: score.group)
    few, group = 0, ""
    for score in ordered:
        if cut != ALL and score.rows < FEWEST:
            few += 1
            continue
        if cut != ALL and score.group != group:
            group = score.group
            rows.add_row(Text(group, style="bold", overflow="fold"))
        rows.add_row(
            score.quantity if cut == ALL else f"  {score.quantity}",
            f"{score.rows:,}",
            *(f"{value:.1f} %" for value in (score.mape_pct, score.median_pct, score.p90_pct)),
            f"{score.bias_pct:+.1f} %".replace("-", "−"),
            "–" if score.coverage_pct is None else f"{score.coverage_pct:.0f} %",
            "–" if score.against_one_width is None else f"{score.against_one_width:.2f}",
        )
    if few < len(ordered):
        indented(out, rows)
    if few:
        lines = f"{few} {'line' if few == 1 else 'lines'}"
        indented(out, Text(f"{lines} of fewer than {FEWEST} rows left out (--json has them)", style="dim"))
