"""The hardware catalogue: what is known of GPUs, nodes, fabrics and prices, each fact with its source.

The facts are YAML files in ``profiles/hardware/``; this module reads, validates and looks them up. Peak rates are
*dense* (no structured sparsity), bandwidths are decimal bytes per second in **one direction**.

A :class:`Catalogue` is what one request knows: the facts that ship, and the types that its stores describe. It is
passed in; nothing described is kept in the module. The functions of this module look into what ships.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from profiles.errors import DataError, InputError, UnknownName
from profiles.shipped import shipped

_DRIVER_BYTES, _DRIVER_SHARE = 0.37 * 2**30, 0.0019
"""What the driver keeps of a GPU's memory: a line through what start logs of vLLM tell of L4, H100, RTX PRO 6000 and
GB200 (within 0.1 GiB)."""


class Fact(BaseModel):
    """Base of all catalogue entries: frozen, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    aliases: tuple[str, ...] = ()
    sources: dict[str, str] = Field(min_length=1)  # field (or "*") -> where the figure is from


class LastingLoad(BaseModel):
    """Time under lasting load ÷ that of the short bursts that measured rows are, with its 80 % interval: what a part
    loses where its power limit lowers the clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> LastingLoad:
        if not self.low <= self.factor <= self.high:
            raise ValueError("lasting_load must be low ≤ factor ≤ high")
        return self


class Gpu(Fact):
    """One GPU type (or half of a dual-die board where the driver shows two)."""

    full_name: str
    vendor: Literal["nvidia", "amd", "intel", "other"]  # "other" (of CPUs): only of a type that a user describes
    generation: str  # "hopper", "blackwell", "cdna3", ...
    compute_capability: float | None = None  # CUDA only
    peak_flops: dict[str, float]  # dense FLOP/s (int8: OP/s): bf16, fp16, tf32, fp8, int8, fp4
    memory_bytes: int = Field(gt=0)  # as the driver reports the total
    visible_memory_gib: float | None = Field(default=None, gt=0)  # of it a process sees this much, where a log says so
    memory_bandwidth_bytes_per_s: float = Field(gt=0)
    sm_count: int = Field(gt=0)  # streaming multiprocessors; compute units on AMD
    boost_clock_mhz: float = Field(gt=0)
    l2_bytes: int = Field(gt=0)
    tdp_watts: float = Field(gt=0)
    idle_watts: float = Field(gt=0)
    scale_up_link: Literal["nvlink", "xgmi", "pcie", "ethernet", "shared_memory"]  # the last: processes of one CPU host
    scale_up_bytes_per_s: float = Field(gt=0)  # per GPU, one direction, to its peers in the node
    pcie_bytes_per_s: float = Field(gt=0)  # one direction
    bridge_bytes_per_s: float | None = Field(default=None, gt=0)  # NVLink bridges that can join pairs, one direction
    launch_us: float | None = Field(default=None, gt=0)  # of a call that does nothing, where it was measured
    lasting_load: LastingLoad | None = None  # where it was measured, or read off training runs

    @property
    def visible_memory_bytes(self) -> float:
        """What a process sees of ``memory_bytes``: the driver keeps the rest."""
        if self.visible_memory_gib is not None:
            return self.visible_memory_gib * 2**30
        return self.memory_bytes * (1 - _DRIVER_SHARE) - _DRIVER_BYTES

    @model_validator(mode="after")
    def _rates_are_positive(self) -> Gpu:
        if "bf16" not in self.peak_flops and "fp16" not in self.peak_flops:
            raise ValueError("peak_flops needs bf16 or fp16")
        if any(rate <= 0 for rate in self.peak_flops.values()):
            raise ValueError("peak_flops must be positive")
        return self


class Node(Fact):
    """A server (or rack domain) in which GPUs reach each other over the scale-up link."""

    gpu: str
    gpus: int = Field(gt=0)
    default_fabric: str
    joined_by: str | None = None  # a topology's name; None: nobody says, rows of the GPU's link are taken as they are
    sockets: int | None = Field(default=None, gt=0)  # CPUs that PCIe cards are spread over
    gpus_per_host: int | None = None  # where less than ``gpus`` share an operating system (rack-scale NVLink)
    host_memory_bytes: int | None = None


class Fabric(Fact):
    """The network between nodes, as one GPU sees it."""

    kind: Literal["infiniband", "roce", "ethernet"]
    bytes_per_s_per_gpu: float = Field(gt=0)  # one direction, when every GPU of the node sends at once
    shared_by_gpus: int = Field(default=1, gt=0)  # GPUs behind one NIC: one alone gets this many shares
    latency_us: float = Field(ge=0)  # one small message, end to end


class Topology(Fact):
    """What joins the GPUs of a node, and what that makes of collectives among them."""

    meaning: str
    bus_share: dict[int, float] | None = None  # ranks → bandwidth of a ring of them ÷ PCIe rate; None: the rows say it
    start_us_per_rank: float = Field(default=0.0, ge=0)  # of a ring over PCIe, before a byte has moved
    bridged_share: float | None = Field(default=None, gt=0, le=1)  # the same of two ranks over their NVLink bridge
    spread: float = Field(default=0.0, ge=0)  # half-width (log) that is added to the interval: boxes of a kind differ


class AmbiguousName(Fact):
    """A name that is refused because several GPU types bear it."""

    sources: dict[str, str] = {}
    may_mean: tuple[str, ...] = Field(min_length=2)
    because: str


class Price(BaseModel):
    """List price of one GPU-hour: on demand, of spot GPUs, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu: str
    usd_per_gpu_hour: float | None = Field(default=None, gt=0)  # None: of spot GPUs alone
    spot_usd_per_gpu_hour: float | None = Field(default=None, gt=0)
    provider: str
    instance: str
    date: dt.date
    source: str
    region: str | None = None


