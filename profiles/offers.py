"""Prices of a user's own: catalogues of cloud offers, read into dated, sourced offers that come before what ships."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from profiles.errors import InputError
from profiles.files import Source
from profiles.hardware import SHIPPED, Catalogue, Gpu, Price
from profiles.markup import Malformed
from profiles.tables import numbers, read_table
from profiles.typed_json import short
from profiles.values import shown
from profiles.yaml_markup import strict_yaml

COLUMNS = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region", "SpotPrice")
"""Of SkyPilot's public catalogues (skypilot-org/skypilot-catalog, catalogs/v8/CLOUD/vms.csv); vCPUs and MemoryGiB are
ignored, GpuInfo may be left out."""

NAMES = {"A100": "A100-40GB", "A100-80GB-SXM": "A100-80GB", "H100-MEGA": "H100-SXM"}
"""Names of those catalogues that say another GPU than ours, or none of ours: A100 and A100-80GB are two accelerators
there (docs.skypilot.co, Supported accelerators, 2026-11-26)."""

LARGE_MIB = 60_000
"""Memory above which an A100 is not one of 40 GB, whatever it is called."""

_MEMORY = re.compile(r"SizeInMiB\W+(\d+)")
_CALLED = re.compile(r"'Name':\s*'([^']*)'")
_PCIE = re.compile(r"pcie", re.IGNORECASE)

CATALOGUE_HINT = f"give a CSV with the columns of SkyPilot's catalogues: {', '.join(COLUMNS)}"
OFFERS_HINT = (
    "give what `plan prices import` wrote: a list of offers, each with gpu, provider, instance, date and source"
)


class Offers(BaseModel):
    """A file of offers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offers: tuple[Price, ...] = Field(min_length=1, max_length=100_000)


class Imported(BaseModel):
    """What a catalogue gave: ``skipped``: names of accelerators that are not known, or may mean several."""

    offers: tuple[Price, ...]
    skipped: tuple[str, ...]


def read_catalogue(
    path: Path, *, provider: str, date: dt.date, source: str, region: str | None = None, catalogue: Catalogue = SHIPPED
) -> Imported:
    """The offers in a catalogue's CSV: of every GPU type, instance and region the cheapest.

    Raises:
        InputError: unreadable, without the columns, with values that are none, or no row of a known GPU.
    """
    file = Source(path, "price catalogue", CATALOGUE_HINT)
    table = read_table(file)
    table.columns = [name.strip() for name in table.columns]
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise file.wrong(f"column {', '.join(missing)} is missing")
    columns = {
        name: (table[name].tolist(), numbers(table[name])) for name in ("AcceleratorCount", "Price", "SpotPrice")
    }
    infos = table["GpuInfo"].tolist() if "GpuInfo" in table.columns else [""] * len(table)
    best: dict[tuple[str, str, str], Price] = {}
    skipped: dict[str, None] = {}
    for row, (name, instance, where) in enumerate(
        zip(table["AcceleratorName"], table["InstanceType"], table["Region"], strict=True)
    ):
        name, where = name.strip(), where.strip()
        if not name or (region is not None and where != region):
            continue
        count, price, spot = _offered(row, columns, file)
        gpus = _meant(name, instance, infos[row], catalogue)
        if len(gpus) != 1:
            skipped[name] = None
            continue
        if not price and not spot:
            continue
        offer = Price(
            gpu=gpus[0].name,
            usd_per_gpu_hour=price / count if price else None,
            spot_usd_per_gpu_hour=spot / count if spot else None,
            provider=provider,
            instance=instance.strip() or name,
            region=where or None,
            date=date,
            source=source,
        )
        key = (offer.gpu, offer.instance, where)
        known = best.get(key)
        best[key] = offer if known is None else _cheapest(offer, known)
    if not best:
        raise file.wrong(
            "has no price of a GPU that is known" + (f" in {region}" if region else ""),
            f"it has {', '.join(skipped)}" if skipped else CATALOGUE_HINT,
        )
    return Imported(offers=tuple(sorted(best.values(), key=_order)), skipped=tuple(skipped))


