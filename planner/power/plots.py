"""Pictures of a power plan: row power over time for each policy, and servers against impact."""

from __future__ import annotations

import numpy as np

from planner.pictures import drawn, new_figure
from planner.power.document import PowerPlan
from planner.power.report import Solved
from planner.power.series import timeline

_SHOWN = ("none", "polca", "ours")


def draw(made: Solved, plan: PowerPlan, kind: str) -> bytes:
    """As a file of ``kind``."""
    shown = [name for name in _SHOWN if name in made.results]
    figure = new_figure(figsize=(11, 2.2 * len(shown) + 3.4))
    axes = figure.subplots(len(shown) + 1, 1)
    budget = made.request.supply.budget_watts
    for axis, name in zip(axes, shown, strict=False):
        judged = made.results[name]
        watts = timeline(made, judged.policy, judged.verdict.servers) / budget
        width = max(len(watts) // 2000, 1)
        whole = watts[: len(watts) // width * width].reshape(-1, width)
        hours = np.arange(len(whole)) * width / 3600
        axis.fill_between(hours, whole.min(axis=1), whole.max(axis=1), alpha=0.4, linewidth=0)
        axis.plot(hours, whole.mean(axis=1), linewidth=0.8)
        axis.axhline(1.0, color="tab:red")
        for level in judged.policy.levels:
            for up in {level.up, level.step} - {None}:
                axis.axhline(up, color="tab:gray", linestyle="--", linewidth=0.6)
        axis.set_title(f"{name}: {made.row.told(judged.verdict.servers)} servers", loc="left", fontsize="medium")
        axis.set_ylabel("of budget")
        axis.set_xlabel("h")
    last = axes[-1]
    classes = [each.name for each in plan.request.priorities]
    for name in shown:
        points = sorted((p for p in plan.frontier if p.policy == name), key=lambda p: p.servers)
        for index, each in enumerate(classes):
            last.plot(
                [p.servers / plan.decision.today - 1 for p in points],
                [100 * p.impact[each].p99 for p in points],
                marker="o",
                linestyle=("-", "--", ":")[index % 3],
                label=f"{name}, {each} p99",
            )
    last.set_xlabel("servers beyond today's, share")
    last.set_ylabel("latency grows by, %")
    last.legend(frameon=False, fontsize="small")
    for axis in axes:
        axis.grid(alpha=0.3)
    return drawn(figure, kind, f"{plan.request.supply.name}: {plan.decision.servers} servers")