F = TypeVar("F", bound=Fact)


_CATALOGUE = Path(__file__).parent / "hardware"


def _load(file: str, kind: type[F]) -> dict[str, F]:
    entries = TypeAdapter(dict[str, kind])  # type: ignore[valid-type]  # together: an error names its entry
    return shipped(
        _CATALOGUE / file,
        lambda facts: entries.validate_python({name: dict(name=name, **fields) for name, fields in facts.items()}),
    )


@cache
def gpus() -> dict[str, Gpu]:
    """The GPU types that come with the package, by canonical name, in catalogue order."""
    return _load("gpus.yaml", Gpu)


@cache
def nodes() -> dict[str, Node]:
    return _load("nodes.yaml", Node)


@cache
def fabrics() -> dict[str, Fabric]:
    return _load("fabrics.yaml", Fabric)


@cache
def topologies() -> dict[str, Topology]:
    return _load("topologies.yaml", Topology)


@cache
def ambiguous_names() -> dict[str, AmbiguousName]:
    """Names of GPUs that are refused, with what each may mean."""
    return _load("ambiguous.yaml", AmbiguousName)


@cache
def prices() -> tuple[Price, ...]:
    return shipped(_CATALOGUE / "prices.yaml", lambda entries: tuple(Price(**entry) for entry in entries))


