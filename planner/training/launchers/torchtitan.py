"""torchtitan's options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.training.request import TrainingRequest

if TYPE_CHECKING:
    from planner.training.document import TrainingDecision


def arguments(request: TrainingRequest, d: TrainingDecision, notes: list[str]) -> list[str]:
    """The overrides of a configuration (``--section.key VALUE``); what they cannot say goes to ``notes``."""
    mesh = d.mesh
    local = request.global_batch // mesh.dp if mesh.pp > 1 else d.micro_batch
    flags: list[object] = [
        *("--training.seq_len", request.seq_len, "--training.local_batch_size", local),
        *("--training.global_batch_size", request.global_batch),
        *("--parallelism.tensor_parallel_degree", mesh.tp, "--parallelism.context_parallel_degree", mesh.cp),
        *("--parallelism.pipeline_parallel_degree", mesh.pp),
        *("--parallelism.data_parallel_shard_degree", mesh.dp if d.sharding else 1),
        *("--parallelism.data_parallel_replicate_degree", 1 if d.sharding else mesh.dp),
    ]
    if d.sharding == 2:
        flags += ["--parallelism.fsdp_reshard_after_forward", "never"]
    elif d.sharding == 3:
        flags += ["--parallelism.fsdp_reshard_after_forward", "always"]
    if mesh.pp > 1:
        schedule = {"1f1b": "1F1B", "gpipe": "GPipe", "interleaved": "Interleaved1F1B", "zero-bubble": "ZBVZeroBubble"}
        flags += ["--parallelism.pipeline_parallel_schedule", schedule[d.schedule]]
        flags += ["--parallelism.pipeline_parallel_microbatch_size", d.micro_batch]
        if len({stage.runs for stage in d.stages}) > 1:
            runs = [str(stage.runs[turn]) for turn in range(mesh.vpp) for stage in d.stages]
            notes.append(f"layers of the (virtual) stages in order: {', '.join(runs)} (module_fqns_per_model_part)")
    if mesh.ep > 1:
        flags += [
            "--parallelism.expert_parallel_degree",
            mesh.ep,
            "--parallelism.expert_tensor_parallel_degree",
            mesh.moe_tp,
        ]
    every = {stage.layers // stage.recomputed for stage in d.stages if stage.recomputed}
    if 1 in every:
        flags += ["--activation_checkpoint.mode", "full"]
    elif every:
        flags += [
            "--activation_checkpoint.mode",
            "selective",
            "--activation_checkpoint.selective_ac_option",
            min(every),
        ]
    else:
        flags += ["--activation_checkpoint.mode", "selective" if d.recompute else "none"]
    if every and any(stage.recomputed != stage.layers // min(every) for stage in d.stages):
        counts = ", ".join(str(stage.recomputed) for stage in d.stages)
        notes.append(f"layers recomputed by stage: {counts}; the option takes every n-th layer of all stages, the most")
    if request.precision == "fp8":
        flags += ["--model.converters", "float8"]
    return [str(flag) for flag in flags]
