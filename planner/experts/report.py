"""From what was found to the document that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from costmodels.serving.frameworks.framework import find_framework
from planner.contract.clusters import Cluster
from planner.contract.provenance import provenance_fields
from planner.contract.quantities import Interval
from planner.experts import document as doc
from planner.experts.balance import Certificate
from planner.experts.baseline import greedy
from planner.experts.crossings import Crossings, Distance, crossings_bound
from planner.experts.layer_time import LayerTimes
from planner.experts.model import copy_bytes
from planner.experts.placement import Floats, Loads, Placement
from planner.experts.placing import Placed, PlacementJob
from planner.experts.replan import transfer
from profiles.errors import Unsupported


@dataclass(frozen=True)
class Said:
    """What the document says beside what was found: held-out loads, and what the user calls routes and current
    placement."""

    holdout: Loads | None = None
    routes_name: str | None = None
    current_name: str | None = None
    notes: tuple[str, ...] = ()


def assemble(placed: Placed, cluster: Cluster, said: Said) -> doc.PlacementDocument:
    """The document of ``placed``."""
    job = placed.job
    return doc.PlacementDocument(
        request=doc.Understood(
            model=job.model.name,
            moe_layers=len(job.model.moe_layers),
            experts=job.model.experts,
            top_k=job.model.top_k,
            weights_precision=job.precision.weights,
            framework=job.framework,
            cluster=cluster,
            slots_per_gpu=tuple(job.slots.tolist()),
            redundant=int(job.slots.sum()) - job.model.experts,
            objective=job.objective,
            over_windows=job.over_windows,
            groups=job.groups,
            balance_tolerance=job.balance_tolerance,
            dispatch=job.dispatch,
            windows=_windows(job.loads),
            holdout=() if said.holdout is None else _windows(said.holdout),
            routes=said.routes_name,
            route_tokens=None if job.routes is None else job.routes.all.tokens,
            current=said.current_name,
            max_moves=job.max_moves,
            lost_gpus=job.lost_gpus,
            seed=job.seed,
        ),
        decision=_decision(placed),
        prediction=tuple(_step(name, job.tokens_per_gpu[name], *pair) for name, pair in placed.times.items()),
        proof=_proof(placed, said.holdout),
        provenance=doc.PlacementProvenance(
            **provenance_fields(
                placed.costs[0].store,
                placed.costs[0].measured,
                {cost.gpu.name for cost in placed.costs},
                placed.costs[0].version,
                (*said.notes, *_notes(placed)),
            ),
            statistics_hash=_hash(job),
        ),
    )


def _windows(loads: Loads) -> tuple[doc.Window, ...]:
    totals = loads.counts.sum(axis=(1, 2)).tolist()
    rows = zip(loads.names, totals, loads.weights.tolist(), strict=True)
    return tuple(doc.Window(name=name, tokens=tokens, weight=weight) for name, tokens, weight in rows)


def _hash(job: PlacementJob) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(job.loads.counts, dtype="<f8").tobytes())
    if job.routes is not None:
        for half in job.routes.halves:
            digest.update(np.ascontiguousarray(half.transitions, dtype="<f8").tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------ decision


def _decision(placed: Placed) -> doc.PlacementDecision:
    job, ranks, topology = placed.job, placed.decided.ranks, placed.topology
    one, layers = copy_bytes(job.architecture, job.precision), len(job.model.moe_layers)
    gpus = tuple(
        doc.GpuSlots(rank=rank, pool=ranks.pools[pool].name, node=node, gpu=gpu, slots=slots, speed=speed)
        for rank, (pool, node, gpu, slots, speed) in enumerate(
            zip(
                ranks.pool.tolist(),
                ranks.node.tolist(),
                ranks.gpu.tolist(),
                topology.slots.tolist(),
                topology.speed.tolist(),
                strict=True,
            )
        )
    )
    extra = topology.total_slots - job.model.experts
    return doc.PlacementDecision(
        gpus=gpus,
        layer_index=job.model.moe_layers,
        physical_to_logical_map=tuple(tuple(row) for row in placed.after.physical_to_logical.tolist()),
        copy_bytes=one,
        expert_bytes_per_gpu=one * layers * float(topology.slots.max()),
        redundant_bytes_per_gpu=one * layers * extra / topology.gpus,
        moves=_moves(placed),
    )


def _moves(placed: Placed) -> doc.Moves | None:
    """Every GPU receives at once, over the slowest link that a copy may come over."""
    found = placed.decided.replanned
    if found is None:
        return None
    job, ranks = placed.job, placed.decided.ranks
    kinds = [ranks.catalogue.find_gpu(kind).scale_up_bytes_per_s for kind in set(ranks.kinds)]
    crossing = len(np.unique(ranks.node)) > 1
    link = min([ranks.network.fabric.bytes_per_s_per_gpu, *kinds] if crossing else kinds)
    before, after = next(iter(placed.times.values()))
    saved_s_per_step = float(before.total[0] - after.total[0]) * len(job.model.moe_layers) / 1e6
    moved = transfer(found.moved, copy_bytes(job.architecture, job.precision), link, saved_s_per_step, 1.0)
    return doc.Moves(
        copies=found.copies,
        needed=found.needed,
        bytes=moved.total_bytes,
        bytes_into_busiest_gpu=moved.busiest_gpu_bytes,
        seconds=moved.seconds,
        pays_back_after_steps=moved.pays_back_s if np.isfinite(moved.pays_back_s) else None,  # at one step a second
        frontier=tuple(doc.MovePoint(copies=int(copies), slowest=value) for copies, value in found.frontier.tolist()),
    )


# ------------------------------------------------------------------ prediction


def _step(name: str, tokens: int, before: LayerTimes, after: LayerTimes) -> doc.StepTime:
    def ratio(a: Floats, b: Floats) -> float:
        return float(a[0] / b[0]) if b[0] > 0 else 1.0

    return doc.StepTime(
        name=name,
        tokens_per_gpu=tokens,
        before=_layer_time(before),
        after=_layer_time(after),
        speedup=ratio(before.total, after.total),
        speedup_experts=ratio(before.experts, after.experts),
        speedup_exchange=ratio(before.exchange, after.exchange),
    )


def _layer_time(times: LayerTimes) -> doc.LayerTime:
    def interval(values_us: Floats) -> Interval:
        value, low, high = (values_us / 1e3).tolist()
        return Interval(value=value, low=low, high=high)

    return doc.LayerTime(
        experts_ms=interval(times.experts), exchange_ms=interval(times.exchange), total_ms=_total_ms(times)
    )


def _total_ms(times: LayerTimes) -> float:
    return float(times.total[0]) / 1e3


# ------------------------------------------------------------------ proof


def _proof(placed: Placed, holdout: Loads | None) -> doc.PlacementProof:
    loads, weights = placed.job.loads, placed.job.loads.weights
    after = _certificate(placed, placed.after)
    before = _certificate(placed, placed.before)
    bound = np.minimum(after.mean / after.bound, 1.0)
    usual = _greedy(placed)
    windows = tuple(
        doc.WindowBalance(name=name, before=float(b.mean()), greedy=g, after=float(a.mean()), bound=float(most.mean()))
        for name, b, g, a, most in zip(
            loads.names, before.balancedness, _scores(usual, loads), after.balancedness, bound, strict=True
        )
    )
    held: tuple[doc.WindowBalance, ...] = ()
    if holdout is not None:
        scores = [_scores(placement, holdout) for placement in (placed.before, usual, placed.after)]
        held = tuple(
            doc.WindowBalance(name=name, before=b, greedy=g, after=a, bound=None)
            for name, b, g, a in zip(holdout.names, *scores, strict=True)
        )
    gpu_load = placed.after.gpu_loads(loads.counts)
    relative = np.tensordot(weights, gpu_load / after.mean[:, :, None], 1)
    layers = tuple(
        doc.LayerProof(layer=layer, before=b, after=a, bound=least, gap=gap, gpu_load=tuple(row))
        for layer, b, a, least, gap, row in zip(
            placed.job.model.moe_layers,
            before.value.tolist(),
            after.value.tolist(),
            np.minimum(after.value_bound, after.value).tolist(),
            after.gap.tolist(),
            np.round(relative, 6).tolist(),
            strict=True,
        )
    )
    traffic = _traffic(placed)
    general = doc.proof_fields(
        placed.job.objective,
        load=float(after.value.mean()),
        load_bound=float(np.minimum(after.value_bound, after.value).mean()),
        traffic=None if traffic is None else (traffic.cost_after, traffic.cost_bound),
        time_ms=_total_ms(next(iter(placed.times.values()))[1]),
    )
    return doc.PlacementProof(
        **general,
        balancedness_before=float(weights @ before.balancedness.mean(axis=1)),
        balancedness_after=float(weights @ after.balancedness.mean(axis=1)),
        balancedness_bound=float(weights @ bound.mean(axis=1)),
        balance_gap=float(after.gap.mean()),
        windows=windows,
        holdout=held,
        layers=layers,
        traffic=traffic,
    )


def _greedy(placed: Placed) -> Placement | None:
    """What greedy balancing makes of the same windows; None where it does not take these GPUs."""
    try:
        return greedy(placed.job.loads.averaged().counts[0], placed.topology, placed.job.groups)
    except Unsupported:
        return None


def _scores(placement: Placement | None, loads: Loads) -> list[float] | list[None]:
    """Balancedness on each window."""
    if placement is None:
        return [None] * loads.windows
    return [float(value) for value in placement.balancedness(loads.counts).mean(axis=1)]


def _certificate(placed: Placed, placement: Placement) -> Certificate:
    """The bound holds for every placement on these slots; only the load is this placement's."""
    found = placed.decided.certificate
    load = placement.gpu_loads(placed.job.loads.counts).max(axis=2)
    return Certificate(load, np.minimum(found.bound, load), found.mean, found.weights, found.objective)


