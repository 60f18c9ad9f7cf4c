"""What holds of every command: the options that all have, and what none of them takes for its default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from api.cli.main import application, main

Command = tuple[tuple[str, ...], Any]


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command that does something, with its words."""
    below = getattr(command, "commands", {})
    if not below or path in ((), ("train",)):
        yield path, command
    for name, each in below.items():
        yield from commands(each, (*path, name))


EVERY = list(commands(typer.main.get_command(application())))
IDS = [" ".join(("plan", *path)) for path, _ in EVERY]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_every_command_can_be_quiet_and_writes_its_document(path: tuple[str, ...], command: Any) -> None:
    names = {name for each in command.params for name in each.opts}
    assert {"--quiet", "-q", "--output", "-o", "--json"} <= names, path


@pytest.mark.parametrize(("path", "command"), EVERY, ids=IDS)
def test_an_option_without_a_value_is_not_its_default(
    path: tuple[str, ...], command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in command.params:
        name = max(each.opts, key=len)
        if not name.startswith("-") or getattr(each, "is_flag", False) or "completion" in name:
            continue
        for blank in ("", "  "):
            assert main([*path, name, blank]) == 2, name
            out, err = capsys.readouterr()
            first, second = err.splitlines()
            assert not out, name
            assert first.startswith(f"error: {name}: "), name
            assert second.startswith("hint: "), name
