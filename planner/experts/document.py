"""The expert-placement document: what was asked, which expert is in which slot, what that is worth, and the proof.

One versioned JSON document, validated on the way out and on the way in. Times are milliseconds, sizes bytes. It holds
no clock readings: same statistics, same request, same versions, same bytes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from planner.contract.clusters import Cluster
from planner.contract.documents import Document
from planner.contract.proof import Proof
from planner.contract.provenance import NOT_RECORDED, Provenance
from planner.contract.published import Published, as_it_is, parse_published
from planner.contract.quantities import Interval

SCHEMA_VERSION: Literal["1.2"] = "1.2"
KIND: Literal["experts"] = "experts"
KIND_1_0 = "shardwright-expert-placement"

LOAD_UNIT = "slowest GPU's load ÷ mean"
DISTANCE_UNIT = "mean distance of a transition"
TIME_UNIT = "ms a MoE layer"

PROVEN = 1e-9
"""A relative gap this small is rounding."""

Objective = Literal["balance", "traffic", "time"]


class Window(Document):
    """One recorded workload."""

    name: str
    tokens: float = Field(description="(token, expert) pairs, all layers together")
    weight: float = Field(description="importance; all weights sum to 1")


class Understood(Document):
    """The request as it was understood, all defaults filled in."""

    model: str
    moe_layers: int
    experts: int
    top_k: int
    weights_precision: str
    framework: str
    cluster: Cluster
    slots_per_gpu: tuple[int, ...] = Field(description="copies that fit on each GPU, per layer")
    redundant: int = Field(description="copies beyond one per expert, per layer")
    objective: Objective
    over_windows: Literal["mean", "worst"] = Field(description="how several windows count together")
    groups: int | None = Field(description="groups of experts pinned to nodes; null: none")
    balance_tolerance: float = Field(description="load that may be given up for fewer crossings, relative")
    dispatch: Literal["home", "stay"] = Field(
        description="home: tokens return to their sequence's GPU after each layer; stay: they go on from their expert"
    )
    windows: tuple[Window, ...]
    holdout: tuple[Window, ...]
    routes: str | None = Field(description="where token routes were read")
    route_tokens: int | None
    current: str | None = Field(description="the placement that runs now; null: the engine's default")
    max_moves: int | None = Field(description="copies that may move from there; null: any number")
    lost_gpus: tuple[int, ...] = Field(description="ranks of the current placement that are gone")
    seed: int


# ------------------------------------------------------------------ decision


class GpuSlots(Document):
    """One GPU of the expert-parallel group, in the order of ranks. Slots are numbered GPU by GPU."""

    rank: int
    pool: str
    node: int
    gpu: int = Field(description="index within its node")
    slots: int
    speed: float = Field(description="relative, 1 on average")


class MovePoint(Document):
    """What some number of moved copies reaches."""

    copies: int
    slowest: float = Field(description="slowest GPU's load ÷ the mean, over layers and windows")


class Moves(Document):
    """From the current placement to this one."""

    copies: int = Field(description="experts that reach a GPU which did not hold them, all layers together")
    needed: int = Field(description="of which for experts that had no copy left")
    bytes: float = Field(description="weights that are transferred")
    bytes_into_busiest_gpu: float
    seconds: float = Field(description="of transfer, all GPUs at once, over the fabric where nodes differ")
    pays_back_after_steps: float | None = Field(
        description="engine steps at the first batch size after which the move has paid for itself; null: never"
    )
    frontier: tuple[MovePoint, ...] = Field(description="what fewer or more moved copies would reach")


class PlacementDecision(Document):
    gpus: tuple[GpuSlots, ...]
    layer_index: tuple[int, ...] = Field(description="index in the model of each MoE layer")
    physical_to_logical_map: tuple[tuple[int, ...], ...] = Field(description="[layers][slots]: expert in each slot")
    copy_bytes: float = Field(description="weights of one copy of one expert in one layer")
    expert_bytes_per_gpu: float = Field(description="on the GPU with most slots, all layers")
    redundant_bytes_per_gpu: float = Field(description="of which beyond one copy per expert, mean over the GPUs")
    moves: Moves | None


# ------------------------------------------------------------------ prediction


class LayerTime(Document):
    """Mean time of one MoE layer: all GPUs wait for the slowest."""

    experts_ms: Interval = Field(description="grouped products of the slowest GPU")
    exchange_ms: Interval = Field(description="dispatch and combine, with the tokens of the fullest GPU")
    total_ms: float


class StepTime(Document):
    """At one batch size."""

    name: str
    tokens_per_gpu: int
    before: LayerTime
    after: LayerTime
    speedup: float = Field(description="of the layer's experts and exchange together: before ÷ after")
    speedup_experts: float
    speedup_exchange: float


# ------------------------------------------------------------------ proof


class WindowBalance(Document):
    """Mean ÷ slowest GPU's load, averaged over the layers."""

    name: str
    before: float
    greedy: float | None = Field(
        description="of greedy replication and packing (EPLB's way) on the windows' mean; null: unequal GPUs or slots"
    )
    after: float
    bound: float | None = Field(description="no placement on these slots exceeds it; null for held-out windows")


