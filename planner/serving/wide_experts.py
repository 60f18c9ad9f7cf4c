"""What a layout says of its experts beside its degrees: words understood, what nobody says taken as the framework has
it, and what does not go together refused with the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from costmodels.models.architecture import Architecture, MixtureOfExperts
from costmodels.operations.exchanges import BALANCES, OVERLAPS, exchange_kinds, kind_of
from costmodels.serving.frameworks.facts import ExchangeWay
from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import NOTHING, Layout, Role
from planner.contract.words import exchange_word, folded
from profiles.errors import InputError
from profiles.hardware import Fabric, Gpu
from profiles.values import number, shown

WIDE_FIELDS = ("role", "exchange", "redundant", "overlap", "eplb", "dispatch_tokens")
CHOSEN_FIELDS = WIDE_FIELDS[1:]
"""What a planner chooses where nobody says it; the role, too."""

ROLES: dict[str, Role] = {
    "aggregated": "aggregated",
    "agg": "aggregated",
    "prefill": "prefill",
    "decode": "decode",
}
OVERLAP_WORDS = {"dual_batch": "two_batch", "dbo": "two_batch", "tbo": "two_batch", "sbo": "single_batch"}
_BALANCE_WORDS = {"on": "static", "true": "static", "false": "off", "no": "off", "balanced": "perfect"}
TRIED_COPIES = 4
"""Copies per GPU up to which the nearest redundancy that works is looked for."""


@dataclass(frozen=True)
class WideAsked:
    """What was said; None: nothing."""

    role: Role = "aggregated"
    exchange: str | None = None
    redundant: int | None = None
    overlap: str | None = None
    eplb: str | None = None
    dispatch_tokens: int | None = None


@dataclass(frozen=True)
class EngineMachines:
    """What engines run on."""

    framework: Framework
    gpu: Gpu
    gpus_per_node: int
    fabric: Fabric


def wide_asked(record: Mapping[str, str]) -> WideAsked:
    """From the cells :data:`WIDE_FIELDS` of a row, those that are filled in.

    Raises:
        InputError: a word or number that is not known, naming the field and those that are.
    """
    given = {name: record[name] for name in WIDE_FIELDS if record.get(name)}

    def word(name: str, known: tuple[str, ...], others: Mapping[str, str]) -> str | None:
        if name not in given:
            return None
        asked = folded(given[name])
        found = others.get(asked, asked)
        if found not in known:
            raise InputError(f"{name}: {shown(given[name])} is not known", f"give one of {', '.join(known)}")
        return found

    role = word("role", tuple(dict.fromkeys(ROLES.values())), ROLES)
    return WideAsked(
        ROLES[role or "aggregated"],
        exchange_word(given["exchange"]) if "exchange" in given else None,
        _number("redundant", given["redundant"], 0) if "redundant" in given else None,
        word("overlap", OVERLAPS, OVERLAP_WORDS),
        word("eplb", BALANCES, _BALANCE_WORDS),
        _number("dispatch_tokens", given["dispatch_tokens"], 0) if "dispatch_tokens" in given else None,
    )


def _number(name: str, text: str, least: int) -> int:
    written = number(text)  # data frames write 32.0 where another cell of the column is blank
    value = None if written is None or written != int(written) else int(written)
    if value is None or not least <= value <= 10**6:
        raise InputError(f"{name}: {shown(text)} is no whole number", f"give {least} or more, or leave it out")
    return value


def experts_of(model: Architecture) -> MixtureOfExperts | None:
    """The model's experts; None where it has none."""
    for group in model.layer_groups:
        if isinstance(group.feed_forward, MixtureOfExperts):
            return group.feed_forward
    return None


