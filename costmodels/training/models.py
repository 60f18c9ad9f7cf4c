"""The model that is trained: bundled, anybody's ``config.json``, or written out for those that never had one.

Training needs more of a model than serving does: the order of its layers (a stage holds a run of them), how its norms
and positions are made, and the multi-token-prediction layers that serving leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import gcd

from costmodels.models.architecture import (
    Architecture,
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
    NoFeedForward,
)
from costmodels.models.mixers import Mixer, NoMixer
from costmodels.models.registry import find_architecture
from profiles.errors import InputError, Unsupported

UNLIMITED = 2**31 - 1
"""Longest sequence of a model whose form names no limit."""

MOST = 10**9  # of any size in a form: beyond it arithmetic would overflow, and nobody means it
MOST_LAYERS = 10_000

_FORM = re.compile(r"(?P<family>gpt|llama):(?P<fields>.*)", re.DOTALL)
_NEEDED = {"gpt": ("hidden", "layers", "heads", "vocab"), "llama": ("hidden", "layers", "heads", "ffn", "vocab")}
_ALLOWED = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "tied", "positions")
_EXPERTS = ("experts", "top_k", "moe_ffn", "shared_ffn", "dense_layers")
EXAMPLES = {
    "gpt": "gpt:hidden=12288,layers=96,heads=96,vocab=51200",
    "llama": "llama:hidden=4096,layers=32,heads=32,kv_heads=8,ffn=14336,vocab=128256",
}


TrainedAttention = GroupedQueryAttention | LatentAttention | GatedDeltaNet
TrainedFeedForward = DenseFeedForward | MixtureOfExperts
"""The kinds of which training counts time, weights and activations; :func:`_trained_kind` refuses all others."""


@dataclass(frozen=True)
class TrainedKind:
    """``count`` layers that are alike, of kinds whose training is modelled."""

    count: int
    attention: TrainedAttention
    feed_forward: TrainedFeedForward
    norms: int  # weight vectors of ``hidden``


@dataclass(frozen=True)
class TrainedModel:
    """A model as it is trained.

    Attributes:
        architecture: sizes of the whole model.
        kinds: its layers, those that are alike together.
        order: for each layer, in order, its place in ``kinds``.
        layer_norm: LayerNorm with a bias (GPT) in place of RMSNorm.
        learned_positions: a table of position embeddings, as long as the sequence.
        dropout: whether the model was made to be trained with dropout, whose masks are kept.
        mtp_layers: multi-token-prediction layers that it may be trained with.
    """

    architecture: Architecture
    kinds: tuple[TrainedKind, ...]
    order: tuple[int, ...]
    layer_norm: bool = False
    learned_positions: bool = False
    dropout: bool = False
    mtp_layers: int = 0

    @property
    def name(self) -> str:
        return self.architecture.name

    @cached_property
    def layers(self) -> int:
        return len(self.order)

    @cached_property
    def heads(self) -> int:
        """What all kinds' attention heads are multiples of: tensor parallelism divides it."""
        return gcd(*(kind.attention.heads for kind in self.kinds))

    @cached_property
    def experts(self) -> MixtureOfExperts | None:
        """The routed experts, None for a dense model."""
        return next((kind.feed_forward for kind in self.kinds if isinstance(kind.feed_forward, MixtureOfExperts)), None)

    def longest_sequence(self, *, enforced: bool) -> int:
        """Tokens of a sequence at most: rotary positions go on, unless the framework enforces the published limit."""
        return self.architecture.max_context_tokens if enforced or self.learned_positions else UNLIMITED

    def parameters(self, sequence: int = 0) -> int:
        """All weights; with learned positions, those of ``sequence`` tokens."""
        positions = sequence * self.architecture.hidden if self.learned_positions else 0
        return self.architecture.parameters + positions


@cache
def trained_model(text: str, *, allow_paths: bool = True) -> TrainedModel:
    """The model that ``text`` names: a bundled name, the path of a ``config.json``, or a form such as
    ``gpt:hidden=12288,layers=96,heads=96,vocab=51200`` or ``llama:hidden=…,layers=…,heads=…,kv_heads=…,ffn=…,vocab=…``.

    Raises:
        InputError, UnknownName, Unsupported: naming what is not understood.
    """
    form = _FORM.fullmatch(text.strip())
    if form is not None:
        return _written(form["family"], form["fields"], text.strip())
    return as_trained(find_architecture(text, allow_paths=allow_paths))


