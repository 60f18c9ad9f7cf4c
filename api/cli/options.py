"""Command options made from a request's fields, and options that several commands share.

A field whose ``Annotated`` has a :class:`planner.contract.options.Option` is an option of its name, type and default;
the command gets those that were given, under the fields' names, and the request's own schema says what is wrong."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from planner.contract.documents import Document
from planner.contract.options import LOAD, Option
from profiles.errors import InputError

ASKED = "asked"
"""The parameter of a command that gets the fields."""

SHOWN = "Output"

AsJson = Annotated[bool, typer.Option("--json", help="Print only the document.", rich_help_panel=SHOWN)]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Also write the document there.", rich_help_panel=SHOWN),
]
JsonOutput = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the JSON there.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.", rich_help_panel=SHOWN)
]
SkipFailed = Annotated[
    bool,
    typer.Option(
        "--skip-failed",
        help="Leave out requests of a trace without output, and count them.",
        rich_help_panel=LOAD,
    ),
]
Edited = Annotated[bool, typer.Option("--edited", help="Go on with a document that was edited since it was made.")]
Request = Annotated[
    str | None,
    typer.Option(
        "--request",
        metavar="FILE",
        help="The request as a document, YAML or JSON (`plan schema`); - reads standard input. An option beside it "
        "replaces its field.",
    ),
]

Profiles = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack. May be given again."),
]
Described = Annotated[
    list[Path] | None,
    typer.Option("--profiles", metavar="DIR", help="Know the GPU types that this store describes. May be given again."),
]
Prices = Annotated[
    list[Path] | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="Offers of your own (`plan prices import`), before the prices that ship. May be given again.",
    ),
]

Command = Callable[..., None]


def takes(request: type[Document]) -> Callable[[Command], Command]:
    """Gives a command the options of ``request`` before its own. Its parameter ``asked`` receives the fields that were
    given, as a dict. A parameter of the command that is named as a field (a file that is read for it) takes the field's
    place among the options."""

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = dict(inspect.signature(command).parameters)
        del own[ASKED]
        wants_context = own.pop("context", None) is not None
        made = dict(_options(request))

        def run(context: typer.Context, **values: Any) -> None:
            asked = Asked(
                {field: values[name] for name, (field, _, _) in made.items() if given(context, name)},
                usual={field: values[name] for name, (field, _, _) in made.items() if is_setting(context, name)},
            )
            rest = {name: value for name, value in values.items() if name not in made}
            command(**({"context": context} if wants_context else {}), asked=asked, **rest)

        known = {name: (hint, default) for name, (_, hint, default) in made.items()}
        known |= {name: (hints[name], parameter.default) for name, parameter in own.items()}
        order = [name for field, info in request.model_fields.items() if (name := _name(info, field)) in known]
        parameters = {name: known[name] for name in (*order, *own)}
        run.__annotations__ = {"context": typer.Context, **{name: hint for name, (hint, _) in parameters.items()}}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
                *(
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
                    for name, (hint, default) in parameters.items()
                ),
            ]
        )
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.fields = frozenset(made)  # type: ignore[attr-defined]
        return run

    return decorate


class Asked(dict[str, Any]):
    """The fields of a request that options gave, and the ``usual`` ones: what the user's settings say, where neither an
    option nor the request's document does."""

    def __init__(self, fields: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.usual = dict(usual)


def is_setting(context: typer.Context, name: str) -> bool:
    """Whether the parameter has its value from the user's settings (:mod:`api.settings`)."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def given(context: typer.Context, name: str) -> bool:
    """Whether the parameter was given on the command line, not left to its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def refuse_before_command(context: typer.Context) -> None:
    """Options of a group before one of its commands would be silently without effect.

    Raises:
        InputError: one was given.
    """
    before = [name for name in context.params if given(context, name)]
    if before:
        option = "--" + before[0].removeprefix("as_").replace("_", "-")
        raise InputError(
            f"{option}: has no effect before the command {context.invoked_subcommand!r}",
            f"put options after it, see `{context.command_path} {context.invoked_subcommand} --help`",
        )


def option_name(request: type[Document], field: str) -> str:
    """``--time-limit`` of the field ``time_limit_s``."""
    return "--" + _name(request.model_fields[field], field).replace("_", "-")


def _options(request: type[Document]) -> Iterator[tuple[str, tuple[str, Any, Any]]]:
    """(parameter, (field, its annotation for typer, its default)) of every field that is an option."""
    for field, info in request.model_fields.items():
        option = _said(info)
        if option is not None:
            name = _name(info, field)
            yield name, (field, *_option(option, info, name))


def _said(info: FieldInfo) -> Option | None:
    return next((each for each in info.metadata if isinstance(each, Option)), None)


def _name(info: FieldInfo, field: str) -> str:
    """The parameter that a field has."""
    option = _said(info)
    return (option and option.name) or field


def _option(option: Option, info: FieldInfo, name: str) -> tuple[Any, Any]:
    type_ = str if option.text else _plain_type(info.annotation)
    default = info.default if not option.text and isinstance(info.default, bool | int | float | str) else None
    names = [f"--{name.replace('_', '-')}"] if default is False else []  # a flag has no --no-…
    said = typer.Option(
        *names,
        help=option.said(info.description),
        rich_help_panel=option.panel,
        metavar=option.metavar,
        show_default=option.show_default and default is not None,
    )
    return Annotated[type_ if default is not None else type_ | None, said], default


def _plain_type(annotation: Any) -> Any:
    """What a value is on a command line: bool, int or float where the field is just that; else text, in the field's
    short form."""
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = {_plain_type(each) for each in get_args(annotation) if each is not types.NoneType}
        return kinds.pop() if len(kinds) == 1 else str
    if get_origin(annotation) is Literal:
        return str
    return annotation if annotation in (bool, int, float) else str
