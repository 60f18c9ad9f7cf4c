"""Names of checkpoints that are not shipped, understood by what is: another organisation, tuning or number format, or
layers that are known to be the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from profiles.shipped import shipped

_FILE = Path(__file__).parent / "model_names.yaml"
_PLAIN = ("organizations", "tunings", "own_drafts", "twice")


@dataclass(frozen=True)
class Reading:
    """``name`` is what a shipped model may be called; ``precision``: how the asked one stores its weights, where its
    name says so; ``context``: its longest, tokens, where that is known to be another; ``without``: what the asked one
    has beside the shipped one's layers, and is not priced; ``called``: the asked one's whole name, where the asker left
    out its organisation or said less; ``other``: another checkpoint that the asker may mean."""

    name: str
    precision: str | None = None
    context: int | None = None
    without: str | None = None
    called: str = ""
    other: str = ""


def own_cache(model: str) -> str | None:
    """The precision in which checkpoints called like ``model`` ask for their cache; None: nobody knows that they do."""
    return next((each["precision"] for each in _facts()["caches"] if re.match(each["names"], model)), None)


def unmodelled(model: str = "", model_type: str = "") -> str | None:
    """What a model that is called so, or whose config.json says so, has that is not modelled; None: nobody knows."""
    for each in _facts()["unmodelled"]:
        if re.fullmatch(each["names"], model, re.IGNORECASE) or model_type in each["model_types"]:
            return str(each["have"])
    return None


def drafts_unsaid(model_type: str) -> bool:
    """Whether checkpoints of the type hold layers that draft though their config.json says nothing of them."""
    return model_type in _facts()["own_drafts"]


@cache
def _facts() -> Mapping[str, Any]:
    return shipped(
        _FILE,
        lambda document: (
            {key: document[key] for key in (*_PLAIN, "formats", "caches", "unmodelled")}
            | {key: {name.casefold(): entry for name, entry in document[key].items()} for key in ("relatives", "short")}
        ),
    )


def readings(model: str) -> Iterator[Reading]:
    """Every name that ``model`` may stand for, the most literal first; ``model`` itself is not among them."""
    organization, _, bare = re.sub(r"[()]", "", re.sub(r"[\s:]+", "-", model.strip())).rpartition("/")
    stems: list[tuple[str, str | None]] = [(bare, None)]
    for suffix, entry in _facts()["formats"].items():
        if bare.replace("_", "-").casefold().endswith(suffix.casefold()):
            precision = entry.get("of", {}).get(organization, entry["precision"])
            stems.append((bare[: -len(suffix)], precision))
    habit = len(stems) > 1 and organization and organization.casefold() not in _facts()["organizations"]
    for stem, precision in stems:
        if not organization and (of := _facts()["short"].get(stem.casefold())):
            other = _facts()["twice"].get(stem.casefold(), "")
            read = _related(of.rpartition("/")[2], precision) or Reading(of, precision)
            yield replace(read, called=of if read.name != of else "", other=other)
        if (relative := _related(stem, precision)) is not None:
            yield replace(relative, called="") if organization else relative
        for name in (stem, *_tunings(stem)):
            for full in _organizations(organization, name):
                # an organisation that quantizes another's model may not do it as that one does
                if full != model and not (habit and precision is None and "/" not in full):
                    yield Reading(full, precision)


def _related(stem: str, precision: str | None) -> Reading | None:
    """What a checkpoint of that bare name is read as, where it is a relative of a shipped one."""
    entries = _facts()["relatives"]
    entry = next((found for name in (stem, *_bases(stem)) if (found := entries.get(name.casefold()))), None)
    if entry is None:
        return None
    called = f"{entry['by']}/{stem}" if "by" in entry else ""
    return Reading(entry["of"], precision, entry.get("context"), entry.get("without"), called)


def _tunings(stem: str) -> Iterator[str]:
    """The base, and its siblings of other tunings."""
    bases = _bases(stem)
    yield from bases
    for base in (stem, *bases):
        yield from (base + ending for ending in _facts()["tunings"])


def _bases(stem: str) -> list[str]:
    return [stem[: -len(ending)] for ending in _facts()["tunings"] if stem.casefold().endswith(ending.casefold())]


def _organizations(organization: str, name: str) -> Iterator[str]:
    if not organization:
        yield name
        return
    yield f"{organization}/{name}"
    others = _facts()["organizations"]
    if organization.casefold() in others:
        other = others[organization.casefold()]
        yield name if other is None else f"{other}/{name}"
    # quantized copies are published by others than who trained the model
    yield name


_ACTIVE = re.compile(r"-A\d+(?:\.\d+)?B(?=-|$)", re.IGNORECASE)
_VERSION_OR_MAKER = re.compile(r"^meta-|v(?=\d)", re.IGNORECASE)


def folded(name: str) -> str:
    """A bare name as it is compared where nobody spells it as its publisher: letters and digits alone, and neither its
    maker nor the ``v`` of a version."""
    bare = name.strip().replace(" ", "-").replace("_", "-").rpartition("/")[2].casefold()
    return re.sub(r"[^a-z0-9]", "", re.sub(_VERSION_OR_MAKER, "", bare))


def spellings(name: str) -> Iterator[tuple[int, str]]:
    """What people may call a shipped checkpoint ``name``, folded, with how much of it they leave out: nothing, how it
    was tuned, how many parameters are active, both."""
    bare = name.rpartition("/")[2]
    for left_out, stem in enumerate((bare, *_bases(bare)[:1])):
        yield 2 * left_out, folded(stem)
        if _ACTIVE.search(stem):
            yield 2 * left_out + 1, folded(re.sub(_ACTIVE, "", stem))
