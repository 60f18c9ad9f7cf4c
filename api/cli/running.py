"""Running the command: errors become two lines and an exit code. What is known of typer's and click's insides is here.

typer brings its own copy of click or uses the installed one, by version, so no class of click is imported: a usage
error is known by what it can do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import typer

from api.cli.arguments import check_text, in_brief, strict
from api.cli.framework_words import in_our_words
from api.settings import settings
from profiles.errors import ShardwrightError
from profiles.values import named as named_file
from profiles.values import shortened, shown

COMMON = ("profiles", "quiet")
"""Settings beside the fields of requests."""

COLLECT = (400_000, 20, 20)
"""Garbage is looked for so seldom: a command makes much and drops little (a twelfth of a plan's CPU time), and imports
most of it."""

_NO_COMMAND = re.compile(r"No such command '(.*?)'")

INTERRUPTED = 130
BROKEN_PIPE = 141

_ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""What click calls ClickException: BadParameter is a UsageError is a ClickException."""


def run(
    named: Callable[[Sequence[str]], typer.Typer], whole: Callable[[], typer.Typer], arguments: Sequence[str] | None
) -> int:
    """Runs ``arguments`` (default: the process's) and returns the exit code. What is wrong takes two lines on standard
    error, ``error:`` and ``hint:``.

    Args:
        named: the application with the commands that arguments name, which are all that is imported.
        whole: with all, of which a name may be a misspelling.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without × or ≤ is no reason to fail
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        check_text(given)
        try:
            code = _main(named(given), given)
        except _ClickError as error:
            if str(error).startswith("No such command"):
                code = _main(whole(), given)
            elif type(error).__name__ == "NoSuchOption" and (again := in_our_words(given)) != given:
                code = _main(named(again), again)
            else:
                raise
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except ShardwrightError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except _ClickError as error:
        return _usage(error, given)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _silence()
    except OSError as error:  # of a path that nobody could look at, or of standard output on a full disk
        if error.filename is not None:
            return _complain(f"{named_file(error.filename)} cannot be used ({error.strerror})", "name another file", 2)
        _silence()
        return _complain(f"standard output cannot be written ({error.strerror})", "make room, or write elsewhere", 2)
    except SystemExit as stop:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":  # typer's own way out of a broken pipe
            return _silence()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _main(app: typer.Typer, given: list[str]) -> Any:
    return strict(typer.main.get_command(app), given).main(
        given, prog_name="plan", standalone_mode=False, default_map=usual_options(app)
    )


def usual_options(app: typer.Typer) -> dict[str, Any]:
    """What the settings say of options, as click takes defaults: for the command itself and for each below it, of the
    fields of its request and of what all commands mean alike."""
    usual = {name: each.value for name, each in settings().items()}
    if not usual:
        return {}

    def of(command: object) -> dict[str, Any]:
        known = {*COMMON, *getattr(command, "fields", ())}
        return {name: value for name, value in usual.items() if name in known}

    below = {command.name: of(command.callback) for command in app.registered_commands if command.name}
    return {**usual, **below}


def _usage(error: Any, given: Sequence[str]) -> int:
    """typer's usage errors in our shape; a group that was given nothing to do shows its help."""
    message = in_brief(str(error.format_message()))  # composing the help prints it
    if type(error).__name__ == "NoArgsIsHelpError":
        return 0
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "plan"
    if context is not None and (found := _NO_COMMAND.match(message)):
        flags = [each for each in context.command.params if getattr(each, "is_flag", False)]
        names = {
            name: (*each.opts, *each.secondary_opts) for each in flags for name in (*each.opts, *each.secondary_opts)
        }
        for before, word in pairwise(given):
            if before in names and word == found[1]:
                way_out = f"{' or '.join(names[before])} stands alone; `{command} --help` lists the commands"
                return _complain(f"{before}: takes no value, and {shown(word)} is no command", way_out, 2)
    return _complain(message.rstrip(".") or type(error).__name__, f"see `{command} --help`", 2)


def _complain(message: str, hint: str, code: int) -> int:
    for label, text in (("error", message), ("hint", hint)):
        print(f"{label}: {shortened(' '.join(text.split()))}", file=sys.stderr)
    return code


def _silence() -> int:
    """Nobody reads any more: keep the interpreter from complaining about it when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
