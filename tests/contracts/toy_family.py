"""A family of operations as somebody would add it: the layer's class, the table of what is measured, the family.

In the tree these are lines of ``costmodels/models/architecture.py`` and ``profiles/operation_tables.py`` and a file of
``costmodels/operations``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.precision import Precision
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.kernel import Kernel
from costmodels.operations.layers import AttentionKind, Rule, Widths, heads_divide
from costmodels.operations.questions import LayerStep, Split
from costmodels.operations.roofline import WEIGHT_BYTES, Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, logs, waves
from profiles.measurements import Column, Operation

# --- profiles/operation_tables.py

SCAN_TABLE = Operation(
    "toy_scan",
    "one step of a toy recurrence per sequence, projections excluded",
    (
        Column("batch", "int", "sequences", minimum=1),
        Column("toy_heads", "int", "heads on this GPU", minimum=1),
    ),
)

# --- costmodels/models/architecture.py


@dataclass(frozen=True)
class ToyMixer:
    """A state of ``width`` for each head, in place of a KV cache."""

    heads: int
    width: int

    @property
    def window_tokens(self) -> int:
        return 0

    def parameters(self, hidden: int) -> int:
        return 2 * hidden * self.heads * self.width

    def kv_elements_per_token(self) -> int:
        return 0


# --- costmodels/operations/toy.py

_WIDTH = 64


def _work(q: Columns) -> Work:
    batch, heads = floats(q, "batch", "toy_heads")
    state = batch * heads * _WIDTH
    return Work.local(2 * state, 8 * state)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, heads = floats(q, "batch", "toy_heads")
    count, used = waves(batch * heads, hw, gpu)
    return {**logs(q, "batch", "toy_heads"), "waves": count, "used": used}


SCAN = Kernel(
    name="toy_scan",
    part="attention",
    factor="attention_decode",
    work=_work,
    features=_features,
    group=("toy_heads",),
    range=("batch", "toy_heads"),
    near={"batch": 2.0, "toy_heads": 1.0},
    figures_of="gdn_decode",
)


class ToyKind(AttentionKind[ToyMixer]):
    """Heads are split, and their states with them."""

    layer = ToyMixer

    def ask(self, step: LayerStep, layer: ToyMixer, count: int) -> None:
        heads, tokens = layer.heads // step.split.layouts.tp, step.batch.tokens
        precision, hidden = step.split.precision, step.split.hidden
        ask_product(step, precision.attention_qkv, tokens, heads * layer.width, hidden, count)
        step.work.ask(SCAN, count, tokens > 0, dtype=code("dtype", "bf16"), batch=tokens, toy_heads=heads)
        ask_product(step, precision.attention_output, tokens, hidden, heads * layer.width, count)
        step.reduce(count)

    def weights_bytes(self, split: Split, layer: ToyMixer) -> Iterator[Floats | float]:
        one_way = split.hidden * layer.heads * layer.width / split.layouts.tp
        yield one_way * WEIGHT_BYTES[split.precision.attention_qkv]
        yield one_way * WEIGHT_BYTES[split.precision.attention_output]

    def cache_bytes(self, split: Split, layer: ToyMixer, count: int, tokens: Floats) -> Floats:
        return np.asarray(count * layer.heads * layer.width * 4.0 / split.layouts.tp)

    def widths(self, layer: ToyMixer) -> Widths:
        return Widths("a toy state", (layer.width,), ((_WIDTH,),))

    def rules(self, layer: ToyMixer, precision: Precision) -> Iterator[Rule]:
        yield heads_divide(layer.heads)


TOY = OperationFamily("toy", (SCAN,), (ToyKind(),))
