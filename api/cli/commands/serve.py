"""``plan serve``: the REST service on this machine."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

import typer

from profiles.errors import InputError
from profiles.values import shown


def serve(
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Starts the REST service: POST /v1/plans takes the same request as JSON.

    It has no keys and no limits yet, so it listens to this machine only. Stop it with Ctrl-C.

    Examples:

      plan serve

      plan serve --port 9000
    """
    check_loopback(host)
    check_port(host, port)
    import uvicorn

    from api.rest.app import create_app

    uvicorn.run(create_app(), host=host, port=port, log_level="info")


def check_loopback(host: str) -> None:
    """Raises :class:`InputError` unless ``host`` is this machine and nothing else."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InputError(
            f"--host: {shown(host)} is not a loopback address: the service has no keys and no limits yet",
            "use 127.0.0.1, ::1 or localhost, and a tunnel (ssh -L) from elsewhere",
        )


def check_port(host: str, port: int) -> None:
    """Raises :class:`InputError` unless ``port`` can be listened on now."""
    if not 0 < port < 65536:
        raise InputError(f"--port: {port} is not between 1 and 65535", "8000 is the default")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--port: {port} on {host} cannot be had ({error.strerror})", "choose another --port"
            ) from error
