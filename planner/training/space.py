"""The layouts that are considered: all combinations of degrees that a framework allows, as arrays; every refusal is
counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Ints
from costmodels.models.architecture import GatedDeltaNet, GroupedQueryAttention, MixtureOfExperts
from costmodels.training.layouts import (
    ATTENTION,
    ENDS,
    INTERLEAVED,
    ONE_F_ONE_B,
    SCHEDULES,
    UNFUSED,
    ZERO_BUBBLE,
    Degrees,
)
from costmodels.training.models import TrainedFeedForward
from costmodels.training.setting import Setting
from planner.training.request import TrainingRequest

SHORTEST_PIECE = 1024
"""Tokens that a context-parallel rank holds at least: shorter pieces leave nothing to hide the exchange behind."""

MOST_VIRTUAL = 16
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass
class RefusedLayouts:
    """Combinations that were left out, by reason, with an example of each."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, count: int, example: str) -> None:
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            self.examples.setdefault(reason, example)

    def join(self, other: RefusedLayouts) -> None:
        for reason, count in other.counts.items():
            self.add(reason, count, other.examples[reason])


@dataclass(frozen=True)
class LayoutCandidates(Degrees):
    """``n`` layouts that may be chosen; see :class:`costmodels.training.layouts.TrainingLayouts`."""

    micro_batch: Ints
    schedule: Ints

    def label(self, row: int) -> str:
        names = (
            ("TP", "tp"),
            ("PP", "pp"),
            ("VPP", "vpp"),
            ("DP", "dp"),
            ("CP", "cp"),
            ("EP", "ep"),
            ("MoE-TP", "etp"),
        )
        words = [f"{word}{int(getattr(self, name)[row])}" for word, name in names if getattr(self, name)[row] > 1]
        return " ".join([*words, f"micro-batch {int(self.micro_batch[row])}"])


