"""Weights and KV cache of a model's layers on one GPU. Vectorised over layouts; bytes. What an engine takes beside them
is in :mod:`costmodels.serving.memory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture, DraftModule, LayerGroup
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Split
from costmodels.operations.registry import families
from profiles.errors import Unsupported

NO_PADDING: Mapping[str, int] = {}


def weights_bytes(
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    *,
    padding: Mapping[str, int] = NO_PADDING,
    drafting: bool = False,
) -> Floats:
    """Weights on the fullest GPU: the stage with most layers, and the embedding or the head, [n].

    Args:
        padding: precision of a part → the multiple that the framework pads the model's width to in it.
        drafting: whether the model's draft module is loaded too, which the last stage has.

    Raises:
        Unsupported: ``drafting`` with a model that has no draft module.
    """
    each = precision.element_bytes
    layers = _layers_bytes(model, precision, layouts, model.layer_groups, padding)
    table = model.embedding_parameters * each / layouts.tp
    tables = np.where((layouts.pp == 1) & (not model.tied_embeddings), 2 * table, table)
    whole = (model.small_parameters + model.position_table_elements) * each
    # The image encoder is on the first stage, split over its GPUs.
    vision = model.vision.parameters * each / layouts.tp if model.vision else 0.0
    total = layers * _fullest_stage(model, layouts) + tables + whole + vision + model.audio_parameters * each
    if model.per_layer is not None:  # the table and the joint projection are split, gates and projections are whole
        shared = model.per_layer.table_parameters + model.per_layer.joint_parameters(model.hidden)
        own = model.layers * model.per_layer.layer_parameters(model.hidden) * _fullest_stage(model, layouts)
        total = total + (shared / layouts.tp + own) * each
    if not drafting:
        return np.asarray(total)
    draft = draft_module(model)
    joining = sum(group.count for group in draft.layers) * draft.joining + draft.own
    drafts = _layers_bytes(model, precision, layouts, draft.layers, padding)
    return np.asarray(total + drafts + joining * each)


def kv_bytes_per_sequence(
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    tokens: Floats | float,
    *,
    drafting: bool = False,
) -> Floats:
    """KV cache of one sequence of ``tokens`` tokens on one GPU (fullest stage), and what linear attention keeps in
    its place, whatever the length, [n]. Windowed layers keep their window only.

    Args:
        drafting: whether the draft module's layers keep a cache too.

    Raises:
        Unsupported: ``drafting`` with a model that has no draft module.
    """
    length = np.broadcast_to(np.asarray(tokens, dtype=np.float64), len(layouts))
    split = Split(model.hidden, precision, layouts)

    def kept(groups: Sequence[LayerGroup]) -> Floats:
        total = np.zeros(len(layouts))
        for group in groups:
            total += families().attention(group.attention).cache_bytes(split, group.attention, group.count, length)
        return total

    cached = kept(model.layer_groups) * _fullest_stage(model, layouts)
    return cached + kept(draft_module(model).layers) if drafting else cached


def state_bytes_per_sequence(
    model: Architecture, precision: Precision, layouts: Layouts, *, drafting: bool = False
) -> Floats:
    """What is kept of a sequence on one GPU by a model without a cache of tokens, the same whatever the length, [n]; 0
    where it grows. ``drafting``, errors: as :func:`kv_bytes_per_sequence`."""
    least, most = (
        kv_bytes_per_sequence(model, precision, layouts, tokens, drafting=drafting)
        for tokens in (1, model.max_context_tokens)
    )
    return np.where(least == most, least, 0.0)


def draft_module(model: Architecture) -> DraftModule:
    """The module that the model drafts with.

    Raises:
        Unsupported: it has none.
    """
    if model.draft is None:
        raise Unsupported(
            f"draft: {model.name} has no draft module of its own", "leave drafting out of the question of memory"
        )
    return model.draft


def _fullest_stage(model: Architecture, layouts: Layouts) -> Floats:
    """The share of the layers that the fullest stage has."""
    return np.asarray(np.ceil(model.layers / layouts.pp) / model.layers)


def _layers_bytes(
    model: Architecture,
    precision: Precision,
    layouts: Layouts,
    groups: Sequence[LayerGroup],
    padding: Mapping[str, int],
) -> Floats:
    """Weights of whole ``groups`` of layers on one GPU of a stage that had them all."""
    layers = np.zeros(len(layouts))
    for group in groups:
        split = Split(model.hidden, precision.within(group), layouts, padding)
        layer = np.full(len(layouts), group.norms * model.hidden * float(precision.element_bytes))
        if group.residual is not None:
            layer += group.residual.parameters(model.hidden) * 4.0  # kept in fp32
        for part in families().attention(group.attention).weights_bytes(split, group.attention):
            layer += part
        for part in families().feed_forward(group.feed_forward).weights_bytes(split, group.feed_forward):
            layer += part
        layers += group.count * layer
    return layers
