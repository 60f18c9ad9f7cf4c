"""What is asked of ``plan power``: a row of servers, its supply, the load, and what capping may cost."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from planner.contract.documents import PLAIN_NUMBER, Document, Name, checked
from planner.contract.options import LOAD, Option
from planner.contract.quantities import as_mhz, as_seconds, as_share, as_watts
from planner.contract.sparse import Sparse
from planner.power.tails import YEAR_DAYS, counted
from planner.replay.request import Trace
from planner.serving.document.plan import Plan, plan_or_none
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import number, shown

_RULES = "What is promised"

_IN_WATTS = BeforeValidator(partial(as_watts, "watts"), json_schema_input_type=float | str)
Watts = Annotated[Annotated[float, Field(gt=0, le=1e10), PLAIN_NUMBER], _IN_WATTS]
_IN_SECONDS = BeforeValidator(as_seconds, json_schema_input_type=float | str)
_AS_SHARE = BeforeValidator(as_share, json_schema_input_type=float | str)
Seconds = Annotated[Annotated[float, Field(ge=0, le=86_400), PLAIN_NUMBER], _IN_SECONDS]
Share = Annotated[Annotated[float, Field(ge=0, le=1), PLAIN_NUMBER], _AS_SHARE]
Count = Annotated[int, Field(ge=0, le=100_000), PLAIN_NUMBER]
Plain = Annotated[float, PLAIN_NUMBER]

REFERENCE = "reference"


class SupplyNode(Document):
    """A node of the supply tree: a row, a PDU, a rack."""

    name: Name
    budget_watts: Watts
    breaker: Annotated[
        str | tuple[tuple[Plain, Plain], ...] | dict[str, Plain] | None,
        Field(
            description="its curve: pairs of load (share of the budget, 1 and more) and the seconds that it holds it "
            "(1.25 for 60 s: [1.25, 60]); anything else is only repeated"
        ),
    ] = None
    children: tuple[SupplyNode, ...] = Field(default=(), description="what hangs below it")
    servers: Annotated[
        Annotated[int, Field(ge=0, le=100_000), PLAIN_NUMBER] | None,
        Field(
            description="places for servers below it, of a node without children: today's, or more, which then bound "
            "the answer"
        ),
    ] = None


class RowServers(Document):
    """Servers of one kind."""

    kind: Name = Field(description="what they are called")
    gpu: Name
    gpus: Annotated[int, Field(gt=0, le=1024), PLAIN_NUMBER] = Field(description="GPUs of one server")
    nameplate_watts: Watts = Field(description="what the row is provisioned for, of one server")
    other_watts: Annotated[Annotated[float, Field(ge=0, le=1e7), PLAIN_NUMBER], _IN_WATTS] = Field(
        description="of everything but the GPUs, at work"
    )
    today: Count = Field(description="how many there are now")
    plan: Annotated[
        Plan | None,
        plan_or_none("request: plan"),
        Field(
            description="what runs on one server, as `plan` or `plan fleet` made it; null: measured phases that ship"
        ),
    ] = None


class PriorityClass(Document):
    name: Name
    share: Annotated[Annotated[float, Field(gt=0, le=1), PLAIN_NUMBER], _AS_SHARE] = Field(description="of the servers")


class Telemetry(Document):
    period_s: Annotated[Annotated[float, Field(ge=0.001, le=3600), PLAIN_NUMBER], _IN_SECONDS] = Field(
        default=2.0,
        description="between two readings of the row's power; whole seconds, unless a policy is run on a series",
    )
    error: Annotated[Annotated[float, Field(ge=0, le=0.5), PLAIN_NUMBER], _AS_SHARE] = Field(
        default=0.0, description="standard deviation of a reading, relative"
    )


class ControlPaths(Sparse):
    """How caps reach the GPUs."""

    SELDOM: ClassVar = ("brake_on",)

    in_band_s: Seconds | None = Field(
        default=None, description="until a cap set in the server's operating system acts; null: that way is not open"
    )
    out_of_band_s: Seconds = Field(default=40.0, description="until one set by the management controller acts, at most")
    failure_rate: Share = Field(default=0.0, description="share of commands that are lost")
    brake_s: Seconds = Field(default=5.0, description="until the hardware brake acts")
    brake_on: Literal["reading", "breaker"] = Field(
        default="reading",
        description="the brake is pulled at any reading above a budget; or, at nodes whose breaker is a curve, when "
        "that would trip before a brake at the next reading acts",
    )


class SetCap(Document):
    """A cap that is set today."""

    priority: Name
    clock_mhz: Annotated[Annotated[int, PLAIN_NUMBER], BeforeValidator(as_mhz, json_schema_input_type=int | str)]


class TrainingJobs(Document):
    """Training beside the inference, on servers of its own, all in step."""

    servers: Annotated[int, Field(gt=0, le=100_000), PLAIN_NUMBER]
    watts: Watts = Field(description="of one such server while it computes")
    dip: Share = Field(default=0.375, description="share that falls away while gradients are exchanged")
    iteration_s: Annotated[Annotated[float, Field(ge=2, le=3600), PLAIN_NUMBER], _IN_SECONDS] = 10.0


class ImpactLimit(Document):
    """A percentile of a class's latency may grow by ``limit`` (relative) through caps."""

    priority: Name
    percentile: Annotated[float, Field(gt=0, lt=100), PLAIN_NUMBER]
    limit: Annotated[float, Field(ge=0, le=100), PLAIN_NUMBER]


