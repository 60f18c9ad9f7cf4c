"""``plan keys``: who may ask the service."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, page, table
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over_json
from profiles.errors import InputError, UnknownName

if TYPE_CHECKING:
    from api.storage.keys import Key, Keys

app = typer.Typer(no_args_is_help=True, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})

DatabaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The service's database. Default: as `plan serve` (SHARDWRIGHT_DATABASE_URL)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Which = Annotated[str, typer.Argument(metavar="KEY", help="Its id or name.", show_default=False)]


@app.command("create")
@flowing
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for.", show_default=False)],
    scopes: Annotated[str, typer.Option(help="What it may: read, plan, upload, admin.")] = "read,plan",
    rate: Annotated[str | None, typer.Option(metavar="N/TIME", help="Requests: 10/second, 600/minute.")] = None,
    quota: Annotated[str | None, typer.Option(metavar="N/TIME", help="Questions: 1000/day.")] = None,
    priority: Annotated[str, typer.Option(help="high, normal or low: jobs of a higher class go first.")] = "normal",
    expires_days: Annotated[float | None, typer.Option(metavar="DAYS", help="How long it holds.")] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Makes a key and prints it, once: only a hash of it is kept. Send it as `Authorization: Bearer KEY`.

    Examples:

      plan keys create ci --scopes read,plan --rate 10/second
    """
    from api.service_settings import parsed_rate
    from api.storage.keys import RANKS, parsed_scopes

    check_target(output)
    understood = parsed_scopes(scopes)
    if priority not in RANKS:
        raise UnknownName("--priority", priority, RANKS, f"choose from {', '.join(RANKS)}")
    for option, text in (("--rate", rate), ("--quota", quota)):
        if text is not None:
            try:
                parsed_rate(text)
            except ValueError as error:
                message, _, hint = str(error).partition("; ")
                raise InputError(f"{option}: {message}", hint) from error
    if expires_days is not None and not 0 < expires_days <= 36_500:
        raise InputError(f"--expires-days: {expires_days} is not between 0 and 36500", "give days, e.g. 90")
    expires = None if expires_days is None else time.time() + expires_days * 86_400
    key, text = _keys(database_url).create(name, understood, rank=priority, rate=rate, quota=quota, expires=expires)
    _tell(key, text, output, as_json=as_json, quiet=quiet)


@app.command("list")
@flowing
def listed(
    database_url: DatabaseUrl = None, as_json: AsJson = False, output: JsonOutput = None, _quiet: Quiet = False
) -> None:
    """Lists keys: id, name, scopes, and whether each holds. None is shown itself.

    Examples:

      plan keys list --json
    """
    check_target(output)
    found = _keys(database_url).listed()
    if not hand_over_json({"keys": [_fields(key) for key in found]}, output, as_json=as_json):
        return
    rows = table("id", "name", "scopes", "priority", "rate", "quota", "made", "state", left=8)
    for key in found:
        fields = _fields(key)
        rows.add_row(
            key.id,
            key.name,
            ",".join(key.scopes),
            fields["priority"],
            key.rate or "",
            key.quota or "",
            fields["created_at"][:10],
            fields["state"],
        )
    with page() as out:
        out.print(rows)


@app.command("revoke")
@flowing
def revoke(
    key: _Which,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """Ends a key: when this returns, no service takes it any more. What was made with it stays.

    Examples:

      plan keys revoke ci
    """
    from api.storage.keys import SEEN_S

    check_target(output)
    ended = _keys(database_url).revoke(key)
    time.sleep(SEEN_S)
    if hand_over_json(_fields(ended), output, as_json=as_json):
        typer.echo(f"revoked {ended.id} ({ended.name})")


@app.command("rotate")
@flowing
def rotate(
    key: _Which,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Gives a key a new text and prints it, once; the old one holds no more. Whoever has it sees what was made with
    the old one.

    Examples:

      plan keys rotate ci
    """
    from api.storage.keys import SEEN_S

    check_target(output)
    same, text = _keys(database_url).rotate(key)
    time.sleep(SEEN_S)
    _tell(same, text, output, as_json=as_json, quiet=quiet)


def _keys(database_url: str | None) -> Keys:
    from api.rest.configuration import opened_database
    from api.storage.keys import Keys

    return Keys(opened_database(database_url))


def _tell(key: Key, text: str, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    if not hand_over_json({"id": key.id, "key": text}, output, as_json=as_json):
        return
    typer.echo(text)
    if not quiet:
        typer.echo(f"key {key.id} ({key.name}): {', '.join(key.scopes)}. It is not shown again.", err=True)


def _fields(key: Key) -> dict[str, Any]:
    from api.storage.keys import RANKS

    def when(seconds: float | None) -> str | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")

    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "priority": RANKS[key.rank],
        "rate": key.rate,
        "quota": key.quota,
        "created_at": when(key.created),
        "expires_at": when(key.expires),
        "revoked_at": when(key.revoked),
        "state": "revoked" if key.revoked is not None else "holds" if key.holds else "expired",
    }
