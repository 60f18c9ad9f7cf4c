"""trtllm-serve's file of options → what it says under our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.contract.files import mapping_of
from planner.imports.command_line import Arguments
from planner.imports.named_files import text_named
from profiles.errors import InputError
from profiles.values import shown

_READS_NO_FILE = "write its options as flags, or give the file beside the command"
BALANCER = "moe_config.load_balancer"
"""What balances experts: a mapping, or a file that holds one (llmapi/llm_args.py, MoeLoadBalancerConfig)."""
SLOTS, UPDATES = "num_slots", "layer_updates_per_iter"


@dataclass(frozen=True)
class OptionsRead:
    """``said``: values under our names. ``slots``: of experts and their copies, where a balancer says it;
    ``moves``: whether it moves them; None: there is no balancer. ``unread``: fields without a meaning here."""

    said: dict[str, Any] = field(default_factory=dict)
    slots: int | None = None
    moves: bool | None = None
    unread: tuple[str, ...] = ()


def options_file(line: Arguments, files: Mapping[str, str]) -> OptionsRead:
    """What the file that a command names says.

    Raises:
        InputError: nobody says what the file holds, it is no mapping, or its balancer is none.
    """
    given = line.of("options_file")
    if given is None or given.value is None:
        return OptionsRead()
    name = given.value
    text = text_named(files, name)
    if text is None:
        raise InputError(f"{given.written} {shown(name)}: what the file says is not known", _READS_NO_FILE)
    whole = mapping_of(text, f"options file {name}", "give trtllm-serve's options")
    slots, moves = _balancer(whole, files)
    table = line.options.meanings.file
    said: dict[str, Any] = {}
    unread: dict[str, None] = {}
    for path, value in _leaves(whole, ""):
        if path in table:
            said[table[path]] = value
        elif not (path == BALANCER or path.startswith(f"{BALANCER}.")):
            unread[path.partition(".")[0]] = None
    return OptionsRead(said, slots, moves, tuple(unread))


def _balancer(whole: Mapping[str, Any], files: Mapping[str, str]) -> tuple[int | None, bool | None]:
    """(slots, whether experts move) of what balances experts; (None, None): nothing does."""
    experts = whole.get("moe_config")
    given = experts.get("load_balancer") if isinstance(experts, Mapping) else None
    given = whole.get("moe_load_balancer") if given is None else given
    if given is None:
        return None, None
    if isinstance(given, str):
        text = text_named(files, given)
        if text is None:
            raise InputError(f"{BALANCER} {shown(given)}: what the file says is not known", _READS_NO_FILE)
        given = mapping_of(text, f"{BALANCER} {given}", f"give {SLOTS} and {UPDATES}")
    if not isinstance(given, Mapping):
        raise InputError(f"{BALANCER}: {shown(str(given))} is no mapping", f"give {SLOTS} and {UPDATES}")
    slots, updates = given.get(SLOTS), given.get(UPDATES, 0)
    for name, value in ((SLOTS, slots), (UPDATES, updates)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError(f"{BALANCER}.{name}: {shown(str(value))} is not a whole number", "give a number")
    return slots, updates > 0


def _leaves(node: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in node.items():
        path = f"{above}{name}"
        found += _leaves(value, f"{path}.") if isinstance(value, Mapping) else [(path, value)]
    return found