_LIMIT = re.compile(r"(?P<priority>.+)_p(?P<percentile>[0-9]{1,2}(?:\.[0-9]{1,3})?)")


def _impact_input(value: Any) -> Any:
    """``hp_p50=1%,lp_p99=50%``, or a mapping of the same, as a list."""
    if isinstance(value, str):
        pairs = [tuple(piece.strip() for piece in item.partition("=")[::2]) for item in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = [(str(name), limit) for name, limit in value.items()]
    else:
        return value
    out = []
    for name, limit in pairs:
        found = _LIMIT.fullmatch(name)
        if found is None:
            raise ValueError(f"{shown(name)} is not a class and a percentile; write hp_p50=1%,hp_p99=5%")
        share = _share(limit)
        if share is None:
            raise ValueError(f"{name}: {shown(limit)} is not a share; write {name}=5% or {name}=0.05")
        if share >= 1 and not (isinstance(limit, str) and limit.rstrip().endswith("%")):
            raise ValueError(
                f"{name}: {shown(limit)} is a share of {share:.0%}, or meant in per cent; "
                f"write {name}={share:g}% or {name}={100 * share:g}%"
            )
        out.append({"priority": found["priority"], "percentile": float(found["percentile"]), "limit": share})
    return out


def _share(value: Any) -> float | None:
    if isinstance(value, str):
        read = number(value.rstrip().removesuffix("%"))
        return None if read is None or read < 0 else read / 100 if value.rstrip().endswith("%") else read
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e300:
        return None
    return float(value)


class PowerRequest(Document):
    """Everything a power plan depends on, beside the measurements and the program's version."""

    supply: SupplyNode
    servers: tuple[RowServers, ...] = Field(min_length=1)
    priorities: tuple[PriorityClass, ...] = Field(min_length=1, description="highest first; their shares sum to 1")
    telemetry: Telemetry = Telemetry()
    control: ControlPaths = ControlPaths()
    caps: tuple[SetCap, ...] = Field(default=(), description="caps that are set today")
    training: TrainingJobs | None = Field(default=None, description="training jobs in the same row")
    trace: Literal["reference"] | Trace = Field(
        default="reference",
        description="requests of today's servers together; reference: traffic that ships and meets POLCA's published "
        "facts",
    )
    slo_impact: Annotated[
        tuple[ImpactLimit, ...],
        BeforeValidator(_impact_input, json_schema_input_type=str | dict[str, float | str] | list[ImpactLimit]),
        Field(description="by how much percentiles of each class's latency may grow through caps"),
        Option(
            "By how much caps may lengthen requests of each priority: hp_p50=1%,hp_p99=5%,lp_p50=5%,lp_p99=50%.",
            _RULES,
            metavar="LIMITS",
        ),
    ] = ()
    max_brakes_per_year: Annotated[
        float,
        Field(gt=0, le=1e6, description="the upper 95 % bound of brakes a year may be this"),
        PLAIN_NUMBER,
        Option("Brakes a year, at the upper 95 % bound.", _RULES),
    ] = 1.0
    probability: Annotated[
        float,
        Field(gt=0.5, lt=1, description="with which a rise within the control delay stays under the brake"),
        PLAIN_NUMBER,
        Option("With which a rise within the control delay stays below the budget.", _RULES),
    ] = 0.9999
    usd_per_kwh: Annotated[
        Annotated[float, Field(ge=0, le=1000), PLAIN_NUMBER] | None,
        Field(description="of electricity; null: energy is not priced"),
        Option("Price of electricity.", _RULES),
    ] = None
    days: Annotated[
        int,
        Field(
            ge=100,
            le=100_000,
            description="replicate-days that brakes are counted on: their busiest quarters of an hour, as many as "
            "days, are simulated",
        ),
        PLAIN_NUMBER,
        Option("Replicate-days that brakes are counted on; other days choose the thresholds.", LOAD),
    ] = 1100
    seed: Annotated[int, Field(ge=0, le=2**63), PLAIN_NUMBER, Option("Of traffic, sensors and failures.", LOAD)] = 0
    edited: Annotated[
        bool,
        Field(strict=True, description="go on with plans that were edited since they were made"),
        Option(panel=LOAD),
    ] = False

    @property
    def today(self) -> int:
        return sum(each.today for each in self.servers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.priorities)

    @field_validator("priorities")
    @classmethod
    def _one_each(cls, classes: tuple[PriorityClass, ...]) -> tuple[PriorityClass, ...]:
        names = [each.name for each in classes]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ValueError(f"{shown(twice)} is given twice; a GPU has one priority")
        total = sum(each.share for each in classes)
        if abs(total - 1) > 1e-6:
            over = "overlap: a GPU would have two priorities" if total > 1 else "leave servers without a priority"
            raise ValueError(f"shares sum to {total:.4g} and {over}; let them sum to 1")
        return classes

    @model_validator(mode="after")
    def _not_edited(self) -> PowerRequest:
        for each in self.servers:
            if each.plan is not None and each.plan.was_edited and not self.edited:
                raise ValueError(
                    f"servers: {each.kind}: plan: edited since it was made; make it again, or go on with --edited"
                )
        return self


def parse_power_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> PowerRequest:
    """A request from a mapping, checked as a whole.

    Raises:
        InputError, UnknownName: with the first field that is wrong.
    """
    request = checked(PowerRequest, value, "request", catalogue, schema="power-request")
    check(request)
    return request


def check(request: PowerRequest) -> None:
    """What the fields say of each other.

    Raises:
        InputError, UnknownName: with the first contradiction.
    """
    _check_tree(request.supply)
    if not request.today:
        raise InputError("servers: today is 0 of every kind", "say how many servers the row has today")
    if request.control.brake_on == "breaker" and not any(map(curve_of, _nodes(request.supply))):
        raise InputError(
            "control: brake_on: breaker, and no breaker of the supply is a curve",
            "give one ([[1.1, 600], [1.25, 60]]), or write brake_on: reading",
        )
    kinds = [each.kind for each in request.servers]
    twice = next((kind for i, kind in enumerate(kinds) if kind in kinds[:i]), None)
    if twice is not None:
        raise InputError(f"servers: kind {shown(twice)} is given twice", "give each its own name, or add them together")
    named = leaves(request.supply)
    counts = [each.servers for each in named]
    if any(each is None for each in counts) and any(each is not None for each in counts):
        bare = next(each.name for each in named if each.servers is None)
        raise InputError(f"supply: {bare}: servers is missing", "give it to every node without children, or to none")
    total = sum(each or 0 for each in counts)
    if counts[0] is not None and total < request.today:
        raise InputError(
            f"supply: the nodes hold {total} servers, and today there are {request.today}",
            "let servers of the nodes without children sum to today's",
        )
    for field, said in (("caps", request.caps), ("slo_impact", request.slo_impact)):
        for each in said:
            if each.priority not in request.names:
                raise UnknownName(f"{field}: priority", each.priority, request.names)
    fewest = _days_for(request.max_brakes_per_year)
    if request.days < fewest:
        raise InputError(
            f"days: {request.days} are too few for a bound of {request.max_brakes_per_year:g} brakes a year: none in "
            "as many days says no more",
            f"ask for {fewest:,} days at least, or for more brakes (--max-brakes-per-year)",
        )
    limits = [(each.priority, each.percentile) for each in request.slo_impact]
    for i, pair in enumerate(limits):
        if pair in limits[:i]:
            raise InputError(f"slo_impact: {pair[0]}_p{pair[1]:g} is given twice", "give each limit once")


def _days_for(brakes_per_year: float) -> int:
    """Fewest days of which none with a brake bounds them (upper 95 %)."""
    days = math.ceil(YEAR_DAYS * -math.log(0.05) / brakes_per_year)
    while counted(0, days).high > brakes_per_year:
        days += 1
    return days


def curve_of(node: SupplyNode) -> tuple[tuple[float, float], ...]:
    """(load, the seconds that the breaker holds it), from the lowest; empty: it has a name at most.

    Raises:
        InputError: it is no curve.
    """
    said, where = node.breaker, f"supply: {node.name}: breaker"
    if isinstance(said, Mapping):
        loads = [number(name) for name in said]
        if any(load is None for load in loads):
            return ()  # facts of it, not a curve
        said = tuple(sorted((load, held) for load, held in zip(loads, said.values(), strict=True) if load is not None))
    if not isinstance(said, tuple):
        return ()
    for load, held in said:
        if not (0 < load <= 1000 and 1e-3 <= held <= 1e12):
            raise InputError(
                f"{where}: it is to hold {load:g} of the budget for {held:g} s",
                "pairs are a load, a share of the budget (1.25), and the seconds that it is held, 0.001 at least",
            )
    if said and said[0][0] < 1:
        raise InputError(
            f"{where}: it begins at {said[0][0]:g} of the budget, and would trip within it",
            "loads are shares of budget_watts, 1 and more: give them so, or lower budget_watts to what the breaker "
            "holds without end",
        )
    for (first, longer), (second, shorter) in itertools.pairwise(said):
        if not (first < second and longer >= shorter):
            raise InputError(
                f"{where}: {first:g} for {longer:g} s, then {second:g} for {shorter:g} s",
                "let loads rise and the seconds that they are held fall",
            )
    return said


def _nodes(node: SupplyNode) -> list[SupplyNode]:
    return [node, *(each for child in node.children for each in _nodes(child))]


def leaves(node: SupplyNode) -> list[SupplyNode]:
    """Nodes without children, in order."""
    return [leaf for child in node.children for leaf in leaves(child)] if node.children else [node]


def _check_tree(node: SupplyNode, seen: tuple[str, ...] = ()) -> None:
    curve_of(node)
    if node.name in seen:
        raise InputError(f"supply: {shown(node.name)} is there twice", "give each node a name of its own")
    if not node.children:
        return
    if node.servers is not None:
        raise InputError(
            f"supply: {node.name}: servers and children are both given", "servers stand in the lowest nodes"
        )
    for child in node.children:
        if child.budget_watts > node.budget_watts:
            raise InputError(
                f"supply: {child.name}: budget_watts {child.budget_watts:g} is above its parent's, {node.name} with "
                f"{node.budget_watts:g}",
                "a node cannot draw more than what feeds it: lower it, or correct the parent's",
            )
    total = sum(child.budget_watts for child in node.children)
    if total < node.budget_watts * (1 - 1e-6):
        raise InputError(
            f"supply: {node.name}: its children's budgets sum to {total:g} W and do not reach its own, "
            f"{node.budget_watts:g} W",
            "name every child, or lower budget_watts to what they sum to",
        )
    names = [child.name for child in node.children]
    for i, child in enumerate(node.children):
        if child.name in names[:i]:
            raise InputError(f"supply: {shown(child.name)} is there twice", "give each node a name of its own")
        _check_tree(child, (*seen, node.name))
