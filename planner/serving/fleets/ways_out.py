"""Why there is no fleet, and the nearest thing that works."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from planner.solving.mix.most import most_share
from planner.solving.mix.question import Block, MixQuestion, Survive
from planner.solving.mix.solve import solve_mix
from profiles.errors import Infeasible

SECONDS = 5.0


def why_not(question: MixQuestion, limit_s: float) -> Infeasible:
    """The error that names what binds: the budget, what is to be survived, the changes, or the supplies."""
    seconds = min(SECONDS, limit_s)
    if question.budget is not None:
        found = solve_mix(replace(question, budget=None), seconds=seconds, gap=1e-4)
        if found.engines is not None:
            hours = question.kinds.cost @ found.engines.T + question.fixed_cost
            least = math.ceil(float(hours.max()) * 100) / 100
            return Infeasible(
                f"budget_usd_per_hour: {question.budget:g} is less than any fleet that carries the load costs",
                f"allow {least:g} USD an hour, or serve less",
                binding="budget",
                usd_per_hour=least,
            )
    if question.survive.any:
        found = solve_mix(replace(question, survive=Survive()), seconds=seconds, gap=1e-3)
        if found.engines is not None:
            most = int(found.engines.sum(axis=1).min())
            asked = {name: getattr(question.survive, name) for name in ("engines", "nodes", "spot_pools", "zones")}
            said = ", ".join(f"{name} {count}" for name, count in asked.items() if count)
            return Infeasible(
                f"survive: {said}: the pools carry the load with {most} engines, and not after that loss",
                "give the pools more GPUs or other pools, survive less, or a smaller share of the "
                "load (survive: share)",
                binding="survive",
            )
    if question.most_changes is not None or (question.kinds.min_up_s > 0).any() or question.steps > 1:
        kinds = replace(question.kinds, min_up_s=np.zeros(len(question.kinds)), startup_s=np.zeros(len(question.kinds)))
        alone = [
            solve_mix(
                replace(question, kinds=kinds, work=[work], seconds=np.array([3600.0]), cyclic=False, before=None,
                        most_changes=None), seconds=seconds, gap=1e-2,
            )
            for work in question.work
        ]  # fmt: skip
        if all(each.engines is not None for each in alone):
            return Infeasible(
                "schedule: every step has a fleet, and none of them can be changed into the next as asked",
                "allow more changes (max_changes), a shorter min_up_s, or pools with room for replacements",
                binding="changes",
            )
    return _supplies(question)


def _supplies(question: MixQuestion) -> Infeasible:
    """What the supplies carry, and how many GPUs of one pool would do."""
    free = replace(question, blocks=(), budget=None, most_changes=None)
    work = max(question.work, key=lambda each: float(np.where(np.isfinite(each), each, 0).sum()))
    share = most_share(question, work)
    ways = []
    for k, block in enumerate(question.blocks):
        wider = [replace_most(each, math.inf) if i == k else each for i, each in enumerate(question.blocks)]
        found = solve_mix(replace(free, blocks=wider), seconds=SECONDS, gap=1e-3)
        if found.engines is not None:
            most = max(float(block.each @ row[block.kinds]) for row in found.engines)
            ways.append(f"{math.ceil(most):,} {block.counts} of {block.name}")
    binding = " and ".join(block.name for block in question.blocks) or "the classes"
    both = " and ".join(dict.fromkeys(block.counts for block in question.blocks)) or "GPUs"
    return Infeasible(
        f"fleet: the load is more than the {both} of {binding} carry"
        + (f", about {math.floor(100 * share)} % of it at most" if 0 < share < 0.995 else ""),
        f"have {' or '.join(ways)}" if ways else "offer more pools, or serve less",
        binding=binding,
        share_carried=share,
    )


def replace_most(block: Block, most: float) -> Block:
    return replace(block, most=most)
