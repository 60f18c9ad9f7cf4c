"""Where the stages of a named layout run: GPUs of one type, or blocks of neighbouring stages on several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Floats, Ints
from planner.contract.clusters import parse_cluster
from profiles.errors import InputError
from profiles.hardware import Catalogue, Fabric, Gpu
from profiles.values import one_of, shown

_POOLS = re.compile(r"\s*[0-9]+\s*x.*|.*\+.*", re.DOTALL)
HINT = "write a GPU type, or GPUs of several in the order of the pipeline: 16xA100-SXM-80GB+16xH100"


_NEEDS = {
    "bf16": ("bf16", "16-bit brain floats (Ampere, CDNA 2 and newer)"),
    "fp8": ("fp8", "8-bit float products"),
    # Block scales came with the tensor cores that have 4-bit floats: Blackwell and CDNA 4 (Transformer Engine's MXFP8
    # and NVFP4 recipes ask for compute capability 10.0; AMD's CDNA 4 white paper).
    "mxfp8": ("fp4", "products of blocks with a scale each (Blackwell, CDNA 4 and newer)"),
    "nvfp4": ("fp4", "4-bit float products"),
}
"""What the tensor cores must have for a precision: the peak in the catalogue that tells, and in words."""


@dataclass(frozen=True)
class StagePlace:
    """GPUs of one type on which ``stages`` neighbouring stages run."""

    gpu: Gpu
    gpus_per_node: int
    fabric: Fabric
    stages: int

    @property
    def key(self) -> tuple[object, ...]:
        return self.gpu.name, self.gpus_per_node, self.fabric.name, self.stages


@dataclass(frozen=True)
class NamedPool:
    """One of the pools that the column ``gpu`` names."""

    gpu: Gpu
    gpus: int
    gpus_per_node: int
    fabric: str


def is_pools(text: str) -> bool:
    """Whether ``text`` names GPUs by their number, or several types."""
    return _POOLS.fullmatch(text) is not None


def named_pools(text: str, catalogue: Catalogue) -> tuple[NamedPool, ...]:
    """The pools that ``text`` names, in the order of the pipeline.

    Raises:
        InputError: it does not say how many GPUs of each, or they cannot talk.
    """
    try:
        cluster = parse_cluster(text, allow_paths=False, catalogue=catalogue)
    except InputError as error:
        raise InputError(re.sub("^cluster( GPU)?: ", "gpu: ", error.message), HINT) from error
    pools = tuple(
        NamedPool(catalogue.find_gpu(pool.gpu), pool.gpus, pool.gpus_per_node, pool.fabric) for pool in cluster.pools
    )
    if cluster.choose or any(pool.as_needed for pool in cluster.pools):
        raise InputError(f"gpu: {shown(text)} does not say how many GPUs there are of each type", HINT)
    if len({pool.gpu.vendor for pool in pools}) > 1:
        raise InputError(
            f"gpu: {shown(text)} are of two makers, whose collective libraries do not talk", "choose GPUs of one maker"
        )
    return pools


def stages_in(pools: Sequence[NamedPool], ranks: int) -> tuple[int, ...]:
    """Stages of ``ranks`` GPUs in each pool.

    Raises:
        InputError: a pool does not hold whole stages.
    """
    for pool in pools:
        if pool.gpus % ranks:
            below, above = pool.gpus // ranks * ranks, -(-pool.gpus // ranks) * ranks
            near = f"{below:,} or {above:,}" if below else f"{above:,}"
            raise InputError(
                f"gpu: {pool.gpus:,} × {pool.gpu.name} do not hold whole stages of tp × cp × dp = {ranks:,} GPUs",
                f"nearest that do: {near}",
            )
    return tuple(pool.gpus // ranks for pool in pools)


def pool_of_stages(places: Sequence[StagePlace]) -> Ints | None:
    """The index of the place of each stage; None where there is one place."""
    if len(places) == 1:
        return None
    return np.repeat(np.arange(len(places)), [place.stages for place in places])


def room(places: Sequence[StagePlace]) -> Floats:
    """Bytes of a GPU of each stage; of all stages alike where there is one place."""
    if len(places) == 1:
        return np.array([float(places[0].gpu.memory_bytes)])
    return np.repeat([float(place.gpu.memory_bytes) for place in places], [place.stages for place in places])


def mean_peak(places: Sequence[StagePlace], precision: str) -> float:
    """Dense FLOP/s of the precision that is trained in, of the mean GPU."""
    rate = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}.get(precision, precision)
    peaks = [
        place.gpu.peak_flops.get(rate) or place.gpu.peak_flops.get("bf16") or place.gpu.peak_flops["fp16"]
        for place in places
    ]
    return float(np.average(peaks, weights=[place.stages for place in places]))


def places_words(places: Sequence[StagePlace], gpus: int) -> str:
    """``32 × H100-SXM``, or of several with the stages in each."""
    if len(places) == 1:
        return f"{gpus:,} × {places[0].gpu.name}"
    each = gpus // sum(place.stages for place in places)
    return ", then ".join(f"{place.stages * each:,} × {place.gpu.name} (PP{place.stages})" for place in places)


def check_precision(gpu: Gpu, precision: str) -> None:
    """Raises InputError where the tensor cores of ``gpu`` cannot multiply in ``precision``."""
    peak, what = _NEEDS.get(precision, ("", ""))
    if peak and peak not in gpu.peak_flops:
        plainer = one_of([name for name in ("fp8", "bf16", "fp16") if name in gpu.peak_flops and name != precision])
        raise InputError(f"precision: {precision} on {gpu.name}, which has no {what}", f"choose {plainer}")
