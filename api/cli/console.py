"""Where the command line writes: people get tables of at most 100 columns, programs get JSON."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 100

Command = TypeVar("Command", bound=Callable[..., None])


def flowing(command: Command) -> Command:
    """Joins the lines of each paragraph of the help, so that it fills whatever width the terminal has."""
    command.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")
    return command


def console() -> Console:
    """Standard output for people: 100 columns where it is piped, at most that on a terminal. Nothing is taken
    for markup, since names and paths come from outside."""
    columns = shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH
    return Console(
        file=sys.stdout,
        width=min(WIDTH, columns),
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


@contextmanager
def page() -> Iterator[Console]:
    """A console whose output is written at the end, all at once and without trailing blanks."""
    out = console()
    with out.capture() as captured:
        yield out
    for line in captured.get().splitlines():
        print(line.rstrip())


def table(*columns: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and whose others are numbers."""
    out = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, padding=(0, 1))
    for index, heading in enumerate(columns):
        if index < left:
            out.add_column(heading, overflow="fold")
        else:
            out.add_column(heading, justify="right", no_wrap=True)
    return out


def write_text(text: str) -> None:
    """``text`` on standard output, byte for byte (UTF-8, no newline translated)."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # somebody replaced stdout by a text-only stream
        sys.stdout.write(text)
    else:
        buffer.write(text.encode("utf-8"))
        buffer.flush()


def as_json_text(document: object) -> str:
    """``document`` as indented JSON, with a newline at the end."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def heading(console: Console, text: str) -> None:
    """A section's title, with an empty line above."""
    console.print()
    console.print(Text(text, style="bold"))


def indented(console: Console, renderable: Table | Text) -> None:
    console.print(Padding(renderable, (0, 0, 0, 2), expand=False))


def facts(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Two columns: what, and its value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(Text(name, style="dim"), value)
    indented(console, grid)


def bullet(console: Console, text: str) -> None:
    """A note, its further lines hanging under the first."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("-", text)
    indented(console, grid)
