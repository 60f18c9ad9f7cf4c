"""The timeline of a simulation as a picture; matplotlib is imported only here."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any

from planner.simulated import SimulationReport
from profiles.errors import InputError, Unsupported

KINDS = (".png", ".svg", ".html")


def check_kind(path: Path) -> None:
    """Raises InputError for a suffix that is not drawn, Unsupported where matplotlib is not installed."""
    if path.suffix.casefold() not in KINDS:
        raise InputError(f"--plot: {path.name} is not one of {', '.join(KINDS)}", "name the file timeline.html")
    _figure()


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported(
            "--plot: matplotlib is not installed", "pip install 'shardwright[plot]', or leave --plot out"
        ) from error
    return Figure


def draw(report: SimulationReport, kind: str) -> bytes:
    """The timeline as a file of ``kind``: arrivals, sequences, use of engines and cache, and TTFT. The HTML holds
    its picture within (SVG) and needs nothing else."""
    from matplotlib import rc_context

    # Text as paths and a fixed salt: the same report gives the same file everywhere.
    with rc_context({"svg.hashsalt": "shardwright", "svg.fonttype": "path"}):
        picture = _picture(report, "png" if kind == ".png" else "svg")
    if kind != ".html":
        return picture
    title = escape(_title(report))
    drawing = picture.decode("utf-8")
    drawing = drawing[drawing.index("<svg") :]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n{drawing}\n</body></html>\n"
    ).encode()


def _title(report: SimulationReport) -> str:
    return f"{report.model}, {'; '.join(report.engines)}: {report.load.source}"


def _picture(report: SimulationReport, form: str) -> bytes:
    moments = report.timeline
    time = [moment.time_s for moment in moments]
    figure = _figure()(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True)
    axes[0].plot(time, [moment.arrivals_rps for moment in moments], color="tab:gray")
    axes[0].set_ylabel("arrivals / s")
    axes[1].plot(time, [moment.running for moment in moments], label="running")
    axes[1].plot(time, [moment.waiting for moment in moments], label="waiting")
    axes[1].set_ylabel("sequences")
    axes[2].plot(time, [100 * moment.busy for moment in moments], label="busy engines")
    axes[2].plot(time, [100 * moment.kv_share for moment in moments], label="fullest KV cache")
    axes[2].set_ylabel("%")
    axes[2].set_ylim(0, 105)
    seen = [moment for moment in moments if moment.ttft_p90_ms is not None]
    axes[3].plot([moment.time_s for moment in seen], [moment.ttft_p90_ms for moment in seen], label="TTFT p90")
    for check in report.slo:
        if check.metric == "ttft":
            axes[3].axhline(check.limit_ms, color="tab:red", linestyle="--", label=f"TTFT p{check.percentile:g} limit")
    axes[3].set_ylabel("ms")
    axes[3].set_ylim(bottom=0)
    axes[3].set_xlabel("s")
    for axis in axes[1:]:
        axis.legend(loc="upper left", frameon=False)
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.suptitle(_title(report))
    out = io.BytesIO()
    figure.savefig(out, format=form, dpi=120, metadata={"Date": None} if form == "svg" else {"Software": None})
    return out.getvalue()
