"""What may be lost at once of a fleet. Where nodes may be, engines stand as :mod:`planner.solving.spread` deals them;
where sizes do not divide each other and one finds no place so, every pack that a node may hold is taken to be on some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, combinations_with_replacement

import numpy as np

from planner.solving.mix.question import MOST_ENGINES, Kinds, MixQuestion
from planner.solving.solvers import Floats, Ints
from planner.solving.spread import dealt, size_on

Loss = tuple[tuple[int, int], ...]
"""(kind, engines lost) of each kind that loses some; more than run: all of them."""

ALL = MOST_ENGINES


def losses(question: MixQuestion, engines: Ints) -> Iterator[Loss]:
    """Every loss to be survived by a fleet of ``engines`` (n,), the first: none."""
    ask, kinds = question.survive, question.kinds
    yield ()
    present = np.flatnonzero(engines > 0).tolist()
    seen: set[Loss] = set()

    def new(loss: Loss) -> bool:
        fresh = bool(loss) and loss not in seen
        seen.add(loss)
        return fresh

    if ask.engines:
        for which in combinations_with_replacement(present, ask.engines):
            loss = ((which[0], 1),) if ask.engines == 1 else _counted(which, engines)
            if new(loss):
                yield loss
    if ask.nodes:
        yield from filter(new, node_losses(question, engines, ask.nodes))
    for places, of, count in (
        ("spot", np.where(kinds.spot > 0, kinds.pool, -1), ask.spot_pools),
        ("zone", kinds.zone, ask.zones),
    ):
        there = sorted({int(of[v]) for v in present if of[v] >= 0})
        for lost in combinations(there, min(count, len(there))) if count and there else ():
            loss = tuple((v, ALL) for v in np.flatnonzero(np.isin(of, lost)).tolist() if places and len(engines) > v)
            if new(loss):
                yield loss


def _counted(which: Sequence[int], engines: Ints) -> Loss:
    counts: dict[int, int] = {}
    for v in which:
        counts[v] = min(counts.get(v, 0) + 1, int(engines[v]))
    return tuple(sorted(counts.items()))


def remaining(engines: Ints | Floats, loss: Loss) -> Floats:
    """(n,) what is left."""
    left = engines.astype(np.float64)
    for v, count in loss:
        left[v] = max(left[v] - count, 0.0)
    return left


def every_remaining(engines: Ints | Floats, every: Sequence[Loss]) -> Floats:
    """(losses, n) what is left after each."""
    left = np.repeat(engines.astype(np.float64)[None, :], len(every), axis=0)
    rows = [i for i, loss in enumerate(every) for _ in loss]
    kinds, counts = [v for loss in every for v, _ in loss], [count for loss in every for _, count in loss]
    left[rows, kinds] = np.maximum(left[rows, kinds] - counts, 0.0)
    return left


def lowered(prices: Floats, least: Floats | float, taken: Floats) -> Floats:
    """Prices at which a fleet is worth ``least`` that is worth it at ``prices`` (…, n) after the loss of any ``taken``
    (n,) of its engines. Of engines in order of what they are worth, let b be the last that is lost, of k: all after it
    are worth at least π·least ÷ (least + k·b) each, together least² ÷ (least + k·b), and those that are lost at least
    what k of b are, k·b·least ÷ (least + k·b)."""
    return np.asarray(prices * least / (least + taken * prices), np.float64)


# ------------------------------------------------------------------ nodes


class OnNodes(tuple[tuple[int, int], ...]):
    """A loss of nodes: (kind, engines that are lost) of each kind that has some there."""

    __slots__ = ()


def per_node(kinds: Kinds) -> Ints:
    """(n,) engines of each kind that a node holds; of several nodes: 1."""
    return np.asarray(np.maximum(kinds.node // np.minimum(kinds.gpus, kinds.node), 1), np.int64)


def on_nodes(question: MixQuestion, engines: Ints) -> dict[int, Counter[Loss]]:
    """Of each supply that has some of ``engines`` (n,): how many of its nodes hold what. An engine of several nodes is
    counted once."""
    kinds, places = question.kinds, question.places
    out: dict[int, Counter[Loss]] = {}
    present = np.flatnonzero(engines > 0).tolist()
    for supply in sorted({v if places is None else int(places.supply[v]) for v in present}):
        here = [v for v in present if supply == (v if places is None else places.supply[v])]
        held: Counter[Loss] = Counter()
        small = []
        alone = places is None or not (np.isfinite(places.gpus[here[0]]) or places.bought[here[0]])
        for v in here:
            if alone or kinds.gpus[v] >= kinds.node[v]:
                held[((v, 1),)] += int(engines[v])
            else:
                small.append(v)
        if small and places is not None:
            node = int(kinds.node[small[0]])
            large = sum(int(engines[v]) * -(-int(kinds.gpus[v]) // node) for v in here if v not in small)
            most = places.gpus[small[0]] - large * node
            gpus, counts = kinds.gpus[small].tolist(), engines[small].tolist()
            if places.bought[small[0]]:
                taken = sum(size_on(node, each) * count for each, count in zip(gpus, counts, strict=True))
                most = -(-taken // node) * node
            if (stand := dealt(gpus, counts, node, int(most))) is None:
                held += Counter(dict.fromkeys(_packs(kinds, small, node), question.survive.nodes))
            else:
                held += Counter(tuple((small[i], n) for i, n in sorted(each.items())) for each in stand if each)
        out[supply] = held
    return out


def node_losses(question: MixQuestion, engines: Ints, nodes: int) -> Iterator[OnNodes]:
    """What any ``nodes`` nodes take of ``engines`` (n,)."""
    held: Counter[Loss] = Counter()
    for packs in on_nodes(question, engines).values():
        held += packs
    for several in combinations_with_replacement(sorted(held), min(nodes, held.total())):
        if any(count > held[pack] for pack, count in Counter(several).items()):
            continue
        lost: Counter[int] = Counter()
        for pack in several:
            lost.update(dict(pack))
        yield OnNodes(sorted((v, min(count, int(engines[v]))) for v, count in lost.items()))


def _packs(kinds: Kinds, small: Sequence[int], node: int) -> list[Loss]:
    """What one node may hold at most: no pack is part of another."""
    found: list[Loss] = []

    def fill(rest: Sequence[int], room: int, taken: Loss) -> None:
        if not rest:
            if taken and not any(room >= int(kinds.gpus[v]) for v in small):
                found.append(tuple(sorted(taken)))
            return
        v, others = rest[0], rest[1:]
        for count in range(room // int(kinds.gpus[v]), -1, -1):
            fill(others, room - count * int(kinds.gpus[v]), (*taken, (v, count)) if count else taken)

    fill(small, node, ())
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------ what holds of every placement


def nodes_of_supply(question: MixQuestion, v: int) -> float:
    """Nodes of the supply of kind ``v``; infinite where they are as many as wanted, or bought."""
    places = question.places
    if places is None or places.bought[v] or not np.isfinite(places.gpus[v]):
        return np.inf
    return float(np.ceil(places.gpus[v] / int(question.kinds.node[v]) - 1e-9))


def spread(question: MixQuestion, prices: Floats, supply: int) -> Floats:
    """``prices`` (n,) less what the nodes lost of a supply take at least, wherever engines stand: no fewer than one in
    ``nodes``, of what all of them are worth."""
    assert question.places is not None
    mine = question.places.supply == supply
    part = min(question.survive.nodes / nodes_of_supply(question, int(np.flatnonzero(mine)[0])), 1.0)
    return np.where(mine, prices * (1 - part), prices)


def worth_of_node(kinds: Kinds, prices: Floats, mine: Sequence[int]) -> float:
    """What one node may hold of the kinds ``mine``, at ``prices`` (n,), at most; of an engine of several nodes its
    part."""
    node = int(kinds.node[mine[0]])
    best = np.zeros(node + 1)
    for room in range(1, node + 1):
        best[room] = best[room - 1]
        for v in mine:
            gpus = int(kinds.gpus[v])
            size, worth = min(gpus, node), float(prices[v]) / max(gpus / node, 1.0)
            if size <= room:
                best[room] = max(best[room], best[room - size] + worth)
    return float(best[node])
