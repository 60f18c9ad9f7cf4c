"""``plan serve``: the REST service."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import flowing, page, table
from api.cli.options import JsonOutput, Quiet, takes
from api.cli.output import check_target, hand_over_json
from api.service_settings import SECRET, ServiceSettings
from profiles.errors import InputError


@takes(ServiceSettings)
@flowing
def serve(
    asked: dict[str, Any],
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting and where it is from, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --print-config: as JSON.")] = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Starts the REST service: one POST a kind takes the same request as JSON. Stop it with Ctrl-C.

    Every option has its variable (--queue-limit: SHARDWRIGHT_QUEUE_LIMIT) and its key in shardwright.toml. On loopback
    it answers without a key; anywhere else it asks for one (`plan keys create`).

    Examples:

      plan serve

      plan serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    from api.rest.configuration import from_settings  # deferred: it brings the database's packages

    settings = from_settings(asked)
    if print_config:
        _print_config(settings, asked, output, as_json=as_json)
        return
    for option, given in (("--json", as_json), ("--output", output is not None)):
        if given:
            raise InputError(f"{option}: has no effect without --print-config", "leave it out")
    listening = bound(settings.host, settings.port)
    from api.cli.serving import run

    with listening:
        run(settings, listening, quiet=quiet)


def _print_config(settings: ServiceSettings, asked: dict[str, Any], output: Path | None, *, as_json: bool) -> None:
    check_target(output)
    from api.settings import settings as found
    from api.storage.database import Database

    sources = {name: each.source for name, each in found().items()}
    rows = []
    for name, value in settings.model_dump(mode="json").items():
        source = f"--{name.replace('_', '-')}" if name in asked else sources.get(name, "default")
        if name in SECRET and value is not None:
            value = Database(value).shown
        rows.append({"name": name, "value": value, "source": source})
    if not hand_over_json({"settings": rows}, output, as_json=as_json):
        return
    shown = table("setting", "value", "from", left=3)
    for row in rows:
        value = (
            "" if row["value"] is None else row["value"] if isinstance(row["value"], str) else json.dumps(row["value"])
        )
        shown.add_row(str(row["name"]), str(value), str(row["source"]))
    with page() as out:
        out.print(shown)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: the address is none of this machine, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host: {host!r} is no address of this machine", "127.0.0.1 is this machine, 0.0.0.0 all of its networks"
        ) from error
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(2048)
    except OSError as error:
        made.close()
        raise InputError(
            f"--port: {port} on {host} cannot be had ({error.strerror})", "choose another --port"
        ) from error
    return made