@dataclass(frozen=True)
class Catalogue:
    """What is known by name: the facts that ship, and GPU types that a user describes.

    Attributes:
        described: by name, types that do not ship, each with the node it comes in.
        lasting: by name, what the user's own rows say of lasting load, in the place of what ships.
        offers: prices of a user's own, which go before those that ship.
    """

    described: Mapping[str, tuple[Gpu, Node]] = field(default_factory=dict)
    lasting: Mapping[str, LastingLoad] = field(default_factory=dict)
    offers: tuple[Price, ...] = ()

    def gpus(self) -> dict[str, Gpu]:
        """All GPU types by canonical name: those that ship, in catalogue order, then those that were described."""
        known = {**gpus(), **{name: gpu for name, (gpu, _) in self.described.items()}}
        own = {name: load for name, load in self.lasting.items() if name in known}
        return known | {name: known[name].model_copy(update={"lasting_load": load}) for name, load in own.items()}

    def nodes(self) -> dict[str, Node]:
        return {**nodes(), **{node.name: node for _, node in self.described.values()}}

    def describing(self, gpu: Gpu, node: Node, where: str) -> Catalogue:
        """This catalogue with one type more; with itself where it has the same already. ``where`` names the file in
        errors.

        Raises:
            DataError: one of the type's names is another's, or it has other facts here already.
        """
        if self.described.get(gpu.name) == (gpu, node):
            return self
        for what, fact, known in (("GPU", gpu, {**self.gpus()}), ("node", node, {**self.nodes()})):
            self._check_new(what, fact, known, where)
        return replace(self, described={**self.described, gpu.name: (gpu, node)})

    def under_load(self, lasting: Mapping[str, LastingLoad]) -> Catalogue:
        """This catalogue with what was measured of types under lasting load."""
        return replace(self, lasting={**self.lasting, **lasting}) if lasting else self

    @staticmethod
    def _check_new(what: str, fact: Fact, known: Mapping[str, Fact], where: str) -> None:
        for name in (fact.name, *fact.aliases):
            try:
                other = _find(what, name, known)
            except UnknownName:
                continue
            same = "facts of its own" if other.name == fact.name else f"the {what} {other.name}"
            raise DataError(
                f"{where}: {what} {name!r} has {same} in the catalogue already",
                "leave it out, or give it another name and no alias of the other's",
            )

    def find_gpu(self, name: str, field: str = "gpu", *, systems: bool = False) -> Gpu:
        """The GPU called ``name``, as people or drivers write it (canonical or alias; case, spaces, dashes ignored), or
        that of the machine with one GPU that is called so; of any machine where ``systems`` may stand for their GPUs.

        Raises:
            UnknownName: with the nearest names.
            InputError: several types bear the name; all are named.
        """
        found = self.candidates(name)
        if len(found) > 1:
            several = _called(name, ambiguous_names().values())[0]
            raise InputError(
                f"{field}: {name!r} may mean {' or '.join(several.may_mean)}: {several.because}",
                "give one of these names",
                may_mean=list(several.may_mean),
            )
        alone = [node.gpu for node in _called(name, self.nodes().values()) if systems or node.gpus == 1]
        if not found and alone:
            return self.gpus()[alone[0]]
        found = found or _described(name, self.gpus().values())
        return found[0] if found else _find(field, name, self.gpus())

    def candidates(self, name: str) -> list[Gpu]:
        """The types that ``name`` may mean: none, one, or several. Who describes a type knows what its name means."""
        several = _called(name, ambiguous_names().values())
        return _called(name, self.gpus().values()) or [self.gpus()[each] for one in several for each in one.may_mean]

    def find_node(self, name: str, field: str = "node") -> Node:
        return _find(field, name, self.nodes())

    def find_fabric(self, name: str, field: str = "fabric") -> Fabric:
        return _find(field, name, fabrics())

    def default_node(self, gpu: Gpu) -> Node:
        """The node type in which this GPU usually comes: the first in the catalogue."""
        for node in self.nodes().values():
            if node.gpu == gpu.name:
                return node
        raise DataError(
            f"hardware catalogue nodes.yaml: no node holds {gpu.name}", "name the node type in the cluster file"
        )

    def gpus_per_host(self, gpu: Gpu, per_node: int) -> int:
        """GPUs that share an operating system in nodes of ``per_node``: fewer where they are racks' NVLink domains."""
        host = self.default_node(gpu).gpus_per_host
        return per_node if host is None else min(host, per_node)

    def topology(self, gpu: Gpu, fabric: str | None = None) -> Topology | None:
        """What joins the GPUs of the node in which this one usually comes: of the first node type that stands on
        ``fabric``, else of the first of all. None where nobody says."""
        holding = [node for node in self.nodes().values() if node.gpu == gpu.name]
        on_fabric = [node for node in holding if node.default_fabric == fabric]
        joined_by = next((node.joined_by for node in on_fabric or holding), None)
        return None if joined_by is None else _find(f"node of {gpu.name}: joined_by", joined_by, topologies())

    def offering(self, offers: Iterable[Price]) -> Catalogue:
        """This catalogue with prices that go before its own."""
        return replace(self, offers=(*offers, *self.offers))

    def on_demand_price(self, gpu: Gpu, node: Node | None = None) -> Price | None:
        """The cheapest on-demand price of a user's own, else the cheapest on record; None where none is. Of ``node`` as
        an instance, where it is one."""
        offers = [price for price in self.offers if price.gpu == gpu.name and price.usd_per_gpu_hour is not None]
        if not offers:
            return on_demand_price(gpu, node)
        if node is not None:
            offers = [price for price in offers if _called(price.instance, [node])] or offers
        return min(offers, key=lambda price: price.usd_per_gpu_hour or 0.0)

    def spot_price(self, gpu: str) -> Price | None:
        """The cheapest spot price of a user's own, else the cheapest on record; None where none is."""
        offers = [price for price in self.offers if price.gpu == gpu and price.spot_usd_per_gpu_hour is not None]
        return min(offers, key=lambda price: price.spot_usd_per_gpu_hour or 0.0) if offers else spot_price(gpu)


