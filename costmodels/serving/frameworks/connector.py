"""How a framework hands a request over from the engine that prefills to the one that decodes, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from costmodels.models.architecture import Architecture, GroupedQueryAttention
from costmodels.models.precision import choose_precision
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.facts import Facts
from costmodels.step.memory import kv_bytes_per_sequence
from profiles.hardware import Gpu

Trait = Literal["states", "windows", "images"]
"""What of a model a connector may treat otherwise: layers that keep a state in place of a cache (linear attention,
state spaces), layers with a window beside others without, images."""


def traits(model: Architecture) -> frozenset[Trait]:
    """What of ``model`` connectors may treat otherwise."""
    found: set[Trait] = set()
    kept = kv_bytes_per_sequence(model, choose_precision(model), Layouts.of([(1, 1, 1, 1, 1)]), 0.0)
    if float(kept[0]) > 0:
        found.add("states")
    plain = [each.attention for each in model.layer_groups if isinstance(each.attention, GroupedQueryAttention)]
    if len({layer.window_tokens > 0 for layer in plain}) > 1:
        found.add("windows")
    if model.vision is not None:
        found.add("images")
    return frozenset(found)


class AttentionBackend(Facts):
    """Kernels that an engine may attend with.

    Attributes:
        attention: of which models.
        runs: CUDA compute capabilities (from, below) on which it does.
        default: those on which an engine takes it when nothing is said. (On others an engine's choice may go by more
            than the GPU, so that it has to be named.)
    """

    name: str
    attention: Literal["grouped_query", "latent", "sparse"]
    runs: tuple[float, float]
    default: tuple[float, float] | None = None


class KvConnector(Facts):
    """The connector with which plans are started.

    Attributes:
        name: the framework's own.
        overlap: how much of the transfer runs while the prompt is still being computed: ``layer`` (each layer's cache
            leaves as soon as it is written), ``chunk`` (each prefill chunk's), ``none`` (all of it after the prompt).
        first_token: what brings the first token to the user: ``transfer`` (the prefill engine's token, handed on with
            the cache) or ``decode_step`` (the decode engine computes it).
        pipeline: roles whose engines may have several pipeline stages.
        refuses: models that it cannot hand over.
        equal_tp: models whose prefill and decode engines must have one tensor-parallel degree.
        attention_backends: where both engines must attend with the same one, those to choose from, the best first;
            empty: they may differ.
        not_validated: models with which the framework says that nobody has tried it.
        not_validated_drafting: the same, with speculative decoding.
    """

    name: str
    overlap: Literal["layer", "chunk", "none"]
    first_token: Literal["transfer", "decode_step"]
    pipeline: tuple[Literal["prefill", "decode"], ...]
    refuses: frozenset[Trait] = frozenset()
    equal_tp: frozenset[Trait] = frozenset()
    attention_backends: tuple[AttentionBackend, ...] = ()
    not_validated: frozenset[Trait] = frozenset()
    not_validated_drafting: frozenset[Trait] = frozenset()

    def shared_backend(self, model: Architecture, gpus: Sequence[Gpu]) -> str | None:
        """The attention backend that engines on all of ``gpus`` (at least one) must be told to take so that it is the
        same; "": they take the same anyway, or need not; None: there is none that runs on all."""
        kind = "sparse" if model.is_sparse else "latent" if model.is_latent else "grouped_query"
        offered = [backend for backend in self.attention_backends if backend.attention == kind]
        if not offered:
            return ""
        if any(gpu.compute_capability is None for gpu in gpus):
            return "" if len({gpu.name for gpu in gpus}) == 1 else None
        capabilities = [gpu.compute_capability or 0.0 for gpu in gpus]
        defaults = [
            next((each.name for each in offered if each.default and _within(each.default, capability)), None)
            for capability in capabilities
        ]
        if defaults[0] is not None and len(set(defaults)) == 1:
            return ""
        running = (each.name for each in offered if all(_within(each.runs, value) for value in capabilities))
        return next(running, None)


def _within(bounds: tuple[float, float], capability: float) -> bool:
    return bounds[0] <= capability < bounds[1]
