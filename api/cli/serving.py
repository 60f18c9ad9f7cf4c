"""The service as a process: opened before it listens, and closed in good order."""

from __future__ import annotations

import gc
import signal
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType

import uvicorn

from api.cli.explanations import explained
from api.rest import logs
from api.rest.app import create_app
from api.rest.service import Service
from api.rest.wire import IDLE_S, wire
from api.service_settings import ServiceSettings
from profiles.errors import InputError
from profiles.files import MIB, Source
from profiles.values import named

_PEM = "name a certificate chain and its private key, both PEM and without a password"
_CLOSE_S = 10
"""What connections get to end, once those that wait have been told."""

_TURN_S = 0.001
"""After this a thread that computes lets the one of the connections go on; Python's own 5 ms are felt at the 99th
percentile."""

_GARBAGE = 20_000
"""Objects after which young ones are looked through; Python's own 700 means hundreds of looks a second."""


class Serving(uvicorn.Server):
    """uvicorn, which says at the first signal that the service ends: whoever waits for a job then gets its address."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.planner.closing.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True  # and exit code 0: uvicorn's own would raise the signal again at the end


def check_tls(settings: ServiceSettings) -> None:
    """Raises InputError where certificate and key cannot be read, or do not belong together."""
    if settings.tls_cert is None or settings.tls_key is None:
        return
    for name, file in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        Source(Path(file), name, _PEM, MIB).text()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, "")
    except (OSError, ssl.SSLError) as error:
        reason = str(getattr(error, "reason", None) or "one is not PEM, or has a password").replace("_", " ")
        raise InputError(
            f"tls_cert: {named(settings.tls_cert)} with its key cannot be used ({reason})", _PEM
        ) from error


def run(settings: ServiceSettings, listening: socket.socket, *, quiet: bool) -> None:
    """Serves until a signal. A ``quiet`` one does not say where; its log is the settings' (``log_level``).

    Raises:
        InputError, DatabaseAway: the database or the certificate cannot be used.
    """
    logs.configure(settings)
    check_tls(settings)
    app = create_app(settings=settings, explain=explained)
    service = app.state.service
    service.planner.start()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=wire(settings.body_timeout),
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=_CLOSE_S,
        server_header=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if not quiet:
        where = f"serving {scheme}://{host}:{settings.port} from {service.planner.database.shown}"
        print(where, file=sys.stderr, flush=True)
    sys.setswitchinterval(_TURN_S)
    gc.collect()
    gc.freeze()  # what was imported stays: looking through all of it again takes 0.1 s, in which nobody is answered
    gc.set_threshold(_GARBAGE, 10, 10)
    Serving(config, service).run(sockets=[listening])
