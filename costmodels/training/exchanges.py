"""Exchanges of groups of ranks that are no run of neighbours: data-parallel peers lie tp·cp apart, expert peers
elsewhere again.

Ranks are numbered tensor-parallel first, then context-, data- and pipeline-parallel (Megatron-LM's order
``tp-cp-ep-dp-pp``; torchtitan's mesh is the same). What an exchange costs follows from how many of its ranks share a
node: those use the scale-up link, and between nodes each sends its share over its own card, so that the groups of a
node, which all exchange at once, share the cards evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.kernels.cost_model import CostModel
from costmodels.kernels.features import LAUNCH_US
from costmodels.operations.questions import Exchange
from costmodels.operations.roofline import code
from costmodels.step.communication import Network, across_nodes, exchange_times, point_to_point_us
from costmodels.training.calibration import TrainingCalibration, TrainingConstants, training_calibration
from costmodels.training.own_kernels import OwnKernels
from profiles.hardware import LastingLoad

_GRID = 2.0 ** np.arange(8, 44, 0.25)
"""Message sizes, bytes, at which an exchange is asked about; in between, times are interpolated on logarithms."""

_LOG_GRID = np.log(_GRID)

_Curve = tuple[Floats, Floats, Floats, NDArray[np.int8], NDArray[np.bool_]]


@dataclass(frozen=True)
class Links:
    """What ranks exchange over: the cost model of the scale-up link, and the network at the rate that is reached."""

    cost: CostModel
    network: Network
    calibration: TrainingCalibration = field(default_factory=training_calibration)
    _curves: dict[tuple[int, int, int], _Curve] = field(default_factory=dict, compare=False, repr=False)

    @property
    def constants(self) -> TrainingConstants:
        return self.calibration.constants

    @property
    def lasting_load(self) -> LastingLoad:
        return self.calibration.load(self.cost.gpu)

    @property
    def memory_rate(self) -> float:
        """Bytes/s that norms, activations, masks and the optimizer reach."""
        return self.own.memory_rate

    @cached_property
    def own(self) -> OwnKernels:
        """What own rows of training's kernels say."""
        return OwnKernels(self.cost, self.constants)

    def exchange(self, kind: str, message_bytes: Floats, ranks: Ints, stride: Ints) -> Estimates:
        """Time of one exchange among ``ranks`` ranks that lie ``stride`` apart, µs, shape [n] each; zero where there
        is one rank or nothing to send. ``message_bytes`` is the whole buffer, as in the pack's collectives."""
        n = len(message_bytes)
        per_node = np.clip(self.network.gpus_per_node // np.maximum(stride, 1), 1, np.maximum(ranks, 1))
        value, low, high = np.zeros(n), np.zeros(n), np.zeros(n)
        how, inside = np.zeros(n, np.int8), np.ones(n, np.bool_)
        groups = np.where((ranks > 1) & (message_bytes > 0), ranks * (1 << 24) + per_node, 0)
        for group in np.unique(groups[groups > 0]).tolist():
            chosen = np.flatnonzero(groups == group)
            curve = self._curve(code("kind", kind), group >> 24, group & (1 << 24) - 1)
            at = np.log(message_bytes[chosen])
            for out, line in zip((value, low, high), curve[:3], strict=True):
                out[chosen] = np.exp(np.interp(at, _LOG_GRID, line))
            nearest = np.clip(np.searchsorted(_GRID, message_bytes[chosen]), 0, len(_GRID) - 1)
            how[chosen], inside[chosen] = curve[3][nearest], curve[4][nearest]
        return Estimates(value, low, high, how, inside)

    def _curve(self, kind: int, ranks: int, members: int) -> _Curve:
        """Log times of an exchange by message size, among ``ranks`` of which ``members`` share a node; kept."""
        key = (kind, ranks, members)
        if key not in self._curves:
            n = len(_GRID)
            each = Exchange(kind, _GRID, np.full(n, ranks), np.arange(n), np.ones(n))
            times = exchange_times(self.cost, Network(members, self.network.fabric), [each], n)
            lines = (np.log(np.maximum(part, 1e-9)) for part in (times.value, times.low, times.high))
            value, low, high = lines
            self._curves[key] = (value, low, high, times.how, times.inside)
        return self._curves[key]

    def dispatch(
        self, token_bytes: Floats, copies: int, ranks: Ints, stride: Ints, *, once_per_node: bool
    ) -> Estimates:
        """Tokens of one rank (``token_bytes`` in all, shape [n]) to the ``copies`` experts of each, spread evenly over
        ``ranks``: µs. With ``once_per_node`` a token crosses to each node once and is copied there (DeepEP, HybridEP),
        else once for each of its experts."""
        per_node = np.clip(self.network.gpus_per_node // np.maximum(stride, 1), 1, np.maximum(ranks, 1))
        message = token_bytes * copies
        if not once_per_node:
            return self.exchange("all_to_all", message, ranks, stride)
        nodes = -(-ranks // per_node)
        reached = nodes * -np.expm1(copies * np.log1p(-1.0 / np.maximum(nodes, 2)))  # distinct nodes, in expectation
        crossing = token_bytes * np.where(nodes > 1, reached * (nodes - 1) / np.maximum(nodes, 1), 0.0)
        local = self.exchange("all_to_all", message, per_node, stride)
        fabric = across_nodes(point_to_point_us(self.network.fabric, crossing), self.network.fabric)
        # Both links work at once: what a token crosses on one, another may cross on the other.
        slower = fabric.value > local.value
        return Estimates(
            np.where(slower, fabric.value, local.value),
            np.where(slower, fabric.low, local.low),
            np.where(slower, fabric.high, local.high),
            np.maximum(local.how, fabric.how),
            local.inside & fabric.inside,
        )

    def hop(self, message_bytes: Floats, stride: Ints) -> Estimates:
        """One message to the rank ``stride`` further, µs, shape [n]."""
        crossing = stride >= self.network.gpus_per_node
        inside = LAUNCH_US + message_bytes / self.cost.gpu.scale_up_bytes_per_s * 1e6
        return across_nodes(
            np.where(crossing, point_to_point_us(self.network.fabric, message_bytes), inside), self.network.fabric
        )