def with_experts(layout: Layout, asked: WideAsked, model: Architecture, on: EngineMachines) -> tuple[Layout, list[str]]:
    """(``layout`` with what was asked of its experts and, where nothing was, what ``on`` runs; what was taken so).

    Raises:
        InputError: what does not go together, with the way out.
    """
    experts = experts_of(model)
    if experts is None or layout.ep == 1:
        for name in ("exchange", "redundant", "overlap", "eplb", "dispatch_tokens"):
            if getattr(asked, name) in (None, 0, NOTHING, "off"):
                continue
            why = f"{model.name} has no experts" if experts is None else "no GPUs share out the experts (ep is 1)"
            way = f"leave {name} out" + ("" if experts is None else ", or give ep")
            raise InputError(f"{name}: {shown(getattr(asked, name))}, but {why}", way)
        return layout, []
    told: list[str] = []
    exchange = _exchange(layout, asked, model, on, told)
    like = _priced(exchange)
    eplb, redundant = asked.eplb, asked.redundant
    least = fewest_copies(experts.experts, layout.ep)
    if eplb is None:
        balanced = exchange != NOTHING or (least if redundant is None else redundant) > 0
        eplb = "static" if balanced else "off"
        if balanced:
            told.append(f"eplb={eplb}")
    if redundant is None:
        redundant = least if eplb != "off" else 0
        if redundant:
            told.append(f"redundant={redundant}")
    _check_slots(layout, experts, redundant, eplb, on.framework)
    overlap = asked.overlap or "none"
    can = on.framework.parallelism
    if exchange != NOTHING and asked.overlap is None and can.overlaps_of(exchange):
        told.append("overlap=none")
    if overlap != "none":
        if exchange == NOTHING:
            raise InputError(
                f"overlap: {overlap} hides an exchange, and there is none to hide",
                "give exchange, or leave overlap out",
            )
        if overlap not in can.overlaps_of(exchange):
            if overlap not in can.overlaps:
                words = " or ".join(f"overlap={word}" for word in ("none", *can.overlaps))
                raise InputError(f"overlap: {on.framework.full_name} has no {overlap}", f"give {words}")
            others = [
                name
                for name in can.exchanges
                if overlap in can.overlaps_of(name) and refused_exchange(name, layout, asked.role, model, on) is None
            ]
            raise InputError(
                f"overlap: {on.framework.full_name} has no {overlap} with {exchange}",
                f"give overlap=none{', or exchange=' if others else ''}{' or '.join(others)}",
            )
    dispatch = asked.dispatch_tokens or 0
    if dispatch and like != "low_latency":
        fits = "low_latency" in can.exchanges and not refused_exchange("low_latency", layout, asked.role, model, on)
        raise InputError(
            f"dispatch_tokens: {dispatch}, but exchange {exchange} has no buffers of a fixed size",
            f"leave dispatch_tokens out{', or give exchange=low_latency' if fits else ''}",
        )
    if asked.dispatch_tokens == 0 and like == "low_latency":
        raise InputError(
            f"dispatch_tokens: 0, but exchange {exchange} has buffers of a fixed size",
            f"give 1 to {can.dispatch_tokens[1]}, or leave it out",
        )
    most = can.dispatch_tokens[1]
    if dispatch > most:
        raise InputError(
            f"dispatch_tokens: {dispatch} is more than the {most} that buffers are made for", f"give at most {most}"
        )
    wide = {"exchange": exchange, "redundant": redundant, "overlap": overlap, "eplb": eplb, "dispatch_tokens": dispatch}
    return layout.model_copy(update=wide), told


def _priced(exchange: str) -> str:
    kind = kind_of(exchange)
    return kind.like or kind.name


def kin_told(exchange: str) -> list[str]:
    """A note where another exchange's times stand for those of ``exchange``."""
    kind = kind_of(exchange)
    return [f"exchange {exchange} is priced as {kind.like}, less surely: {kind.source}"] if kind.like else []


def _exchange(layout: Layout, asked: WideAsked, model: Architecture, on: EngineMachines, told: list[str]) -> str:
    """Our name of the exchange that was asked for, or that is usual."""
    can, whole = on.framework.parallelism, layout.moe_tp == 1
    if asked.exchange is None:
        usual = can.usual_exchanges(asked.role, on.gpu, layout.ep, on.gpus_per_node) if whole and layout.dp > 1 else ()
        for name in usual:
            if refused_exchange(name, layout, asked.role, model, on) is None:
                told.append(f"exchange={name}")
                return name
        return NOTHING
    if asked.exchange == NOTHING:
        return NOTHING
    named = exchanges_called(asked.exchange, on)
    named = [name for name in named if asked.role in can.exchanges[name].roles] or named
    why = refused_exchange(named[0], layout, asked.role, model, on)
    if why is not None:
        raise InputError(f"exchange: {named[0]}: {why[0]}", why[1])
    return named[0]


def exchanges_called(word: str, on: EngineMachines) -> list[str]:
    """Our names of what the framework calls ``word``, at least one. Raises InputError where none is priced."""
    can = on.framework.parallelism
    named = can.exchanges_called(word)
    if named:
        return named
    if word in can.unpriced:
        what = f"is not priced: {can.unpriced[word]}"
    elif word in {kind.name for kind in exchange_kinds()}:
        what = f"{on.framework.title} has no words for it"
    else:
        what = f"{on.framework.title} knows no such exchange"
    release = on.framework.release
    there = [
        name
        for name, way in can.exchanges.items()
        if way.runs_on(on.gpu)
        and not (way.since and release.older_than(way.since))
        and (not way.before or release.older_than(way.before))
    ]
    raise InputError(f"exchange: {shown(word)}: {what}", f"give one of {', '.join((NOTHING, *there))}")


