"""What a user asks for: the request document and the short grammars of its parts.

Every part may be given as an object or in its short form (``"16xH200"``, ``"ttft=1s,tpot=30ms"``,
``"isl=4000,osl=500"``); both arrive at the same validated objects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from profiles.errors import InputError, UnknownName
from profiles.hardware import default_node, find_fabric, find_gpu, find_node, on_demand_price

Metric = Literal["ttft", "tpot", "e2e"]
Objective = Literal["throughput", "cost", "gpus", "latency"]
FrameworkName = Literal["vllm", "sglang", "trtllm"]
PrecisionName = Literal["bf16", "fp8", "fp8_block", "nvfp4", "mxfp4", "int4"]
KvPrecisionName = Literal["bf16", "fp8"]
RoutingName = Literal["balanced", "power_law_1.01", "power_law_1.2"]

DEFAULT_PERCENTILE = 90
"""An SLO without a percentile is a promise to nine requests in ten, as in DistServe (arXiv:2401.09670, §6)."""


class Document(BaseModel):
    """Base of everything in the contract: frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Pool(Document):
    """Identical GPUs that can be had, in identical nodes."""

    name: str = Field(min_length=1, description="how plans refer to this pool")
    gpu: str = Field(description="GPU type, as `plan gpus` lists it")
    gpus: int = Field(gt=0, description="GPUs available")
    gpus_per_node: int = Field(gt=0, description="GPUs that share a scale-up link")
    fabric: str = Field(description="network between nodes, as `plan gpus --fabrics` lists it")
    usd_per_gpu_hour: float | None = Field(default=None, gt=0, description="price; null where none is known")
    price_source: str | None = Field(default=None, description="who says so, and when")

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)


class Cluster(Document):
    """The GPUs a plan may use."""

    name: str = Field(min_length=1)
    pools: tuple[Pool, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Cluster:
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError(f"pools: two pools are called {max(names, key=names.count)!r}; names must differ")
        return self


class Bound(Document):
    """One promise: ``metric`` at ``percentile`` is at most ``limit_ms``."""

    metric: Metric
    percentile: float = Field(default=DEFAULT_PERCENTILE, gt=0, lt=100)
    limit_ms: float = Field(gt=0)

    @property
    def label(self) -> str:
        return f"{self.metric}_p{self.percentile:g}"


class Slo(Document):
    """All promises together; none at all is allowed (maximum throughput at any latency)."""

    bounds: tuple[Bound, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Slo:
        labels = [bound.label for bound in self.bounds]
        if len(set(labels)) < len(labels):
            raise ValueError(f"slo: {max(labels, key=labels.count)} is given twice; keep one of them")
        return self


class Workload(Document):
    """What requests look like. Lengths are those of every request."""

    isl: int = Field(gt=0, description="prompt length, tokens")
    osl: int = Field(gt=0, description="output length, tokens")
    rate_rps: float | None = Field(default=None, gt=0, description="offered requests per second; null: as many as fit")
    routing: RoutingName = Field(
        default="power_law_1.01", description="skew of tokens over experts (MoE models only)"
    )


def _nothing_else(text: str, known: Mapping[str, Any], field: str) -> dict[str, str]:
    """``a=1,b=2`` as a mapping; keys must be in ``known``."""
    out: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not key or not value:
            raise InputError(f"{field}: {item!r} is not of the form name=value", f"known names: {', '.join(known)}")
        if key not in known:
            raise UnknownName(f"{field} name", key, known)
        if key in out:
            raise InputError(f"{field}: {key} is given twice", "keep one of them")
        out[key] = value
    return out


# ------------------------------------------------------------------ the short forms

_TIME = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>us|µs|ms|s|min)", re.IGNORECASE)
_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4}
_METRIC = re.compile(r"(?P<metric>ttft|tpot|itl|e2e)(?:_p(?P<percentile>[0-9]+(?:\.[0-9]+)?))?", re.IGNORECASE)
_SLO_HELP = "write for example ttft=1s,tpot=30ms or ttft_p99=2s,e2e=20s (itl means tpot)"


def parse_slo(text: str) -> Slo:
    """``ttft=1s,tpot=30ms,e2e_p99=20s``; ``itl`` is accepted for ``tpot``; without a percentile, p90.

    Raises:
        InputError: naming the item that is not understood.
    """
    bounds = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = (piece.strip() for piece in item.partition("="))
        metric = _METRIC.fullmatch(key)
        if metric is None:
            raise InputError(f"slo: {key!r} is not a metric", _SLO_HELP)
        time = _TIME.fullmatch(value)
        if time is None:
            unit = "it has no unit" if re.fullmatch(r"[0-9.]+", value) else "not a time"
            raise InputError(f"slo: {key}={value!r}: {unit}", f"units are us, ms, s, min; {_SLO_HELP}")
        name = metric["metric"].lower().replace("itl", "tpot")
        percentile = float(metric["percentile"] or DEFAULT_PERCENTILE)
        limit = float(time["number"]) * _MILLISECONDS[time["unit"].lower()]
        bounds.append(_checked(Bound, {"metric": name, "percentile": percentile, "limit_ms": limit}, f"slo {item}"))
    return _checked(Slo, {"bounds": bounds}, "slo")


