"""A training plan as people read it, in at most 100 columns."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, facts, heading, indented, page, table
from api.cli.views.quantities import gib, number, percent, several
from api.cli.views.words import pool_words
from planner.training.configuration import stages_text
from planner.training.document import TrainingAlternative, TrainingPlan

SHARDING = ("none", "optimizer states", "optimizer states and gradients", "all states and weights")
MOST_STAGES = 12


def show(plan: TrainingPlan, *, explain: bool) -> None:
    with page() as out:
        _asked(plan, out)
        _decided(plan, out)
        _predicted(plan, out, explain=explain)
        _memory(plan, out, explain=explain)
        _alternatives(plan, out)
        _proof(plan, out, explain=explain)
        heading(out, "What to know of these numbers")
        for note in plan.provenance.notes:
            bullet(out, note)


def _asked(plan: TrainingPlan, out: Console) -> None:
    request = plan.request
    out.print(Text(request.model, style="bold"))
    experts = request.active_parameters < request.parameters
    active = f", {number(request.active_parameters / 1e9)} B a token" if experts else ""
    rows = [
        ("parameters", f"{number(request.parameters / 1e9)} B{active}"),
        *(("cluster", pool_words(pool)) for pool in request.cluster.pools),
        ("batch", f"{request.global_batch:,} × {request.seq_len:,} tokens"),
        ("framework", f"{request.framework}, {request.precision}, {request.attention} attention, {request.mode}"),
        ("objective", request.objective),
    ]
    facts(out, rows)


def _decided(plan: TrainingPlan, out: Console) -> None:
    d = plan.decision
    heading(out, "Layout")
    moe = f", experts split {d.mesh.moe_tp} ways" if d.mesh.moe_tp > 1 else ""
    idle = f", {d.gpus_idle:,} idle" if d.gpus_idle else ""
    layers = [stage.layers for stage in d.stages]
    words = f"{layers[0]} each" if len(layers) > 1 == len(set(layers)) else ", ".join(map(str, layers))
    in_order = [layers for chunk in zip(*(stage.runs for stage in d.stages), strict=True) for layers in chunk]
    virtual = [("stage_layers", stages_text(in_order))] if len(in_order) > len(layers) else []
    where = [
        (
            f"on {block.gpu}",
            f"{several(block.stages, 'stage')}, {several(block.layers, 'layer')}, "
            f"{block.gpus_used:,} GPUs" + (f", {block.gpus_idle:,} idle" if block.gpus_idle else ""),
        )
        for block in d.blocks
    ]
    whole = [stage.recomputed for stage in d.stages]
    recompute = [*d.recompute]
    if any(whole):
        recompute.append(f"whole layers by stage: {', '.join(map(str, whole))}")
    facts(
        out,
        [
            ("mesh", f"{d.mesh.label}{moe} on {d.gpus_used:,} {'GPUs' if d.blocks else f'× {d.gpu}'}{idle}"),
            *where,
            ("micro-batch", f"{d.micro_batch}, {d.microbatches} of them an iteration"),
            ("schedule", d.schedule),
            ("layers", words),
            *virtual,
            ("sharding", SHARDING[d.sharding]),
            ("sequence parallel", "yes" if d.sequence_parallel else "no"),
            ("recompute", ", ".join(recompute) or "none"),
        ],
    )


def _predicted(plan: TrainingPlan, out: Console, *, explain: bool) -> None:
    p = plan.prediction
    heading(out, "Prediction")
    t = p.iteration_s
    rows = [
        ("iteration", f"{number(t.value)} s  ({number(t.low)}–{number(t.high)}, 80 %)"),
        ("throughput", f"{number(p.tokens_per_s_gpu)} tokens/s a GPU"),
        ("model FLOPs", f"{number(p.model_tflops_gpu)} TFLOP/s a GPU, MFU {percent(p.mfu)}"),
        ("bubble", percent(p.bubble_share)),
        ("exposed exchanges", percent(p.exposed_communication_share)),
    ]
    if p.usd_per_billion_tokens is not None:
        rows.append(("cost", f"{number(p.usd_per_billion_tokens)} USD a billion tokens"))
    facts(out, rows)
    total = p.iteration_s.value
    if explain:
        heading(out, "Where the time goes")
        grid = table("part", "s", "share")
        for name, part in sorted(p.seconds_by_part.items(), key=lambda item: -item[1]):
            if part > 0:
                grid.add_row(name.replace("_", " "), number(part), percent(part / total))
        indented(out, grid)


def _memory(plan: TrainingPlan, out: Console, *, explain: bool) -> None:
    stages = plan.prediction.stages
    heading(out, "Memory of a GPU at its peak, GiB")
    grid = table("stage", "weights", "grads", "optim.", "activ.", "at peak", "allocated", "reserved", "all", "", left=0)
    fullest = max(range(len(stages)), key=lambda stage: stages[stage].used_bytes)
    shown = range(len(stages))
    if len(stages) > MOST_STAGES and not explain:
        shown = sorted({0, 1, len(stages) // 2, len(stages) - 2, len(stages) - 1, fullest})  # type: ignore[assignment]
    for index in shown:
        s = stages[index]
        cells = (
            *(s.weights_bytes, s.gradients_bytes, s.optimizer_bytes, s.activations_bytes),
            s.transient_bytes + s.logits_bytes + s.buffers_bytes,
            *(s.allocated_bytes, s.reserved_bytes, s.used_bytes),
        )
        verdict = "fits" if s.verdict == "fits" else "tight"
        grid.add_row(str(s.stage), *(f"{cell / 2**30:.1f}" for cell in cells), verdict)
    indented(out, grid)
    if any(s.verdict != "fits" for s in stages):
        out.print("  tight: fits only with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True")


def _words(each: TrainingAlternative) -> str:
    recompute = ", ".join(each.recompute)
    if each.recomputed_layers:
        recompute += f"{', ' if recompute else ''}{several(each.recomputed_layers, 'layer')}"
    return (
        f"{each.mesh.label}, ZeRO-{each.sharding}, micro-batch {each.micro_batch}"
        f"{f', recomputes {recompute}' if recompute else ''}" + (f", on {' + '.join(each.pools)}" if each.pools else "")
    )


def _alternatives(plan: TrainingPlan, out: Console) -> None:
    found = plan.alternatives
    if not found.ranked:
        return
    heading(out, "Next best")
    grid = table("layout", "s", "slower by", "GiB")
    for each in found.ranked:
        grid.add_row(_words(each), number(each.iteration_s), percent(each.loses_by), gib(each.memory_bytes_per_gpu))
    indented(out, grid)
    if found.simplest is not None:
        out.print(f"  simplest within 2 %: {_words(found.simplest)} ({percent(found.simplest.loses_by)} slower)")


def _proof(plan: TrainingPlan, out: Console, *, explain: bool) -> None:
    proof = plan.proof
    heading(out, "Why this one")
    facts(
        out,
        [
            ("binds", proof.binding_constraint),
            ("status", f"{proof.status}" + ("" if proof.gap is None else f", gap {percent(proof.gap)}")),
            (
                "considered",
                f"{proof.combinations:,} combinations, {proof.legal:,} legal, {proof.solved:,} solved exactly",
            ),
        ],
    )
    if explain and proof.rejected:
        heading(out, "What was rejected")
        grid = table("reason", "for example", "count", left=2)
        for each in proof.rejected:
            grid.add_row(each.reason, each.example, f"{each.count:,}")
        indented(out, grid)
        heading(out, "Start it with")
        out.print(f"  {shlex.join(plan.decision.launch.arguments)}", soft_wrap=True)
        for note in plan.decision.launch.notes:
            bullet(out, note)
