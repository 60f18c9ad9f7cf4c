"""Which operations one engine step consists of, under a layout: model + layout + batch → questions to the
kernels.

Vectorised over candidates: every column is an array over the same ``n`` candidates (a layout and a batch
each). What each kind of layer asks, its family says (:mod:`costmodels.operations.registry`).
"""

from __future__ import annotations

import numpy as np

from costmodels.models.architecture import Architecture
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
    _head(LayerStep(Split(model.hidden, precision, layouts), batch, routing, work), model)
    return work


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
