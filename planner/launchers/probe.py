"""Writes what the argument parser of an installed serving framework says: names, types, choices, defaults, what is old.

Run by ``python -m planner.launchers.refresh`` with the interpreter of the framework's own environment, which knows
nothing of this package: it needs the standard library alone, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

_TYPES = {"int": "int", "float": "float", "str": "str", "bool": "bool", "human_readable_int": "int"}
_TYPES |= {"human_readable_int_or_auto": "int", "loads": "json", "parse_dataclass": "json", "parse_type": "str"}
_TYPES |= {"union_dict_and_str": "str", "optional_float": "float", "optional_int": "int"}
_GONE = re.compile(r"^\W*(this (flag|option|argument) is )?deprecated|is deprecated|will be removed", re.IGNORECASE)


def _wrapped(function: Any, name: str) -> Any:
    """What a closure calls ``name``."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    return cells[name].cell_contents if name in cells else None


def _type(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "bool"
    function: Any = action.type
    if function is None:
        return "str"
    name = getattr(function, "__name__", type(function).__name__)
    if name == "_optional_type":
        function = _wrapped(function, "return_type") or str
        name = getattr(function, "__name__", "str")
    if name == "<lambda>" or name not in _TYPES:
        return "str"
    return _TYPES[name]


def _plain(value: Any) -> Any:
    """A default as JSON has it; null for what it cannot hold: objects, and what is worked out."""
    if value is None or isinstance(value, bool | int | str):
        return None if value == argparse.SUPPRESS else value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, list | tuple | set | frozenset) and all(isinstance(each, str | int | float) for each in value):
        return sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
    if isinstance(value, Mapping) and not value:
        return {}
    return None


def _literals(annotation: Any) -> list[Any] | None:
    """The values that an annotation allows, where it lists all of them."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        found = [_literals(part) for part in parts]
        if found and all(each is not None for each in found):
            return [value for each in found for value in each or ()]
    return None


def _read_by(function: Any) -> Any:
    """The dataclass that reads the JSON of an option, or None."""
    if getattr(function, "__name__", "") == "_optional_type":
        function = _wrapped(function, "return_type")
    if not inspect.isfunction(function):
        return None
    parameter = inspect.signature(function).parameters.get("cls")
    class_: Any = _wrapped(function, "cls") if parameter is None else parameter.default
    return class_ if dataclasses.is_dataclass(class_) else None


def _fields(class_: Any) -> dict[str, Any]:
    """Keys of a JSON object that a dataclass reads: key → its choices, or null."""
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        hints = typing.get_type_hints(class_)
    names = [each.name for each in dataclasses.fields(class_) if each.init]
    return {name: _literals(hints.get(name)) for name in sorted(names)}


def _options(parser: argparse.ArgumentParser, more: Mapping[str, list[str]]) -> dict[str, Any]:
    """Every option of ``parser``; ``more``: choices that the parser leaves to what runs after it, by option."""
    out: dict[str, Any] = {}
    old: set[argparse.Action] = getattr(parser, "_deprecated", set())
    for action in parser._actions:
        if not action.option_strings or action.dest == "help":
            continue
        names = [name for name in action.option_strings if name.startswith("--")] or list(action.option_strings)
        dashed = action.dest.replace("_", "-")
        first = f"--{dashed}" if f"--{dashed}" in names else max(names, key=len)
        negation = next((name for name in names if name == f"--no-{first[2:]}"), None)
        option: dict[str, Any] = {"type": _type(action)}
        if others := [name for name in action.option_strings if name not in (first, negation)]:
            option["aliases"] = others
        if negation:
            option["negation"] = negation
        if action.nargs in ("*", "+") or (isinstance(action.nargs, int) and action.nargs > 1):
            option["takes"] = "many"
        elif action.nargs == "?":
            option["takes"] = "optional"
        elif action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            option["takes"] = "none"
        choices = list(action.choices) if action.choices is not None else more.get(first)
        if choices is not None:
            option["choices"] = sorted((_plain(each) for each in choices), key=str)
        if (default := _plain(action.default)) is not None:
            option["default"] = default
        if (class_ := _read_by(action.type)) is not None:
            option["fields"] = _fields(class_)
        text = action.help if isinstance(action.help, str) else ""
        if action in old or "Deprecated" in type(action).__name__ or _GONE.search(text):
            new = getattr(action, "new_flag", None)
            option["deprecated"] = f"use {new}" if new else "deprecated"
        out[first] = option
    return dict(sorted(out.items()))


def vllm() -> dict[str, Any]:
    platforms: Any = importlib.import_module("vllm.platforms")
    platforms._current_platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform()
    cli: Any = None
    for place in ("common", "launchers", "openai"):  # by release: 0.33, 0.29, 0.20
        try:
            cli = importlib.import_module(f"vllm.entrypoints.{place}.cli_args")
            break
        except ModuleNotFoundError:
            if place == "openai":
                raise
    parser = cli.make_arg_parser(importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())
    connectors = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.factory").KVConnectorFactory
    quantization = importlib.import_module("vllm.model_executor.layers.quantization").QUANTIZATION_METHODS
    backends = importlib.import_module("vllm.v1.attention.backends.registry").AttentionBackendEnum
    cache_types = typing.get_args(importlib.import_module("vllm.config.cache").CacheDType)
    options = _options(
        parser,
        {
            "--kv-cache-dtype": list(cache_types),
            "--quantization": list(quantization),
            "--attention-backend": list(backends.__members__),
        },
    )
    speculation = importlib.import_module("vllm.config.speculative").SpeculativeConfig
    options["--speculative-config"] |= {"type": "json", "fields": _fields(speculation)}
    options["--kv-transfer-config"]["fields"]["kv_connector"] = sorted(connectors._registry)
    return {"options": options, "underscores": True, "beginnings": True, "series": 2}


class _Absent(types.ModuleType):
    """Stands for a module that is imported and not used: whatever is asked of it is another."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")


class _Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds such modules under one name."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] != self.package:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def sglang() -> dict[str, Any]:
    try:
        importlib.import_module("torchvision")
    except ImportError:
        sys.meta_path.append(_Absence("torchvision"))
    arguments: Any = importlib.import_module("sglang.srt.server_args")
    parser = argparse.ArgumentParser()
    arguments.ServerArgs.add_cli_args(parser)
    return {"options": _options(parser, {}), "underscores": False, "beginnings": True}


def _router(module: str) -> dict[str, Any]:
    arguments: Any = importlib.import_module(f"{module}.router_args")
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", type=str)
    parser.add_argument("--port", type=int)
    arguments.RouterArgs.add_cli_args(parser, use_router_prefix=False, exclude_host_port=True)
    return {"options": _options(parser, {}), "underscores": False, "beginnings": True, "series": 2}


def vllm_router() -> dict[str, Any]:
    return _router("vllm_router")


def sglang_router() -> dict[str, Any]:
    return _router("sglang_router")


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "vllm": vllm,
    "sglang": sglang,
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
}

if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # what frameworks say while they are imported
        found = PROBES[sys.argv[1]]()
    print(json.dumps(found))
