"""Which parallel layouts of a model are legal on a pool, and why the others are not.

Every combination of degrees is tried against the rules below in order; the first that refuses it names the
reason. The rules are those of the frameworks (what divides what) and of the machine (what fits into a node).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy as np

from costmodels.estimates import Ints
from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.exchanges import BALANCES, OVERLAPS, exchange_names
from costmodels.operations.layers import Mask
from costmodels.operations.layouts import COLUMNS, Layouts
from costmodels.operations.registry import families
from costmodels.serving.frameworks.framework import Framework
from planner.contract.clusters import Pool
from planner.contract.engine import Layout
from planner.contract.words import attention_is_data_parallel, folded
from planner.launchers import cannot_express
from planner.serving.request import PlanRequest
from planner.serving.wide_experts import CHOSEN_FIELDS, WideAsked
from profiles.errors import InputError
from profiles.hardware import gpus_per_host
from profiles.values import number


@dataclass(frozen=True)
class Rejected:
    """Layouts refused for one reason; ``example`` is one of them. ``of_memory``: they are legal but too big."""

    reason: str
    count: int
    example: str
    of_memory: bool = False


@dataclass(frozen=True)
class Restrictions:
    """What the pool and the user allow."""

    gpus: int
    gpus_per_node: int
    max_tp: int | None = None
    max_pp: int | None = None
    max_engine_gpus: int | None = None
    tp_across_nodes: bool = False
    experts: WideAsked = field(default_factory=WideAsked)
    drafting: bool = False
    gpus_per_host: int | None = None  # where fewer than a node's share an operating system, and it is to be started


def restrictions(request: PlanRequest, pool: Pool) -> Restrictions:
    """What the pool and the user allow of a layout."""
    return Restrictions(
        pool.gpus,
        pool.gpus_per_node,
        request.max_tp,
        request.max_pp,
        request.max_engine_gpus,
        request.tp_across_nodes,
        WideAsked(**{name: getattr(request, name) for name in CHOSEN_FIELDS}),
        request.workload.speculation is not None,
        gpus_per_host(pool.gpu, pool.gpus_per_node),
    )


def layout_at(layouts: Layouts, i: int) -> Layout:
    """One of many layouts, as the plan document writes it."""
    found: dict[str, Any] = dict(zip(COLUMNS, layouts.row(i), strict=True))
    words = {name: words[found[name]] for name, words in _wide_words().items()}
    return Layout(**found | words)


def degrees_of(layout: Layout) -> tuple[int, ...]:
    """As a row of :class:`Layouts`."""
    words = _wide_words()
    return tuple(
        words[name].index(getattr(layout, name)) if name in words else getattr(layout, name) for name in COLUMNS
    )


def _wide_words() -> dict[str, tuple[str, ...]]:
    """Columns of a layout that documents write as words → the words, in the order of their codes."""
    return {"exchange": exchange_names(), "overlap": OVERLAPS, "eplb": BALANCES}


def legal_layouts(
    model: Architecture, precision: Precision, framework: Framework, allowed: Restrictions
) -> tuple[Layouts, list[Rejected], int]:
    """(legal layouts, rejections by reason with the largest first, layouts considered). Memory is judged later."""
    universe = Layouts.of(list(_universe(model, framework, allowed)))
    alive = np.ones(len(universe), dtype=bool)
    rejected = []
    for reason, indices in refusals(model, precision, framework, universe, allowed):
        rejected.append(Rejected(reason, len(indices), layout_at(universe, int(indices[0])).label))
        alive[indices] = False
    return universe.take(np.flatnonzero(alive)), rejected, len(universe)


def refusals(
    model: Architecture, precision: Precision, framework: Framework, layouts: Layouts, allowed: Restrictions
) -> list[tuple[str, Ints]]:
    """(reason, which of the ``layouts`` it is the first to refuse, at least one) of each rule that refuses any; those
    of the model and the machine in the order of the rules, then what the framework has no words for."""
    alive = np.ones(len(layouts), dtype=bool)
    found: list[tuple[str, Ints]] = []
    for reason, refuses in _rules(model, precision, framework, allowed):
        bad = np.flatnonzero(alive & refuses(layouts))
        if len(bad):
            found.append((reason, bad))
            alive[bad] = False
    unsaid: dict[str, list[int]] = {}
    for i in np.flatnonzero(alive).tolist():
        why = cannot_express(framework.spec, layout_at(layouts, i), is_moe=model.is_moe)
        if why is not None:
            unsaid.setdefault(why, []).append(i)
    return found + [(why, np.array(indices, np.int64)) for why, indices in unsaid.items()]


def refused_on_nodes(
    model: Architecture, precision: Precision, framework: Framework, layouts: Layouts, gpus_per_node: int
) -> list[str | None]:
    """Why each of the ``layouts`` cannot be run on as many nodes as it takes, in :func:`legal_layouts`' words, [n];
    None: it can."""
    machine = Restrictions(gpus_per_node, gpus_per_node, tp_across_nodes=True)
    why: list[str | None] = [None] * len(layouts)
    for reason, indices in refusals(model, precision, framework, layouts, machine):
        for i in indices.tolist():
            why[i] = reason
    return why


def completed(model: Architecture, given: Mapping[str, int | None]) -> Layout:
    """The layout that the degrees ``given`` mean: blank ones are 1; without ``ep`` and ``moe_tp`` the experts of an
    engine without attention data parallelism are each split over its GPUs, of one with it shared out whole.

    Raises:
        InputError: degrees of experts that contradict the others.
    """
    tp, pp, dp = (given.get(name) or 1 for name in ("tp", "pp", "dp"))
    ep, moe_tp, group = given.get("ep"), given.get("moe_tp"), tp * dp
    if not model.is_moe:
        for name, value in (("ep", ep), ("moe_tp", moe_tp)):
            if value not in (None, 1, tp if name == "moe_tp" else 1):  # others say it of dense layers, too
                raise InputError(f"{name}: {value}, but {model.name} has no experts", f"leave {name} blank or 1")
        return Layout(tp=tp, pp=pp, dp=dp, ep=1, moe_tp=1)
    if ep is None and moe_tp is None:
        ep, moe_tp = (1, group) if dp == 1 else (group, 1)
    ep = ep or max(group // (moe_tp or 1), 1)
    moe_tp = moe_tp or max(group // ep, 1)
    if ep * moe_tp != group:
        raise InputError(
            f"ep, moe_tp: {ep} × {moe_tp} is not tp × dp = {group}", "correct one of them, or leave one blank"
        )
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep, moe_tp=moe_tp)


def with_replicas(record: Mapping[str, str], framework: Framework, notes: list[str]) -> dict[str, str]:
    """``record`` of a row that says by a switch that attention is data parallel, with what its ``tp`` means then: of
    frameworks in whose words it counts the whole group, that divided by ``dp``; without ``dp``, all are replicas, but
    of SGLang, which has one where nobody says how many. Adds to ``notes`` what was divided.
    """
    out = dict(record)
    tp, dp, pp, gpus = (number(out.get(name, "")) for name in ("tp", "dp", "pp", "num_gpus"))
    if not tp or not attention_is_data_parallel(out):
        return out
    if not dp and _OWN_REPLICAS not in map(folded, out):
        return out | {"tp": "1", "dp": f"{tp:g}"}
    if not dp or dp == 1 or tp % dp or gpus == tp * dp * (pp or 1) or not framework.parallelism.group_holds_replicas:
        return out
    notes.append(f"tp: {tp:g} GPUs in all hold the {dp:g} attention replicas, {tp / dp:g} each")
    return out | {"tp": f"{tp / dp:g}"}


_OWN_REPLICAS = "enable_dp_attention"
"""SGLang's word, which has no effect without ``dp_size``."""


