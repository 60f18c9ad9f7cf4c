"""What a fleet is asked for: services that share pools, each with a model (or measured tables), a promise, a load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from planner.contract.clusters import (
    Cluster,
    ClusterInput,
    Pool,
    SuppliedCluster,
    SuppliedPool,
    cluster_input,
    supplied,
)
from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, catalogue_of, checked
from planner.contract.engine import FrameworkName
from planner.contract.fleet import PowerRow, RouteBy, SurviveAsked
from planner.contract.models import ModelInput
from planner.contract.options import ASKED, RELEASE_HELP, Option
from planner.contract.workload.classes import LoadInput, Portion, load_input
from planner.contract.workload.slo import Slo, SloGiven
from planner.contract.workload.workload import Speculation
from planner.serving.document.plan import Plan, plan_or_none
from planner.serving.fleets.tables import MeasuredTable
from planner.serving.request import Choices, Disaggregation, KvChoices, UsdPerKwh, as_share
from profiles.errors import UnknownName
from profiles.hardware import SHIPPED, Catalogue
from profiles.values import shown

MOST_SERVICES = 64


def _cluster(value: Any, info: ValidationInfo) -> Any:
    found = cluster_input(value, info)
    return supplied(found) if isinstance(found, Cluster) else found


class ServiceAsked(Document):
    """One service."""

    name: str = Field(min_length=1, max_length=200)
    model: ModelInput | None = Field(default=None, description="bundled name or config.json; left out with tables")
    slo: SloGiven = Slo()
    load: Annotated[LoadInput, BeforeValidator(load_input, json_schema_input_type=str | LoadInput)]
    tables: tuple[MeasuredTable, ...] = Field(default=(), description="in place of the model")
    framework: FrameworkName | None = Field(default=None, description="default: the fleet's")
    precision: Choices = None
    kv_precision: KvChoices = None
    prefix_hit: Portion = Field(default=0.0, description="share of prompt tokens found in the prefix cache")
    speculation: Speculation | None = None
    promise: Literal["all", "class"] = Field(
        default="all", description="the SLO holds over all requests of the service, or for every class"
    )


class FleetRequest(Document):
    """Everything a fleet depends on, beside the measurements and the program's version."""

    name: str = Field(default="fleet", min_length=1, max_length=LONGEST_TEXT)
    cluster: Annotated[
        SuppliedCluster | None,
        BeforeValidator(_cluster, json_schema_input_type=str | ClusterInput | None),
        Field(description="short form or object; left out with tables: their GPUs, without limit"),
    ] = None
    services: tuple[ServiceAsked, ...] = Field(min_length=1, max_length=MOST_SERVICES)
    tables: tuple[MeasuredTable, ...] = Field(default=(), description="of services without a model and tables")
    objective: Annotated[Literal["cost", "gpus"], Option("cost (default) or gpus.", ASKED)] = "cost"
    route_by: Annotated[
        RouteBy,
        Field(description="what the gateway tells requests apart by"),
        Option("What the gateway knows of a request: isl (default), or isl,osl (as a perfect predictor would).", ASKED),
    ] = "isl"
    survive: SurviveAsked = SurviveAsked()
    framework: Annotated[FrameworkName, Option(RELEASE_HELP, ASKED)] = "vllm"
    headroom: Annotated[
        Annotated[float, Field(ge=0, le=10), PLAIN_NUMBER] | None,
        BeforeValidator(as_share, json_schema_input_type=float | str | None),
        Field(description="share of the load that is carried beside; null: what the tails need (tables: none)"),
        Option(
            "Carry this much more than the load: 20%. Default: what the tails need.", ASKED, metavar="SHARE", text=True
        ),
    ] = None
    disaggregation: Annotated[
        Disaggregation,
        Field(description="engines that prefill apart from engines that decode: where that costs less, never, always"),
        Option(
            "Engines that prefill apart from engines that decode: auto (where that costs less), never or always. "
            "Default: auto.",
            ASKED,
            show_default=False,
        ),
    ] = "auto"
    budget_usd_per_hour: Annotated[float, Field(gt=0, le=1e9), PLAIN_NUMBER] | None = Field(
        default=None, description="of any step, at most, electricity included where it is priced"
    )
    usd_per_kwh: UsdPerKwh = None
    rows: tuple[PowerRow, ...] = Field(default=(), max_length=1000, description="budgets of power, each of some pools")
    max_changes: Annotated[
        Annotated[int, Field(ge=0, le=1_000_000), PLAIN_NUMBER] | None,
        Field(description="engines that start or leave from one step to the next, at most"),
        Option(panel=ASKED, metavar="N"),
    ] = None
    current: Annotated[
        Plan | None,
        plan_or_none("current"),
        Field(description="the fleet that runs now: what it has need not start, and max_changes counts from it"),
    ] = None
    serve_rest: Annotated[
        bool,
        Field(strict=True, description="leave out classes that nothing serves, and name them"),
        Option("Leave out classes that nothing serves, and name them, rather than refuse.", ASKED),
    ] = False
    tolerance: Annotated[
        Annotated[float, Field(gt=0, le=1), PLAIN_NUMBER],
        Field(description="share of capacity by which classes of a trace may be too coarse; they are split until then"),
        Option(
            "Split the classes of a trace until that changes capacity by less than this share.", ASKED, metavar="SHARE"
        ),
    ] = 0.02
    confidence: Annotated[float, Field(gt=0, lt=1), PLAIN_NUMBER] = 0.5
    time_limit_s: Annotated[
        float,
        Field(gt=0, le=3600),
        PLAIN_NUMBER,
        Option(
            "Seconds for the search, once it is known what engines carry. Default: 60.",
            ASKED,
            name="time_limit",
            show_default=False,
        ),
    ] = 60.0
    simulation: Annotated[
        bool,
        Field(strict=True, description="simulate the engines under their own mixture, and count on what they carry"),
        Option("Simulate the engines under their own mixture, and count on no more than they carry.", ASKED),
    ] = True
    seed: Annotated[int, Field(ge=0, le=2**63), PLAIN_NUMBER] = 0

    @model_validator(mode="before")
    @classmethod
    def _route_as_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(route := value.get("route_by"), str):
            return {**value, "route_by": ",".join(part.strip() for part in route.split(","))}
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> FleetRequest:
        name, times = Counter(service.name for service in self.services).most_common(1)[0]
        if times > 1:
            raise ValueError(f"services: {times} are called {shown(name)}; give each its own name")
        for service in self.services:
            tables = self.tables_of(service)
            if service.model is None and not tables:
                raise ValueError(f"services: {shown(service.name)} has neither model nor tables; give one of them")
            if service.model is not None and service.tables:
                raise ValueError(f"services: {shown(service.name)} has a model and tables; leave one of them out")
            if service.model is not None and self.cluster is None:
                raise ValueError(f"cluster: is missing, on which {shown(service.name)} runs; write for example 64xH100")
        if self.disaggregation == "always" and any(self.tables_of(service) for service in self.services):
            raise ValueError(
                "disaggregation: always, and measured tables stand for engines, which are of engines that do both; "
                "leave it out, or give services a model"
            )
        self._survivable()
        return self

    def _survivable(self) -> None:
        """What is to be lost must be there, and something beside it."""
        pools = self.cluster.pools if self.cluster else ()
        zones = sorted({pool.zone for pool in pools if pool.zone})
        spot = [pool.name for pool in pools if pool.spot_gpus]
        if self.survive.zones and not zones:
            raise ValueError(f"survive.zones: {self.survive.zones}, and no pool says its zone; give pools a zone")
        if self.survive.zones > len(zones):
            raise ValueError(f"survive.zones: {self.survive.zones}, and the pools are in {', '.join(zones)}; ask fewer")
        if self.survive.spot_pools and not spot:
            raise ValueError(
                f"survive.spot_pools: {self.survive.spot_pools}, and no pool has spot GPUs; give some spot_gpus, or "
                "leave it out"
            )
        nodes = nodes_of(pools)
        if self.survive.nodes and nodes is not None and self.survive.nodes > nodes:
            raise ValueError(f"survive.nodes: {self.survive.nodes}, and the pools have {nodes}; ask fewer")
        if self.survive.spot_pools > len(spot):
            raise ValueError(
                f"survive.spot_pools: {self.survive.spot_pools}, and {', '.join(spot)} alone "
                f"{'has' if len(spot) == 1 else 'have'} spot GPUs; ask fewer"
            )

    @model_validator(mode="after")
    def _rows_fit(self, info: ValidationInfo) -> FleetRequest:
        pools = self.cluster.pools if self.cluster else ()
        known = [pool.name for pool in pools]
        row_of: dict[str, str] = {}
        rows = [
            row.model_copy(update={"pools": tuple(_pool_named(name, pools, catalogue_of(info)) for name in row.pools)})
            for row in self.rows
        ]
        for row in rows:
            for pool in row.pools:
                if pool not in known:
                    raise ValueError(f"rows: {row.name}: {shown(pool)} is not a pool of the cluster; {_pools(known)}")
                if pool in row_of:
                    raise ValueError(f"rows: pool {shown(pool)} is in {row_of[pool]} and in {row.name}; name it once")
                row_of[pool] = row.name
        name, times = Counter(row.name for row in self.rows).most_common(1)[0] if self.rows else ("", 0)
        if times > 1:
            raise ValueError(f"rows: {times} are called {shown(name)}; give each its own name")
        asked = "rows" if self.rows else "usd_per_kwh" if self.usd_per_kwh is not None else None
        if asked and any(self.tables_of(service) for service in self.services):
            raise ValueError(f"{asked}: engines of measured tables have no known watts; leave it out, or name models")
        return self.model_copy(update={"rows": tuple(rows)}) if rows != list(self.rows) else self

    def tables_of(self, service: ServiceAsked) -> tuple[MeasuredTable, ...]:
        return service.tables or (self.tables if service.model is None else ())


def nodes_of(pools: Sequence[SuppliedPool]) -> int | None:
    """Of all pools, every supply; None: as many as are needed, or tables say what there is."""
    if not pools or any(pool.as_needed for pool in pools):
        return None
    gpus = [(pool.gpus + (pool.spot_gpus or 0) + (pool.reserved_gpus or 0), pool.gpus_per_node) for pool in pools]
    return sum(-(-count // each) for count, each in gpus)


def _pool_named(name: str, pools: Sequence[Pool], catalogue: Catalogue) -> str:
    """The pool that ``name`` means: its own, or that of its GPU, however it is written, where one pool has it."""
    if any(pool.name == name for pool in pools):
        return name
    try:
        gpu = catalogue.find_gpu(name).name
    except UnknownName:
        return name
    mine = [pool.name for pool in pools if pool.gpu == gpu]
    return mine[0] if len(mine) == 1 else name


def _pools(names: Sequence[str]) -> str:
    return f"its pools are {', '.join(names)}" if names else "name the pools in a cluster"


def parse_fleet_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> FleetRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(FleetRequest, value, "fleet", catalogue, "fleet-request")