def _offered(row: int, columns: Mapping[str, tuple[list[str], list[float | None]]], file: Source) -> list[float]:
    """(GPUs, USD per hour of them all, the same of spot ones) of a row, 0 where it is not offered so. ``columns``: the
    texts of each, and the numbers that they are.

    Raises:
        InputError: one of them is no number of at least 0, or no GPUs are said.
    """
    values = []
    for column, (texts, found) in columns.items():
        text, value = texts[row].strip(), found[row] if texts[row].strip() else 0.0
        if value is None or not math.isfinite(value) or value < 0:
            raise file.wrong(f"row {row + 1}: {column} {shown(text)} is not a number of at least 0", "correct the row")
        values.append(value)
    if not values[0]:
        raise file.wrong(f"row {row + 1}: AcceleratorCount is missing", "correct the row")
    return values


def _meant(name: str, instance: str, info: str, catalogue: Catalogue) -> Sequence[Gpu]:
    """The GPUs that may be what a catalogue calls ``name``, of which its ``info`` may say the memory, and ``instance``
    or ``info`` that it is a card: Lambda's gpu_1x_h100_pcie is an H100 there, RunPod's A100 PCIe an A100-80GB."""
    ours, found = NAMES.get(name, name), _MEMORY.search(info)
    if found is not None and ours.endswith("-40GB") and int(found[1]) > LARGE_MIB:
        ours = f"{name}-80GB"
    called = _CALLED.search(info)
    if not _PCIE.search(f"{instance} {called[1] if called else ''}") or re.search("pcie|sxm|nvl", name, re.IGNORECASE):
        return catalogue.candidates(ours)
    kind, *memory = ours.split("-")
    cards = catalogue.candidates("-".join([kind, "PCIe", *memory]))
    return cards or [gpu for gpu in catalogue.candidates(ours) if "SXM" not in gpu.name]


def _cheapest(first: Price, second: Price) -> Price:
    """Of one GPU, instance and region (its zones, say) the least that is asked on demand, and the least on spot."""
    least = min(first, second, key=_on_demand)
    spot = [each for each in (first.spot_usd_per_gpu_hour, second.spot_usd_per_gpu_hour) if each is not None]
    return least.model_copy(update={"spot_usd_per_gpu_hour": min(spot, default=None)})


def _on_demand(offer: Price) -> float:
    return math.inf if offer.usd_per_gpu_hour is None else offer.usd_per_gpu_hour


def _order(offer: Price) -> tuple[str, float, str, str]:
    return offer.gpu, _on_demand(offer), offer.instance, offer.region or ""


def written_offers(offers: Sequence[Price]) -> str:
    """The YAML of a file of offers."""
    import yaml

    rows = [offer.model_dump(mode="json", exclude_none=True) for offer in offers]
    return yaml.safe_dump({"offers": rows}, sort_keys=False, allow_unicode=True, width=1000)


def read_offers(path: Path) -> tuple[Price, ...]:
    """The offers in a file that :func:`written_offers` wrote, or that somebody did.

    Raises:
        InputError: unreadable, not YAML, or refused by the schema.
    """
    file = Source(path, "offers", OFFERS_HINT)
    try:
        document = strict_yaml(file.text())
    except Malformed as error:
        raise file.wrong(f"is not valid YAML ({error})") from error
    if not isinstance(document, dict):
        raise file.wrong("holds no list of offers", f"{OFFERS_HINT}; of a catalogue's CSV it writes them")
    try:
        return Offers.model_validate(document).offers
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(short(str(part)) for part in problem["loc"]) or "it"
        raise file.wrong(
            f"{where}: {shown(problem.get('input'))}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
        ) from error


def with_offers(catalogue: Catalogue, offers: Sequence[Price], where: str = "offers") -> Catalogue:
    """``catalogue`` with prices that come before those that ship; of several for one GPU the cheapest.

    Raises:
        InputError: an offer of a GPU that is not known.
    """
    named = []
    for offer in offers:
        found = catalogue.candidates(offer.gpu)
        if len(found) != 1:
            raise InputError(f"{where}: gpu {shown(offer.gpu)} is not a GPU type", "name one that `plan gpus` lists")
        named.append(offer.model_copy(update={"gpu": found[0].name}))
    return catalogue.offering(named)