SHIPPED = Catalogue()
"""What comes with the package and nothing else: what a request that describes no types knows."""

find_gpu = SHIPPED.find_gpu
find_node = SHIPPED.find_node
find_fabric = SHIPPED.find_fabric
default_node = SHIPPED.default_node


def gpus_per_host(gpu: str, per_node: int) -> int:
    """As :meth:`Catalogue.gpus_per_host` of what ships; of a type that a request or a store described itself, all."""
    try:
        return SHIPPED.gpus_per_host(SHIPPED.find_gpu(gpu), per_node)
    except UnknownName:
        return per_node


def on_demand_price(gpu: Gpu, node: Node | None = None) -> Price | None:
    """The cheapest on-demand price on record, or None where none is; of ``node`` as an instance, where it is one."""
    offers = [price for price in prices() if price.gpu == gpu.name and price.usd_per_gpu_hour is not None]
    if node is not None:
        offers = [price for price in offers if _called(price.instance, [node])] or offers
    return min(offers, key=lambda price: price.usd_per_gpu_hour or 0.0, default=None)


def spot_price(gpu: str) -> Price | None:
    """The cheapest spot price on record of a GPU type, or None where none is."""
    offers = [price for price in prices() if price.gpu == gpu and price.spot_usd_per_gpu_hour is not None]
    return min(offers, key=lambda price: price.spot_usd_per_gpu_hour or 0.0, default=None)


def _find(field: str, name: str, catalogue: Mapping[str, F]) -> F:
    found = _called(name, catalogue.values())
    if not found:
        others = {alias: fact.name for fact in catalogue.values() for alias in fact.aliases}
        raise UnknownName(field, name, catalogue, aliases=others)
    return found[0]


def _called(name: str, facts: Iterable[F]) -> list[F]:
    """Those of ``facts`` that are called so, whatever its case, spaces, dashes and other marks."""
    wanted = _fold(name)
    return [fact for fact in facts if wanted in _folded((fact.name, *fact.aliases))]


_MAKERS = frozenset(("nvidia", "amd", "instinct", "tesla", "geforce", "dgx", "hgx"))
_MEMORY = re.compile(r"(\d+)g(?:b|ib)?|hbm\d\w*|gddr\d\w*", re.ASCII)
_LABELLED = (0.98, 1.1)
"""Bytes of a GPU's memory ÷ those that its label says: drivers count GiB, and some labels too."""


def _described(name: str, gpus: Iterable[Gpu]) -> list[Gpu]:
    """The type whose name has the words of ``name`` in any order, but for its maker and for how much memory it has,
    which must be what it has (``AMD MI355X``, ``A100 80GB SXM4``, ``NVIDIA B200 180GB``): one, or none."""
    said = _words_of(name) - _MAKERS
    wanted = _without_memory(said)
    sizes = [int(size[1]) * 1e9 for word in said if (size := _MEMORY.fullmatch(word)) and size[1]]
    found = []
    for gpu in gpus if wanted else ():
        known = [_words_of(each) - _MAKERS for each in (gpu.name, *gpu.aliases)]
        fits = all(_LABELLED[0] <= gpu.memory_bytes / size <= _LABELLED[1] for size in sizes)
        if said in known or (sizes and fits and wanted in map(_without_memory, known)):
            found.append(gpu)
    return found if len(found) == 1 else []


def _without_memory(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words if not _MEMORY.fullmatch(word))


@cache
def _words_of(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.casefold()))


@cache
def _folded(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_fold, names))


def _fold(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
