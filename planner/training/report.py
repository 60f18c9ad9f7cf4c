"""From what a search found to the document that says so."""

from __future__ import annotations

import numpy as np

from costmodels.origins import HOW
from costmodels.training.exchanges import Links
from costmodels.training.flops import model_flops
from costmodels.training.iteration import iteration_times
from costmodels.training.layouts import ATTENTION, RECOMPUTED, SCHEDULES
from costmodels.training.memory import PARTS, SPREAD, TrainingMemory, training_memory
from costmodels.training.setting import Setting
from planner.contract.clusters import Pool
from planner.contract.provenance import Provenance, provenance_fields
from planner.contract.quantities import Interval
from planner.training import document as doc
from planner.training.launch import launch
from planner.training.request import TrainingRequest
from planner.training.search import Found, Search
from profiles.hardware import Gpu

SIMPLE_ENOUGH = 0.02
"""How much slower a simpler layout may be to be pointed out."""


def assemble(
    setting: Setting, request: TrainingRequest, pool: Pool, gpu: Gpu, links: Links, found: Search
) -> doc.TrainingPlan:
    """The document of the best layout that ``found`` has on ``pool``."""
    best = found.best[0]
    memory = training_memory(setting, best.layout)
    prediction = _prediction(setting, request, pool, gpu, links, best, memory)
    return doc.TrainingPlan(
        request=_understood(setting, request),
        decision=_decision(setting, request, pool, best),
        prediction=prediction,
        proof=_proof(setting, request, gpu, found, memory, prediction),
        alternatives=_alternatives(setting, found),
        provenance=_provenance(setting, pool, gpu, links),
    )


def _understood(setting: Setting, request: TrainingRequest) -> doc.TrainingUnderstood:
    degrees = ("tp", "pp", "vpp", "dp", "cp", "ep", "moe_tp", "micro_batch", "sharding")
    return doc.TrainingUnderstood(
        model=setting.model.name,
        parameters=setting.model.parameters(request.seq_len),
        active_parameters=setting.model.architecture.active_parameters,
        cluster=request.cluster,
        global_batch=request.global_batch,
        seq_len=request.seq_len,
        framework=setting.framework.label,
        precision=request.precision,
        mode=request.mode,
        optimizer=request.optimizer,
        mtp=request.mtp,
        objective=request.objective,
        attention=request.attention or str(setting.framework.defaults["attention"]),
        restrictions={name: getattr(request, name) for name in degrees if getattr(request, name) is not None},
        recompute=request.recompute,
        uneven=request.uneven,
        tp_across_nodes=request.tp_across_nodes,
        time_limit_s=request.time_limit_s,
    )


# ------------------------------------------------------------------ decision


def _mesh(found: Found) -> doc.Mesh:
    layout = found.layout
    names = ("tp", "pp", "vpp", "dp", "cp", "ep")
    degrees = {name: int(getattr(layout, name)[0]) for name in names}
    return doc.Mesh(**degrees, moe_tp=int(layout.etp[0]), gpus=int(layout.gpus[0]))


def _parts(found: Found) -> tuple[str, ...]:
    bits = int(found.layout.selective[0])
    return tuple(part for bit, part in enumerate(RECOMPUTED) if bits >> bit & 1)


def _decision(setting: Setting, request: TrainingRequest, pool: Pool, found: Found) -> doc.TrainingDecision:
    layout, mesh = found.layout, _mesh(found)
    ranks = mesh.tp * mesh.cp * mesh.dp
    runs = np.array(found.split).reshape(mesh.vpp, mesh.pp)
    stages = tuple(
        doc.Stage(
            stage=stage,
            layers=int(runs[:, stage].sum()),
            runs=tuple(int(each) for each in runs[:, stage]),
            recomputed=int(min(layout.recomputed[0, stage], layout.layers[0, stage].sum())),
            first_rank=stage * ranks,
            ranks=ranks,
            first_node=stage * ranks // pool.gpus_per_node,
            last_node=((stage + 1) * ranks - 1) // pool.gpus_per_node,
        )
        for stage in range(mesh.pp)
    )
    decision = doc.TrainingDecision(
        pool=pool.name,
        gpu=pool.gpu,
        gpus_per_node=pool.gpus_per_node,
        mesh=mesh,
        sharding=int(layout.sharding[0]),
        micro_batch=int(layout.micro_batch[0]),
        microbatches=int(layout.microbatches[0]),
        sequence_parallel=bool(layout.sequence_parallel[0]),
        schedule=SCHEDULES[int(layout.schedule[0])] if mesh.pp > 1 else "none",
        recompute=_parts(found),
        attention=ATTENTION[int(layout.attention[0])],
        stages=stages,
        gpus_used=mesh.gpus,
        gpus_idle=pool.gpus - mesh.gpus,
        usd_per_hour=None if pool.usd_per_gpu_hour is None else pool.usd_per_gpu_hour * mesh.gpus,
        launch=doc.TrainingLaunch(framework=setting.framework.label, arguments=(), notes=()),
    )
    return decision.model_copy(update={"launch": launch(setting, request, decision)})


