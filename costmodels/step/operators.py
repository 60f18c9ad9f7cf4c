"""Which operations one engine step consists of, under a layout: model + layout + batch → questions to the
kernels.

Vectorised over candidates: every column is an array over the same ``n`` candidates (a layout and a batch
each). What each kind of layer asks, its family says (:mod:`costmodels.operations.registry`).
"""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from costmodels.models.mixers import PerLayerInputs
from costmodels.models.precision import Precision
from costmodels.operations.gemm import ask_product
from costmodels.operations.hyper import ask_mixing
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import ACTIVATION_BYTES, Batch, LayerStep, Split, StepWork
from costmodels.operations.registry import families


def step_work(model: Architecture, precision: Precision, layouts: Layouts, batch: Batch, routing: str) -> StepWork:
    """The work of one step of one attention rank's GPU, over all layers of the model.

    Args:
        routing: skew of tokens over experts, a value of :data:`costmodels.operations.roofline.CODES`\\ ``["routing"]``.

    Raises:
        Unsupported: the model has layers that no family of operations serves.
    """
    work = StepWork(len(layouts))
    for group in model.layer_groups:
        step = LayerStep(Split(model.hidden, precision.within(group), layouts), batch, routing, work)
        families().attention(group.attention).ask(step, group.attention, group.count)
        families().feed_forward(group.feed_forward).ask(step, group.feed_forward, group.count)
        if group.residual is not None:
            ask_mixing(step, group.residual, group.count)
        # Each norm adds the residual: it reads and writes both the residual and the activations.
        work.touch(group.norms * 4 * step.hidden_bytes(batch.tokens), group.norms, group.count)
    whole = LayerStep(Split(model.hidden, precision, layouts), batch, routing, work)
    if model.per_layer is not None:
        _per_layer_inputs(whole, model.per_layer)
    _head(whole, model)
    return work


def _per_layer_inputs(step: LayerStep, inputs: PerLayerInputs) -> None:
    """The inputs of all layers, looked up and projected at once, then each layer's gate and projection, which are whole
    on every GPU."""
    tokens, hidden, tp = step.batch.tokens, step.split.hidden, step.split.layouts.tp
    every = inputs.layers * inputs.width
    ask_product(step, "bf16", tokens, -(-every // tp), hidden, 1)
    wide: Floats = np.asarray(tokens * float(every * ACTIVATION_BYTES))
    step.work.exchange("all_reduce", wide, tp, 1)  # of the table's rows
    step.work.exchange("all_gather", wide, tp, 1)  # of the projection
    step.work.touch(np.asarray(wide * 5), 3, 1)  # the rows, their norm, and the sum
    ask_product(step, "bf16", tokens, inputs.width, hidden, inputs.layers)
    step.work.touch(np.asarray(tokens * (inputs.width * 3.0 * ACTIVATION_BYTES)), 1, inputs.layers)
    ask_product(step, "bf16", tokens, hidden, inputs.width, inputs.layers)


def _head(step: LayerStep, model: Architecture) -> None:
    batch, tp = step.batch, step.split.layouts.tp
    residual = model.layer_groups[0].residual
    if residual is not None:  # the streams are read, and their sum written
        step.work.touch((residual.streams + 1) * step.hidden_bytes(batch.tokens), 1, 1)
    sampled = batch.prefills + batch.decodes * batch.queries  # one row of logits per sequence, or per verified token
    vocabulary = -(-model.vocabulary // tp)
    ask_product(step, "bf16", sampled, vocabulary, model.hidden, 1)
    logits_bytes = sampled.astype(np.float64) * model.vocabulary * ACTIVATION_BYTES
    step.work.exchange("all_gather", logits_bytes, tp, 1)
    step.work.touch(step.hidden_bytes(batch.tokens) + sampled * vocabulary * 4.0, 4, 1)
