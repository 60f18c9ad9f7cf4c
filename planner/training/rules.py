"""What a framework and the arithmetic of a mesh refuse, each with its reason. Named layouts raise it, the search
counts it."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from costmodels.models.architecture import GatedDeltaNet, GroupedQueryAttention, MixtureOfExperts
from costmodels.training.layouts import ENDS, SCHEDULES, UNFUSED
from costmodels.training.models import TrainedFeedForward
from planner.training.configuration import TrainingConfiguration
from profiles.errors import InputError


def check(configuration: TrainingConfiguration) -> None:
    """Raises :class:`InputError`, beginning with the column's name, for the first rule that is broken."""
    for message, hint in refusals(configuration):
        raise InputError(message, hint)


def refusals(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    """(what is wrong, the way out) of each rule that ``c`` breaks."""
    yield from _tensor(c)
    yield from _pipeline(c)
    yield from _context(c)
    yield from _experts(c)
    yield from _memory(c)


def nearest(number: int, degree: int) -> str:
    """The divisors of ``number`` next to ``degree``, which is none, as a way out."""
    below = next(each for each in range(min(degree, number), 0, -1) if number % each == 0)
    above = next((each for each in range(degree + 1, number + 1) if number % each == 0), None)
    return f"nearest that does: {below}" + (f" or {above}" if above is not None else "")


def _split_by_tp(c: TrainingConfiguration) -> int:
    """What every degree of tensor parallelism has to divide."""
    sizes = [kind.attention.heads for kind in c.model.kinds] + [_width(kind.feed_forward) for kind in c.model.kinds]
    return gcd(*sizes, *([c.model.architecture.vocabulary] if c.framework.vocab_multiple == 1 else []))


def _width(ffn: TrainedFeedForward) -> int:
    """Of what tensor parallelism splits; 0 where it leaves a layer's feed-forward part whole."""
    return getattr(ffn, "shared_intermediate", 0) or (0 if isinstance(ffn, MixtureOfExperts) else ffn.intermediate)


def _tensor(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    near = nearest(_split_by_tp(c), c.tp)
    for attention in {kind.attention for kind in c.model.kinds}:
        if attention.heads % c.tp:
            yield f"tp: {c.tp} does not divide the {attention.heads} attention heads", near
        if isinstance(attention, GroupedQueryAttention):
            kv = attention.kv_heads
            if kv % c.tp and c.tp % kv:
                yield f"tp: {c.tp} and the {kv} key/value heads do not divide each other", "choose a tp that does"
    for ffn in {kind.feed_forward for kind in c.model.kinds}:
        if _width(ffn) % c.tp:
            yield f"tp: {c.tp} does not divide the feed-forward width {_width(ffn)}", near
    vocabulary = c.model.architecture.vocabulary
    if c.framework.vocab_multiple == 1 and vocabulary % c.tp:
        yield (
            f"tp: {c.tp} does not divide the vocabulary {vocabulary}, and {c.framework.full_name} does not pad it",
            near,
        )
    if c.sequence_parallel and c.sequence % (c.tp * c.cp):
        yield (
            f"seq_len: {c.sequence} is not a multiple of tp {c.tp} × cp {c.cp}, which share it",
            "choose a sequence that is, or sequence_parallel false",
        )
    longest = c.model.longest_sequence(enforced=c.framework.enforces_positions)
    if c.sequence > longest:
        yield f"seq_len: {c.sequence} is beyond the {longest} positions of {c.model.name}", "choose a shorter sequence"


def _pipeline(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    if c.vpp > 1 and c.pp == 1:
        yield f"vpp: {c.vpp} virtual stages without pipeline parallelism", "leave vpp blank, or give pp"
    if c.pp * c.vpp > c.model.layers + ENDS:
        yield (
            f"pp: {c.pp} × vpp {c.vpp} is more than the {c.model.layers} layers, the embedding and the loss",
            "choose fewer stages",
        )
    if c.sharding not in c.framework.shardings:
        known = ", ".join(map(str, c.framework.shardings))
        yield f"sharding: {c.framework.full_name} has no {c.sharding}", f"choose from {known}"
    elif c.pp > 1 and c.sharding not in c.framework.sharding_with_pp:
        known = ", ".join(map(str, c.framework.sharding_with_pp))
        yield (
            f"sharding: {c.framework.full_name} refuses {c.sharding} with pp {c.pp}",
            f"with pipeline stages it has {known}",
        )
    if c.framework.even_stages and len(set(c.split)) > 1:
        yield (
            f"pp: {c.pp} × vpp {c.vpp} stages of {c.model.layers} layers are not alike, as {c.framework.label} needs",
            f"{nearest(c.model.layers, c.pp * c.vpp)} stages",
        )
    if c.vpp > 1 and c.framework.even_stages and c.microbatches % c.pp:
        yield (
            f"global_batch: {c.microbatches} micro-batches are not a multiple of pp {c.pp}, which interleaving needs",
            "choose a batch that is",
        )


def _context(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    if c.cp == 1:
        return
    if c.attention == UNFUSED:
        yield f"cp: {c.cp} with unfused attention", "context parallelism needs a fused kernel: flash2, te, ..."
    if any(isinstance(kind.attention, GatedDeltaNet) for kind in c.model.kinds):
        yield f"cp: {c.cp} with linear attention, whose states it would have to pass on", "choose cp 1"
    if c.sequence % (2 * c.cp):
        yield (
            f"cp: {c.cp}: the sequence {c.sequence} does not split into 2 × cp = {2 * c.cp} pieces, which balance it",
            nearest(c.sequence // 2, c.cp) if c.sequence % 2 == 0 else "choose an even sequence",
        )


def _experts(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    experts = c.model.experts
    if experts is None:
        return
    if experts.experts % c.ep:
        yield f"ep: {c.ep} does not divide the {experts.experts} experts", nearest(experts.experts, c.ep)
    if experts.intermediate % c.etp:
        yield (
            f"moe_tp: {c.etp} does not divide the experts' width {experts.intermediate}",
            nearest(experts.intermediate, c.etp),
        )
    if c.tp * c.cp * c.dp % (c.ep * c.etp):
        yield (
            f"ep: ep {c.ep} × moe_tp {c.etp} does not divide tp {c.tp} × cp {c.cp} × dp {c.dp}",
            "the GPUs of a stage are folded anew for experts: choose degrees that divide them",
        )
    if c.tp > 1 and not c.sequence_parallel and c.framework.experts_need_sequence_parallel:
        yield f"sequence_parallel: false with experts and tp, which {c.framework.full_name} refuses", "set it to true"


def _memory(c: TrainingConfiguration) -> Iterator[tuple[str, str]]:
    most = max(c.split) * c.vpp
    if c.recomputed is not None and c.recomputed > most:
        yield (
            f"recompute: {c.recomputed} layers of each stage; a stage holds {most} at most",
            "write full for all of them",
        )
    if SCHEDULES[c.schedule] == "zero-bubble" and c.recomputed != 0:
        yield (
            "recompute: full with zero-bubble, whose weight gradients come after the activations are gone",
            "choose 1f1b, or no full recomputation",
        )
