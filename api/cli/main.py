"""``plan``: from a model, GPUs and a promise to a layout with its proof."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any

import typer

from api.cli import running

COMMANDS = {
    "models": "catalogue:models",
    "gpus": "catalogue:gpus",
    "predict": "predict:predict",
    "calibrate": "calibrate:calibrate",
    "memory": "memory:memory",
    "simulate": "simulate:simulate",
    "fleet": "fleet:fleet",
    "check": "check:check",
    "compare": "compare:compare",
    "import": "importing:import_",
    "export": "export:export",
    "power": "power:power",
    "experts": "experts:experts",
    "schema": "schema:schema",
    "serve": "serve:serve",
}
"""Module of ``api.cli.commands`` and function, in the order of the help."""

GROUPS: dict[str, str | None] = {
    "profile": None,
    "train": None,
    "keys": "Who may ask the service.",
    "db": "The service's database.",
    "prices": None,
}
"""Commands with commands below them, of the module of their name; and their help, where that does not say it."""


def application(wanted: Collection[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """``plan`` with those of its commands that are ``wanted``: only they are imported."""
    app = typer.Typer(
        name="plan",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        epilog="Without a command, plans. Exit codes: 2 bad input, 3 no plan satisfies it, 4 out of time.",
    )
    app.callback(invoke_without_command=True)(_module("plan").plan)
    for name, place in COMMANDS.items():
        if name in wanted:
            module, function = place.split(":")
            app.command(name)(getattr(_module(module), function))
    for name, text in GROUPS.items():
        if name in wanted:
            group: typer.Typer = _module(name).app
            app.add_typer(group, name=name, help=text or group.info.help)
    return app


def _module(name: str) -> Any:
    return import_module(f"api.cli.commands.{name}")


def _named(arguments: Sequence[str]) -> Collection[str]:
    """The commands that ``arguments`` may mean."""
    every = (*COMMANDS, *GROUPS)
    named = [name for name in every if name in arguments]
    all_are_shown = not arguments or (arguments[0] not in every and {"-h", "--help"} & set(arguments))
    completes = "_PLAN_COMPLETE" in os.environ or any("-completion" in each for each in arguments)
    return every if all_are_shown or completes else named


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: runs ``arguments`` (default: the process's) and returns the exit code."""
    gc.set_threshold(*running.COLLECT)
    return running.run(lambda given: application(_named(given)), application, arguments)


if __name__ == "__main__":
    sys.exit(main())
