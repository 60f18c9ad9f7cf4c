"""``plan db``: the service's database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.commands.keys import AsJson, DatabaseUrl
from api.cli.console import flowing
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over_json
from profiles.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command("upgrade")
@flowing
def upgrade(
    database_url: DatabaseUrl = None, as_json: AsJson = False, output: JsonOutput = None, _quiet: Quiet = False
) -> None:
    """Brings a database that an older version wrote to today's schema; makes the tables of an empty one. Make a backup
    first, and stop the service.

    Examples:

      plan db upgrade
    """
    from api.rest.configuration import database_of
    from api.storage.schema import upgrade as upgraded

    check_target(output)
    database = database_of(database_url)
    before, now = upgraded(database)
    document = {"database": database.shown, "schema": now, "schema_before": before}
    if hand_over_json(document, output, as_json=as_json):
        typer.echo(f"{database.shown}: schema {now}" + ("" if before == now else f" (was {before or 'empty'})"))


@app.command("prune")
@flowing
def prune(
    keep_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Forget documents and ended jobs that are older.")
    ] = None,
    keep_documents: Annotated[int | None, typer.Option(metavar="N", help="Keep so many documents, the newest.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """Forgets what is old, by age or count. Without options: as SHARDWRIGHT_KEEP_DAYS and SHARDWRIGHT_KEEP_DOCUMENTS
    say. The service may run.

    Examples:

      plan db prune --keep-days 90
    """
    from api.rest.configuration import from_settings, opened_database
    from api.storage.upkeep import prune as pruned

    check_target(output)
    given = {"keep_days": keep_days, "keep_documents": keep_documents}
    settings = from_settings({name: value for name, value in given.items() if value is not None})
    if settings.keep_days is None and settings.keep_documents is None:
        raise InputError("--keep-days is missing", "say what is kept: --keep-days 90, or --keep-documents 10000")
    gone = pruned(opened_database(database_url), settings.keep_days, settings.keep_documents)
    if hand_over_json({"documents": gone.documents, "jobs": gone.jobs}, output, as_json=as_json):
        typer.echo(f"forgot {gone.documents:,} documents and {gone.jobs:,} jobs")


@app.command("backup")
@flowing
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; it must not be there.", show_default=False)],
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """Copies the database while it is used: an SQLite file, or an archive of pg_dump (`pg_restore` reads it).

    Examples:

      plan db backup service-backup.db
    """
    from api.rest.configuration import database_of
    from api.storage.upkeep import backup as copied

    check_target(output)
    copied(database_of(database_url), file)
    if hand_over_json({"backup": str(file)}, output, as_json=as_json):
        typer.echo(f"wrote {file}")