# ------------------------------------------------------------------ prediction


def _prediction(
    setting: Setting, request: TrainingRequest, pool: Pool, gpu: Gpu, links: Links, found: Found, memory: TrainingMemory
) -> doc.TrainingPrediction:
    times = iteration_times(setting, links, found.layout)
    seconds = float(times.total.value[0]) / 1e6
    gpus = int(found.layout.gpus[0])
    flops = model_flops(setting, request.global_batch) / seconds / gpus
    tokens = request.global_batch * request.seq_len / seconds
    rate = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}.get(request.precision, request.precision)
    peak = gpu.peak_flops.get(rate) or gpu.peak_flops.get("bf16") or gpu.peak_flops["fp16"]
    price = pool.usd_per_gpu_hour
    fullest = float(memory.allocated.max())
    return doc.TrainingPrediction(
        iteration_s=Interval(value=seconds, low=float(times.total.low[0]) / 1e6, high=float(times.total.high[0]) / 1e6),
        tokens_per_s_gpu=tokens / gpus,
        model_tflops_gpu=flops / 1e12,
        mfu=flops / peak,
        bubble_share=float(times.bubble_share[0]),
        exposed_communication_share=float(times.exchange_share[0]),
        seconds_by_part={name: float(part[0]) / 1e6 for name, part in times.parts.items()},
        memory_bytes_per_gpu=Interval(
            value=fullest, low=fullest * float(np.exp(-SPREAD[0])), high=fullest * float(np.exp(SPREAD[1]))
        ),
        stages=tuple(_stage_memory(memory, stage, gpu) for stage in range(int(found.layout.pp[0]))),
        usd_per_billion_tokens=None if price is None else price * gpus / 3600 / tokens * 1e9,
        how=HOW[int(times.total.how[0])],
        inside_measured_range=bool(times.total.inside[0]),
    )


def _stage_memory(memory: TrainingMemory, stage: int, gpu: Gpu) -> doc.StageMemory:
    def of(name: str) -> float:
        return float(getattr(memory, name)[0, stage])

    plain = float(memory.used(expandable=False)[0, stage])
    return doc.StageMemory(
        stage=stage,
        **{f"{part}_bytes": of(part) for part in PARTS},
        allocated_bytes=of("allocated"),
        reserved_bytes=of("reserved"),
        communication_bytes=of("communication"),
        context_bytes=of("context"),
        used_bytes=float(memory.used()[0, stage]),
        verdict="fits" if plain <= gpu.memory_bytes else "expandable_segments",
    )


# ------------------------------------------------------------------ proof


def _proof(
    setting: Setting,
    request: TrainingRequest,
    gpu: Gpu,
    found: Search,
    memory: TrainingMemory,
    told: doc.TrainingPrediction,
) -> doc.TrainingProof:
    best = found.best[0]
    if request.objective == "time":
        value, bound, unit = best.total_us / 1e6, found.bound_us / 1e6, "s an iteration"
    elif request.objective == "gpus":
        value = bound = float(best.layout.gpus[0])
        unit = "GPUs"
    else:
        value, bound, unit = float(memory.used().max()), found.bound_us, "bytes of the fullest GPU"
    bound = min(bound, value)
    return doc.TrainingProof(
        engine="enumeration with bounds, dynamic programme over stages",
        status="time_limit" if found.out_of_time else "optimal",
        objective=request.objective,
        objective_value=value,
        objective_unit=unit,
        bound=bound,
        gap=(value - bound) / value,
        combinations=found.looked_at,
        legal=found.legal,
        bounded=found.bounded,
        solved=found.solved,
        rejected=tuple(
            doc.RefusedReason(reason=reason, count=count, example=found.refused.examples[reason])
            for reason, count in sorted(found.refused.counts.items(), key=lambda item: -item[1])
        ),
        binding_constraint=_binding(gpu, memory, told),
    )