def _degrees(limit: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ...: powers of two and three times them, the sizes that nodes and head counts have."""
    powers = [2**i for i in range(limit.bit_length())]
    return sorted({d for p in powers for d in (p, 3 * p) if d <= limit})


@cache
def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _universe(
    model: Architecture, framework: Framework, allowed: Restrictions
) -> Iterator[tuple[int, int, int, int, int]]:
    most = allowed.gpus
    for tp in _degrees(most):
        for pp in _degrees(min(most // tp, model.layers)):
            for dp in _degrees(most // (tp * pp)) if model.is_moe else [1]:
                group = tp * dp
                if not model.is_moe:
                    splits = [1]
                elif framework.parallelism.expert_splits == "any":
                    splits = _divisors(group)
                else:
                    splits = sorted({1, group})
                for ep in splits:
                    yield tp, pp, dp, ep, group // ep


def _rules(
    model: Architecture, precision: Precision, framework: Framework, allowed: Restrictions
) -> Iterator[tuple[str, Callable[[Layouts], Mask]]]:
    limits = (
        ("--max-tp", allowed.max_tp, attrgetter("tp")),
        ("--max-pp", allowed.max_pp, attrgetter("pp")),
        ("--max-engine-gpus", allowed.max_engine_gpus, attrgetter("gpus")),
    )
    for option, most, degree in limits:
        if most is not None:
            yield f"above {option} {most}", partial(_above, degree, most)
    node = min(allowed.gpus_per_node, allowed.gpus)
    if not allowed.tp_across_nodes:
        yield (
            f"tensor-parallel group does not fit into a node of {node} GPUs (--tp-across-nodes allows it)",
            lambda x: x.tp > node,
        )
    yield (
        f"engine of several nodes does not fill them with whole tensor-parallel groups ({node} GPUs a node)",
        lambda x: (x.gpus > node) & (node % x.tp != 0) & (x.tp % node != 0),
    )
    # Exchanges within a stage are costed as those of whole nodes, or as those within one.
    yield (
        f"stage of tp × dp GPUs straddles nodes ({node} GPUs a node)",
        lambda x: (x.gpus > node) & (node % x.stage_gpus != 0) & (x.stage_gpus % node != 0),
    )
    if framework.parallelism.scatters_attention_replicas:
        yield (
            f"{framework.full_name} scatters the attention replicas of a stage over more nodes than they fill",
            lambda x: (x.gpus > node) & (x.pp > 1) & (x.dp > 1) & (x.tp % node != 0),
        )
    yield (
        f"engine of several nodes does not fill them evenly ({node} GPUs a node); no framework starts it so",
        lambda x: (x.gpus > node) & (x.gpus % node != 0),
    )
    host = allowed.gpus_per_host
    if host is not None and host < node:
        yield (
            f"engine of several of a rack's hosts does not fill them evenly ({host} GPUs each); none starts it so",
            lambda x: (x.gpus > host) & (x.gpus % host != 0),
        )
    if model.model_type in framework.parallelism.whole_experts:
        yield (
            f"{framework.full_name} shares experts of {model.model_type} out over all GPUs of a stage or over none",
            lambda x: (x.ep > 1) & (x.ep != x.tp * x.dp),
        )
    if allowed.drafting and not framework.parallelism.drafts_in_stages:
        yield f"{framework.full_name} drafts in one pipeline stage only", lambda x: x.pp > 1
    yield f"more pipeline stages than the {model.layers} layers", lambda x: x.pp > model.layers
    yield from families().rules(model, precision)


def _above(degree: Callable[[Layouts], Ints], most: int, layouts: Layouts) -> Mask:
    return degree(layouts) > most
