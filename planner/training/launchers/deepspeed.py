"""DeepSpeed's JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from costmodels.training.setting import Setting
from planner.training.request import TrainingRequest

if TYPE_CHECKING:
    from planner.training.document import TrainingDecision


def configuration(request: TrainingRequest, d: TrainingDecision) -> dict[str, object]:
    """``ds_config.json``."""
    return {
        "train_batch_size": request.global_batch,
        "train_micro_batch_size_per_gpu": d.micro_batch,
        "gradient_accumulation_steps": d.microbatches,
        "fp16" if request.precision == "fp16" else "bf16": {"enabled": True},
        "zero_optimization": {"stage": d.sharding, "overlap_comm": True, "contiguous_gradients": True},
        "tensor_parallel": {"autotp_size": d.mesh.tp},
        "sequence_parallel_size": d.mesh.cp,
    }


def beside(setting: Setting, d: TrainingDecision) -> list[str]:
    """What the plan has and DeepSpeed's configuration has no words for."""
    notes = ["DeepSpeed's configuration; the model's code decides recomputation and attention"]
    layers = setting.model.architecture.layers
    if any(stage.recomputed for stage in d.stages):
        counts = ", ".join(str(stage.recomputed) for stage in d.stages)
        notes.append(f"it has to recompute whole layers: {counts} of {layers}" + (" by stage" if d.mesh.pp > 1 else ""))
    elif d.recompute:
        notes.append(f"it has to recompute {', '.join(d.recompute)} of every layer")
    if d.mesh.pp > 1:
        layers_of = ", ".join(str(stage.layers) for stage in d.stages)
        notes.append(f"its pipeline has {d.mesh.pp} stages of {layers_of} layers")
    if d.mesh.ep > 1:
        notes.append(f"its experts are shared out over {d.mesh.ep} GPUs (ep_size of its MoE layers)")
    return notes
