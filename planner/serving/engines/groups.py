"""The engine groups of a plan: what the solver chose, at the load the plan gives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats
from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.disaggregated import (
    Decoding,
    Prefilling,
    decoding,
    joint,
    prefilling,
    work_us,
)
from costmodels.serving.steady.kv_transfer import (
    Link,
    with_queue,
)
from planner.contract.engine import Layout, Limits, Role
from planner.serving.engines.disaggregated import DisaggregatedEngines
from planner.serving.engines.options import AggregatedCandidate, RoleCandidate, ServingOption
from planner.serving.layouts import layout_at
from planner.serving.operating_points import Job, OperatingPoints, Served, at_load, least_concurrency, peak_sequences


@dataclass(frozen=True)
class Group:
    """Engines that are alike. ``layouts``, ``budget``: of one engine; ``capacity_rps``: what one carries within the
    SLO; ``loaded``: one engine at its ``load_rps``; ``candidates``: the solver's, all of this layout."""

    id: str
    role: Role
    job: Job
    layouts: Layouts
    budget: int
    max_sequences: int
    capacity_rps: Estimates
    candidates: tuple[int, ...]
    engines: int
    share: float
    load_rps: float
    loaded: OperatingPoints | Prefilling | Decoding
    roles: DisaggregatedEngines | None = None

    @property
    def layout(self) -> Layout:
        return layout_at(self.layouts, 0)

    @property
    def gpus(self) -> int:
        return self.engines * int(self.layouts.gpus[0])

    @property
    def rate_per_us(self) -> float:
        """Requests of one attention rank."""
        return self.load_rps / float(self.layouts.dp[0]) / 1e6

    @property
    def limits(self) -> Limits:
        """What the engine is started with."""
        work = self.job.workload
        return Limits(
            max_sequences=self.max_sequences,
            max_tokens_per_step=self.budget,
            max_model_len=min(self.job.served.model.max_context_tokens, -(-(work.isl + work.osl) // 256) * 256),
            memory_fraction=self.job.served.framework.limits.memory_fraction,
        )


@dataclass(frozen=True)
class Pair:
    """Engines that serve a request together, and what the request sees. ``prefill`` is ``decode`` where one engine does
    both."""

    prefill: Group
    decode: Group
    served: Served
    sender_busy: float = 0.0
    receiver_busy: float = 0.0


def groups_of(option: ServingOption, served_rps: float) -> list[Group]:
    """The groups of a solved option at ``served_rps``, in the order of its candidates: prefill engines first.

    Engines of one layout make one group, at their highest batch limit: alike, they share their load evenly, which is
    never slower in the mean than an uneven load (latency is convex in it)."""
    choice, offered = option.choice, option.candidates
    assert choice is not None
    assert offered is not None
    alike: dict[tuple[int, ...], list[int]] = {}
    for v in np.flatnonzero(choice.engines).tolist():
        alike.setdefault(option.origin[v].key, []).append(v)
    groups: list[Group] = []
    for candidates in sorted(alike.values(), key=lambda each: (int(offered.roles[each[0]]), each[0])):
        best = max(candidates, key=lambda v: float(offered.capacity_rps[v]))
        engines = int(choice.engines[candidates].sum())
        share = float(choice.shares[candidates].sum())
        load = served_rps * share / engines
        name = f"engine-{len(groups)}"
        origin = option.origin[best]
        make = _aggregated if isinstance(origin, AggregatedCandidate) else _apart
        group = make(name, origin, tuple(candidates), engines, share, load)  # type: ignore[arg-type]
        # A simulation may have found less than the formulas say.
        carried = float(offered.capacity_rps[best]) / float(group.capacity_rps.value[0])
        groups.append(replace(group, capacity_rps=group.capacity_rps.scaled(carried)))
    return groups


def _aggregated(
    name: str, origin: AggregatedCandidate, candidates: tuple[int, ...], engines: int, share: float, load: float
) -> Group:
    points, i = origin.points, origin.index
    return Group(
        name,
        "aggregated",
        points.job,
        points.layouts.take(np.array([i])),
        int(points.budget[i]),
        _limit(float(points.concurrency[i]), int(points.most[i])),
        points.steady.rate_rps.take(np.array([i])),
        candidates,
        engines,
        share,
        load,
        at_load(points, i, load),
    )


def _limit(concurrency: float, most: int) -> int:
    """Most sequences of a step: Poisson's mean plus three standard deviations and the one in prefill, if they fit."""
    return min(most, math.ceil(float(peak_sequences(concurrency)) + math.sqrt(concurrency)))


def _apart(
    name: str, origin: RoleCandidate, candidates: tuple[int, ...], engines: int, share: float, load: float
) -> Group:
    roles, layouts = origin.roles, origin.layouts
    index = np.array([origin.index])
    capacity = origin.engines.rate_rps.take(index)
    rank_load = load / float(layouts.dp[0]) / 1e6
    budget, limit = _limits(origin)
    loaded: Prefilling | Decoding
    role: Role
    if isinstance(origin.engines, Prefilling):
        role = "prefill"
        steps = origin.engines.steps.take(index)
        loaded = prefilling(steps, rank_load * work_us(steps))
    else:
        role = "decode"
        loaded = decode_at_load(roles, layouts, float(origin.engines.concurrency[origin.index]), load)
    return Group(
        name, role, roles.job, layouts, budget, limit, capacity, candidates, engines, share, load, loaded, roles
    )


def _limits(origin: RoleCandidate) -> tuple[int, int]:
    """(tokens, sequences) of a step."""
    roles, i = origin.roles, origin.index
    if isinstance(origin.engines, Prefilling):
        stays = float(origin.engines.done_us.value[i] - origin.engines.waiting_us[i])
        stays += float(roles.send_us(origin.layouts, 1.0)[0])
        per_us = float(origin.engines.rate_rps.value[i]) / float(origin.layouts.dp[0]) / 1e6
        together = int(origin.engines.steps.together[i])
        limit = min(int(roles.room[origin.row]), max(together, _limit(per_us * stays, int(roles.room[origin.row]))))
        return int(roles.budget[origin.row]), limit
    limit = _limit(float(origin.engines.concurrency[i]), int(roles.most[origin.row]))
    return max(min(roles.job.served.framework.limits.token_budgets), limit * roles.job.shape.queries), limit


def decode_at_load(roles: DisaggregatedEngines, layouts: Layouts, most: float, load_rps: float) -> Decoding:
    """A decode engine at ``load_rps``: the least concurrency, ``most`` at most, that carries it."""

    def tried(concurrency: Floats) -> tuple[Decoding, NDArray[np.bool_]]:
        same = layouts.take(np.zeros(len(concurrency), np.int64))
        at_least_one = np.maximum(concurrency, 1.0)
        every = decoding(roles.job.served, roles.job.shape, same, at_least_one, roles.kv_connector)
        return every, every.rate_rps.value >= load_rps * (1 - 1e-9)

    return least_concurrency(most, tried)


def pairs_of(groups: list[Group]) -> list[Pair]:
    """Who serves requests together: every aggregated group by itself, every prefill with every decode group."""
    alone = [Pair(group, group, group.loaded.steady) for group in groups if isinstance(group.loaded, OperatingPoints)]
    senders = [group for group in groups if group.role == "prefill"]
    receivers = [group for group in groups if group.role == "decode"]
    return alone + [_pair(first, second) for first in senders for second in receivers]


def _pair(first: Group, second: Group) -> Pair:
    assert isinstance(first.loaded, Prefilling)
    assert isinstance(second.loaded, Decoding)
    assert first.roles is not None
    assert second.roles is not None
    times = second.roles.copies(second.layouts)
    send, sender = with_queue(first.roles.send_us(first.layouts, times), np.array([first.rate_per_us]))
    receive, receiver = with_queue(second.roles.receive_us(second.layouts), np.array([second.rate_per_us]))
    link = slower(first.roles.link, second.roles.link)
    served, isl, transfer = first.job.served, first.job.workload.isl, np.maximum(send, receive)
    pair = joint(served, isl, first.loaded, second.loaded, transfer, link, first.roles.kv_connector)
    return Pair(first, second, pair, float(sender[0]), float(receiver[0]))


def slower(first: Link, second: Link) -> Link:
    """The end that binds."""
    return min(first, second, key=lambda link: link.bytes_per_s)


__all__ = ["Group", "Pair", "decode_at_load", "groups_of", "pairs_of", "slower"]