def refused_exchange(
    name: str, layout: Layout, role: Role, model: Architecture, on: EngineMachines, hints: bool = True
) -> tuple[str, str] | None:
    """(why engines of ``role`` do not run the exchange ``name`` so, the way out, which with ``hints`` names others that
    they run); None: they do."""
    each: ExchangeWay = on.framework.parallelism.exchanges[name]
    framework, gpu, release = on.framework.full_name, on.gpu, on.framework.release
    ways = on.framework.parallelism.exchanges.items()
    gone = {n for n, o in ways if o.before and not release.older_than(o.before)}
    experts = experts_of(model)
    assert experts is not None
    if model.model_type in on.framework.parallelism.no_exchange:
        return f"{framework} has no exchange for experts of {model.model_type} (all ranks gather)", "give exchange=none"

    def instead() -> str:
        can = [
            n for n, _ in ways if n != name and hints and refused_exchange(n, layout, role, model, on, False) is None
        ]
        return f"one of {', '.join((NOTHING, *can))}" if can else "exchange=none"

    if each.since and release.older_than(each.since):
        newer = f"{on.framework.name}@{each.since}"
        return (
            f"{framework} {release.version} does not have it",
            f"give framework={newer}, or exchange=none",
        )
    if name in gone:
        return (
            f"{framework} {release.version} has it no more (all ranks gather where it is named)",
            f"give {instead()}",
        )
    if not each.runs_on(gpu):
        return f"{framework} does not run it on {gpu.name}", f"give {instead()}"
    if role not in each.roles:
        hint = f"give role={each.roles[-1]}, or {instead()}"
        if role == "aggregated":
            return (
                f"{framework} does not mix it with prompts in one engine (prefill and decode engines apart run each "
                "their own)",
                hint,
            )
        return f"{framework} runs it in {' and '.join(each.roles)} engines alone", hint
    if layout.moe_tp > 1:
        return (
            f"{framework} shares the experts out over the whole group of tp × dp = {layout.ep * layout.moe_tp} GPUs",
            f"give ep={layout.ep * layout.moe_tp}, or exchange=none",
        )
    if each.attention_dp and layout.dp == 1:
        return f"{framework} needs attention data parallelism for it", "give dp, or exchange=none"
    if each.above_top_k and layout.ep <= experts.top_k:
        return (
            f"{framework} gathers where no more GPUs share experts ({layout.ep}) than a token has ({experts.top_k})",
            "give a larger ep, or exchange=none",
        )
    if layout.tp * layout.dp > on.gpus_per_node:
        from costmodels.step.expert_exchange import fabric_kind  # memory is told without the cost model

        fabric, kind = on.fabric.name, fabric_kind(on.fabric)
        if not each.across:
            return (
                f"reaches no further than one NVLink domain of {on.gpus_per_node} GPUs",
                f"share the experts out over at most {on.gpus_per_node} GPUs, or give {instead()}"
                if experts.top_k < on.gpus_per_node or not each.above_top_k
                else f"give {instead()}",
            )
        if kind not in each.across:
            within = f"stay within {on.gpus_per_node} GPUs, " if on.gpus_per_node > 1 else ""
            return (
                f"does not work over {fabric}, whose cards do not reach GPU memory",
                f"{within}give exchange=none, or a fabric of {', '.join(each.across)}",
            )
    return None


def fewest_copies(experts: int, ep: int) -> int:
    """With which the experts divide by ``ep``."""
    return -experts % ep


def nearest_copies(experts: int, ep: int, redundant: int = 0) -> Iterator[int]:
    """Copies that make slots divide by ``ep``, the nearest to ``redundant`` first."""
    fitting = [copies for copies in range(ep * TRIED_COPIES + 1) if (experts + copies) % ep == 0]
    return iter(sorted(fitting, key=lambda copies: abs(copies - redundant)))


def _check_slots(layout: Layout, experts: MixtureOfExperts, redundant: int, eplb: str, framework: Framework) -> None:
    slots = experts.experts + redundant
    if slots % layout.ep:
        copies = next(nearest_copies(experts.experts, layout.ep, redundant))
        raise InputError(
            f"redundant: {experts.experts} experts and {redundant} copies do not divide by ep {layout.ep}"
            if redundant
            else f"ep: {experts.experts} experts do not divide by ep {layout.ep}",
            f"EP{layout.ep} needs {experts.experts + copies} slots: redundant={copies}",
        )
    most = experts.experts * (layout.ep - 1)
    if redundant > most:
        raise InputError(
            f"redundant: {redundant} copies of {experts.experts} experts are more than one of each on every GPU",
            f"give at most {most}",
        )
    if redundant and eplb == "off" and framework.parallelism.copies_need_balancer:
        raise InputError(
            f"redundant: {framework.full_name} keeps no copies of experts without a balancer, and eplb is off",
            "give eplb=static or dynamic" + ("" if experts.experts % layout.ep else ", or redundant=0"),
        )