class LayerProof(Document):
    """One MoE layer: load of the slowest GPU ÷ the mean, over the windows."""

    layer: int
    before: float
    after: float
    bound: float = Field(description="no placement on these slots is below it")
    gap: float = Field(description="1 − bound ÷ after")
    gpu_load: tuple[float, ...] = Field(description="of each GPU, relative to the mean, averaged over the windows")


class Traffic(Document):
    """Shares of the recorded transitions between consecutive MoE layers, all layers together."""

    transitions: float
    between_gpus_before: float
    between_gpus_after: float
    between_gpus_bound: float = Field(description="no placement at least as balanced has a smaller share")
    between_domains_before: float
    between_domains_after: float
    cost_before: float = Field(description="mean distance: 0 on a GPU, 1 between domains, in between by link speed")
    cost_after: float
    cost_bound: float
    exact: bool = Field(description="whether after is the proven optimum of the cost within the load limit")
    heldout_before: float = Field(description="between GPUs, on the half of the tokens that was not fitted on")
    heldout_after: float = Field(description="the same, of the placement fitted on the other half")


class PlacementProof(Proof):
    """``objective_value`` and ``bound`` are of the load with ``balance``, of the distances with ``traffic`` (of
    placements at least as balanced), and of the first batch with ``time``, which has no bound."""

    objective: Objective
    balancedness_before: float = Field(description="mean ÷ slowest GPU's load, over layers and windows")
    balancedness_after: float
    balancedness_bound: float
    balance_gap: float = Field(
        description="by how much the load of the slowest GPU could at most shrink, relative, mean over the layers"
    )
    windows: tuple[WindowBalance, ...]
    holdout: tuple[WindowBalance, ...]
    layers: tuple[LayerProof, ...]
    traffic: Traffic | None


class PlacementProvenance(Provenance):
    statistics_hash: str = Field(description="SHA-256 of the counts and transitions used")


class PlacementDocument(Published):
    """The whole document."""

    kind: Literal["experts"] = KIND
    schema_version: Literal["1.2"] = SCHEMA_VERSION
    request: Understood
    decision: PlacementDecision
    prediction: tuple[StepTime, ...]
    proof: PlacementProof
    provenance: PlacementProvenance


# ------------------------------------------------------------------ the way back


def parse_placement(text: str, where: str = "placement") -> PlacementDocument:
    """A placement from its JSON. One of an older schema becomes one of today's.

    Raises:
        InputError: not JSON, not a placement, of another schema version, or refused by the schema.
    """
    return parse_published(text, PlacementDocument, where, OLDER, called=(KIND_1_0,))


def _from_1_0(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1.0 had microseconds, a proof without what all proofs say, and said little of its measurements."""
    proof, provenance, objective = old["proof"], old["provenance"], old["request"]["objective"]
    prediction = [
        {**step, "before": _in_ms(step["before"]), "after": _in_ms(step["after"])} for step in old["prediction"]
    ]
    layers = proof["layers"]
    said = proof_fields(
        objective,
        load=sum(layer["after"] for layer in layers) / len(layers),
        load_bound=sum(layer["bound"] for layer in layers) / len(layers),
        traffic=None if proof["traffic"] is None else (proof["traffic"]["cost_after"], proof["traffic"]["cost_bound"]),
        time_ms=prediction[0]["after"]["total_ms"],
    )
    notes = {"notes": provenance["notes"], "statistics_hash": provenance["statistics_hash"]}
    return {
        **old,
        "prediction": prediction,
        "proof": {**{key: value for key, value in proof.items() if key != "gap"}, "balance_gap": proof["gap"], **said},
        "provenance": {
            "package": provenance["package"],
            "package_version": provenance["package_version"],
            "cost_model_version": provenance["cost_model_version"] or NOT_RECORDED,
            **dict.fromkeys(("pack", "pack_version", "pack_hash", "attribution"), NOT_RECORDED),
            **notes,
        },
    }


OLDER = {"1.0": _from_1_0, "1.1": as_it_is}
"""Versions that still open, and how."""


def _in_ms(times: dict[str, Any]) -> dict[str, Any]:
    def interval(us: dict[str, float]) -> dict[str, float]:
        return {name: value / 1e3 for name, value in us.items()}

    return {
        "experts_ms": interval(times["experts_us"]),
        "exchange_ms": interval(times["exchange_us"]),
        "total_ms": times["total_us"] / 1e3,
    }


def proof_fields(
    objective: Objective, *, load: float, load_bound: float, traffic: tuple[float, float] | None, time_ms: float
) -> dict[str, Any]:
    """What every proof says, of a placement's ``objective``.

    Args:
        load, load_bound: of the slowest GPU ÷ the mean, mean over the layers.
        traffic: mean distance and its bound, where routes were given.
        time_ms: of a layer at the first batch size.
    """
    value: float
    bound: float | None
    if objective == "balance":
        value, bound, unit = load, load_bound, LOAD_UNIT
    elif objective == "traffic" and traffic is not None:
        (value, bound), unit = traffic, DISTANCE_UNIT
    else:
        value, bound, unit = time_ms, None, TIME_UNIT
    gap = None if bound is None else (value - bound) / value if value > 0 else 0.0
    return {
        "engine": "replication, packing, swaps and assignment",
        "status": "optimal" if gap is not None and gap <= PROVEN else "feasible",
        "objective": objective,
        "objective_value": value,
        "objective_unit": unit,
        "bound": bound,
        "gap": gap,
    }
