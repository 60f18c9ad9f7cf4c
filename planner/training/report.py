"""From what a search found to the document that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.origins import HOW
from costmodels.training.flops import model_flops
from costmodels.training.iteration import IterationTimes, pooled_iterations
from costmodels.training.layouts import ATTENTION, RECOMPUTED, SCHEDULES, TrainingLayouts
from costmodels.training.memory import PARTS, SPREAD, TrainingMemory, training_memory
from costmodels.training.pools import pooled_times
from costmodels.training.setting import Setting
from planner.contract.clusters import Pool
from planner.contract.provenance import Provenance, provenance_fields
from planner.contract.quantities import Interval
from planner.training import document as doc
from planner.training.launchers.launch import launch
from planner.training.lines import StagePool
from planner.training.request import TrainingRequest
from planner.training.search import Found, Search
from profiles.hardware import Gpu

SIMPLE_ENOUGH = 0.02
"""How much slower a simpler layout may be to be pointed out."""


@dataclass(frozen=True, eq=False)
class StageSite:
    """A pool of the request, and what is known of its GPUs."""

    pool: Pool
    on: StagePool

    @property
    def gpu(self) -> Gpu:
        return self.on.gpu


@dataclass(frozen=True)
class PlacedStages:
    """What was chosen, and where: the pool of each stage, and the pools in the order of the pipeline."""

    found: Found
    stages: tuple[StageSite, ...]

    @property
    def sites(self) -> tuple[StageSite, ...]:
        return tuple(dict.fromkeys(self.stages))

    @property
    def ranks(self) -> int:
        """Of each stage."""
        return int(self.found.layout.gpus[0]) // len(self.stages)

    def gpus(self, site: StageSite) -> int:
        return self.stages.count(site) * self.ranks

    @property
    def usd_per_hour(self) -> float | None:
        prices = [site.pool.usd_per_gpu_hour for site in self.sites]
        if None in prices:
            return None
        return sum(price * self.gpus(site) for site, price in zip(self.sites, prices, strict=True) if price is not None)


def assemble(setting: Setting, request: TrainingRequest, pools: Sequence[StagePool], found: Search) -> doc.TrainingPlan:
    """The document of the best layout that ``found`` has on ``pools``, which are those of the request."""
    sites = [StageSite(pool, on) for pool, on in zip(request.cluster.pools, pools, strict=True)]
    best = PlacedStages(found.best[0], tuple(sites[index] for index in found.best[0].line))
    memory = training_memory(setting, best.found.layout)
    prediction = _prediction(setting, request, best, memory)
    return doc.TrainingPlan(
        request=_understood(setting, request),
        decision=_decision(setting, request, best, sites),
        prediction=prediction,
        proof=_proof(request, best, found, memory, prediction),
        alternatives=_alternatives(setting, found, sites),
        provenance=_provenance(setting, best),
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
        pp_across_pools=request.pp_across_pools,
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


def _decision(
    setting: Setting, request: TrainingRequest, placed: PlacedStages, sites: Sequence[StageSite]
) -> doc.TrainingDecision:
    found = placed.found
    layout, mesh = found.layout, _mesh(found)
    blocks = _blocks(placed) if len(placed.sites) > 1 else ()
    stages = _stages(placed)
    decision = doc.TrainingDecision(
        pool="+".join(site.pool.name for site in placed.sites),
        gpu="+".join(site.pool.gpu for site in placed.sites),
        gpus_per_node=placed.sites[0].pool.gpus_per_node,
        mesh=mesh,
        sharding=int(layout.sharding[0]),
        micro_batch=int(layout.micro_batch[0]),
        microbatches=int(layout.microbatches[0]),
        sequence_parallel=bool(layout.sequence_parallel[0]),
        schedule=SCHEDULES[int(layout.schedule[0])] if mesh.pp > 1 else "none",
        recompute=_parts(found),
        attention=ATTENTION[int(layout.attention[0])],
        stages=stages,
        blocks=blocks,
        gpus_used=mesh.gpus,
        gpus_idle=sum(site.pool.gpus for site in placed.sites) - mesh.gpus,
        usd_per_hour=placed.usd_per_hour,
        launch=doc.TrainingLaunch(framework=setting.framework.label, arguments=(), notes=()),
    )
    return decision.model_copy(update={"launch": launch(setting, request, decision, _with_one_number(setting, placed))})


def _times(setting: Setting, placed: PlacedStages, layout: TrainingLayouts) -> IterationTimes:
    where = np.array([[placed.sites.index(site) for site in placed.stages]]) if len(placed.sites) > 1 else None
    links = [site.on.links for site in placed.sites]
    return pooled_iterations(setting, layout, pooled_times(setting, links, layout, where))


def _with_one_number(setting: Setting, placed: PlacedStages) -> float:
    """Seconds of an iteration where every (virtual) stage recomputes as many layers as the one that recomputes most,
    which is what flags that take one number can say."""
    layout = placed.found.layout
    held, vpp = layout.layers.sum(axis=2), float(layout.vpp[0])
    most = np.ceil(np.minimum(layout.recomputed, held) / vpp).max() * vpp
    all_alike = layout.with_stages(layout.layers, np.minimum(held, most))
    return float(_times(setting, placed, all_alike).total.value[0]) / 1e6


def _stages(placed: PlacedStages) -> tuple[doc.Stage, ...]:
    found, mesh = placed.found, _mesh(placed.found)
    layout, ranks = found.layout, placed.ranks
    runs = np.array(found.split).reshape(mesh.vpp, mesh.pp)
    several = len(placed.sites) > 1
    stages = []
    for stage, site in enumerate(placed.stages):
        first = (stage - placed.stages.index(site)) * ranks  # within its block
        stages.append(
            doc.Stage(
                stage=stage,
                layers=int(runs[:, stage].sum()),
                runs=tuple(int(each) for each in runs[:, stage]),
                recomputed=int(min(layout.recomputed[0, stage], layout.layers[0, stage].sum())),
                first_rank=stage * ranks,
                ranks=ranks,
                first_node=first // site.pool.gpus_per_node,
                last_node=(first + ranks - 1) // site.pool.gpus_per_node,
                pool=site.pool.name if several else None,
                gpu=site.pool.gpu if several else None,
            )
        )
    return tuple(stages)


def _blocks(placed: PlacedStages) -> tuple[doc.StageBlock, ...]:
    layers = placed.found.layout.layers[0].sum(axis=1)
    return tuple(
        doc.StageBlock(
            pool=site.pool.name,
            gpu=site.pool.gpu,
            gpus_per_node=site.pool.gpus_per_node,
            stages=placed.stages.count(site),
            layers=int(sum(layers[stage] for stage, where in enumerate(placed.stages) if where is site)),
            first_rank=placed.stages.index(site) * placed.ranks,
            gpus_used=placed.gpus(site),
            gpus_idle=site.pool.gpus - placed.gpus(site),
        )
        for site in placed.sites
    )


# ------------------------------------------------------------------ prediction


def _prediction(
    setting: Setting, request: TrainingRequest, placed: PlacedStages, memory: TrainingMemory
) -> doc.TrainingPrediction:
    layout = placed.found.layout
    times = _times(setting, placed, layout)
    seconds = float(times.total.value[0]) / 1e6
    gpus = int(layout.gpus[0])
    flops = model_flops(setting, request.global_batch) / seconds
    tokens = request.global_batch * request.seq_len / seconds
    rate = {"fp8": "fp8", "mxfp8": "fp8", "nvfp4": "fp4"}.get(request.precision, request.precision)
    peak = sum(_peak(site.gpu, rate) * placed.gpus(site) for site in placed.sites)
    usd = placed.usd_per_hour
    fullest = float(memory.allocated.max())
    return doc.TrainingPrediction(
        iteration_s=Interval(value=seconds, low=float(times.total.low[0]) / 1e6, high=float(times.total.high[0]) / 1e6),
        tokens_per_s_gpu=tokens / gpus,
        model_tflops_gpu=flops / gpus / 1e12,
        mfu=flops / peak,
        bubble_share=float(times.bubble_share[0]),
        exposed_communication_share=float(times.exchange_share[0]),
        seconds_by_part={name: float(part[0]) / 1e6 for name, part in times.parts.items()},
        memory_bytes_per_gpu=Interval(
            value=fullest, low=fullest * float(np.exp(-SPREAD[0])), high=fullest * float(np.exp(SPREAD[1]))
        ),
        stages=tuple(_stage_memory(memory, stage, site.gpu) for stage, site in enumerate(placed.stages)),
        usd_per_billion_tokens=None if usd is None else usd / 3600 / tokens * 1e9,
        how=HOW[int(times.total.how[0])],
        inside_measured_range=bool(times.total.inside[0]),
    )


def _peak(gpu: Gpu, rate: str) -> float:
    """Dense FLOP/s of one GPU."""
    return gpu.peak_flops.get(rate) or gpu.peak_flops.get("bf16") or gpu.peak_flops["fp16"]


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
    request: TrainingRequest, placed: PlacedStages, found: Search, memory: TrainingMemory, told: doc.TrainingPrediction
) -> doc.TrainingProof:
    best = placed.found
    if request.objective == "time":
        value, bound, unit = best.total_us / 1e6, found.bound_us / 1e6, "s an iteration"
    elif request.objective == "gpus":
        value, bound, unit = float(best.layout.gpus[0]), found.bound_us, "GPUs"
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
        binding_constraint=_binding(placed, memory, told),
    )


def _binding(placed: PlacedStages, memory: TrainingMemory, told: doc.TrainingPrediction) -> str:
    """What keeps the iteration from being shorter: memory that is nearly full, else the largest loss."""
    shares = memory.used()[0] / np.array([site.gpu.memory_bytes for site in placed.stages])
    stage = int(shares.argmax())
    full = shares[stage]
    memory_words = f"memory of stage {stage} ({full:.0%} full)"
    losses = {
        "the bubble": told.bubble_share,
        "exposed exchanges": told.exposed_communication_share,
        "the host, which launches kernels": told.seconds_by_part["host"] / told.iteration_s.value,
    }
    name, share = max(losses.items(), key=lambda item: item[1])
    words = f"{name} ({share:.1%} of the iteration)"
    return f"{memory_words}, then {words}" if full > 0.9 else words


# ------------------------------------------------------------------ alternatives


def _alternatives(setting: Setting, found: Search, sites: Sequence[StageSite]) -> doc.TrainingAlternatives:
    best = found.best[0]
    ranked = tuple(_alternative(setting, each, best, sites) for each in found.best[1:4])
    near = [each for each in found.best if each.total_us <= best.total_us * (1 + SIMPLE_ENOUGH)]
    simplest = min(near, key=lambda each: (_machinery(each), each.total_us))
    return doc.TrainingAlternatives(
        ranked=ranked, simplest=None if simplest is best else _alternative(setting, simplest, best, sites)
    )


def _machinery(found: Found) -> int:
    """How many kinds of parallelism and tricks a layout needs."""
    layout = found.layout
    degrees = sum(int(getattr(layout, name)[0]) > 1 for name in ("tp", "pp", "vpp", "cp", "ep", "etp"))
    uneven = len(set(found.split)) > 1
    recomputes = int(layout.selective[0]) > 0 or float(layout.recomputed.max()) > 0
    return degrees + uneven + recomputes + len(found.pools) - 1 + (int(layout.sharding[0]) > 1)


def _alternative(setting: Setting, found: Found, best: Found, sites: Sequence[StageSite]) -> doc.TrainingAlternative:
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
        pools=tuple(sites[index].pool.name for index in dict.fromkeys(found.line)) if len(sites) > 1 else (),
    )


# ------------------------------------------------------------------ provenance


def _provenance(setting: Setting, placed: PlacedStages) -> Provenance:
    cost, names = placed.sites[0].on.links.cost, {site.gpu.name for site in placed.sites}
    return Provenance(**provenance_fields(cost.store, cost.measured, names, cost.version, _notes(setting, placed)))


def _notes(setting: Setting, placed: PlacedStages) -> tuple[str, ...]:
    links = placed.sites[0].on.links
    notes = []
    for site in placed.sites:
        load = site.on.links.lasting_load
        known = "" if site.on.links.calibration.knows(site.gpu) else "; nothing is known of this type"
        notes.append(
            f"kernels take {load.factor:.2f} ({load.low:.2f}–{load.high:.2f}) times the pack's short bursts under "
            f"lasting load on {site.gpu.name}{known}"
        )
    notes.append("backward products are the forward products of the permuted shapes; the pack has no backward kernels")
    notes += dict.fromkeys(note for site in placed.sites for note in site.on.links.own.notes)
    fabrics = " and ".join(dict.fromkeys(site.pool.fabric for site in placed.sites))
    if any(placed.gpus(site) > site.pool.gpus_per_node for site in placed.sites) or len(placed.sites) > 1:
        notes.append(
            f"between nodes {100 * links.constants.fabric:.0f} % of the rate of {fabrics} are taken as reached, "
            "the groups of a node sharing its cards"
        )
    if len(placed.sites) > 1:
        notes.append(
            "the pools are taken as joined at the rate of the slower one's fabric; no published run of a pipeline "
            "across GPU types is among the rows that predictions are held to"
        )
    if links.calibration.learned_from:
        notes.append(f"constants of training were learned from {links.calibration.learned_from}")
    if setting.model.experts is not None:
        notes.append("experts are taken as balanced but for a factor, and no token as dropped")
    if setting.mode == "lora":
        notes.append("adapters of rank 16 on the products of every layer are trained; frozen weights have no gradients")
    if len(setting.model.kinds) > 1:
        notes.append("layers of several kinds in virtual stages are split as evenly as possible, and not otherwise")
    return (*notes, *dict.fromkeys(note for site in placed.sites for note in site.on.links.cost.notes))