def is_written_out(text: str) -> bool:
    """Whether ``text`` has the form of a model that is written out."""
    return _FORM.fullmatch(text.strip()) is not None


@cache
def as_trained(architecture: Architecture) -> TrainedModel:
    """A published model as it is trained, with the layers that guess further tokens as its multi-token prediction.

    Raises:
        Unsupported: it has a part or a kind of layer whose training is not modelled; names it.
    """
    alone = "give the language model alone: its text_config as a config.json"
    if architecture.vision is not None:
        raise _not_modelled(architecture, "an image encoder", alone)
    if architecture.per_layer is not None:
        raise _not_modelled(architecture, "an embedding for every layer", "train another model of its size")
    if architecture.excluded:
        raise _not_modelled(architecture, f"a {architecture.excluded[0]}", alone)
    kinds = tuple(_trained_kind(architecture, group) for group in architecture.layer_groups)
    mtp_layers = 0
    if architecture.draft is not None:
        mtp_layers = sum(group.count for group in architecture.draft.layers)
    return TrainedModel(architecture, kinds, _order(architecture), mtp_layers=mtp_layers)


def _trained_kind(architecture: Architecture, group: LayerGroup) -> TrainedKind:
    way_out = "choose a model with full, windowed, latent or gated linear attention, dense or with experts"
    attention, ffn = group.attention, group.feed_forward
    if isinstance(attention, Mixer):
        part = "layers without attention" if isinstance(attention, NoMixer) else f"layers of {attention.kind}"
        raise _not_modelled(architecture, part, way_out)
    if isinstance(ffn, NoFeedForward):
        raise _not_modelled(architecture, "layers without a feed-forward", way_out)
    for part, there in _unknown_parts(group):
        if there:
            raise _not_modelled(architecture, part, way_out)
    return TrainedKind(group.count, attention, ffn, group.norms)


def _unknown_parts(group: LayerGroup) -> Iterator[tuple[str, bool]]:
    """Parts within a layer whose time or activations training does not count, and whether this one has them."""
    attention, ffn = group.attention, group.feed_forward
    if isinstance(attention, LatentAttention):
        yield "sparse attention", attention.indexer is not None
        yield "latent attention with a gate on its output", attention.output_gate
    if isinstance(attention, GroupedQueryAttention):
        yield "attention whose values are not as wide as its keys", attention.value_head_dim != attention.head_dim
        yield "attention with a gate for each head", attention.head_gate
        yield "attention whose keys are its values", attention.keys_are_values
        yield "keys and values that layers share", attention.shared_cache
    if isinstance(ffn, MixtureOfExperts):
        yield "experts in a latent space", ffn.latent > 0
        yield "experts that pass a token through", ffn.idle_experts > 0
    yield "hyper-connections", group.residual is not None


def _not_modelled(architecture: Architecture, part: str, way_out: str) -> Unsupported:
    return Unsupported(f"model: {architecture.name} has {part}, whose training is not modelled", way_out)


def _order(architecture: Architecture) -> tuple[int, ...]:
    """Which kind each layer is of. Which layers have experts is known; kinds that differ in attention alone (windowed
    and full, linear and full) alternate in all models that mix them, so each is spread evenly over the model."""
    groups = architecture.layer_groups
    with_experts = set(architecture.moe_layers)
    order = [0] * architecture.layers
    for has_experts in (False, True):
        places = [i for i in range(architecture.layers) if (i in with_experts) == has_experts]
        kinds = [k for k, group in enumerate(groups) if isinstance(group.feed_forward, MixtureOfExperts) == has_experts]
        turns = sorted(((turn + 0.5) / groups[k].count, k) for k in kinds for turn in range(groups[k].count))
        for place, (_, kind) in zip(places, turns, strict=True):
            order[place] = kind
    return tuple(order)


