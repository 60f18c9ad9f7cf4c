"""Layouts whose experts are reached by an all-to-all, one role at a time: which degrees, copies, overlap and buffers
are tried. An engine that does both, prompts and answers, gathers its tokens (:mod:`planner.serving.layouts`) unless its
framework exchanges them so when nothing is said, or an exchange is asked for that it runs for all its steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.models.architecture import Architecture
from costmodels.models.precision import Precision
from costmodels.operations.layouts import Layouts
from costmodels.serving.served_model import ServedModel
from planner.contract.engine import NOTHING, Layout, Role
from planner.serving.layouts import Restrictions, degrees_of, refusals
from planner.serving.request import PlanRequest
from planner.serving.wide_experts import (
    CHOSEN_FIELDS,
    EngineMachines,
    WideAsked,
    exchanges_called,
    experts_of,
    fewest_copies,
    refused_exchange,
)
from profiles.errors import InputError

WITHIN_A_DOMAIN = (8, 12, 16, 18, 24, 32, 36, 48, 64, 72)
"""GPUs that share experts out within a node or NVLink domain; beyond, whole nodes do."""

ROLES: tuple[Role, ...] = ("prefill", "decode", "aggregated")

LARGEST = 144
"""GPUs over which experts were ever spread in public (DeepSeek's decode engines)."""

PREFILL_BUDGETS = (8192, 16384)
"""Tokens of an attention rank in a step of a wide prefill engine: what the published ones run."""


@dataclass(frozen=True)
class WideLayouts:
    """Of engines that only prefill, that only decode (low-latency ones with each size of buffers), and that do both."""

    prefill: Layouts
    decode: Layouts
    aggregated: Layouts
    asked: bool = False  # an exchange was named: engines of a role that has any here are of these


def no_wide_layouts() -> WideLayouts:
    none = Layouts.of([])
    return WideLayouts(none, none, none)


def wide_layouts(served: ServedModel, precision: Precision, allowed: Restrictions) -> WideLayouts:
    """All that the framework, the machines and the request let engines be."""
    prefill, decode, both = (_of_role(served, precision, allowed, role) for role in ROLES)
    # Prompts would have to come in as many pieces as low-latency buffers are small: decode engines alone run it.
    return WideLayouts(
        prefill, decode, both.take(np.flatnonzero(~both.low_latency)), allowed.experts.exchange not in (None, NOTHING)
    )


def check_asked(request: PlanRequest, served: ServedModel, found: WideLayouts) -> None:
    """Raises InputError where something was asked of experts that no layout has, with the reason where it is plain."""
    asked = WideAsked(**{name: getattr(request, name) for name in CHOSEN_FIELDS})
    most = served.framework.parallelism.dispatch_tokens[1]
    if asked.dispatch_tokens is not None and asked.dispatch_tokens > most:
        raise InputError(
            f"dispatch_tokens: {asked.dispatch_tokens} is more than the {most} that buffers are made for",
            f"give at most {most}, or leave it out",
        )
    fields = [name for name in CHOSEN_FIELDS if getattr(asked, name) not in (None, 0, NOTHING, "off")]
    if not fields or len(found.prefill) or len(found.decode) or len(found.aggregated):
        return
    field, experts = fields[0], experts_of(served.model)
    said = f"{field}: {getattr(asked, field)}"
    if experts is None:
        raise InputError(f"{said}, but {served.model.name} has no experts", f"leave {field} out")
    on = EngineMachines(served.framework, served.gpu, served.network.gpus_per_node, served.network.fabric)
    known = on.framework.parallelism
    can = known.exchanges
    if asked.exchange == NOTHING:
        raise InputError(f"{said} is said of an exchange, and exchange is none", f"leave exchange or {field} out")
    if asked.overlap not in (None, "none", *known.overlaps):
        words = " or ".join(f"overlap={word}" for word in ("none", *known.overlaps))
        raise InputError(f"overlap: {on.framework.full_name} has no {asked.overlap}", f"give {words}")
    if asked.redundant and asked.eplb == "off" and known.copies_need_balancer:
        raise InputError(
            f"redundant: {on.framework.full_name} keeps no copies of experts without a balancer, and eplb is off",
            "give eplb=static or dynamic, or redundant=0",
        )
    if asked.exchange is not None:
        names = exchanges_called(asked.exchange, on)
        gpus = 2 * on.gpus_per_node
        layout = Layout(tp=1, pp=1, dp=gpus, ep=gpus, moe_tp=1)
        why = refused_exchange(names[0], layout, can[names[0]].roles[-1], served.model, on)
        if why is not None:
            raise InputError(f"exchange: {names[0]}: {why[0]}", why[1])
    if asked.redundant is not None:
        most = max(pool.gpus for pool in request.cluster.pools)
        sizes = [size for size in (8, 16, 24, 32, 48, 72) if size <= most]
        copies = ", ".join(f"{fewest_copies(experts.experts, size)} with {size} GPUs" for size in sizes)
        raise InputError(
            f"redundant: {experts.experts} experts and {asked.redundant} copies divide by no group of GPUs here",
            f"leave redundant out{copies and f', or give as many as divide: {copies}'}",
        )
    raise InputError(
        f"{said}: no engines of {served.model.name} on {on.gpu.name} under {on.framework.title} exchange tokens so",
        f"leave {field} out: all ranks gather all tokens",
    )


def _of_role(served: ServedModel, precision: Precision, allowed: Restrictions, role: Role) -> Layouts:
    model, experts, asked = served.model, experts_of(served.model), allowed.experts
    if experts is None or asked.exchange == NOTHING:
        return Layouts.of([])
    on = EngineMachines(served.framework, served.gpu, served.network.gpus_per_node, served.network.fabric)
    rows: list[tuple[int, ...]] = []
    for gpus in _group_sizes(allowed, served.network.gpus_per_node, experts.experts):
        layout = Layout(tp=1, pp=1, dp=gpus, ep=gpus, moe_tp=1)
        exchange = _exchange(asked, on, role, layout, model)
        copies = fewest_copies(experts.experts, gpus) if asked.redundant is None else asked.redundant
        if exchange is None or (experts.experts + copies) % gpus:
            continue
        eplb = asked.eplb or "static"
        if copies and eplb == "off" and served.framework.parallelism.copies_need_balancer:
            continue
        wide = layout.model_copy(update={"exchange": exchange, "redundant": copies, "eplb": eplb})
        for overlap in _overlaps(exchange, asked, on):
            one = wide.model_copy(update={"overlap": overlap})
            rows += [
                degrees_of(one.model_copy(update={"dispatch_tokens": size})) for size in _buffers(one, asked, on, role)
            ]
    layouts = Layouts.of(rows)
    if not len(layouts):
        return layouts
    bad = [indices for _, indices in refusals(model, precision, served.framework, layouts, allowed)]
    return layouts.take(np.setdiff1d(np.arange(len(layouts)), np.concatenate(bad) if bad else []))


def _group_sizes(allowed: Restrictions, domain: int, experts: int) -> list[int]:
    most = min(allowed.gpus, allowed.max_engine_gpus or allowed.gpus, LARGEST, experts)
    inside = [size for size in WITHIN_A_DOMAIN if size <= domain]
    return [size for size in (*inside, *range(2 * domain, most + 1, domain)) if size <= most]


def _exchange(asked: WideAsked, on: EngineMachines, role: Role, layout: Layout, model: Architecture) -> str | None:
    """What engines of ``role`` take; None: nothing that they could."""
    can, experts = on.framework.parallelism, experts_of(model)
    assert experts is not None
    names = can.exchanges_called(asked.exchange) if asked.exchange else []
    if asked.exchange is not None and not names:
        return None
    names = [name for name in names if role in can.exchanges[name].roles]
    if not names:
        names = list(can.usual_exchanges(role, on.gpu, layout.ep, on.gpus_per_node))
    fitting = (name for name in names if refused_exchange(name, layout, role, model, on) is None)
    return next(fitting, None)


def _overlaps(exchange: str, asked: WideAsked, on: EngineMachines) -> tuple[str, ...]:
    can = ("none", *on.framework.parallelism.overlaps_of(exchange))
    if asked.overlap is not None:
        return tuple(word for word in can if word == asked.overlap)
    return tuple(word for word in ("none", "two_batch") if word in can)


def _buffers(layout: Layout, asked: WideAsked, on: EngineMachines, role: str) -> tuple[int, ...]:
    """Sizes of low-latency buffers to try; 0 where there are none."""
    if not Layouts.of([degrees_of(layout)]).low_latency[0]:
        return (0,)
    least, most = 128, on.framework.parallelism.dispatch_tokens[1]
    if role == "aggregated" and on.framework.buffers_of_step:
        step = max(on.framework.limits.token_budgets)
        return (step,) if step <= (asked.dispatch_tokens or most) else ()
    if asked.dispatch_tokens is not None:
        return (asked.dispatch_tokens,)
    return tuple(2**power for power in range(least.bit_length() - 1, most.bit_length()))
