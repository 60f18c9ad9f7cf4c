"""What a mix of engines has to carry, and with what: groups of requests × kinds of engine × steps of time.

A *group* is what the gateway cannot tell apart (all requests of one prompt range, or of one range of prompt and
output): its requests are spread by the same shares. ``work[t][g, v]`` is how many engines of kind ``v`` the whole group
keeps busy in step ``t``; infinite where that kind cannot serve some request of it. Rates and capacities are folded into
it, so nothing here knows of tokens or promises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from planner.solving.solvers import Bools, Floats, Ints

MOST_ENGINES = 1_000_000
"""Of one kind in one step."""


@dataclass(frozen=True, eq=False)
class Block:
    """Kinds of engine that share a supply: Σ ``each[k]`` · y[``kinds[k]``] ≤ ``most``.

    ``unit`` above 1: what is bought whole (an instance of so many GPUs) at ``unit_cost``; the kinds themselves then
    cost nothing. ``of_changes``: also while replacements start beside the engines that they replace. ``counts``: what
    is shared, in words.
    """

    name: str
    kinds: Ints
    each: Floats
    most: float = np.inf
    unit: int = 1
    unit_cost: float = 0.0
    of_changes: bool = True
    counts: str = "GPUs"


@dataclass(frozen=True)
class Survive:
    """What may be lost at once, each by itself, and the share of the load that is still carried then."""

    engines: int = 0
    nodes: int = 0
    spot_pools: int = 0
    zones: int = 0
    share: float = 1.0

    @property
    def any(self) -> bool:
        return bool(self.engines or self.nodes or self.spot_pools or self.zones)


@dataclass(frozen=True, eq=False)
class Kinds:
    """``n`` kinds of engine. ``cost``: of one for an hour. ``per_node``: engines of it that a node holds (an engine of
    several nodes: 1), ``gpus`` of one and ``node`` GPUs of its nodes. ``pool`` and ``zone``: indices, ``spot``: whether
    its pool's spot supply, which disappears at once."""

    cost: Floats
    gpus: Ints
    node: Ints
    pool: Ints
    zone: Ints
    spot: Ints
    startup_s: Floats
    min_up_s: Floats

    def __len__(self) -> int:
        return len(self.cost)


@dataclass(frozen=True, eq=False)
class Places:
    """``supply`` (n,) that each kind stands on; ``gpus`` (n,) of it, infinite: each engine stands on a node of its own;
    ``bought`` (n,): its nodes are bought whole, as few as hold what runs."""

    supply: Ints
    gpus: Floats
    bought: Bools


@dataclass(frozen=True, eq=False)
class MixQuestion:
    """The whole question.

    Attributes:
        kinds: that may run.
        work: of each step, float64 (groups, n).
        seconds: of each step.
        blocks: supplies.
        cyclic: whether the last step is followed by the first again.
        before: engines that run before the first step, (n,); None: whatever the first step needs is there.
        most_changes: engines that may start or leave between two steps; None: any number.
        budget: cost of an hour at most; of ``paid``, where that is not what kinds cost here.
        shunned: (n,) what an engine of each kind counts beside its cost while one chooses, and does not cost; None:
            nothing.
        fixed_cost: of an hour, whatever is chosen (what is reserved).
        places: nodes that engines stand on; None: each on one of its own.
    """

    kinds: Kinds
    work: Sequence[Floats]
    seconds: Floats
    blocks: Sequence[Block] = ()
    survive: Survive = Survive()
    cyclic: bool = False
    before: Ints | None = None
    most_changes: int | None = None
    budget: float | None = None
    fixed_cost: float = 0.0
    paid: Floats | None = None
    shunned: Floats | None = None
    places: Places | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.work)

    @property
    def of_budget(self) -> Floats:
        """(n,) what an engine of each kind takes of the budget in an hour."""
        return self.kinds.cost if self.paid is None else self.paid

    @property
    def share_of_time(self) -> Floats:
        return np.asarray(self.seconds / self.seconds.sum(), dtype=np.float64)


def required(work: Floats, price: Floats) -> float:
    """What the cheapest way to carry all groups is worth at ``price`` (n,) ≥ 0 of each kind: no fleet that carries them
    is worth less (the dual of sharing the groups out)."""
    with np.errstate(invalid="ignore"):
        worth = np.where(np.isfinite(work), work * price, np.inf)
    return float(worth.min(axis=1).sum()) if len(work) else 0.0
