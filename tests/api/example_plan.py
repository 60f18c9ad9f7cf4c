"""A plan made by hand, for tests that need a plan and not a planner."""

from __future__ import annotations

from typing import Any

from planner.contract.clusters import Cluster, Pool, supplied
from planner.contract.deployment import Deployment
from planner.contract.engine import EngineGroup, Launch, Layout, Limits, Rank, Replica
from planner.contract.provenance import Provenance
from planner.contract.quantities import Interval, Latency
from planner.contract.workload.slo import parse_slo
from planner.contract.workload.workload import Workload
from planner.serving.document.plan import (
    Alternative,
    Alternatives,
    Compared,
    OperatingPoint,
    Plan,
    Rejection,
    RequestUnderstood,
    ServingProof,
)
from planner.serving.document.prediction import Effect, GroupPrediction, KvTransfer, MemoryParts, Prediction, SloCheck

GIB = 2.0**30
LAYOUT = Layout(tp=4, pp=1, dp=1, ep=1, moe_tp=4)


def about(value: float) -> Interval:
    return Interval(value=value, low=value * 0.9, high=value * 1.1)


def latency(mean: float) -> Latency:
    return Latency(
        mean=about(mean), p50=about(mean * 0.8), p90=about(mean * 1.5), p95=about(mean * 2), p99=about(mean * 3)
    )


def engine_group(name: str = "engine-0", pool: str = "H200", engines: int = 2) -> EngineGroup:
    replicas = tuple(
        Replica(
            id=f"{name}-{i}",
            weight=1 / engines,
            ranks=tuple(Rank(rank=r, node=0, gpu=4 * i + r) for r in range(4)),
        )
        for i in range(engines)
    )
    return EngineGroup(
        id=name,
        role="aggregated",
        pool=pool,
        gpu="H200",
        layout=LAYOUT,
        gpus_per_engine=4,
        weights_precision="bf16",
        kv_precision="bf16",
        limits=Limits(max_sequences=96, max_tokens_per_step=8192, max_model_len=4608, memory_fraction=0.9),
        replicas=replicas,
        launch=Launch(
            framework="vllm",
            command=("vllm", "serve", "org/model", "--tensor-parallel-size", "4", "--max-num-seqs", "96"),
            notes=("Give every engine of a node its own --port.",),
        ),
    )


def group_prediction(name: str = "engine-0") -> GroupPrediction:
    return GroupPrediction(
        engine=name,
        rate_rps=about(5.0),
        load_rps=4.0,
        concurrency=64,
        ttft_ms=latency(350),
        tpot_ms=latency(20),
        e2e_ms=latency(12_000),
        step_ms_by_part={"gemm": 6.0, "attention": 5.0, "communication": 1.5, "moe": 0.0},
        prefill_busy=0.65,
        memory=memory(),
        power_watts=about(600),
        how="forest",
        inside_measured_range=True,
    )


def memory() -> MemoryParts:
    return MemoryParts(
        weights_bytes=15 * GIB,
        kv_cache_bytes=105 * GIB,
        activation_bytes=1 * GIB,
        cuda_graph_bytes=1 * GIB,
        communication_bytes=0.0,
        context_bytes=1 * GIB,
        reserve_bytes=3 * GIB,
        unused_bytes=14 * GIB,
        total_bytes=140 * GIB,
        kv_tokens=1_720_000,
    )


def point(**changes: Any) -> dict[str, Any]:
    fields = {
        "pool": "H200",
        "layout": Layout(tp=8, pp=1, dp=1, ep=1, moe_tp=8),
        "gpus_per_engine": 8,
        "max_tokens_per_step": 2048,
        "concurrency": 100,
        "engine_rate_rps": 8.5,
        "output_tokens_per_s_per_gpu": 531.0,
        "output_tokens_per_s_per_user": 40.0,
        "ttft_ms": 480.0,
        "tpot_ms": 25.5,
        "meets_slo": True,
    }
    return {**fields, **changes}


def alternative(**changes: Any) -> Alternative:
    return Alternative(**point(**changes), engines=1, gpus=8, usd_per_hour=31.92, score=8.5, loses_by=0.15)