_COUNT = re.compile(r"(?:(?P<nodes>[0-9]+)\s*[x×]\s*)?(?P<count>[0-9]+)\s*[x×]\s*(?P<gpu>[A-Za-z][\w. /-]*)")
_CLUSTER_HELP = "write 16xH200 (GPUs), 2x8xH100 (nodes × GPUs), a YAML file, or a bundled name: {names}"


def bundled_clusters() -> dict[str, Path]:
    folder = Path(__file__).parent / "clusters"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_cluster(text: str, *, allow_paths: bool = True) -> Cluster:
    """``16xH200``, ``2x8xH100``, several joined by ``+``, the path of a YAML file, or a bundled name.

    Raises:
        InputError, UnknownName: naming what is not understood.
    """
    text = text.strip()
    if text in bundled_clusters():
        return read_cluster(bundled_clusters()[text])
    parts = [part.strip() for part in text.split("+")]
    matches = [_COUNT.fullmatch(part) for part in parts]
    if all(matches):
        pools = [_short_pool(match) for match in matches if match]
        return _checked(Cluster, {"name": text, "pools": pools}, "cluster")
    if allow_paths and Path(text).expanduser().is_file():
        return read_cluster(Path(text).expanduser())
    hint = _CLUSTER_HELP.format(names=", ".join(bundled_clusters()))
    if allow_paths and (text.endswith((".yaml", ".yml")) or "/" in text):
        raise InputError(f"cluster: no file at {text!r}", hint)
    raise InputError(f"cluster: {text!r} is not understood", hint)


def _short_pool(match: re.Match[str]) -> dict[str, Any]:
    gpu = find_gpu(match["gpu"].strip(), "cluster GPU")
    count, nodes = int(match["count"]), match["nodes"]
    fields: dict[str, Any] = {"gpu": gpu.name}
    if nodes is None:
        fields["gpus"] = count
    else:
        fields |= {"gpus": int(nodes) * count, "gpus_per_node": count}
    return fields


