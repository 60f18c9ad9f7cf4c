"""The models that ship with the package, and anybody's ``config.json``.

One file a model in ``architectures/``: the factual fields of its ``config.json`` under ``config``, what the
model card says about its size, and where both come from. Names are those of the Hugging Face Hub.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from costmodels.models.architecture import Architecture, CacheScheme
from costmodels.models.huggingface import parse_config
from costmodels.models.model_names import Reading, folded, own_cache, readings, spellings, unmodelled
from costmodels.models.precision import REPUBLISHED
from profiles.errors import DataError, InputError, UnknownName, Unsupported
from profiles.files import MIB, Source
from profiles.markup import read_json
from profiles.shipped import BROKEN
from profiles.values import shown

BUNDLED = Path(__file__).parent / "architectures"

LARGEST_CONFIG = 16 * MIB  # the longest published one, with a list of modules that are not quantized, has 0.3
_ON_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RegisteredModel:
    """One line of ``plan models``. Parameters are those the model card gives, not what we count."""

    name: str
    published_parameters: float
    published_active_parameters: float | None  # per token; None: a dense model, or the card does not say
    max_context_tokens: int
    weight_precision: str
    license: str | None
    source: str
    same_config_as: tuple[str, ...]  # other checkpoints whose config.json says the same


def find_architecture(model: str, *, allow_paths: bool = True) -> Architecture:
    """The architecture of a bundled model or of a ``config.json``.

    ``model``: a name on the Hugging Face Hub in any case, without its organisation where that is unambiguous, or the
    name of a checkpoint of which another is bundled (:mod:`costmodels.models.model_names`; ``notes`` then say which);
    or the path of a ``config.json`` or of a folder that has one (unless ``allow_paths`` is false: a service
    should not read whatever path a stranger names). Raises :class:`UnknownName` (the hint has the nearest
    names), :class:`Unsupported` where its layers are known and not modelled, and what
    :func:`~costmodels.models.huggingface.parse_config` raises.
    """
    names = _index()
    found = names.get(model.casefold())
    if found is not None:
        return _bundled(*found)
    path = _existing(model) if allow_paths else None
    if path is not None:
        return _from_path(path)
    understood = _understood(model)
    if understood is not None:
        return understood
    if (have := unmodelled(model)) is not None:
        raise Unsupported(
            f"model: {shown(model)} has {have}: not modelled", "choose another one; `plan models` lists those that are"
        )
    fetch = f"hf download {model} config.json --local-dir DIR" if _ON_THE_HUB.fullmatch(model) else ""
    way_out = "the path of a config.json, or of the folder that holds it, works too" if allow_paths else ""
    raise UnknownName(
        "model",
        model,
        {name for name, _ in names.values()},
        f"{way_out} ({fetch} gets it)" if way_out and fetch else way_out,
    )


def _understood(model: str) -> Architecture | None:
    """The architecture of a bundled relative of ``model``: same layers, the precision that its name says."""
    return _read_as(model, _index().get) or _read_as(model, _loose)


def _read_as(model: str, find: Callable[[str], tuple[str, Path] | None]) -> Architecture | None:
    for reading in (Reading(model), *readings(model)):
        found = find(reading.name.casefold())
        if found is None:
            continue
        relative = _bundled(*found)
        note = f"its config.json is not shipped; read as that of {relative.name}"
        note += f", without {reading.without}" if reading.without else ""
        if reading.called and reading.precision is None:
            taken = f"{model} is taken to be {reading.called}"
            taken += f" ({reading.other} is called so, too)" if reading.other else ""
            longest = reading.context or relative.max_context_tokens
            notes = (*relative.notes, taken, note)
            return dataclasses.replace(relative, name=reading.called, max_context_tokens=longest, notes=notes)
        if reading.precision is None and reading.context is None and "/" not in model:
            # Nobody can start a name without its organisation: the relative's is what the launch command says.
            return dataclasses.replace(relative, notes=(*relative.notes, f"{model} is taken to be {relative.name}"))
        if reading.context is not None:
            relative = dataclasses.replace(relative, max_context_tokens=reading.context)
        if reading.precision is None:
            return dataclasses.replace(relative, name=model, notes=(*relative.notes, note))
        if reading.precision in (relative.weight_precision, _WORDS.get(relative.weight_precision)):  # as published
            return dataclasses.replace(relative, name=model, notes=(*relative.notes, note))
        finer = relative.weight_precision == "fp8_block" and reading.precision in ("mxfp4", "nvfp4", "int4")
        again = (relative.weight_precision, reading.precision) in REPUBLISHED
        if not {relative.weight_precision, reading.precision} & WIDE and not finer and not again:
            continue  # quantized again: nothing that the name tells
        kept = own_cache(model)
        layers = f"what that has in {relative.weight_precision}" if again else "every linear layer"
        note += f", {layers} in {reading.precision} as its name says; which layers it leaves in 16 bits "
        note += "only its own config.json tells"
        return dataclasses.replace(
            relative,
            name=model,
            weight_precision=reading.precision,
            exceptions=relative.exceptions if again else (),
            cache_scheme=CacheScheme("modelopt", kept) if kept else None,
            notes=(*relative.notes, note),
        )
    return None


WIDE = frozenset(("bf16", "fp16", "fp32"))

_WORDS = {"fp8_block": "fp8", "mxfp4": "nvfp4"}
"""How checkpoints are published → the word by which names say so."""


def _loose(name: str) -> tuple[str, Path] | None:
    """What is shipped under a name that is spelled otherwise (``gptoss120b``, ``Qwen3 235B``, ``LLaMA v3.3 70B``)."""
    return _spelled().get(folded(name))


@cache
def _spelled() -> Mapping[str, tuple[str, Path]]:
    """Folded spelling → the checkpoint that it leaves out least of; of several alike the one with the shortest name."""
    nearest: dict[str, tuple[int, int, str, Path]] = {}
    for name, path in sorted(_index().values()):
        for left_out, spelling in spellings(name):
            entry = left_out, len(name), name, path
            nearest[spelling] = min(nearest.get(spelling, entry), entry)
    return {spelling: (name, path) for spelling, (_, _, name, path) in nearest.items()}


def _existing(model: str) -> Path | None:
    """``model`` as a path, where it names something that is there."""
    try:
        path = Path(model).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL byte: no path, then
        return None


@cache
def registered() -> tuple[RegisteredModel, ...]:
    """Every bundled model, by name."""
    return tuple(_registered(path) for path in _files())


def _registered(path: Path) -> RegisteredModel:
    entry, name = _entry(path), _name(path)
    architecture = _bundled(name, path)
    return RegisteredModel(
        name=name,
        published_parameters=entry["published_parameters"],
        published_active_parameters=entry.get("published_active_parameters"),
        max_context_tokens=architecture.max_context_tokens,
        weight_precision=architecture.weight_precision,
        license=entry.get("license"),
        source=entry["source"],
        same_config_as=tuple(entry.get("same_config_as", ())),
    )


def _files() -> list[Path]:
    return sorted(BUNDLED.glob("*.json"), key=lambda path: path.name.casefold())


def _name(path: Path) -> str:
    return path.stem.replace("--", "/", 1)


@cache
def _entry(path: Path) -> dict[str, Any]:
    try:
        entry = _read_json(path)
        missing = {"source", "published_parameters", "published_source", "config"} - entry.keys()
        if missing:
            raise InputError(f"{path.name} lacks {', '.join(sorted(missing))}", "")
    except InputError as error:
        raise DataError(f"bundled architecture: {error.message}", BROKEN) from error
    return entry


@cache
def _index() -> Mapping[str, tuple[str, Path]]:
    """Folded name -> (name, file). A bare name that two organisations share is left out."""
    full = {name: path for path in _files() for name in (_name(path), *_entry(path).get("same_config_as", ()))}
    bare: dict[str, list[str]] = {}
    for name in full:
        bare.setdefault(name.rpartition("/")[2].casefold(), []).append(name)
    index = {short: (names[0], full[names[0]]) for short, names in bare.items() if len(names) == 1}
    return index | {name.casefold(): (name, path) for name, path in full.items()}


@cache
def _bundled(name: str, path: Path) -> Architecture:
    canonical = _name(path)
    if name != canonical:
        return dataclasses.replace(_bundled(canonical, path), name=name)
    try:
        return parse_config(_entry(path)["config"], name)
    except InputError as error:
        raise DataError(f"bundled architecture: {error.message}", BROKEN) from error


def _from_path(path: Path) -> Architecture:
    name, config, _ = _config_at(path)
    return parse_config(config, name)


def read_config(model: str) -> tuple[str, dict[str, Any], Path | None] | None:
    """(name, ``config.json``, the folder of its checkpoint) of a model that is given as a path; None for the name of a
    bundled one. A file of another name than ``config.json`` has no checkpoint beside it: None.

    Raises:
        UnknownName: neither a bundled model nor a path.
        InputError: the file cannot be read, or is not a JSON object.
    """
    if model.casefold() in _index():
        return None
    path = _existing(model)
    if path is None:
        find_architecture(model)  # raises
        return None
    return _config_at(path)


def read_head(text: str) -> tuple[str, dict[str, Any]]:
    """(name, ``config.json``) of a draft head that is given as a path.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not a JSON object.
    """
    path = _existing(text)
    if path is None:
        raise InputError(
            f"draft_model: {shown(text)} is no file",
            "give the config.json of an EAGLE or EAGLE-3 head, or its folder",
            field="draft_model",
        )
    name, config, _ = _config_at(path, "draft_model")
    return name, config


QUANTIZATION_FILE = "hf_quant_config.json"
"""Beside ``config.json``; beside ``NAME_config.json``, where many are in one folder, with ``NAME_`` before it."""


def _config_at(path: Path, field: str = "model") -> tuple[str, dict[str, Any], Path | None]:
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{field}: {str(path)!r} holds no config.json",
            "name the folder of a Hugging Face model, or its config.json",
            field=field,
        )
    config = _read_json(file)
    # NVIDIA ModelOpt keeps the quantization beside the config: without it the weights would look 16 bits wide
    prefix = file.name.removesuffix("config.json") if file.name.endswith("config.json") else ""
    beside = next(filter(Path.is_file, (file.with_name(f"{each}{QUANTIZATION_FILE}") for each in (prefix, ""))), None)
    if "quantization_config" not in config and beside is not None:
        quantization = _read_json(beside).get("quantization")
        if not isinstance(quantization, Mapping):
            raise InputError(f"{beside}: has no 'quantization'", "give the file that ModelOpt wrote")
        config["quantization_config"] = {"quant_method": "modelopt", **quantization}
    whole = file.name == "config.json"
    name = file.resolve().parent.name if whole else file.stem.removesuffix("_config")
    return name, config, (file.parent if whole else None)


def _read_json(file: Path) -> dict[str, Any]:
    """The object in ``file``; errors name it, and the line where the JSON ends to be JSON."""
    source = Source(file, "", "give the config.json of a Hugging Face model", LARGEST_CONFIG)
    content = read_json(source, as_python=True)  # Mamba's have "time_step_limit": [0.0, Infinity]
    if not isinstance(content, dict):
        raise source.wrong(f"line 1: a JSON object is expected, not {shown(content)}")
    return content