def example_plan(**changes: Any) -> Plan:
    """The plan with some of its top-level parts replaced."""
    pool = Pool(
        name="H200",
        gpu="H200",
        gpus=10,
        gpus_per_node=8,
        fabric="ib-400g",
        usd_per_gpu_hour=3.99,
        price_source="somebody, 2026-01-01",
    )
    checks = tuple(
        SloCheck(
            metric=bound.metric,
            percentile=bound.percentile,
            limit_ms=bound.limit_ms,
            predicted=about(bound.limit_ms * 0.6),
            margin=0.4,
            confidence=0.997,
        )
        for bound in parse_slo("ttft=1s,tpot_p99=30ms").bounds
    )
    parts: dict[str, Any] = {
        "request": RequestUnderstood(
            model="org/model",
            parameters=32_760_000_000,
            active_parameters=32_760_000_000,
            not_modelled=(),
            cluster=supplied(Cluster(name="10xH200", pools=(pool,))),
            slo=parse_slo("ttft=1s,tpot_p99=30ms"),
            workload=Workload(isl=4000, osl=500),
            objective="throughput",
            framework="vllm",
            weights_precision="bf16",
            kv_precision="bf16",
            precision_converted=False,
            confidence=0.5,
            max_tp=None,
            max_pp=None,
            max_engine_gpus=None,
            tp_across_nodes=False,
            time_limit_s=30.0,
        ),
        "decision": Deployment(engines=(engine_group(),), gpus_used=8, gpus_idle=2, usd_per_hour=31.92),
        "prediction": Prediction(
            ttft_ms=latency(350),
            tpot_ms=latency(20),
            e2e_ms=latency(12_000),
            request_rate_rps=about(10.0),
            output_tokens_per_s=about(5000.0),
            output_tokens_per_s_per_gpu=about(625.0),
            output_tokens_per_s_per_user=about(50.0),
            utilisation=0.8,
            power_watts=about(4800.0),
            joules_per_output_token=about(0.96),
            usd_per_million_output_tokens=about(1.773),
            slo=checks,
            engines=(group_prediction(),),
        ),
        "proof": ServingProof(
            engine="HiGHS 1.14.0",
            status="optimal",
            objective="throughput",
            objective_value=10.0,
            objective_unit="requests/s",
            bound=10.0,
            gap=0.0,
            layouts_considered=28,
            layouts_legal=20,
            operating_points=687,
            operating_points_within_slo=445,
            candidates=40,
            rejected=(Rejection(reason="64 attention heads do not divide by tp", count=3, example="TP3"),),
            binding_constraint="GPUs of pool H200",
        ),
        "alternatives": Alternatives(
            ranked=tuple(alternative(ttft_ms=480.0 + i) for i in range(7)),
            pareto=(OperatingPoint(**point()), OperatingPoint(**point(meets_slo=False, tpot_ms=85.0))),
        ),
        "provenance": Provenance(
            package="shardwright",
            package_version="0.1.0",
            cost_model_version="1+abc",
            pack="silicon",
            pack_version="1",
            pack_hash="a729f0dc3253fa47",
            attribution="Kernel timings by somebody, Apache-2.0.",
            notes=("attention_prefill: measured under sglang, standing in for vllm",),
        ),
    }
    return Plan(**{**parts, **changes})


def compared(serving: str, value: float | None, weights: str = "bf16", **changes: Any) -> Compared:
    fields: dict[str, Any] = {
        "serving": serving,
        "weights_precision": weights,
        "kv_precision": "bf16",
        "chosen": False,
        "objective_value": value,
        "loses_by": None if value is None else (10.0 - value) / 10.0,
        "gpus": None if value is None else 8,
        "reason": None,
        "weights_bytes": 65e9,
        "kv_bytes_per_token": 262e3,
        "accuracy": "as published",
    }
    return Compared(**{**fields, **changes})


def disaggregated_plan() -> Plan:
    """Two prefill engines, one decode engine, a prefix cache, drafting, and two precisions to choose from."""
    plan = example_plan()
    first = engine_group("engine-0").model_copy(update={"role": "prefill"})
    second = engine_group("engine-1", engines=1).model_copy(update={"role": "decode"})
    says = [
        group_prediction("engine-0").model_copy(update={"tpot_ms": None, "e2e_ms": None, "concurrency": 0.59}),
        group_prediction("engine-1").model_copy(update={"ttft_ms": None, "e2e_ms": None, "prefill_busy": 0.0}),
    ]
    prediction = plan.prediction.model_copy(
        update={
            "engines": tuple(says),
            "ttft_ms_by_part": {"queue": 120.0, "prefill": 200.0, "KV transfer": 21.3, "next step": 0.0},
            "kv_transfer": KvTransfer(
                bytes_per_request=1.05e9,
                link="ib-400g",
                time_ms=about(21.3),
                exposed_ms=about(5.3),
                overlap="chunk",
                sender_busy=0.03,
                receiver_busy=0.06,
            ),
            "effects": (
                Effect(fact="prefix_hit", summary="half is cached", ttft_ms_without=700.0, tpot_ms_without=20.0),
                Effect(fact="speculation", summary="2.77 tokens a step", ttft_ms_without=None, tpot_ms_without=31.0),
            ),
        }
    )
    proof = plan.proof.model_copy(
        update={
            "compared": (
                compared("disaggregated", 10.0, chosen=True),
                compared("aggregated", 8.0),
                compared("aggregated", 7.0, "fp8", accuracy="no published figure on record for fp8 weights"),
                compared("aggregated", None, "nvfp4", reason="H200 has no fp4 tensor cores"),
            )
        }
    )
    decision = plan.decision.model_copy(update={"engines": (first, second)})
    return plan.model_copy(update={"decision": decision, "prediction": prediction, "proof": proof})
