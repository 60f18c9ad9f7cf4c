"""A fleet as a picture: its day, or what other rates cost."""

from __future__ import annotations

from api.cli.views.fleet import engine_words
from planner.pictures import drawn, new_figure
from planner.serving.document.plan import Plan
from profiles.errors import InputError


def draw(plan: Plan, kind: str) -> bytes:
    """A file of ``kind``: of several steps engines, requests and cost by the hour; of one step the cost against the
    rate, of the mix and of each GPU type alone.

    Raises:
        InputError: one step, and one GPU type.
    """
    if len(plan.decision.schedule) > 1:
        return _day(plan, kind)
    if plan.proof.fleet is None or not plan.proof.fleet.cost_by_rate:
        raise InputError(
            "--plot: the fleet has one step and nothing to compare its cost with",
            "draw a day (a load with steps), or offer several GPU types with prices",
        )
    return _cost_by_rate(plan, kind)


def _day(plan: Plan, kind: str) -> bytes:
    schedule = plan.decision.schedule
    edges = [step.start_s / 3600 for step in schedule] + [schedule[-1].end_s / 3600]
    figure = new_figure(figsize=(10, 8))
    axes = figure.subplots(3, 1, sharex=True)
    base = [0.0] * len(schedule)
    for group in plan.decision.engines:
        top = [low + step.engines[group.id] for low, step in zip(base, schedule, strict=True)]
        label = f"{group.id}: {engine_words(group)}"
        axes[0].stairs(top, edges, baseline=base, fill=True, label=label)
        base = [float(each) for each in top]
    axes[0].set_ylabel("engines")
    axes[0].legend(loc="upper left", frameon=False, fontsize="small")
    axes[1].stairs([step.rate_rps for step in schedule], edges, color="tab:gray")
    axes[1].set_ylabel("requests / s")
    usd = [step.usd_per_hour for step in schedule]
    if all(each is not None for each in usd):
        axes[2].stairs([each or 0.0 for each in usd], edges, label="this schedule")
        for row in plan.proof.fleet.compared if plan.proof.fleet is not None else ():
            if row.name == "constant fleet" and row.usd_per_hour is not None:
                axes[2].axhline(row.usd_per_hour, color="tab:red", linestyle="--", label="best constant fleet")
        axes[2].legend(loc="upper left", frameon=False)
    axes[2].set_ylabel("USD / h")
    axes[2].set_xlabel("hour")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    return drawn(figure, kind, plan.request.model)


def _cost_by_rate(plan: Plan, kind: str) -> bytes:
    assert plan.proof.fleet is not None
    rows = plan.proof.fleet.cost_by_rate
    figure = new_figure(figsize=(8, 5))
    axis = figure.subplots()
    for gpu in dict.fromkeys(gpu for row in rows for gpu in row.alone):
        there = [(row.rate_rps, row.alone[gpu]) for row in rows if gpu in row.alone]
        axis.plot(*zip(*there, strict=True), marker="o", label=f"{gpu} alone")
    mix = [(row.rate_rps, row.usd_per_hour) for row in rows if row.usd_per_hour is not None]
    axis.plot(*zip(*mix, strict=True), color="black", linewidth=2, marker="s", label="the best fleet")
    axis.set_xlabel("requests / s")
    axis.set_ylabel("USD / h")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    return drawn(figure, kind, plan.request.model)
