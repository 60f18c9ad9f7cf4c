"""What documents say of fleets of modelled engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from costmodels.models.architecture import Architecture
from planner.contract.engine import EngineGroup
from planner.contract.fleet import AttainedAfterLoss, ClassAttained
from planner.contract.quantities import Interval, Latency
from planner.serving.document.prediction import GroupPrediction, SloCheck
from planner.serving.engines.groups import Pair, pairs_of
from planner.serving.fleets.confirming import Loaded, Settled
from planner.serving.fleets.decision import Answered, ServiceLoad
from planner.serving.fleets.described import replicas
from planner.serving.fleets.every_step import StepsTold
from planner.serving.fleets.losing import AfterLoss
from planner.serving.fleets.pooled import METRICS, PooledRequests
from planner.serving.fleets.request import FleetRequest
from planner.serving.fleets.supplies import Offer
from planner.serving.fleets.variants import Variant
from planner.serving.report.prediction import group_prediction, kv_transfer, served_latency, slo_check
from planner.serving.report.report import engine_group
from planner.serving.request import PlanRequest

SHOWN = 24
"""Classes of a service whose percentiles are told: those with most requests."""


class ModelDescribed:
    """Engines of the cost model. ``engines``: the kinds that run, by variant, under their mixtures; ``told``: what
    of every step."""

    def __init__(
        self,
        settled: Settled,
        engines: Mapping[int, Loaded],
        models: Mapping[int, Architecture],
        after: AfterLoss | None = None,
        told: StepsTold | None = None,
    ) -> None:
        self._settled, self._engines, self._models, self._after = settled, engines, models, after
        self._told = told or StepsTold()
        self.simulated = any(each.check is not None for each in engines.values())

    # -------------------------------------------------------------- the request

    def facts(self, request: FleetRequest, services: Sequence[ServiceLoad]) -> Mapping[str, Any]:
        models = list({model.name: model for model in self._models.values()}.values())
        used = [self._precision(each) for each in self._engines.values()]
        weights, caches = (list(dict.fromkeys(getattr(each, name) for each in used)) for name in ("weights", "kv"))
        return {
            "model": " + ".join(model.name for model in models),
            "parameters": sum(model.parameters for model in models),
            "active_parameters": sum(model.active_parameters for model in models),
            "not_modelled": tuple(part for model in models for part in model.excluded),
            "weights_precision": " + ".join(weights),
            "kv_precision": " + ".join(caches),
            "precision_converted": any(each.converted for each in used),
            "config": self._config(services[0]) if len(services) == 1 else None,
        }

    def _precision(self, each: Loaded) -> Any:
        return each.group.job.served.precision

    def _config(self, service: ServiceLoad) -> dict[str, Any] | None:
        model = service.asked.model
        return None if model is None or isinstance(model, str) else model.config

    def service(self, service: ServiceLoad) -> Mapping[str, Any]:
        mine = [
            each for each in self._engines.values()
            if self._settled.found.fleet.services[self._variant(each).service] is service
        ]  # fmt: skip
        served = mine[0].group.job.served if mine else None
        return {
            "model": None if served is None else served.model.name,
            "framework": None if served is None else served.framework.spec,
            "weights_precision": " + ".join(dict.fromkeys(self._precision(each).weights for each in mine)),
            "kv_precision": " + ".join(dict.fromkeys(self._precision(each).kv for each in mine)),
            "headroom": self._headroom(mine),
            "config": self._config(service),
        }

    def _variant(self, each: Loaded) -> Variant:
        return self._settled.found.fleet.chosen.variants[each.variant]

    def _headroom(self, mine: Sequence[Loaded]) -> float:
        return float(self._settled.found.fleet.request.headroom or 0.0)

    # -------------------------------------------------------------- engines

    def group(
        self, name: str, service: ServiceLoad, variant: Variant, offer: Offer, said: Mapping[str, Any]
    ) -> EngineGroup:
        each = next(each for each in self._engines.values() if self._variant(each) == variant)
        group = replace(each.group, id=name)
        made = engine_group(self._for_all(each, service), group, replicas(name, said), self._backend(each))
        return made.model_copy(
            update={
                "service": service.asked.name,
                "supply": offer.supply,
                "usd_per_hour": said["usd_per_hour"],
                "pool": offer.pool.name,
                "limits": made.limits.model_copy(update={"max_model_len": self._longest(each, service)}),
                "launch": made.launch,
            }
        )

    def _backend(self, each: Loaded) -> str:
        """What engines that hand over must be told to attend with, so that partners do alike; "": nothing."""
        if each.group.role == "aggregated":
            return ""
        job, service = each.group.job, self._variant(each).service
        mine = [e.group.job.served.gpu for e in self._engines.values() if self._variant(e).service == service]
        return job.served.framework.kv_connector.shared_backend(job.served.model, mine) or ""

    def _for_all(self, each: Loaded, service: ServiceLoad) -> PlanRequest:
        return each.request

    def _longest(self, each: Loaded, service: ServiceLoad) -> int:
        return each.group.limits.max_model_len

    # -------------------------------------------------------------- the prediction

    def predicted(self, found: Answered, used: Sequence[int]) -> Mapping[str, Any]:
        groups: list[GroupPrediction] = []
        checks: list[SloCheck] = []
        engines = found.answer.engines
        assert engines is not None
        t = int(np.argmax([sum(step.rate_rps for step in shared.steps) for shared in found.fleet.steps]))
        watts = [0.0, 0.0, 0.0]
        named = {v: replace(self._engines[v].group, id=f"engine-{i}") for i, v in enumerate(used) if v in self._engines}
        simulated = {group.id: c for v, group in named.items() if (c := self._engines[v].check) is not None}
        transfers: list[Pair] = []
        for variant, group in named.items():
            each = self._engines[variant]
            one = group_prediction(group, simulated)
            groups.append(one)
            gpus = float(engines[t][variant]) * found.fleet.chosen.variants[variant].gpus
            power = one.power_watts
            watts = [w + gpus * p for w, p in zip(watts, (power.value, power.low, power.high), strict=True)]
            if group.role == "decode":
                continue  # its requests are those of the engines that hand over to it
            mine = [other for v, other in named.items() if self._partners(v, variant)]
            if group.id in simulated:  # what stands by for a loss decodes nothing then, and was not simulated
                mine = [other for other in mine if other.id in simulated] or mine
            pairs = pairs_of([group, *mine])
            transfers += [pair for pair in pairs if pair.transfer is not None]
            checks += [slo_check(bound, pairs, simulated) for bound in each.request.slo.bounds]
        worst = {metric: _slowest(groups, f"{metric}_ms") for metric in ("ttft", "tpot", "e2e")}
        for pair in transfers:
            for metric in METRICS:
                seen = served_latency([pair], simulated, metric)
                if (now := worst[metric]) is None or seen.p90.value > now.p90.value:
                    worst[metric] = seen
        output = sum(c.rate_rps * c.osl for step in found.fleet.steps[t].steps for c in step.classes)
        prompts = sum(c.rate_rps * c.isl for step in found.fleet.steps[t].steps for c in step.classes)
        power_all = Interval(value=watts[0], low=watts[1], high=watts[2])
        tpot = worst["tpot"]
        slowest: dict[tuple[str, float, float], SloCheck] = {}
        for check in checks:
            key = (check.metric, check.percentile, check.limit_ms)
            if key not in slowest or check.margin < slowest[key].margin:
                slowest[key] = check
        return {
            "ttft_ms": worst["ttft"],
            "tpot_ms": tpot,
            "e2e_ms": worst["e2e"],
            "output_tokens_per_s_per_user": None if tpot is None else _inverse(tpot.mean),
            "power_watts": power_all,
            "joules_per_input_token": _each(power_all, prompts),
            "joules_per_output_token": _each(power_all, output),
            "ttft_ms_by_part": self._front(),
            "kv_transfer": kv_transfer(transfers),
            "slo": tuple(slowest.values()),
            "engines": tuple(groups),
        }

    def _front(self) -> dict[str, float]:
        pair = next(pair for each in self._engines.values() for pair in each.pairs)
        return {part: float(us[0]) / 1e3 for part, us in pair.served.ttft_parts_us.items()}

    def _partners(self, first: int, second: int) -> bool:
        """Whether an engine of ``first`` decodes what one of ``second`` has prefilled."""
        services = {self._variant(self._engines[v]).service for v in (first, second)}
        return len(services) == 1 and (self._engines[first].group.role, self._engines[second].group.role) == (
            "decode", "prefill",
        )  # fmt: skip

    def attained(self, found: Answered, service: int) -> Mapping[str, Any]:
        """What the classes see at the kinds' busiest steps, weighed by how many of them go where."""
        mine = [each for each in self._engines.values() if self._variant(each).service == service]
        if not any(each.check is not None for each in mine):
            return {}
        asked = found.fleet.services[service]
        pooled = PooledRequests(found, mine)
        rates, lost = pooled.rates, self._lost(service)
        order = np.argsort(-rates, kind="stable")[: int((rates > 0).sum())]
        classes = tuple(
            ClassAttained(
                isl=asked.classes[i].isl,
                osl=asked.classes[i].osl,
                rate_rps=float(rates[i]),
                holds=pooled.holds(asked, i),
                after_loss=None if lost is None else AttainedAfterLoss(holds=lost.holds(asked, i), **lost.latencies(i)),
                **pooled.latencies(i),
            )
            for i in sorted(order[:SHOWN].tolist(), key=lambda i: (asked.classes[i].isl, asked.classes[i].osl))
        )
        said: dict[str, Any] = {"holds": self._holds(service, pooled.holds(asked, None)), "classes": classes}
        if lost is not None and self._after is not None:
            said |= {"worst_loss": self._after.words, "holds_after_loss": lost.holds(asked, None)}
        return said

    def _holds(self, service: int, busiest: bool | None) -> bool | None:
        """Whether the promise of a service holds in every step, as it does in those that are the ``busiest``."""
        missed, untold = (
            any(self._variant(self._engines[v]).service == service for v in which if v in self._engines)
            for which in (self._told.missed, self._told.untold)
        )
        return False if missed else None if untold and busiest else busiest

    def _lost(self, service: int) -> PooledRequests | None:
        """What a service's requests see after the worst loss."""
        if self._after is None:
            return None
        mine = [each for each in self._after.engines.values() if self._variant(each).service == service]
        return PooledRequests(self._after.found, mine) if mine else None


def _slowest(groups: Sequence[GroupPrediction], field: str) -> Latency | None:
    found = [getattr(each, field) for each in groups if getattr(each, field) is not None]
    return max(found, key=lambda latency: float(latency.p90.value), default=None)


def _inverse(interval: Interval) -> Interval:
    return Interval(value=1e3 / interval.value, low=1e3 / interval.high, high=1e3 / interval.low)


def _each(watts: Interval, tokens_per_s: float) -> Interval:
    """Joules of each token."""
    return Interval(value=watts.value / tokens_per_s, low=watts.low / tokens_per_s, high=watts.high / tokens_per_s)