def _traffic(placed: Placed) -> doc.Traffic | None:
    job = placed.job
    if job.routes is None or placed.crossed is None or placed.heldout is None:
        return None
    before, after = placed.crossed
    table, total = job.routes.all.transitions, max(float(before.transitions.sum()), 1.0)

    def bound(distance: Distance, reached: Floats) -> float:
        least = crossings_bound(placed.after, table, distance, as_balanced=True)
        return min(float(least.sum()), float(reached.sum())) / total

    flat = placed.distance.near >= 1.0
    cost_bound = after.share(after.cost) if placed.proven else bound(placed.distance, after.cost)
    gpus_bound = cost_bound if flat else bound(Distance(1.0), after.between_gpus)

    def share(crossed: Crossings, part: str) -> float:
        return crossed.share(getattr(crossed, part))

    return doc.Traffic(
        transitions=float(before.transitions.sum()),
        between_gpus_before=share(before, "between_gpus"),
        between_gpus_after=share(after, "between_gpus"),
        between_gpus_bound=gpus_bound,
        between_domains_before=share(before, "between_domains"),
        between_domains_after=share(after, "between_domains"),
        cost_before=share(before, "cost"),
        cost_after=share(after, "cost"),
        cost_bound=cost_bound,
        exact=placed.proven,
        heldout_before=share(placed.heldout[0], "between_gpus"),
        heldout_after=share(placed.heldout[1], "between_gpus"),
    )


