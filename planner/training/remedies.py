"""What would make a layout fit: single changes, the cheapest in time first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from costmodels.training.layouts import RECOMPUTED, default_split
from planner.training.configuration import TrainingConfiguration
from planner.training.places import room
from planner.training.prediction import predicted
from planner.training.rules import refusals


@dataclass(frozen=True)
class Remedy:
    """A change after which the layout fits."""

    change: str
    configuration: TrainingConfiguration
    bytes: float  # all in all, on the fullest GPU


def remedies(c: TrainingConfiguration, most: int = 4) -> list[Remedy]:
    """Changes of ``c`` that each make it fit on its GPUs, in the order of what they usually cost: sharding (an
    exchange that hides), selective recomputation, smaller micro-batches, full recomputation, more splitting. Two
    together where no single one does."""
    expandable = not predicted([c], None).memory.fits(room(c.places))[0]  # what fits so already should fit without
    singles = list(_legal(c))
    found = list(islice(_fitting(singles, expandable), most))
    if not found:
        found = list(islice(_fitting(_pairs(singles), expandable), most))
    if not found:
        found = list(islice(_fitting(_more_gpus(c), expandable), 1))
    return found


def _more_gpus(c: TrainingConfiguration) -> Iterator[tuple[str, TrainingConfiguration]]:
    """The same on more GPUs, by more stages or more replicas, layers recomputed whole where that is not enough."""
    if len(c.places) > 1 or c.vpp > 1:
        return
    for factor in (2, 4, 8, 16, 32):
        pp, dp, place = c.pp * factor, c.dp * factor, c.places[0]
        ways = [
            (
                f"--pp {pp}",
                replace(c, pp=pp, split=default_split(c.model.layers, pp), places=(replace(place, stages=pp),)),
            )
        ]
        if c.microbatches % factor == 0:
            ways.append((f"--dp {dp}", replace(c, dp=dp, microbatches=c.microbatches // factor, shard_ranks=dp * c.cp)))
        for words, changed in ways:
            for also, both in (("", changed), (" --recompute full", replace(changed, selective=0, recomputed=None))):
                if pp <= c.model.layers and not any(True for _ in refusals(both)):
                    yield f"{words}{also}, on {c.gpus * factor:,} GPUs", both


def _pairs(singles: list[tuple[str, TrainingConfiguration]]) -> Iterator[tuple[str, TrainingConfiguration]]:
    """Two changes together, those that come to the same once."""
    known: list[TrainingConfiguration] = []
    for one, changed in singles:
        for two, both in _legal(changed):
            if both not in known:
                known.append(both)
                yield f"{one} {two}", both


def _legal(c: TrainingConfiguration) -> Iterator[tuple[str, TrainingConfiguration]]:
    return ((words, changed) for words, changed in _changes(c) if not any(True for _ in refusals(changed)))


def _fitting(changes: Iterable[tuple[str, TrainingConfiguration]], expandable: bool) -> Iterator[Remedy]:
    for words, changed in changes:
        memory = predicted([changed], None).memory
        if memory.fits(room(changed.places), expandable=expandable)[0]:
            yield Remedy(words, changed, float(memory.used().max()))


def _changes(c: TrainingConfiguration) -> Iterator[tuple[str, TrainingConfiguration]]:
    for stage in range(c.sharding + 1, 4):
        yield f"--sharding {stage}", replace(c, sharding=stage)
    if c.tp > 1 and not c.sequence_parallel:
        yield "--sequence-parallel true", replace(c, sequence_parallel=True)
    for part in c.framework.recompute:
        bits = c.selective | 1 << RECOMPUTED.index(part)
        if bits != c.selective and c.recomputed == 0 and part in _parts(c):
            yield f"--recompute selective:{part}", replace(c, selective=bits)
    if c.micro_batch > 1:
        for micro in (each for each in range(c.micro_batch - 1, 0, -1) if c.micro_batch % each == 0):
            count = c.microbatches * c.micro_batch // micro
            yield f"--micro-batch {micro}", replace(c, micro_batch=micro, microbatches=count)
    if c.recomputed == 0:
        most = max(c.split) * c.vpp
        for share in (4, 2):
            if most // share:
                yield f"--recompute full:{most // share}", replace(c, selective=0, recomputed=most // share)
        yield "--recompute full", replace(c, selective=0, recomputed=None)
    for factor in (2, 4, 8):
        if c.dp % factor == 0:
            dp = c.dp // factor
            fewer = replace(c, dp=dp, microbatches=c.microbatches * factor, shard_ranks=dp * c.cp)
            if len(c.places) == 1 and c.vpp == 1:
                split, place = default_split(c.model.layers, c.pp * factor), replace(c.places[0], stages=c.pp * factor)
                yield f"--pp {c.pp * factor} --dp {dp}", replace(fewer, pp=c.pp * factor, split=split, places=(place,))
            yield f"--tp {c.tp * factor} --dp {dp}", replace(fewer, tp=c.tp * factor)
            ranks = dp * c.cp * factor
            yield f"--cp {c.cp * factor} --dp {dp}", replace(fewer, cp=c.cp * factor, shard_ranks=ranks)


def _parts(c: TrainingConfiguration) -> set[str]:
    """Parts of a layer that the model has."""
    parts = {"core_attn", "layernorm", "mlp", "op"}
    if c.model.experts is not None:
        parts |= {"moe", "moe_act"} | ({"shared_experts"} if c.model.experts.shared_intermediate else set())
    if c.model.architecture.is_latent:
        parts.add("mla_up_proj")
    return parts
