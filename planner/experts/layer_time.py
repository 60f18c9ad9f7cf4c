"""Predicted time of a MoE layer under a placement: the slowest GPU's grouped products, and the two exchanges.

All GPUs wait for the slowest: time = max over GPUs of its experts' products + dispatch + combine. Exchanges are those
that engines of the framework run (:func:`usual_exchange`), by the law of :mod:`costmodels.step.expert_exchange`, with
the tokens of the fullest GPU. Where engines run none, and where tokens go on from their experts, every (token, expert)
pair is sent over the slower of the links used, the one within a node or fast-link domain and the fabric between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints, combine
from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.exchanges import exchange_names, more_us_of, priced_as, spread_of
from costmodels.operations.questions import ACTIVATION_BYTES, Exchange, ExpertExchange, StepWork
from costmodels.operations.roofline import code
from costmodels.operations.wide_moe import WIDE_MOE, wide_questions
from costmodels.serving.frameworks.facts import EngineRole, Parallelism
from costmodels.step.communication import Network, exchange_times
from costmodels.step.expert_exchange import expert_exchange_times, fabric_kind
from planner.experts.crossings import Crossings
from planner.experts.model import expert_layer
from planner.experts.placement import Placement
from profiles.hardware import Gpu

Dispatch = Literal["home", "stay"]
"""``home``: after each layer a token returns to the GPU of its sequence (vLLM, SGLang, TensorRT-LLM): two exchanges a
layer, whose size the crossings do not change. ``stay``: a token goes on from where its expert is (ExFlow,
arXiv:2401.08383): one exchange a layer, of what crosses."""


def usual_exchange(
    can: Parallelism, role: EngineRole, gpus: Sequence[Gpu], network: Network, model: Architecture
) -> str | None:
    """What engines of ``role`` that share the experts of ``model`` out over ``gpus`` run when nothing is said; None:
    all of them gather all tokens."""
    ranks, domain, top_k = len(gpus), network.gpus_per_node, expert_layer(model).top_k
    if model.model_type in can.no_exchange:
        return None
    for name in can.usual_exchanges(role, gpus[0], ranks, domain):
        way = can.exchanges[name]
        reaches = ranks <= domain or fabric_kind(network.fabric) in way.across
        if reaches and all(way.runs_on(gpu) for gpu in gpus) and not (way.above_top_k and ranks <= top_k):
            return name
    return None


_POINTS = 48  # of the tables, evenly spaced in the logarithm: kernels' steps are a few percent


@dataclass(frozen=True, eq=False)
class Curve:
    """A time in µs as a piecewise-linear function of load; ``points``, ``value``, ``low``, ``high``: shape [points]."""

    points: Floats
    value: Floats
    low: Floats
    high: Floats

    def at(self, load: Floats) -> Floats:
        """Values, shape of ``load`` with one axis more at the end: value, low, high. Below the first point the first
        value holds (a kernel is never faster than its launch)."""
        return np.stack([np.interp(load, self.points, part) for part in (self.value, self.low, self.high)], axis=-1)


@dataclass(frozen=True, eq=False)
class LayerTimes:
    """Mean time of a MoE layer, µs: value, low, high, shape [3] each."""

    experts: Floats
    exchange: Floats

    @property
    def total(self) -> Floats:
        return self.experts + self.exchange


class LayerClock:
    """Times of placements on one cluster at one batch size.

    Args:
        costs: one cost model per GPU kind.
        kind: shape [gpus], the kind of each GPU.
        network: what joins them.
        tokens: tokens that enter a layer in one step, of all GPUs together.
        exchange: how they reach their experts and come back (:func:`usual_exchange`).
    """

    def __init__(
        self,
        model: Architecture,
        precision: Precision,
        costs: Mapping[str, CostModel],
        kind: tuple[str, ...],
        network: Network,
        tokens: float,
        exchange: str | None = None,
    ) -> None:
        self.ffn = expert_layer(model)
        self.hidden, self.precision = self.ffn.latent or model.hidden, precision
        self.costs, self.kind, self.network = costs, kind, network
        self.pairs = tokens * self.ffn.working_top_k
        self.exchange = None if exchange is None else exchange_names().index(exchange)
        self._products: dict[tuple[str, int], Curve] = {}
        self._inside, self._outside = self._links()
        self._there_and_back = None if self.exchange is None else self._sent(self.exchange)

    @property
    def gpus(self) -> int:
        return len(self.kind)

    def _grid(self) -> Floats:
        return np.unique(np.rint(np.geomspace(1.0, max(self.pairs, 2.0), _POINTS)))

    def products(self, kind: str, slots: int) -> Curve:
        """Time of the grouped products of one GPU, over the (token, expert) pairs it receives, spread evenly over its
        ``slots``: what is uneven among GPUs is the placement's, and rows of a skewed routing would count it twice."""
        key = (kind, slots)
        if key not in self._products:
            pairs, cost = self._grid(), self.costs[kind]
            times = self._gathered(cost, pairs, slots) if self.exchange is None else self._wide(cost, pairs, slots)
            # More work never takes less time: measured rows have noise, and a search would exploit it.
            parts = [np.maximum.accumulate(part) for part in (times.value, times.low, times.high)]
            self._products[key] = Curve(pairs, *parts)
        return self._products[key]

    def _gathered(self, cost: CostModel, pairs: Floats, slots: int) -> Estimates:
        """As of a layer of ``slots`` experts on one GPU with each pair a token of its own."""
        columns = {
            "dtype": code("dtype", self.precision.experts),
            "tokens": pairs.astype(np.int64),
            "hidden": self.hidden,
            "intermediate": self.ffn.intermediate,
            "top_k": 1,
            "experts": slots,
            "moe_tp": 1,
            "moe_ep": 1,
            "gated": int(self.ffn.gated),
            "routing": code("routing", "balanced"),
            "num_gpus": 1,
        }
        return cost.estimate(
            "moe", {name: np.broadcast_to(np.asarray(column), len(pairs)) for name, column in columns.items()}
        )

    def _wide(self, cost: CostModel, pairs: Floats, slots: int) -> Estimates:
        """By the products that engines run behind the exchange, as in their steps."""
        n, top_k = len(pairs), self.ffn.working_top_k
        shape = {
            "dtype": code("dtype", self.precision.experts),
            "hidden": self.hidden,
            "intermediate": self.ffn.intermediate,
            "top_k": top_k,
        }
        even, held = np.full(n, code("routing", "balanced")), np.full(n, float(slots))
        work = StepWork(n)
        for share, columns in wide_questions(np.full(n, self.exchange), even, pairs / top_k, held, shape):
            work.ask(WIDE_MOE, share, share != 0, **columns)
        questions, candidate, count = work.together(WIDE_MOE.name)
        return cost.estimate(WIDE_MOE.name, questions).summed(candidate, count, n)

    def _links(self) -> tuple[Curve, Curve]:
        """Time of one exchange within a domain and of one between domains, over the pairs of the fullest GPU."""
        pairs = self._grid()
        message = pairs * self.hidden * ACTIVATION_BYTES
        inside = min(self.network.gpus_per_node, self.gpus)
        domains = -(-self.gpus // inside)
        slowest = [
            (
                self._exchange(cost, Network(inside, self.network.fabric), message, inside),
                self._exchange(cost, Network(1, self.network.fabric), message, domains),
            )
            for cost in self.costs.values()
        ]
        within, between = (np.max([each[i] for each in slowest], axis=0) for i in (0, 1))
        return Curve(pairs, *within), Curve(pairs, *between)

    def _exchange(self, cost: CostModel, network: Network, message: Floats, ranks: int) -> Floats:
        n = len(message)
        every: Ints = np.arange(n, dtype=np.int64)
        if ranks == 1:
            return np.zeros((3, n))
        exchange = Exchange(code("kind", "all_to_all"), message, np.full(n, ranks), every, np.ones(n))
        times = exchange_times(cost, network, [exchange], n)
        return np.stack([times.value, times.low, times.high])

    def _sent(self, exchange: int) -> Curve:
        """Time of dispatch and combine by the kind with the code ``exchange``, over the pairs of the fullest GPU."""
        pairs, ffn = self._grid(), self.ffn
        n = len(pairs)
        kind, candidates = np.full(n, exchange), np.arange(n, dtype=np.int64)
        asked = ExpertExchange(
            kind=priced_as(kind),
            tokens=pairs / ffn.working_top_k,
            busiest=np.ones(n),
            hidden=self.hidden,
            top_k=ffn.working_top_k,
            experts=ffn.experts,
            groups=ffn.groups,
            top_groups=ffn.top_groups,
            ranks=np.full(n, self.gpus),
            candidate=candidates,
            count=1.0,
            more_us=more_us_of(kind),
        )
        found = [expert_exchange_times(cost, self.network, [asked], n) for cost in self.costs.values()]
        both = [combine([each.dispatch, each.combine]).widened(spread_of(kind)) for each in found]
        slowest = [np.max([getattr(each, name) for each in both], axis=0) for name in ("value", "low", "high")]
        return Curve(pairs, *(np.maximum.accumulate(part) for part in slowest))

    def speeds(self, slots: Ints) -> Floats:
        """Relative speed of each GPU at the mean load, shape [gpus], mean 1: pairs per time."""
        mean = np.array([self.pairs / self.gpus])
        times = [self.products(kind, int(s)).at(mean)[0, 0] for kind, s in zip(self.kind, slots, strict=True)]
        speed = 1.0 / np.array(times)
        return np.asarray(speed / speed.mean())

    def times(
        self, placement: Placement, counts: Floats, weights: Floats, crossed: Crossings | None, dispatch: Dispatch
    ) -> LayerTimes:
        """Mean over the layers, and over the windows by their weights.

        Args:
            counts: shape [windows, layers, experts]; only their proportions matter.
            crossed: of the placement; needed for ``stay``.
        """
        topology = placement.topology
        tokens = placement.gpu_loads(counts) * topology.speed
        pairs = tokens / counts.sum(axis=2, keepdims=True) * self.pairs
        products = np.empty((*pairs.shape, 3))
        for g, (kind, slots) in enumerate(zip(self.kind, topology.slots.tolist(), strict=True)):
            products[..., g, :] = self.products(kind, slots).at(pairs[..., g])
        fullest = pairs.max(axis=-1)
        if (dispatch == "home" or crossed is None) and self._there_and_back is not None:
            exchange = self._there_and_back.at(fullest)
        elif dispatch == "home" or crossed is None:
            exchange = 2 * np.maximum(self._inside.at(fullest), self._outside.at(fullest))
        else:
            # Curves are of exchanges in which all GPUs are equally likely, of which 1 − 1/n leaves its place.
            inside = min(self.network.gpus_per_node, self.gpus)
            away = crossed.share(crossed.between_gpus) / (1 - 1 / inside) if inside > 1 else 0.0
            domains = -(-self.gpus // inside)
            far = crossed.share(crossed.between_domains) / (1 - 1 / domains) if domains > 1 else 0.0
            exchange = np.maximum(self._inside.at(fullest * away), self._outside.at(fullest * far))
        mean = [np.tensordot(weights, part.mean(axis=1), 1) for part in (products.max(axis=2), exchange)]
        return LayerTimes(np.asarray(mean[0]), np.asarray(mean[1]))
