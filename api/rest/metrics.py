"""What Prometheus is told: requests, jobs, the queue, workers and the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from api.rest import openapi
from api.rest.service import Service
from api.storage.database import DatabaseAway
from api.work.answers import PACKAGE
from api.work.planner import Planner

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 3600)
_ENDS = ("done", "failed", "dropped", "queued")


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "shardwright_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "shardwright_http_request_duration_seconds",
            "Time to answer, waiting for jobs included.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._jobs = Counter(
            "shardwright_jobs_ended",
            "Jobs that ended here: done, failed, dropped (cancelled, or taken by another), queued (handed back).",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._job_seconds = Histogram(
            "shardwright_job_duration_seconds",
            "Time that a job ran.",
            ["kind"],
            buckets=_JOB_SECONDS,
            registry=self.registry,
        )
        built = Gauge("shardwright_build_info", "1, with the version.", ["version"], registry=self.registry)
        built.labels(version(PACKAGE)).set(1)
        self._began: dict[str, float] = {}
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def asked(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        known = self._known.get((method, route, status))
        if known is None:
            known = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._known[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def heard(self, id_: str, kind: str, outcome: str) -> None:
        """Something became of a job."""
        if outcome == "running":
            self._began[id_] = time.monotonic()
        elif outcome in _ENDS:
            self._jobs.labels(kind, outcome).inc()
            if (began := self._began.pop(id_, None)) is not None:
                self._job_seconds.labels(kind).observe(time.monotonic() - began)


class _Queue(Collector):
    """What is asked of the database and the workers when metrics are fetched."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # a registry would collect to find out, when nothing is open yet

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("shardwright_database_up", "Whether the database answers.")
        planner = self._planner
        try:
            waiting, oldest, running = planner.jobs.queue_now()
        except DatabaseAway:
            up.add_metric([], 0)
            yield up
        else:
            up.add_metric([], 1)
            yield up
            jobs = GaugeMetricFamily("shardwright_jobs", "Jobs of all instances by state.", labels=["state"])
            jobs.add_metric(["queued"], waiting)
            jobs.add_metric(["running"], running)
            yield jobs
            age = GaugeMetricFamily("shardwright_queue_oldest_seconds", "How long the oldest waiting job has waited.")
            age.add_metric([], oldest)
            yield age
        limit = GaugeMetricFamily("shardwright_queue_limit", "Jobs that may wait.")
        limit.add_metric([], planner.settings.queue_limit)
        yield limit
        slots = planner.crew.slots
        workers = GaugeMetricFamily("shardwright_workers", "Workers of this instance by state.", labels=["state"])
        workers.add_metric(["busy"], sum(slot.job is not None for slot in slots))
        workers.add_metric(["idle"], sum(slot.ready and slot.job is None for slot in slots))
        workers.add_metric(["starting"], sum(not slot.ready and slot.job is None for slot in slots))
        yield workers


def add(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """``/metrics``."""
    metrics.registry.register(_Queue(service.planner))

    @app.get(
        "/metrics",
        summary="For Prometheus",
        response_class=Response,
        responses={
            200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **openapi.usual_problems(),
        },
        tags=["service"],
    )
    async def metrics_now(request: Request) -> Response:
        await service.asker(request, "admin")
        return Response(await run_in_threadpool(generate_latest, metrics.registry), media_type=MEDIA_TYPE)