# ------------------------------------------------------------------ written out


def _written(family: str, text: str, name: str) -> TrainedModel:
    hint = f"write for example {EXAMPLES[family]}"
    fields = _fields(family, text, hint)
    missing = [key for key in _NEEDED[family] if key not in fields]
    if missing:
        raise InputError(f"model: {missing[0]} is missing in {name!r}", hint)
    if fields["layers"] > MOST_LAYERS:
        raise InputError(f"model: layers {fields['layers']} is more than {MOST_LAYERS:,}", hint)
    hidden, heads = fields["hidden"], fields["heads"]
    if "head_dim" not in fields and hidden % heads:
        raise InputError(f"model: heads {heads} does not divide hidden {hidden}", "give head_dim, or other heads")
    kv_heads = fields.get("kv_heads", heads)
    if heads % kv_heads:
        raise InputError(f"model: kv_heads {kv_heads} does not divide heads {heads}", hint)
    gpt = family == "gpt"
    head_dim = fields.get("head_dim", hidden // heads)
    attention = GroupedQueryAttention(heads, kv_heads, head_dim, bias=gpt, output_bias=gpt)
    dense = DenseFeedForward(fields.get("ffn", 4 * hidden), gated=not gpt, bias=gpt)
    norms = 4 if gpt else 2  # LayerNorm has a bias beside its weight
    groups, moe_layers = _layers(fields, attention, dense, norms, name, hint)
    architecture = Architecture(
        name=name,
        model_type=family,
        hidden=hidden,
        vocabulary=fields["vocab"],
        layer_groups=groups,
        max_context_tokens=fields.get("positions", UNLIMITED),
        tied_embeddings=bool(fields.get("tied", gpt)),
        weight_precision="bf16",
        moe_layers=moe_layers,
    )
    kinds = tuple(_trained_kind(architecture, group) for group in groups)
    return TrainedModel(architecture, kinds, _order(architecture), gpt, learned_positions=gpt, dropout=gpt)


def _layers(
    fields: dict[str, int], attention: GroupedQueryAttention, dense: DenseFeedForward, norms: int, name: str, hint: str
) -> tuple[tuple[LayerGroup, ...], tuple[int, ...]]:
    """The kinds of layers, and which of the model's have experts."""
    layers = fields["layers"]
    if "experts" not in fields:
        if extra := [key for key in _EXPERTS if key in fields]:
            raise InputError(f"model: {extra[0]} comes without experts in {name!r}", "give experts and top_k too")
        return (LayerGroup(layers, attention, dense, norms),), ()
    experts, top_k = fields["experts"], fields.get("top_k", 0)
    if not 0 < top_k <= experts:
        raise InputError(f"model: top_k {top_k} is not between 1 and experts {experts}", hint)
    routed = MixtureOfExperts(
        experts, top_k, fields.get("moe_ffn", dense.intermediate), fields.get("shared_ffn", 0), gated=dense.gated
    )
    first = fields.get("dense_layers", 0)
    if first >= layers:
        raise InputError(f"model: dense_layers {first} leaves none of layers {layers} with experts", hint)
    groups = [LayerGroup(layers - first, attention, routed, norms)]
    if first:
        groups.insert(0, LayerGroup(first, attention, dense, norms))
    return tuple(groups), tuple(range(first, layers))


def _fields(family: str, text: str, hint: str) -> dict[str, int]:
    known = (*_ALLOWED, *_EXPERTS)
    fields: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in known:
            raise InputError(f"model: {part!r} is not known in a {family}: model", f"{hint}; known: {', '.join(known)}")
        if key in fields:
            raise InputError(f"model: {key} is given twice", hint)
        may_be_zero = key in ("tied", "dense_layers", "shared_ffn")
        if not re.fullmatch(r"[0-9]{1,10}", value) or not (0 if may_be_zero else 1) <= int(value) <= MOST:
            raise InputError(f"model: {key} {value!r} is not a positive whole number", hint)
        fields[key] = int(value)
    if fields.get("tied", 0) > 1:
        raise InputError(f"model: tied {fields['tied']} is neither 0 nor 1", hint)
    return fields
