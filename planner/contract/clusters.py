"""The GPUs a plan may use: pools and clusters, as they are written and as they are understood."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, catalogue_of, checked
from planner.contract.files import mapping_of, read_text
from planner.contract.sparse import Sparse
from profiles.errors import InputError, UnknownName
from profiles.hardware import SHIPPED, Catalogue, Node, Price
from profiles.values import shown

MOST_GPUS = 100_000
"""GPUs of one pool. A plan names every one of them, so a slip of the keyboard must not ask for 10¹²."""

MOST_GPUS_PER_NODE = 1024
"""GPUs that share a scale-up link: more than any that is built (NVL576), less than what stalls the packing."""

MOST_POOLS = 64

_GPU = "GPU type, as `plan gpus` lists it"
_FABRIC = "network between nodes, as `plan gpus --fabrics` lists it"

Gpus = Annotated[int, Field(gt=0, le=MOST_GPUS), PLAIN_NUMBER]
GpusPerNode = Annotated[int, Field(gt=0, le=MOST_GPUS_PER_NODE), PLAIN_NUMBER]
UsdPerHour = Annotated[float, Field(gt=0, le=1e6), PLAIN_NUMBER]
Seconds = Annotated[float, Field(ge=0, le=1e8), PLAIN_NUMBER]
Preference = Annotated[int, Field(ge=1, le=5), PLAIN_NUMBER]

PREFERENCE_HELP = "of fleets: pools of 1 are filled first, then those of 2 …; left out: after all that have one"


class Pool(Document):
    """Identical GPUs that can be had, in identical nodes."""

    name: str = Field(min_length=1, max_length=200, description="how plans refer to this pool")
    gpu: str = Field(description=_GPU)
    gpus: Gpus = Field(description="GPUs available")
    gpus_per_node: GpusPerNode = Field(description="GPUs that share a scale-up link")
    fabric: str = Field(description=_FABRIC)
    usd_per_gpu_hour: UsdPerHour | None = Field(default=None, description="price; null where none is known")
    price_source: str | None = Field(default=None, description="who says so, and when")
    as_needed: bool = Field(
        default=False,
        description="as many GPUs can be had as are needed, and the fewest that do are taken; gpus: so many",
    )

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)


class Cluster(Document):
    """The GPUs a plan may use."""

    name: str = Field(min_length=1, max_length=LONGEST_TEXT)
    pools: tuple[Pool, ...] = Field(min_length=1, max_length=MOST_POOLS)
    choose: bool = Field(
        default=False, description="the pools are to choose from: one of them, or several together where that is better"
    )

    @property
    def is_open(self) -> bool:
        """Whether a plan says how many GPUs there are, or of which pools."""
        return self.choose or any(pool.as_needed for pool in self.pools)

    @model_validator(mode="after")
    def _names_differ(self) -> Cluster:
        name, times = Counter(pool.name for pool in self.pools).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"{times} pools are called {shown(name)}; add their GPUs together, or give each its own name"
            )
        return self


class SuppliedPool(Sparse, Pool):
    """A pool with what else of it can be had, at which price, and how soon."""

    SELDOM: ClassVar = ("preference",)

    gpus: Annotated[int, Field(ge=0, le=MOST_GPUS), PLAIN_NUMBER] = Field(
        description="GPUs available on demand; 0: only on spot or reserved"
    )
    spot_gpus: Gpus | None = Field(default=None, description="more of them, which may disappear at once; null: none")
    spot_usd_per_gpu_hour: UsdPerHour | None = None
    spot_price_source: str | None = None
    reserved_gpus: Gpus | None = Field(default=None, description="more of them, paid whether used or not; null: none")
    reserved_usd_per_gpu_hour: UsdPerHour | None = None
    owned: bool = Field(default=False, description="the GPUs are there already and cost nothing")
    quota_gpus: Gpus | None = Field(default=None, description="at most so many, on demand and spot together")
    instance: str | None = Field(default=None, description="node type that is bought whole; null: GPU by GPU")
    preference: Preference | None = Field(default=None, description=PREFERENCE_HELP)
    zone: str | None = Field(default=None, description="which may be lost as a whole; null: none")
    startup_s: Seconds = Field(default=0.0, description="from the order of an engine to its first request")
    min_up_s: Seconds = Field(default=0.0, description="least time that an engine stays")


class SuppliedCluster(Cluster):
    """The GPUs that a fleet may use."""

    pools: tuple[SuppliedPool, ...] = Field(min_length=1, max_length=MOST_POOLS)


def supplied(cluster: Cluster) -> SuppliedCluster:
    """A cluster as one whose pools say all of their supply."""
    if isinstance(cluster, SuppliedCluster):
        return cluster
    pools = tuple(SuppliedPool(**pool.model_dump()) for pool in cluster.pools)
    return SuppliedCluster(name=cluster.name, pools=pools, choose=cluster.choose)


class PoolInput(Document):
    """A pool as it may be written: what the hardware catalogue knows can be left out."""

    gpu: str = Field(min_length=1, max_length=200, description=_GPU)
    gpus: Gpus | None = Field(
        default=None, description="GPUs available; this, nodes, as_needed, spot_gpus or reserved_gpus is needed"
    )
    nodes: Gpus | None = Field(default=None, description="full nodes, instead of gpus")
    node: str | None = Field(default=None, max_length=200, description="node type; default: the usual one of this GPU")
    gpus_per_node: GpusPerNode | None = Field(default=None, description="default: as in that node type")
    fabric: str | None = Field(default=None, max_length=200, description=f"{_FABRIC}; default: the node type's")
    name: str | None = Field(
        default=None, min_length=1, max_length=200, description="how plans refer to it; default: its GPU"
    )
    usd_per_gpu_hour: UsdPerHour | None = Field(
        default=None,
        description="left out: the cheapest on-demand price on record; null: no price is known",
    )
    price_source: str | None = Field(default=None, max_length=1000, description="who says so, and when")
    as_needed: bool = Field(default=False, strict=True, description="instead of gpus: as many as are needed")
    spot_gpus: Gpus | None = Field(default=None, description="more of them, which may disappear at once")
    spot_usd_per_gpu_hour: UsdPerHour | None = Field(default=None, description="default: the cheapest on record")
    spot_price_source: str | None = Field(default=None, max_length=1000, description="who says so, and when")
    reserved_gpus: Gpus | None = Field(default=None, description="more of them, paid whether used or not")
    reserved_usd_per_gpu_hour: UsdPerHour | None = None
    owned: bool = Field(default=False, strict=True, description="the GPUs are there already and cost nothing")
    quota_gpus: Gpus | None = Field(default=None, description="at most so many, on demand and spot together")
    instance: str | None = Field(default=None, max_length=200, description="node type that is bought whole")
    preference: Preference | None = Field(default=None, description=PREFERENCE_HELP)
    zone: str | None = Field(default=None, min_length=1, max_length=200, description="which may be lost as a whole")
    startup_s: Seconds = Field(default=0.0, description="from the order of an engine to its first request")
    min_up_s: Seconds = Field(default=0.0, description="least time that an engine stays")


class ClusterInput(Document):
    """A cluster as it may be written."""

    name: str = Field(min_length=1, max_length=LONGEST_TEXT)
    pools: tuple[PoolInput, ...] = Field(min_length=1, max_length=MOST_POOLS)
    choose: bool = Field(default=False, strict=True, description="the pools are to choose from, alone or together")


# ------------------------------------------------------------------ as text

_COUNT = re.compile(
    r"(?:(?P<nodes>[0-9]{1,18})\s*[xX×]\s*)?(?P<count>[0-9]{1,18})\s*[xX×]\s*(?P<gpu>[A-Za-z][\w. /-]*)", re.ASCII
)
_FORMS = (
    "write 16xH200 (GPUs), 2x8xH100 (nodes × GPUs), 2xp5.48xlarge (nodes), H200 (as many as are needed), several "
    "joined by +, or by commas to choose from{file}, or a bundled name: {names}"
)


def bundled_clusters() -> dict[str, Path]:
    """Clusters that ship with the package: name → file."""
    folder = Path(__file__).parent / "bundled_clusters"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def parse_cluster(text: str, *, allow_paths: bool = True, catalogue: Catalogue = SHIPPED) -> Cluster:
    """``16xH200``, ``2x8xH100``, ``2xp5.48xlarge`` (nodes of a type), ``H200`` (as many as are needed), several joined
    by ``+`` or, to choose from, by commas; the path of a YAML file, or a bundled name. Names of hardware are those of
    ``catalogue``.

    Raises:
        InputError, UnknownName: naming what is not understood.
    """
    text = text.strip()
    bundled = bundled_clusters()
    hint = _FORMS.format(file=", a YAML file" if allow_paths else "", names=", ".join(bundled))
    if len(text) > LONGEST_TEXT:
        raise InputError(f"cluster: {shown(text)} is longer than {LONGEST_TEXT} characters", hint)
    if text in bundled:
        return read_cluster(bundled[text])
    parts = [part.strip() for part in text.split("," if "," in text else "+")]
    matches = [_COUNT.fullmatch(part) for part in parts]
    if any(matches) and all(match or _known(part, catalogue) for match, part in zip(matches, parts, strict=True)):
        return _of_parts(text, parts, catalogue)
    file = _file_at(text) if allow_paths else None
    if file is None and all(_known(part, catalogue) for part in parts):
        return _of_parts(text, parts, catalogue)
    if file is not None:
        return read_cluster(file, catalogue)
    if allow_paths and (text.endswith((".yaml", ".yml")) or "/" in text):
        raise InputError(f"cluster: no file at {shown(text)}", hint)
    raise InputError(f"cluster: {shown(text)} is not understood", hint)


def _of_parts(text: str, parts: Sequence[str], catalogue: Catalogue) -> Cluster:
    """Pools that are joined by ``+``, or are to choose from."""
    pools = []
    for part in parts:
        match = _COUNT.fullmatch(part)
        pools.append(_open_pool(part, catalogue) if match is None else _short_pool(match, catalogue))
    asked = {"name": text, "pools": pools, "choose": "," in text}
    return cluster_from(asked, "cluster", catalogue)


def _known(name: str, catalogue: Catalogue) -> bool:
    """Whether ``name`` is one of a GPU or a node type, of which nobody says how many."""
    return bool(catalogue.candidates(name)) or _known_node(name, catalogue) is not None


def _open_pool(name: str, catalogue: Catalogue) -> dict[str, Any]:
    node = None if catalogue.candidates(name) else _known_node(name, catalogue)
    if node is not None:
        return {"gpu": node.gpu, "node": node.name, "as_needed": True}
    return {"gpu": catalogue.find_gpu(name, "cluster GPU").name, "as_needed": True}


def _file_at(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name no file can have, or the home of nobody
        return None


def _short_pool(match: re.Match[str], catalogue: Catalogue) -> dict[str, Any]:
    name, count, nodes = match["gpu"].strip(), int(match["count"]), match["nodes"]
    node = _known_node(name, catalogue)
    if node is not None:
        if catalogue.candidates(name):
            raise InputError(
                f"cluster: {shown(name)} is a GPU type and a node type",
                f"for the nodes write a cluster file with node: {node.name}; for the GPUs another of their names",
            )
        if nodes is not None:
            raise InputError(
                f"cluster: {shown(match.group())}: {node.name} is a node of {node.gpus} {node.gpu} already",
                f"write {nodes}x{node.name} for {nodes} of them",
            )
        return {"gpu": node.gpu, "nodes": count, "node": node.name}
    try:
        gpu = catalogue.find_gpu(name, "cluster GPU")
    except UnknownName as error:
        facts = (*catalogue.gpus().values(), *catalogue.nodes().values())
        others = {alias: fact.name for fact in facts for alias in fact.aliases}
        raise UnknownName("cluster GPU", name, (fact.name for fact in facts), aliases=others) from error
    if nodes is None:
        return {"gpu": gpu.name, "gpus": count}
    return {"gpu": gpu.name, "nodes": int(nodes), "gpus_per_node": count}


def _known_node(name: str, catalogue: Catalogue) -> Node | None:
    try:
        return catalogue.find_node(name)
    except UnknownName:
        return None


# ------------------------------------------------------------------ as a file


def read_cluster(path: Path, catalogue: Catalogue = SHIPPED) -> Cluster:
    """A cluster file: ``name`` and ``pools``, each with ``gpu`` and ``gpus`` (or ``nodes``), at least.

    Raises:
        InputError: unreadable, not YAML, or with keys that are not known.
    """
    where = f"cluster file {path}"
    hint = "it needs name, and pools that each have gpu and gpus"
    document = mapping_of(read_text(path, "cluster file"), where, hint)
    catalogue = offered_in(document, path.parent, catalogue)
    return cluster_from({"name": path.stem, **document}, where, catalogue)


def offered_in(document: dict[str, Any], folder: Path, catalogue: Catalogue) -> Catalogue:
    """``catalogue`` with the prices of the files that a document names under ``offers``, which is taken out of it; the
    later goes before the earlier.

    Raises:
        InputError: no path, or what :func:`profiles.offers.read_offers` raises.
    """
    named = document.pop("offers", None)
    for each in [] if named is None else named if isinstance(named, list) else [named]:
        if not isinstance(each, str):
            raise InputError(f"offers: {shown(each)} is not a path", "name what `plan prices import` wrote")
        from profiles.offers import read_offers, with_offers

        catalogue = with_offers(catalogue, read_offers(folder / each), f"offers {each}")
    return catalogue


# ------------------------------------------------------------------ as an object


def cluster_input(value: Any, info: ValidationInfo) -> Any:
    """What a request's ``cluster`` holds, as a :class:`Cluster`. Text never names a file here: requests reach
    services too, so only the command line reads files, with :func:`parse_cluster`."""
    if isinstance(value, str):
        return parse_cluster(value, allow_paths=False, catalogue=catalogue_of(info))
    if isinstance(value, Mapping):
        return cluster_from(value, "cluster", catalogue_of(info))
    return value


def on_demand(cluster: Cluster) -> Cluster:
    """``cluster``, none of whose pools has only spot or reserved GPUs. Raises ValueError."""
    none = next((pool.name for pool in cluster.pools if not pool.gpus), None)
    if none is not None:
        raise ValueError(f"gpus of pool {shown(none)} is missing; only a fleet (`plan fleet`) runs on spot GPUs alone")
    return cluster


ClusterGiven = Annotated[
    Cluster, BeforeValidator(cluster_input, json_schema_input_type=str | ClusterInput), AfterValidator(on_demand)
]
"""Of a request: short form or object."""


def counted(cluster: Cluster) -> Cluster:
    """``cluster``, of which all GPUs are known: where there is nothing to choose. Raises ValueError."""
    if cluster.is_open:
        raise ValueError(
            f"{shown(cluster.name)} does not say which GPUs there are; say how many: 8x{cluster.pools[0].gpu}"
        )
    return cluster


CountedCluster = Annotated[ClusterGiven, AfterValidator(counted)]


def cluster_from(value: Mapping[Any, Any], where: str, catalogue: Catalogue) -> Cluster:
    asked = checked(ClusterInput, value, where)
    pools = [_filled(pool, where, catalogue) for pool in asked.pools]
    return checked(SuppliedCluster, {"name": asked.name, "pools": pools, "choose": asked.choose}, where)


def _filled(asked: PoolInput, where: str, catalogue: Catalogue) -> dict[str, Any]:
    """``asked`` with what the catalogue knows: node size, fabric, price."""
    gpu = catalogue.find_gpu(asked.gpu, f"{where}: gpu")
    named, field = (asked.node, "node") if asked.instance is None else (asked.instance, "instance")
    node = catalogue.default_node(gpu) if named is None else catalogue.find_node(named, f"{where}: {field}")
    if node.gpu != gpu.name:
        raise InputError(
            f"{where}: {field} {node.name!r} holds {node.gpu}, not {gpu.name}", "name a node type of that GPU"
        )
    if asked.instance is not None and asked.node is not None and catalogue.find_node(asked.node) != node:
        raise InputError(f"{where}: node {asked.node!r} is not instance {asked.instance!r}", "leave out node")
    per_node = asked.gpus_per_node or node.gpus
    fabric = catalogue.find_fabric(asked.fabric or node.default_fabric, f"{where}: fabric")
    price, source = asked.usd_per_gpu_hour, asked.price_source
    if price is None and source is not None:
        raise InputError(
            f"{where}: price_source {shown(source)} comes without usd_per_gpu_hour", "give both, or neither"
        )
    offer = catalogue.on_demand_price(gpu, None if named is None else node)
    if "usd_per_gpu_hour" not in asked.model_fields_set and offer is not None and not asked.owned:
        price = offer.usd_per_gpu_hour
        source = _offered(offer, "on demand")
    return {
        **_supply(asked, node, f"{where}: pool {asked.name or gpu.name}", catalogue),
        "name": asked.name or gpu.name,
        "gpu": gpu.name,
        "gpus": _gpus(asked, per_node, where),
        "gpus_per_node": per_node,
        "fabric": fabric.name,
        "usd_per_gpu_hour": price,
        "price_source": source,
        "as_needed": asked.as_needed,
    }


def _offered(offer: Price, how: str) -> str:
    """Who offers it, where and when."""
    place = "" if offer.region is None else f" {offer.instance} in {offer.region},"
    return f"{offer.provider},{place} {offer.date.isoformat()} ({how})"


def _supply(asked: PoolInput, node: Node, where: str, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of a pool that say what of it can be had, and when."""
    spot, source = asked.spot_usd_per_gpu_hour, asked.spot_price_source
    if asked.spot_gpus is None and spot is not None:
        raise InputError(f"{where}: spot_usd_per_gpu_hour comes without spot_gpus", "give both, or neither")
    if asked.reserved_gpus is None and asked.reserved_usd_per_gpu_hour is not None:
        raise InputError(f"{where}: reserved_usd_per_gpu_hour comes without reserved_gpus", "give both, or neither")
    if asked.reserved_gpus is not None and asked.reserved_usd_per_gpu_hour is None:
        raise InputError(f"{where}: reserved_gpus {asked.reserved_gpus} comes without a price", "give both, or owned")
    if asked.owned and asked.usd_per_gpu_hour is not None:
        raise InputError(f"{where}: is owned, and has a price {asked.usd_per_gpu_hour:g}", "leave one of them out")
    if asked.owned and asked.as_needed:
        raise InputError(f"{where}: is owned, and as many GPUs as are needed", "say how many there are")
    if asked.spot_gpus is not None and spot is None:
        offer = catalogue.spot_price(asked_gpu := node.gpu)
        if offer is None or offer.spot_usd_per_gpu_hour is None:
            raise InputError(
                f"{where}: spot_gpus {asked.spot_gpus}, and no spot price of {asked_gpu} is known",
                "give spot_usd_per_gpu_hour",
            )
        spot, source = offer.spot_usd_per_gpu_hour, _offered(offer, "spot")
    per_node = asked.gpus_per_node or node.gpus
    if asked.instance is not None and per_node != node.gpus:
        raise InputError(
            f"{where}: gpus_per_node {per_node}, and instance {asked.instance!r} has {node.gpus}", "leave one out"
        )
    names = ("spot_gpus", "reserved_gpus", "reserved_usd_per_gpu_hour", "owned", "quota_gpus", "preference", "zone")
    return {
        **{name: getattr(asked, name) for name in (*names, "startup_s", "min_up_s")},
        "spot_usd_per_gpu_hour": spot,
        "spot_price_source": source,
        "instance": None if asked.instance is None else node.name,
    }


def _gpus(asked: PoolInput, per_node: int, where: str) -> int:
    if asked.as_needed:
        if (asked.gpus, asked.nodes) != (None, None):
            raise InputError(
                f"{where}: pool {asked.name or asked.gpu!r} has a number of GPUs, and as many as are needed",
                "leave out the number, or as_needed",
            )
        return per_node  # where the search for the fewest begins
    if asked.nodes is None:
        if asked.gpus is None and (asked.spot_gpus is not None or asked.reserved_gpus is not None):
            return 0
        if asked.gpus is None:
            raise InputError(
                f"{where}: gpus of pool {asked.name or asked.gpu!r} is missing",
                "give gpus, nodes, as_needed, or spot_gpus or reserved_gpus alone",
            )
        return asked.gpus
    total = asked.nodes * per_node
    if asked.gpus not in (None, total):
        raise InputError(
            f"{where}: gpus {asked.gpus} is not nodes {asked.nodes} × gpus_per_node {per_node}",
            "give one of them",
        )
    return total
