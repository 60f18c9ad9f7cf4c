"""The timeline of a simulation as a picture."""

from __future__ import annotations

from planner.pictures import drawn, new_figure
from planner.replay.document import SimulationReport


def draw(report: SimulationReport, kind: str) -> bytes:
    """The timeline as a file of ``kind``: arrivals, sequences, use of engines and cache, and TTFT."""
    moments = report.timeline
    time = [moment.time_s for moment in moments]
    figure = new_figure(figsize=(10, 8))
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
    return drawn(figure, kind, f"{report.model}, {'; '.join(report.engines)}: {report.load.source}")
