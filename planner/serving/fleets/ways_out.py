"""Why there is no fleet, and the nearest thing that works."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from planner.serving.fleets.supplies import QUOTA
from planner.solving.mix.clock import Deadline
from planner.solving.mix.master import per_hour
from planner.solving.mix.most import most_share
from planner.solving.mix.question import Block, MixQuestion, Survive
from planner.solving.mix.solve import MixAnswer, solve_mix
from planner.solving.solvers import Ints
from profiles.errors import Infeasible, LimitReached

SECONDS = 5.0
"""For one way out, at most."""

OF_TIME = "raise --time-limit, or give fewer classes or steps"

OTHERS = "offer more pools, or serve less"

LOSSES = ("engines", "nodes", "spot_pools", "zones")


class More(NamedTuple):
    """``amount`` of what a supply ``counts`` (GPUs, watts), ``unit`` of which are bought at once."""

    supply: str
    amount: int
    counts: str
    unit: int

    def times(self, factor: float) -> More:
        return self._replace(amount=math.ceil(self.amount * factor / self.unit - 1e-9) * self.unit)

    @property
    def words(self) -> str:
        pool = self.supply.removeprefix(QUOTA)
        return f"{'' if pool == self.supply else 'a quota of '}{self.amount:,} {self.counts} of {pool}"


Way = list[More]
"""All of them together."""


def why_not(question: MixQuestion, deadline: Deadline, *, brief: bool = False) -> Infeasible:
    """The error that names what binds: the budget, what is to be survived, the changes, or the supplies, as far as that
    is known by the ``deadline``; ``brief``: without looking for ways out."""
    unsure = False
    if question.budget is not None:
        found = _tried(replace(question, budget=None), deadline, 1e-4)
        if found.engines is not None:
            least = least_budget(question, found.engines)
            return Infeasible(
                f"budget_usd_per_hour: {question.budget:g} is less than any fleet that carries the load costs",
                f"allow {least:g} USD an hour, or serve less",
                binding="budget",
                usd_per_hour=least,
            )
        unsure = found.status == "time_limit"
    if question.survive.any:
        found = _tried(replace(question, survive=Survive()), deadline, 1e-3)
        if found.engines is not None:
            return _not_survived(question, found.engines, deadline, brief=brief)
        unsure = unsure or found.status == "time_limit"
    if question.most_changes is not None or (question.kinds.min_up_s > 0).any() or question.steps > 1:
        kinds = replace(question.kinds, min_up_s=np.zeros(len(question.kinds)), startup_s=np.zeros(len(question.kinds)))
        alone = [
            _tried(
                replace(question, kinds=kinds, work=[work], seconds=np.array([3600.0]), cyclic=False, before=None,
                        most_changes=None), deadline, 1e-2,
            )
            for work in question.work
        ]  # fmt: skip
        if all(each.engines is not None for each in alone):
            return Infeasible(
                "schedule: every step has a fleet, and none of them can be changed into the next as asked",
                "allow more changes (max_changes), a shorter min_up_s, or pools with room for replacements",
                binding="changes",
            )
        unsure = unsure or any(each.status == "time_limit" for each in alone)
    if unsure:
        return Infeasible(
            "fleet: nothing keeps all of what is asked, and the time limit left too little to tell what binds",
            "raise --time-limit to be told, or ask for less (budget, survive, changes, load)",
            binding="together",
        )
    return _supplies(question, deadline, brief=brief)


def _tried(question: MixQuestion, deadline: Deadline, gap: float) -> MixAnswer:
    return solve_mix(question, seconds=min(SECONDS, max(deadline.left, 0.0) / 2), gap=gap)


def least_budget(question: MixQuestion, engines: Ints) -> float:
    """The budget in whole cents that every step of ``engines`` (steps, n) keeps to."""
    return math.ceil(max(per_hour(question, row) for row in engines) * 100 - 1e-6) / 100


def _not_survived(question: MixQuestion, engines: Ints, deadline: Deadline, *, brief: bool) -> Infeasible:
    """What is to be survived is too much: the GPUs with which it would do, how much less would, and of how much of the
    load."""
    asked = question.survive
    named = {name: count for name in LOSSES if (count := getattr(asked, name))}
    said = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in named.items())
    most = int(engines.sum(axis=1).max())
    some = f"{most} engine{'' if most == 1 else 's'}"
    message = f"survive: {said}: the pools carry the load with {some}, and not after that loss"
    if brief:
        return Infeasible(message, "survive less", binding="survive")
    ways = _wider(question, deadline)
    fewer = {}
    for name, count in named.items():
        held, lost = 0, count  # who survives a loss survives a smaller one
        while lost - held > 1:
            less = (held + lost) // 2
            survive = replace(asked, **{name: less})
            found = _tried(replace(question, survive=survive), deadline, 1e-2)
            held, lost = (held, less) if found.engines is None else (less, lost)
        if held:
            fewer[name] = held
    low, high = 0.0, asked.share
    while high - low > 0.02:
        share = (low + high) / 2
        survive = replace(asked, share=share)
        found = _tried(replace(question, survive=survive), deadline, 1e-2)
        low, high = (low, share) if found.engines is None else (share, high)
    part = math.floor(low * 100) / 100
    hints = [to_have(ways)] if ways else ["offer other pools"]
    hints += [f"survive {name.replace('_', ' ')} {less}" for name, less in fewer.items()]
    hints += [carried_then(part)] if part > 0 else []
    return Infeasible(message, ", or ".join(hints), binding="survive", share_survived=part, have=ways)


def carried_then(part: float) -> str:
    """The way out that is to carry a part of the load after the loss."""
    return f"carry {part:.0%} of the load then (survive: share: {part:g})"


def _supplies(question: MixQuestion, deadline: Deadline, *, brief: bool) -> Infeasible:
    """What the supplies carry, and how many GPUs of one pool would do."""
    free = replace(question, budget=None, most_changes=None)
    work = max(question.work, key=lambda each: float(np.where(np.isfinite(each), each, 0).sum()))
    share = most_share(question, work)
    ways = [] if brief else _wider(free, deadline)
    limits = _of_use(question)
    binding = " and ".join(block.name for block in limits) or "the classes"
    both = " and ".join(dict.fromkeys(block.counts for block in limits)) or "GPUs"
    return Infeasible(
        f"fleet: the load is more than the {both} of {binding} carry"
        + (f", about {math.floor(100 * share)} % of it at most" if 0 < share < 0.995 else ""),
        to_have(ways) if ways else OTHERS,
        binding=binding,
        share_carried=share,
        have=ways,
    )


def _of_use(question: MixQuestion) -> list[Block]:
    """Supplies of kinds that carry something."""
    of_use = np.any([np.isfinite(work).any(axis=0) for work in question.work], axis=0)
    return [block for block in question.blocks if of_use[block.kinds].any()]


def not_mended(question: MixQuestion, engines: Ints, deadline: Deadline) -> Infeasible | LimitReached:
    """Why ``engines`` (steps, n) were not made to carry everything by the ``deadline``: the supplies of which they
    leave less than an engine takes in a step, or the time."""
    full = [
        block.name for block in question.blocks if len(block.kinds) and
        max(float(block.each @ row[block.kinds]) for row in engines) + float(block.each.min()) > block.most + 1e-9
    ]  # fmt: skip
    if full and deadline.left > 0:
        names = " and ".join(full)
        return Infeasible(f"fleet: {names} has no more engines that would mend it", OTHERS, binding=names)
    return LimitReached("fleet: the time limit left no time to mend it", OF_TIME)


def _wider(question: MixQuestion, deadline: Deadline) -> list[Way]:
    """What one supply has to have for it to do, each by itself; of all together where none does alone."""
    limits = _of_use(question)
    ways: list[Way] = []
    for wide in [[block] for block in limits] + ([limits] if len(limits) > 1 else []):
        if len(wide) > 1 and ways:
            break
        blocks = [replace(each, most=math.inf) if each in wide else each for each in question.blocks]
        found = _tried(replace(question, blocks=blocks), deadline, 1e-3)
        if found.engines is None:
            continue
        engines = found.engines
        used = {each.name: max(float(each.each @ row[each.kinds]) for row in engines) for each in wide}
        counts = {each.name: math.ceil(used[each.name] / each.unit - 1e-9) * each.unit for each in wide}
        more = [More(each.name, counts[each.name], each.counts, each.unit) for each in wide
                if counts[each.name] > each.most]  # fmt: skip
        if more:
            ways.append(more)
    return ways


def to_have(ways: Sequence[Way]) -> str:
    """The way out that is to have more, in words."""
    return "have " + " or ".join(" and ".join(each.words for each in way) for way in ways)
