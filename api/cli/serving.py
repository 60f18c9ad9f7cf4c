"""The service as a process: opened before it listens, and closed in good order."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from types import FrameType

import uvicorn

from api.cli.explanations import explained
from api.rest import logs
from api.rest.app import create_app
from api.rest.service import Service
from api.rest.wire import IDLE_S, wire
from api.service_settings import ServiceSettings

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


def run(settings: ServiceSettings, listening: socket.socket) -> None:
    """Serves until a signal.

    Raises:
        InputError, DatabaseAway: the database cannot be used.
    """
    logs.configure(settings)
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
    print(
        f"serving {scheme}://{host}:{settings.port} from {service.planner.database.shown}", file=sys.stderr, flush=True
    )
    sys.setswitchinterval(_TURN_S)
    gc.collect()
    gc.freeze()  # what was imported stays: looking through all of it again takes 0.1 s, in which nobody is answered
    gc.set_threshold(_GARBAGE, 10, 10)
    Serving(config, service).run(sockets=[listening])
