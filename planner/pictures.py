"""Figures as files; matplotlib (extra ``plot``) is imported only here."""

from __future__ import annotations

import io
from html import escape
from pathlib import Path
from typing import Any

from profiles.errors import InputError, Unsupported

KINDS = (".png", ".svg", ".html")


def check_kind(path: Path, example: str) -> None:
    """Raises InputError for a suffix that is not drawn, Unsupported where matplotlib is not installed."""
    if path.suffix.casefold() not in KINDS:
        raise InputError(f"--plot: {path.name} is not one of {', '.join(KINDS)}", f"name the file {example}")
    new_figure()


def new_figure(**options: Any) -> Any:
    """A matplotlib figure.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported(
            "--plot: matplotlib is not installed", "pip install 'shardwright[plot]', or leave --plot out"
        ) from error
    return Figure(layout="constrained", **options)


def drawn(figure: Any, kind: str, title: str) -> bytes:
    """``figure`` as a file of ``kind``, the same bytes for the same figure. An HTML page holds its picture (SVG) within
    and needs nothing else."""
    from matplotlib import rc_context

    figure.suptitle(title)
    form = "png" if kind == ".png" else "svg"
    out = io.BytesIO()
    # Text as paths, a fixed salt and no date.
    with rc_context({"svg.hashsalt": "shardwright", "svg.fonttype": "path"}):
        figure.savefig(out, format=form, dpi=120, metadata={"Date": None} if form == "svg" else {"Software": None})
    if kind != ".html":
        return out.getvalue()
    picture = out.getvalue().decode("utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>\n'
        f"<body>\n{picture[picture.index('<svg') :]}\n</body></html>\n"
    ).encode()
