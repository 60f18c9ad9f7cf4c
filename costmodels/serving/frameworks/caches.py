"""In which precision an engine keeps its KV cache when nothing is said."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.models.architecture import Architecture
from costmodels.models.precision import KV_CHOICES, Precision
from costmodels.serving.frameworks.framework import Framework
from profiles.errors import Unsupported
from profiles.hardware import Gpu

_WRITERS = {"modelopt": "ModelOpt", "compressed-tensors": "compressed-tensors"}


@dataclass(frozen=True)
class CacheDefault:
    """What ``auto`` means. ``why``: what decides it; empty where nothing speaks against the precision of what is
    computed with."""

    precision: str
    why: str = ""

    @property
    def told(self) -> str:
        """For the reader of an answer; empty where there is nothing to tell."""
        return f"kv_precision={self.precision}: {self.why}" if self.why else ""


def default_cache(framework: Framework, model: Architecture, gpu: Gpu, precision: Precision) -> CacheDefault:
    """The cache of ``model`` with weights in ``precision`` under ``framework`` on ``gpu``, of which nobody said
    anything.

    Raises:
        Unsupported: the checkpoint asks for a format that the framework takes, and which is not modelled.
    """
    can, wide = framework.capabilities, "fp32" if precision.weights == "fp32" else "bf16"
    least = can.sparse_caches_in_8_bits_from
    if least is not None and model.is_sparse and (gpu.compute_capability or 0.0) >= least:
        return CacheDefault("fp8", f"{framework.full_name}'s choice for sparse attention on {gpu.name}")
    if (kept := can.caches.get(model.model_type)) is not None:
        return CacheDefault(kept[0], f"{framework.full_name}'s choice for {model.name}")
    published = precision.weights == "nvfp4" and precision.converted and model.is_latent
    if published and "fp8" in can.own_caches.get("modelopt", ()):
        return CacheDefault("fp8", "what NVIDIA's NVFP4 checkpoints of models with latent attention ask for")
    own = model.cache_scheme
    if own is None or precision.converted:  # of converted weights it is another checkpoint
        return CacheDefault(wide)
    said = f"the checkpoint's own ({_WRITERS[own.writer]})"
    if own.format not in can.own_caches.get(own.writer, ()):
        return CacheDefault(
            wide,
            f"{framework.title} is not known to take {own.format}, {said}, by itself: say kv_precision where it does",
        )
    if own.format not in KV_CHOICES:
        raise Unsupported(
            f"kv_precision: {framework.title} keeps the cache of {model.name} in {own.format}, {said}, which is not "
            "modelled",
            f"give --kv-precision {' or '.join(KV_CHOICES)}, and start the engine with it",
        )
    return CacheDefault(own.format, said)
