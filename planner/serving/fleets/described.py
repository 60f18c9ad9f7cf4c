"""What documents say of engines that stand for tables or were modelled: one answer for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from planner.contract.engine import EngineGroup, Launch, Layout, Limits, Replica
from planner.serving.fleets.request import FleetRequest
from planner.serving.fleets.supplies import Offer
from planner.serving.fleets.variants import Variant

if TYPE_CHECKING:
    from planner.serving.fleets.decision import Answered, ServiceLoad

MEASURED = "as measured"
ONE = Layout(tp=1, pp=1, dp=1, ep=1, moe_tp=1)
UNKNOWN = Limits(max_sequences=0, max_tokens_per_step=0, max_model_len=0, memory_fraction=0.0)


class Described(Protocol):
    """Fields of documents."""

    simulated: bool

    def facts(self, request: FleetRequest, services: Sequence[ServiceLoad]) -> Mapping[str, Any]:
        """Of the request as understood: model, its parameters, precisions."""

    def service(self, service: ServiceLoad) -> Mapping[str, Any]:
        """Of a service as understood."""

    def group(
        self, name: str, service: ServiceLoad, variant: Variant, offer: Offer, said: Mapping[str, Any]
    ) -> EngineGroup:
        """``said``: weight of one, count, usd_per_hour."""

    def predicted(self, found: Answered, used: Sequence[int]) -> Mapping[str, Any]:
        """Latencies, power and what else of the prediction is not the mix's."""

    def attained(self, found: Answered, service: int) -> Mapping[str, Any]:
        """Of a service: holds, and its classes."""


class TableDescribed:
    """Engines that tables stand for."""

    simulated = False

    def facts(self, request: FleetRequest, services: Sequence[ServiceLoad]) -> Mapping[str, Any]:
        return {
            "model": " + ".join(service.asked.name for service in services),
            "parameters": 0,
            "active_parameters": 0,
            "not_modelled": (),
            "weights_precision": MEASURED,
            "kv_precision": MEASURED,
            "precision_converted": False,
        }

    def service(self, service: ServiceLoad) -> Mapping[str, Any]:
        gpus = tuple(dict.fromkeys(getattr(engine, "gpu", "") for engine in service.engines))
        return {"model": None, "tables": gpus}

    def group(
        self, name: str, service: ServiceLoad, variant: Variant, offer: Offer, said: Mapping[str, Any]
    ) -> EngineGroup:
        engine = service.engines[variant.engine]
        note = "a measured table stands for this engine: how it is started is not known"
        return EngineGroup(
            id=name,
            role="aggregated",
            pool=offer.pool.name,
            gpu=getattr(engine, "gpu", offer.pool.gpu),
            layout=ONE,
            gpus_per_engine=variant.gpus,
            weights_precision=MEASURED,
            kv_precision=MEASURED,
            limits=UNKNOWN,
            replicas=replicas(name, said),
            launch=Launch(framework="vllm", command=(), notes=(note,)),
            service=service.asked.name,
            supply=offer.supply,
            usd_per_hour=said["usd_per_hour"],
            table=getattr(engine, "source", None),
        )

    def predicted(self, found: Answered, used: Sequence[int]) -> Mapping[str, Any]:
        return {
            "ttft_ms": None,
            "tpot_ms": None,
            "e2e_ms": None,
            "output_tokens_per_s_per_user": None,
            "power_watts": None,
            "joules_per_input_token": None,
            "joules_per_output_token": None,
            "slo": (),
            "engines": (),
        }

    def attained(self, found: Answered, service: int) -> Mapping[str, Any]:
        return {}


def replicas(name: str, said: Mapping[str, Any]) -> tuple[Replica, ...]:
    return tuple(Replica(id=f"{name}-{i}", weight=said["weight"], ranks=()) for i in range(said["count"]))