def candidates(
    setting: Setting, request: TrainingRequest, gpus: int, per_node: int
) -> tuple[LayoutCandidates, RefusedLayouts, int]:
    """(layouts on at most ``gpus`` GPUs, what was refused and why, combinations looked at)."""
    model = setting.model
    routed = model.experts
    stages = _stages(setting)
    columns = {
        "tp": _allowed(request.tp, _divisors(model.heads), gpus if request.tp_across_nodes else min(per_node, gpus)),
        "pp": _allowed(request.pp, stages, min(model.layers, gpus)),
        "dp": _allowed(request.dp, _divisors(request.global_batch), gpus),
        "cp": _allowed(request.cp, _powers(max(request.seq_len // SHORTEST_PIECE, 1)), gpus),
        "micro_batch": _allowed(request.micro_batch, MICRO_BATCHES, request.global_batch),
        "way": np.arange(len(_ways(setting, request))),
        "ep": _allowed(request.ep, _divisors(routed.experts) if routed else (1,), gpus),
        "split": np.array([0, 1] if routed else [0]),  # experts whole, or split as attention is
    }
    refused = RefusedLayouts()
    for name, (most, of) in {
        "tp": (gpus if request.tp_across_nodes else min(per_node, gpus), "GPUs" + " of a node" * (per_node < gpus)),
        "pp": (min(model.layers, gpus), "layers" if model.layers < gpus else "GPUs"),
        **dict.fromkeys(("dp", "cp", "ep"), (gpus, "GPUs")),
        "micro_batch": (request.global_batch, "sequences of the global batch"),
    }.items():
        if not len(columns[name]):
            least = min(getattr(request, name))
            refused.add(f"{name} {least} is more than the {most} {of}", 1, f"{name} {least}")
    looked_at = int(np.prod([len(each) for each in columns.values()]))
    mesh = _grid({name: columns[name] for name in ("tp", "pp", "dp", "cp")})
    rest = _grid({name: columns[name] for name in ("micro_batch", "way", "ep", "split")})
    needed = mesh["tp"] * mesh["pp"] * mesh["dp"] * mesh["cp"]
    there = np.flatnonzero(needed <= gpus)  # the bulk of the grid is not: no refusal, there are no such GPUs
    if looked_at and not len(there):
        fewest = np.array([needed.argmin()])
        least = _crossed(setting, request, {name: each[fewest] for name, each in mesh.items()}, rest)
        refused.add(f"the degrees need {int(needed.min()):,} GPUs or more, of {gpus:,}", 1, least.label(0))
    found = _crossed(setting, request, {name: each[there] for name, each in mesh.items()}, rest)
    for reason, rule in _rules(setting, request):
        kept = ~rule(found)
        broken = np.flatnonzero(~kept)
        if len(broken):
            refused.add(reason, len(broken), found.label(int(broken[0])))
            found = found.take(np.flatnonzero(kept))
    return found, refused, looked_at


def _grid(columns: dict[str, Ints]) -> dict[str, Ints]:
    return dict(zip(columns, (each.ravel() for each in np.meshgrid(*columns.values(), indexing="ij")), strict=True))


def _crossed(
    setting: Setting, request: TrainingRequest, mesh: dict[str, Ints], rest: dict[str, Ints]
) -> LayoutCandidates:
    """Each of ``mesh`` with each of ``rest``, but for what is the same as another."""
    each, times = len(rest["way"]), len(mesh["tp"])
    at = {name: np.repeat(column, each) for name, column in mesh.items()}
    at |= {name: np.tile(column, times) for name, column in rest.items()}
    keep = (at["split"] == 0) | (at["tp"] > 1)  # splitting by one is the same as not splitting
    ways = np.array(_ways(setting, request), dtype=np.int64).reshape(-1, 2)
    # Schedules and virtual stages are of a pipeline.
    keep &= (at["pp"] > 1) | ((at["way"] == 0) & (ways[at["way"], 0] == 1))
    at = {name: column[keep] for name, column in at.items()}
    etp = np.where(at["split"] == 1, at["tp"], 1)
    return LayoutCandidates(
        at["tp"], at["pp"], ways[at["way"], 0], at["dp"], at["cp"], at["ep"], etp, at["micro_batch"], ways[at["way"], 1]
    )


Rule = Callable[[LayoutCandidates], NDArray[np.bool_]]
"""Which candidates break it, shape [n]."""


def _rules(setting: Setting, request: TrainingRequest) -> Iterable[tuple[str, Rule]]:
    """(reason, which candidates it refuses). The frameworks' own rules, as :mod:`planner.training.rules` has them for
    a layout that somebody names."""
    model, batch, sequence = setting.model, request.global_batch, request.seq_len
    attentions = [kind.attention for kind in model.kinds]
    heads = np.array([attention.heads for attention in attentions], dtype=np.int64)[:, None]
    rules: list[tuple[str, Rule]] = [
        ("tp does not divide the attention heads", lambda f: (heads % f.tp != 0).any(axis=0)),
        (
            "the global batch is not a multiple of dp × micro-batch",
            lambda f: batch % (f.dp * f.micro_batch) != 0,
        ),
        ("more (virtual) stages than layers and ends", lambda f: f.pp * f.vpp > model.layers + ENDS),
        (
            "the sequence does not split into 2 × cp pieces and over tp",
            lambda f: ((f.cp > 1) & (sequence % (2 * f.cp) != 0)) | (sequence % (f.tp * f.cp) != 0),
        ),
        (
            "fewer micro-batches than stages, interleaved",
            lambda f: (f.vpp > 1) & (batch // (f.dp * f.micro_batch) < f.pp),
        ),
    ]
    kv_heads = np.array([a.kv_heads for a in attentions if isinstance(a, GroupedQueryAttention)], dtype=np.int64)[
        :, None
    ]
    widths = np.array([_split_width(kind.feed_forward) for kind in model.kinds], dtype=np.int64)[:, None]
    rules += [
        (
            "tp and the key/value heads do not divide each other",
            lambda f: ((kv_heads % f.tp != 0) & (f.tp % kv_heads != 0)).any(axis=0),
        ),
        ("tp does not divide the feed-forward width", lambda f: (widths % f.tp != 0).any(axis=0)),
    ]
    if setting.framework.even_stages:
        rules += [
            ("layers are not a multiple of the (virtual) stages", lambda f: model.layers % (f.pp * f.vpp) != 0),
            (
                "micro-batches are not a multiple of the stages, interleaved",
                lambda f: (f.vpp > 1) & (batch // (f.dp * f.micro_batch) % f.pp != 0),
            ),
        ]
    if setting.framework.vocab_multiple == 1:
        vocabulary = model.architecture.vocabulary
        rules.append(("tp does not divide the vocabulary", lambda f: vocabulary % f.tp != 0))
    if any(isinstance(a, GatedDeltaNet) for a in attentions):
        rules.append(("context parallelism with linear attention", lambda f: f.cp > 1))
    if request.attention == ATTENTION[UNFUSED] or setting.framework.defaults["attention"] == ATTENTION[UNFUSED]:
        rules.append(("context parallelism with unfused attention", lambda f: f.cp > 1))
    if model.experts is not None:
        width = model.experts.intermediate
        routed = model.experts.experts
        rules += [
            ("ep does not divide the experts", lambda f: routed % f.ep != 0),
            (
                "ep × moe_tp does not divide the GPUs of a stage",
                lambda f: f.tp * f.cp * f.dp % (f.ep * f.etp) != 0,
            ),
            ("moe_tp does not divide the experts' width", lambda f: width % f.etp != 0),
            ("moe_tp is not one of those asked for", lambda f: ~np.isin(f.etp, request.moe_tp or f.etp)),
        ]
    return rules


def _split_width(ffn: TrainedFeedForward) -> int:
    """Width that tensor parallelism splits: of a dense feed-forward, or of the shared experts."""
    return ffn.shared_intermediate if isinstance(ffn, MixtureOfExperts) else ffn.intermediate


def _ways(setting: Setting, request: TrainingRequest) -> list[tuple[int, int]]:
    """(virtual stages, schedule) that the framework has."""
    schedules = [SCHEDULES.index(name) for name in setting.framework.schedules]
    ways = [(1, ONE_F_ONE_B if ONE_F_ONE_B in schedules else schedules[0])]
    if ZERO_BUBBLE in schedules:
        ways.append((1, ZERO_BUBBLE))
    if INTERLEAVED in schedules:
        allowed = _allowed(request.vpp, (*range(2, 9), 10, 12, 16), min(MOST_VIRTUAL, setting.model.layers))
        ways += [(int(vpp), INTERLEAVED) for vpp in allowed if vpp > 1]
    return ways if request.vpp is None else [way for way in ways if way[0] in request.vpp]


def _stages(setting: Setting) -> list[int]:
    """Numbers of stages that are considered: those that split the layers (with one or both ends counted as a layer)
    evenly, and small products of 2, 3, 5 and 7. They do not depend on the GPUs, so that more GPUs only add layouts."""
    layers = setting.model.layers
    even = {stages for total in (layers, layers + 1, layers + 2) for stages in _divisors(total)}
    smooth = {odd * 2**power for odd in (1, 3, 5, 7, 9, 15) for power in range(12)}
    return sorted(stages for stages in even | smooth if stages <= layers)


def _divisors(number: int) -> tuple[int, ...]:
    small = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return tuple(sorted({*small, *(number // each for each in small)}))


def _powers(most: int) -> tuple[int, ...]:
    return tuple(2**power for power in range(most.bit_length()))


def _allowed(asked: tuple[int, ...] | None, known: Iterable[int], most: int) -> Ints:
    """Values to choose from: those asked for, or all known; none beyond ``most``."""
    values = sorted(set(asked)) if asked is not None else known
    return np.array([value for value in values if value <= most], dtype=np.int64)
