"""Selective state spaces: Mamba (arXiv:2312.00752) and Mamba-2 (arXiv:2405.21060), alone or beside attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.architecture import ParallelMixers
from costmodels.models.mixers import Mamba, Mamba2
from costmodels.models.precision import Precision
from costmodels.operations.attention import GROUPED_QUERY
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.layers import Rule, Widths, heads_divide, replicate_evenly
from costmodels.operations.mixers import MixerKind
from costmodels.operations.phases import over_state
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, logs, waves
from costmodels.operations.short_conv import CONV, ask_convolution


def _work(q: Columns, tokens: Floats, states_moved: float) -> Work:
    """Writing a token into a head's state and reading it takes two products with it (arXiv:2405.21060, eq. 1), which
    every way of computing it needs; input, gate, output, and how the state is written and read, are moved once."""
    batch, heads, width, size, groups, element = floats(
        q, "batch", "state_heads", "head_dim", "state_dim", "groups", "state_bytes"
    )
    state = heads * width * size
    moved = tokens * 2 * (3 * heads * width + 2 * groups * size) + states_moved * batch * state * element
    return Work.local(2 * 2 * tokens * state, moved)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, heads = floats(q, "batch", "state_heads")
    count, used = waves(batch * heads, hw, gpu)
    shape = ("batch", "state_heads", "head_dim", "state_dim", "groups")
    return {**logs(q, *shape), "states": np.log2(batch * heads), "waves": count, "used": used}


def _prefill_features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {**logs(q, "query_tokens"), **_features(q, hw, gpu)}


PREFILL, DECODE = over_state(
    "state_space",
    _work,
    (_prefill_features, _features),
    group=("state_heads", "head_dim", "state_dim"),
    sizes=("state_heads",),
    alike=("head_dim", "state_dim", "state_bytes"),
    figures_of="gdn",
)


def _ask_output(step: LayerStep, inner: Ints, count: int) -> None:
    tokens = step.batch.tokens
    ask_product(step, step.split.precision.attention_output, tokens, step.split.hidden, inner, count)
    # The gated norm reads outputs and gate, and writes.
    step.work.touch((tokens * inner).astype(np.float64) * 3 * ACTIVATION_BYTES, 1, count)
    step.reduce(count)


class Mamba2Kind(MixerKind[Mamba2]):
    """Heads are split, and their states with them; groups are copied where the tensor-parallel degree exceeds them."""

    layer = Mamba2

    def ask(self, step: LayerStep, layer: Mamba2, count: int) -> None:
        precision, tp = step.split.precision, step.split.layouts.tp
        tokens, hidden = step.batch.tokens, step.split.hidden
        heads, groups = np.maximum(layer.heads // tp, 1), np.maximum(layer.groups // tp, 1)
        inner = heads * layer.head_dim
        convolved = inner + 2 * groups * layer.state
        width = inner + convolved + heads  # the gate; what is convolved; the step of each head
        ask_product(step, precision.attention_qkv, tokens, width, hidden, count)
        ask_convolution(step, convolved, count)
        shape = {"head_dim": layer.head_dim, "state_dim": layer.state, "state_bytes": layer.state_bytes}
        step.recur(PREFILL, DECODE, count, dtype=code("dtype", "bf16"), state_heads=heads, groups=groups, **shape)
        _ask_output(step, inner, count)

    def widths(self, layer: Mamba2) -> Widths:
        return _convolution(layer.conv_kernel)

    def rules(self, layer: Mamba2, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads, "Mamba-2 heads")
        yield replicate_evenly(layer.groups, "Mamba-2 groups")


class MambaKind(MixerKind[Mamba]):
    """Channels are split, and their states with them: each is a head of width 1."""

    layer = Mamba

    def ask(self, step: LayerStep, layer: Mamba, count: int) -> None:
        precision, tokens, hidden = step.split.precision, step.batch.tokens, step.split.hidden
        inner = np.maximum(layer.inner // step.split.layouts.tp, 1)
        selected = layer.step_rank + 2 * layer.state
        ask_product(step, precision.attention_qkv, tokens, 2 * inner, hidden, count)
        ask_convolution(step, inner, count)
        ask_product(step, "bf16", tokens, selected, inner, count)
        chosen = tokens.astype(np.float64) * selected * ACTIVATION_BYTES
        step.work.exchange("all_reduce", chosen, step.split.layouts.tp, count)
        ask_product(step, "bf16", tokens, inner, layer.step_rank, count)
        shape = {"head_dim": 1, "state_dim": layer.state, "groups": 1, "state_bytes": layer.state_bytes}
        step.recur(PREFILL, DECODE, count, dtype=code("dtype", "bf16"), state_heads=inner, **shape)
        _ask_output(step, inner, count)

    def widths(self, layer: Mamba) -> Widths:
        return _convolution(layer.conv_kernel)

    def rules(self, layer: Mamba, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads, "Mamba channels")


class ParallelKind(MixerKind[ParallelMixers]):
    """Both mixers that it is made of, each with its output projection and its sum over the tensor-parallel group."""

    layer = ParallelMixers

    def ask(self, step: LayerStep, layer: ParallelMixers, count: int) -> None:
        GROUPED_QUERY.ask(step, layer.attention, count)
        MAMBA2.ask(step, layer.state_space, count)

    def widths(self, layer: ParallelMixers) -> Widths:
        return MAMBA2.widths(layer.state_space)

    def rules(self, layer: ParallelMixers, precision: Precision) -> Iterator[Rule]:
        yield from GROUPED_QUERY.rules(layer.attention, precision)
        yield from MAMBA2.rules(layer.state_space, precision)


def _convolution(span: int) -> Widths:
    return Widths("a state space behind a convolution", (span,), ((CONV,),))


MAMBA2 = Mamba2Kind()
FAMILY = OperationFamily("state_space", (PREFILL, DECODE), (MAMBA2, MambaKind(), ParallelKind()))
