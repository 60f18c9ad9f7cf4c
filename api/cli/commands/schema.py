"""``plan schema``: JSON Schemas of documents and requests."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.console import flowing
from api.cli.options import Output, Quiet
from api.cli.output import check_target, hand_over_json
from planner.kinds import KINDS, schema_names

VALUES = "values"
"""What an export takes beside its document: no kind, since nothing is decided."""

_KINDS = "; ".join(f"{kind.name}: {kind.title}" for kind in KINDS.values())
_HELP = f"{', '.join((*schema_names(), VALUES))}. {_KINDS}; {VALUES}: what `plan export` takes beside its document."


@flowing
def schema(
    what: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"{', '.join((*schema_names(), VALUES))}. {_KINDS}; {VALUES}: what `plan export` takes.",
            show_default=True,
        ),
    ] = "plan",
    example: Annotated[bool, typer.Option("--example", help="Print a small valid document instead.")] = False,
    output: Output = None,
    _as_json: Annotated[bool, typer.Option("--json", help="As it is without it: JSON.")] = False,
    _quiet: Quiet = False,
) -> None:
    """JSON Schema of a kind of document, or of its request (KIND-request); `plan` and `request` are those of a plan.

    Examples:

      plan schema

      plan schema experts-request --example
    """
    from planner import kinds

    check_target(output)
    if what == VALUES:
        from planner.exports.values import values_example, values_schema

        hand_over_json(values_example() if example else values_schema(), output, as_json=True)
        return
    document = kinds.example(what) if example else kinds.schema(what)
    hand_over_json(document, output, as_json=True)