def _binding(gpu: Gpu, memory: TrainingMemory, told: doc.TrainingPrediction) -> str:
    """What keeps the iteration from being shorter: memory that is nearly full, else the largest loss."""
    used = memory.used()[0]
    stage = int(used.argmax())
    full = used[stage] / gpu.memory_bytes
    memory_words = f"memory of stage {stage} ({full:.0%} full)"
    losses = {
        "the bubble": told.bubble_share,
        "exposed exchanges": told.exposed_communication_share,
    }
    name, share = max(losses.items(), key=lambda item: item[1])
    words = f"{name} ({share:.1%} of the iteration)"
    return f"{memory_words}, then {words}" if full > 0.9 else words


# ------------------------------------------------------------------ alternatives


def _alternatives(setting: Setting, found: Search) -> doc.TrainingAlternatives:
    best = found.best[0]
    ranked = tuple(_alternative(setting, each, best) for each in found.best[1:4])
    near = [each for each in found.best if each.total_us <= best.total_us * (1 + SIMPLE_ENOUGH)]
    simplest = min(near, key=lambda each: (_machinery(each), each.total_us))
    return doc.TrainingAlternatives(
        ranked=ranked, simplest=None if simplest is best else _alternative(setting, simplest, best)
    )


def _machinery(found: Found) -> int:
    """How many kinds of parallelism and tricks a layout needs."""
    layout = found.layout
    degrees = sum(int(getattr(layout, name)[0]) > 1 for name in ("tp", "pp", "vpp", "cp", "ep", "etp"))
    uneven = len(set(found.split)) > 1
    recomputes = int(layout.selective[0]) > 0 or float(layout.recomputed.max()) > 0
    return degrees + uneven + recomputes + (int(layout.sharding[0]) > 1)


def _alternative(setting: Setting, found: Found, best: Found) -> doc.TrainingAlternative:
    layout = found.layout
    return doc.TrainingAlternative(
        mesh=_mesh(found),
        sharding=int(layout.sharding[0]),
        micro_batch=int(layout.micro_batch[0]),
        schedule=SCHEDULES[int(layout.schedule[0])] if int(layout.pp[0]) > 1 else "none",
        recompute=_parts(found),
        recomputed_layers=int(np.minimum(layout.recomputed[0], layout.layers[0].sum(axis=1)).sum()),
        iteration_s=found.total_us / 1e6,
        memory_bytes_per_gpu=float(training_memory(setting, layout).allocated.max()),
        loses_by=found.total_us / best.total_us - 1,
    )


# ------------------------------------------------------------------ provenance


def _provenance(setting: Setting, pool: Pool, gpu: Gpu, links: Links) -> Provenance:
    cost, notes = links.cost, _notes(setting, pool, gpu, links)
    return Provenance(**provenance_fields(cost.store, cost.measured, {gpu.name}, cost.version, notes))


def _notes(setting: Setting, pool: Pool, gpu: Gpu, links: Links) -> tuple[str, ...]:
    factor = links.lasting_load
    known = "" if links.calibration.knows(gpu) else "; nothing is known of this type"
    notes = [
        f"kernels take {factor.factor:.2f} ({factor.low:.2f}–{factor.high:.2f}) times the pack's short bursts under "
        f"lasting load on {gpu.name}{known}",
        "backward products are the forward products of the permuted shapes; the pack has no backward kernels",
        *links.own.notes,
        f"between nodes {100 * links.constants.fabric:.0f} % of the rate of {pool.fabric} are taken as reached, "
        "the groups of a node sharing its cards",
    ]
    if links.calibration.learned_from:
        notes.append(f"constants of training were learned from {links.calibration.learned_from}")
    if setting.model.experts is not None:
        notes.append("experts are taken as balanced but for a factor, and no token as dropped")
    if setting.mode == "lora":
        notes.append("adapters of rank 16 on the products of every layer are trained; frozen weights have no gradients")
    if len(setting.model.kinds) > 1:
        notes.append("layers of several kinds in virtual stages are split as evenly as possible, and not otherwise")
    return (*notes, *links.cost.notes)