def _on_exchanges(placed: Placed) -> list[str]:
    """How tokens reach their experts in the times told."""
    if placed.job.dispatch == "stay":
        return []
    title = find_framework(placed.job.framework).title
    runs = [f"{name} in {batch}" for batch, name in placed.exchanges.items() if name is not None]
    notes = [f"exchange: {', '.join(runs)}, as {title} has it when nothing is said"] if runs else []
    if None in placed.exchanges.values():
        gathering = [batch for batch, name in placed.exchanges.items() if name is None]
        notes.append(
            f"exchange in {' and '.join(gathering)}: told as an all-to-all over NCCL; {title} gathers all tokens "
            "on these GPUs when nothing is said, which takes as long under any placement"
        )
    return notes


def _notes(placed: Placed) -> tuple[str, ...]:
    job, notes = placed.job, list(dict.fromkeys(note for cost in placed.costs for note in cost.notes))
    notes.append(
        "an expert's tokens are taken as shared out evenly over its copies, wherever the token is, as engines do"
    )
    notes += _on_exchanges(placed)
    gpus, slots = len(job.slots), int(job.slots.sum())
    if slots % gpus and np.ptp(job.slots) == 1:
        notes.append(
            f"{slots} slots do not divide by {gpus} GPUs, so some have one less: greedy placement and engines take "
            f"equally many on each (redundant={-(-slots // gpus) * gpus - job.model.experts})"
        )
    if job.dispatch == "home":
        notes.append("tokens return to their sequence's GPU after each layer, so crossings do not change the times")
    if job.routes is not None:
        notes.append(
            "held-out crossings are of every other token of the same recording; another workload may differ more"
        )
        if job.routes.unpaired:
            notes.append(f"{job.routes.unpaired} routes have no neighbour in the next or previous layer")
    if len(job.loads.names) == 1:
        notes.append("fitted on one window: another workload may be less balanced; give several, and --holdout")
    if placed.decided.stopped:
        notes.append(f"the search for balance was ended by its time limit of {job.time_limit_s:g} s")
    return tuple(notes)
