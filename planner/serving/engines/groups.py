"""The engine groups of a plan: what the solver chose, at the load the plan gives it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Estimates
from costmodels.operations.layouts import Layouts
from costmodels.serving.steady.disaggregated import Joint, joint
from costmodels.serving.steady.kv_transfer import Link, with_queue
from planner.contract.engine import Layout, Limits, Role
from planner.serving.engines.decode import DecodeEngine
from planner.serving.engines.options import ServingOption, served_rps
from planner.serving.engines.prefill import PrefillEngine
from planner.serving.engines.protocol import EngineCandidate, LoadedEngine
from planner.serving.layouts import layout_at
from planner.serving.operating_points import Job, Served
from planner.serving.request import PlanRequest


@dataclass(frozen=True)
class Group:
    """Engines that are alike.

    Attributes:
        candidate: the best of the solver's ``candidates``, which are all of this layout.
        engines: how many. ``share``: of the requests of its role.
        load_rps: of one engine. ``engine``: it under that load.
        capacity_rps: what one carries within the SLO.
        started_with: limits, where it is to serve other requests than its own too; None: its candidate's.
    """

    id: str
    candidate: EngineCandidate
    candidates: tuple[int, ...]
    engines: int
    share: float
    load_rps: float
    engine: LoadedEngine
    capacity_rps: Estimates
    started_with: Limits | None = None

    @property
    def role(self) -> Role:
        return self.engine.role

    @property
    def job(self) -> Job:
        return self.candidate.job

    @property
    def layouts(self) -> Layouts:
        """Of one engine."""
        return self.candidate.layouts

    @property
    def layout(self) -> Layout:
        return layout_at(self.layouts, 0)

    @property
    def gpus(self) -> int:
        return self.engines * int(self.layouts.gpus[0])

    @property
    def limits(self) -> Limits:
        """What the engine is started with."""
        if self.started_with is not None:
            return self.started_with
        return limits_of(self.candidate)


def limits_of(candidate: EngineCandidate) -> Limits:
    """What an engine is started with for the workload that it was found for."""
    served, work = candidate.job.served, candidate.job.workload
    tokens, sequences = candidate.batch_limits
    longest = work.longest_tokens if work.max_len else -(-work.longest_tokens // 256) * 256
    return Limits(
        max_sequences=sequences,
        max_tokens_per_step=tokens,
        max_model_len=served.framework.limits.max_model_len or min(served.model.max_context_tokens, longest),
        memory_fraction=served.framework.limits.memory_fraction,
    )


@dataclass(frozen=True)
class CacheTransfer:
    """What joins a prefill and a decode engine: the ``link`` of the slower end, and the share of time that a GPU's link
    is busy at either end."""

    prefill: PrefillEngine
    decode: DecodeEngine
    joint: Joint
    link: Link
    sender_busy: float
    receiver_busy: float


@dataclass(frozen=True)
class Pair:
    """Engines that serve a request together, and what the request sees. ``prefill`` is ``decode`` where one engine does
    both; ``transfer`` is then None."""

    prefill: Group
    decode: Group
    served: Served
    transfer: CacheTransfer | None = None

    @property
    def weight(self) -> float:
        """Share of the requests that it serves."""
        return self.prefill.share * (1.0 if self.transfer is None else self.decode.share)


@dataclass(frozen=True)
class LoadedFleet:
    """A solved option at the load that it serves: its engine groups, and which of them serve requests together."""

    option: ServingOption
    served_rps: float
    groups: list[Group]
    pairs: list[Pair]

    @classmethod
    def of(cls, request: PlanRequest, option: ServingOption) -> LoadedFleet:
        load = served_rps(request, option)
        groups = groups_of(option, load)
        return cls(option, load, groups, pairs_of(groups))

    @property
    def attention_backend(self) -> str:
        """What its engines must be told to attend with, so that partners do alike; "": nothing."""
        if all(pair.transfer is None for pair in self.pairs):
            return ""
        served = self.groups[0].job.served
        found = served.framework.kv_connector.shared_backend(served.model, [g.job.served.gpu for g in self.groups])
        assert found is not None  # or they would not have been paired
        return found


def groups_of(option: ServingOption, served_rps: float) -> list[Group]:
    """The groups of a solved option at ``served_rps``, in the order of its candidates: prefill engines first.

    Engines of one layout make one group, at their highest batch limit: alike, they share their load evenly, which is
    never slower in the mean than an uneven load (latency is convex in it). Where watts are limited every candidate is a
    group of its own: its batch limit is what keeps them; and those that the formulas exclude are known by theirs."""
    choice, offered = option.choice, option.candidates
    assert choice is not None
    assert offered is not None
    alike: dict[tuple[int, ...], list[int]] = {}
    for v in np.flatnonzero(choice.engines).tolist():
        own = 0 if offered.watts is None else v
        alike.setdefault((*option.origin[v].key, own, option.origin[v].job.lenient), []).append(v)
    groups: list[Group] = []
    for candidates in sorted(alike.values(), key=lambda each: (int(offered.roles[each[0]]), each[0])):
        best = max(candidates, key=lambda v: float(offered.capacity_rps[v]))
        engines = int(choice.engines[candidates].sum())
        share = float(choice.shares[candidates].sum())
        load = served_rps * share / engines
        origin = option.origin[best]
        # A simulation may have found less than the formulas say.
        carried = float(offered.capacity_rps[best]) / float(origin.rate_rps.value[0])
        capacity = origin.rate_rps.scaled(carried)
        name = f"engine-{len(groups)}"
        groups.append(Group(name, origin, tuple(candidates), engines, share, load, origin.at(load), capacity))
    return groups


def pairs_of(groups: list[Group]) -> list[Pair]:
    """Who serves requests together: every aggregated group by itself, every prefill with every decode group."""
    alone = [Pair(group, group, group.engine.alone) for group in groups if group.engine.alone is not None]
    senders = [(group, group.engine) for group in groups if isinstance(group.engine, PrefillEngine)]
    receivers = [(group, group.engine) for group in groups if isinstance(group.engine, DecodeEngine)]
    joined = [
        (first, second, _transfer(sender, receiver)) for first, sender in senders for second, receiver in receivers
    ]
    return alone + [Pair(first, second, transfer.joint, transfer) for first, second, transfer in joined]


def _transfer(first: PrefillEngine, second: DecodeEngine) -> CacheTransfer:
    sender, receiver = first.candidate, second.candidate
    times = receiver.pool.copies(receiver.layouts)
    send, busy = with_queue(sender.pool.send_us(sender.layouts, times), np.array([first.rate_per_us]))
    receive, receiver_busy = with_queue(receiver.pool.receive_us(receiver.layouts), np.array([second.rate_per_us]))
    link, served, isl = slower(sender.link, receiver.link), sender.job.served, sender.job.shape.isl
    transfer_us, kv_connector = np.maximum(send, receive), sender.pool.kv_connector
    both = joint(served, isl, first.loaded, second.loaded, transfer_us, link, kv_connector)
    return CacheTransfer(first, second, both, link, float(busy[0]), float(receiver_busy[0]))


def slower(first: Link, second: Link) -> Link:
    """The end that binds."""
    return min(first, second, key=lambda link: link.bytes_per_s)