def read_cluster(path: Path) -> Cluster:
    """A cluster file: ``name`` and ``pools``, each with ``gpu`` and ``gpus`` (or ``nodes``) and optionally the rest.

    Raises:
        InputError: unreadable, not YAML, or with keys that are not known.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cluster file {path}: cannot be read ({error.strerror})", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise InputError(f"cluster file {path}: not valid YAML{line}", "see examples/cluster.yaml") from error
    if not isinstance(document, dict):
        raise InputError(f"cluster file {path}: not a mapping", "it needs name and pools; see examples/cluster.yaml")
    return _cluster_from({"name": path.stem, **document}, f"cluster file {path}")


def _cluster_from(value: Mapping[str, Any], where: str) -> Cluster:
    pools = value.get("pools")
    if not isinstance(pools, list | tuple) or not pools:
        raise InputError(f"{where}: pools is missing or empty", "list at least one pool with gpu and gpus")
    return _checked(Cluster, {**value, "pools": [_full_pool(pool, where) for pool in pools]}, where)


def _full_pool(pool: Any, where: str) -> Any:
    """Fills in what the catalogue knows: node size, fabric, price."""
    if isinstance(pool, Pool) or not isinstance(pool, Mapping):
        return pool
    fields = dict(pool)
    if "gpu" not in fields:
        raise InputError(f"{where}: a pool has no gpu", "name the GPU type; `plan gpus` lists them")
    gpu = find_gpu(str(fields["gpu"]), f"{where}: gpu")
    fields["gpu"] = gpu.name
    fields.setdefault("name", gpu.name)
    node = find_node(str(fields.pop("node")), f"{where}: node") if "node" in fields else default_node(gpu)
    if node.gpu != gpu.name:
        raise InputError(f"{where}: node {node.name!r} holds {node.gpu}, not {gpu.name}", "name a node type of that GPU")
    fields.setdefault("gpus_per_node", node.gpus)
    if "nodes" in fields:
        nodes, per_node = fields.pop("nodes"), fields["gpus_per_node"]
        if not isinstance(nodes, int) or not isinstance(per_node, int) or nodes <= 0:
            raise InputError(f"{where}: nodes: {nodes!r} is not a positive whole number", "give nodes, or gpus")
        if "gpus" in fields and fields["gpus"] != nodes * per_node:
            raise InputError(
                f"{where}: gpus {fields['gpus']} is not nodes {nodes} × gpus_per_node {per_node}", "give one of them"
            )
        fields["gpus"] = nodes * per_node
    fields["fabric"] = find_fabric(str(fields.get("fabric", node.default_fabric)), f"{where}: fabric").name
    price = on_demand_price(gpu)
    if fields.get("usd_per_gpu_hour") is None and price is not None:
        fields["usd_per_gpu_hour"] = price.usd_per_gpu_hour
        fields["price_source"] = f"{price.provider}, {price.date.isoformat()} (on demand)"
    return fields


_WORKLOAD_NAMES = {"isl": int, "osl": int, "rate": float, "routing": str}


def parse_workload(text: str) -> Workload:
    """``isl=4000,osl=500[,rate=20][,routing=balanced]``; rate in requests per second."""
    items = _nothing_else(text, _WORKLOAD_NAMES, "workload")
    fields: dict[str, Any] = {}
    for name, value in items.items():
        number = value.removesuffix("rps").removesuffix("/s").strip() if name == "rate" else value
        try:
            fields["rate_rps" if name == "rate" else name] = _WORKLOAD_NAMES[name](number)
        except ValueError:
            kind = "a whole number of tokens" if name in ("isl", "osl") else "a number"
            raise InputError(f"workload: {name}={value!r} is not {kind}", "e.g. isl=4000,osl=500,rate=20") from None
    return _checked(Workload, fields, "workload")


def _from_slo(value: Any) -> Any:
    return parse_slo(value) if isinstance(value, str) else value


def _from_cluster(value: Any) -> Any:
    # A service parses text through PlanRequest too, so files are read only by the command line, which calls parse_cluster.
    if isinstance(value, str):
        return parse_cluster(value, allow_paths=False)
    if isinstance(value, Mapping):
        return _cluster_from(value, "cluster")
    return value


def _from_workload(value: Any) -> Any:
    return parse_workload(value) if isinstance(value, str) else value


class PlanRequest(Document):
    """Everything a plan depends on, beside the measurements and the program's version."""

    model: str = Field(min_length=1, description="bundled name (`plan models`), or path of a config.json (CLI only)")
    cluster: Annotated[Cluster, BeforeValidator(_from_cluster, json_schema_input_type=str | Cluster)]
    slo: Annotated[Slo, BeforeValidator(_from_slo, json_schema_input_type=str | Slo)] = Slo()
    workload: Annotated[Workload, BeforeValidator(_from_workload, json_schema_input_type=str | Workload)]
    objective: Objective | None = Field(
        default=None, description="default: throughput without a rate, cost with one (gpus where no price is known)"
    )
    framework: FrameworkName = "vllm"
    precision: PrecisionName | None = Field(default=None, description="of weights; default: as published")
    kv_precision: KvPrecisionName | None = Field(default=None, description="of the KV cache; default bf16")
    max_tp: int | None = Field(default=None, gt=0, description="largest tensor-parallel degree")
    max_pp: int | None = Field(default=None, gt=0, description="most pipeline stages")
    max_engine_gpus: int | None = Field(default=None, gt=0, description="most GPUs of one engine")
    tp_across_nodes: bool = Field(default=False, description="allow a tensor-parallel group to span nodes")
    time_limit_s: float = Field(default=30.0, gt=0, le=3600, description="of the solver")

    @model_validator(mode="after")
    def _objective_fits(self) -> PlanRequest:
        if self.objective in ("cost", "gpus") and self.workload.rate_rps is None:
            raise ValueError(f"objective: {self.objective} needs a rate; add rate=… to the workload")
        return self

    @property
    def goal(self) -> Objective:
        """The objective, defaults applied."""
        if self.objective is not None:
            return self.objective
        if self.workload.rate_rps is None:
            return "throughput"
        priced = all(pool.usd_per_gpu_hour is not None for pool in self.cluster.pools)
        return "cost" if priced else "gpus"


def parse_request(value: Mapping[str, Any]) -> PlanRequest:
    """A request from a mapping (JSON, YAML or keyword arguments).

    Raises:
        InputError: with the first field that is wrong, its value and what to do.
    """
    return _checked(PlanRequest, value, "request")


def _checked(kind: type[Any], fields: Mapping[str, Any], where: str) -> Any:
    """``kind(**fields)`` with pydantic's report turned into one clear error."""
    if kind is Cluster:
        fields = {**fields, "pools": [_full_pool(pool, where) for pool in fields["pools"]]}
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error, where) from error


def validation_error(error: ValidationError, where: str) -> InputError:
    """The first problem of a pydantic report as an :class:`InputError`."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])
    label = f"{where}: {field}" if field else where
    kind, value = problem["type"], problem.get("input")
    if kind == "missing":
        return InputError(f"{label} is missing", "every request needs it; see `plan schema request`")
    if kind == "extra_forbidden":
        return InputError(f"{label} is not known", "remove it, or check its spelling in `plan schema request`")
    if kind == "value_error":
        message, _, way_out = str(problem["ctx"]["error"]).partition("; ")
        return InputError(f"{where}: {message}" if not field else f"{label}: {message}", way_out or "correct it")
    shown = repr(value) if not isinstance(value, Mapping | list) else type(value).__name__
    return InputError(f"{label}: {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}", "correct the value")


