"""The flags that start a training plan: of Megatron-LM, of torchtitan, or DeepSpeed's JSON."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

from costmodels.models.architecture import DenseFeedForward, GroupedQueryAttention, LatentAttention
from costmodels.training.setting import Setting
from planner.training.megatron_model import position_flags, vocabulary_flags
from planner.training.request import TrainingRequest

if TYPE_CHECKING:
    from planner.training.document import TrainingDecision, TrainingLaunch


def launch(
    setting: Setting, request: TrainingRequest, decision: TrainingDecision, with_one_number_s: float
) -> TrainingLaunch:
    """How to start ``decision`` in its framework. ``with_one_number_s``: seconds of an iteration where all stages
    recompute as many layers as the one that recomputes most."""
    from planner.training.document import TrainingLaunch

    name = setting.framework.name
    notes = [f"start one process a GPU, ranks in the order {decision.rank_order}, on {_machines(decision)}"]
    if decision.blocks:
        notes.append("nodes in that order: ranks go through one pool after the other, each block on nodes of its own")
    if name in ("megatron", "megatron-deepspeed"):
        arguments = _megatron(setting, request, decision, notes, with_one_number_s)
    elif name == "torchtitan":
        arguments = _torchtitan(setting, request, decision, notes)
    else:
        arguments = [json.dumps(_deepspeed(request, decision))]
        notes += _deepspeed_notes(setting, decision)
    return TrainingLaunch(framework=setting.framework.label, arguments=tuple(arguments), notes=tuple(notes))


def _machines(decision: TrainingDecision) -> str:
    if decision.blocks:
        return ", then ".join(
            f"{_nodes(block.gpus_used, block.gpus_per_node)} of {block.gpu} (from rank {block.first_rank})"
            for block in decision.blocks
        )
    return _nodes(decision.gpus_used, decision.gpus_per_node)


def _nodes(gpus: int, per_node: int) -> str:
    nodes = -(-gpus // per_node)
    return "1 node" if nodes == 1 else f"{nodes} nodes"


# ------------------------------------------------------------------ Megatron-LM


def _megatron(
    setting: Setting, request: TrainingRequest, d: TrainingDecision, notes: list[str], with_one_number_s: float
) -> list[str]:
    mesh = d.mesh
    flags: list[object] = [
        *("--tensor-model-parallel-size", mesh.tp, "--pipeline-model-parallel-size", mesh.pp),
        *("--context-parallel-size", mesh.cp, "--micro-batch-size", d.micro_batch),
        *("--global-batch-size", request.global_batch, "--seq-length", request.seq_len),
        *_megatron_model(setting, request),
        *_megatron_text(setting, request, d, notes),
        "--fp16" if request.precision == "fp16" else "--bf16",
    ]
    if d.sequence_parallel:
        flags.append("--sequence-parallel")
    if setting.model.experts is not None:
        flags += ["--expert-model-parallel-size", mesh.ep, "--expert-tensor-parallel-size", mesh.moe_tp]
        if setting.framework.name == "megatron":  # as predicted; unasked it gathers all tokens, experts run one by one
            flags += ["--moe-grouped-gemm", "--moe-token-dispatcher-type", "alltoall"]
    if d.sharding == 1:
        flags.append("--use-distributed-optimizer")
    elif d.sharding >= 2:
        strategy = "optim_grads" if d.sharding == 2 else "optim_grads_params"
        flags += ["--use-megatron-fsdp", "--data-parallel-sharding-strategy", strategy, "--use-distributed-optimizer"]
    if "gradients" in setting.framework.hidden:
        flags.append("--overlap-grad-reduce")
    if "parameters" in setting.framework.hidden and d.sharding:
        flags.append("--overlap-param-gather")
    if "tensor" in setting.framework.hidden and mesh.tp > 1 and d.sequence_parallel:
        flags.append("--tp-comm-overlap")
    recipe = {"fp8": "tensorwise", "mxfp8": "mxfp8", "nvfp4": None}
    if request.precision in recipe:
        flags += ["--fp4-format", "e2m1"] if request.precision == "nvfp4" else [
            *("--fp8-format", "hybrid", "--fp8-recipe", recipe[request.precision]),
        ]  # fmt: skip
    flags += _megatron_stages(d)
    flags += _megatron_recompute(d, notes, with_one_number_s)
    return [str(flag) for flag in flags]


def _megatron_model(setting: Setting, request: TrainingRequest) -> list[object]:
    """Sizes and forms of the layers, where they are not what Megatron-LM takes unasked."""
    trained, model = setting.model, setting.model.architecture
    attention, experts = trained.kinds[-1].attention, trained.experts
    flags: list[object] = ["--num-layers", model.layers, "--hidden-size", model.hidden]
    flags += ["--num-attention-heads", attention.heads, "--max-position-embeddings", request.seq_len]
    if isinstance(attention, GroupedQueryAttention):
        if attention.kv_heads != attention.heads:
            flags += ["--group-query-attention", "--num-query-groups", attention.kv_heads]
        if attention.head_dim * attention.heads != model.hidden:
            flags += ["--kv-channels", attention.head_dim]
        if attention.qk_norm != "none":
            flags.append("--qk-layernorm")
    if isinstance(attention, LatentAttention):
        flags += ["--multi-latent-attention", "--kv-lora-rank", attention.kv_lora_rank]
        flags += ["--q-lora-rank", attention.q_lora_rank] if attention.q_lora_rank else []
        flags += ["--qk-head-dim", attention.qk_nope_head_dim, "--qk-pos-emb-head-dim", attention.qk_rope_head_dim]
        flags += ["--v-head-dim", attention.v_head_dim]
    dense = [kind.feed_forward for kind in trained.kinds if isinstance(kind.feed_forward, DenseFeedForward)]
    if dense and (dense[0].gated or dense[0].intermediate != 4 * model.hidden):
        flags += ["--ffn-hidden-size", dense[0].intermediate]
    if experts is not None:
        flags += ["--num-experts", experts.experts, "--moe-router-topk", experts.top_k]
        flags += ["--moe-ffn-hidden-size", experts.intermediate]
        if experts.shared_intermediate:
            flags += ["--moe-shared-expert-intermediate-size", experts.shared_intermediate]
        if dense:
            whole = [
                int(not isinstance(trained.kinds[place].feed_forward, DenseFeedForward)) for place in trained.order
            ]
            runs = "+".join(f"[{bit}]*{len(list(run))}" for bit, run in groupby(whole))
            flags += ["--moe-layer-freq", f"({runs})"]
    gated = experts.gated if experts is not None else dense[0].gated
    if not trained.layer_norm:
        flags += ["--normalization", "RMSNorm", "--disable-bias-linear"]
    if getattr(attention, "bias", False) and not trained.layer_norm:
        flags.append("--add-qkv-bias")
    flags += ["--swiglu"] if gated else []
    flags += [] if trained.learned_positions else ["--position-embedding-type", "rope"]
    flags += [] if model.tied_embeddings else ["--untie-embeddings-and-output-weights"]
    return flags


def _megatron_text(setting: Setting, request: TrainingRequest, d: TrainingDecision, notes: list[str]) -> list[object]:
    """Positions, norms and vocabulary: of a model written out, what Megatron-LM takes unasked."""
    trained, model = setting.model, setting.model.architecture
    given = request.model
    flags = vocabulary_flags(model.name, model.vocabulary, setting.framework.vocab_multiple * d.mesh.tp)
    if "NullTokenizer" in flags:
        notes.append("--tokenizer-type NullTokenizer: the model has no name on the Hub; give its own with your data")
    if trained.learned_positions or (isinstance(given, str) and given.startswith(("llama:", "gpt:"))):
        return flags
    told = position_flags(model.name, None if isinstance(given, str) else given.config)
    if told is None:
        notes.append(
            f"rotary embeddings and epsilon of {model.name} are not known here: give --rotary-base (rope_theta), "
            "--norm-epsilon (rms_norm_eps) and what its rope_scaling asks for, from its config.json"
        )
        return flags
    return [*flags, *told]


def _megatron_stages(d: TrainingDecision) -> list[object]:
    """Even stages by their number; others by a layout string (``--pipeline-model-parallel-layout``)."""
    if d.mesh.pp == 1:
        return []
    runs = [stage.runs[turn] for turn in range(d.mesh.vpp) for stage in d.stages]
    if len(set(runs)) == 1:
        return ["--num-virtual-stages-per-pipeline-rank", d.mesh.vpp] if d.mesh.vpp > 1 else []
    return ["--pipeline-model-parallel-layout", layout_string(runs)]


def layout_string(runs: list[int]) -> str:
    """Megatron-LM's pipeline layout: ``Et*3|t*4|…|t*3L``, E the embedding, t a layer, L the loss, | between stages."""
    words = [f"t*{count}" if count > 1 else "t" * count for count in runs]
    words[0] = f"E{words[0]}"
    words[-1] = f"{words[-1]}L"
    return "|".join(words)


def _megatron_recompute(d: TrainingDecision, notes: list[str], with_one_number_s: float) -> list[object]:
    whole = {stage.recomputed for stage in d.stages}
    if max(whole):
        if len(whole) > 1:
            counts = ", ".join(str(stage.recomputed) for stage in d.stages)
            notes.append(
                f"layers recomputed by stage: {counts}; the flag takes one number, the largest, for all, with which an "
                f"iteration takes {with_one_number_s:.4g} s"
            )
        each = max(-(-stage.recomputed // d.mesh.vpp) for stage in d.stages)
        return ["--recompute-granularity", "full", "--recompute-method", "block", "--recompute-num-layers", each]
    if d.recompute:
        return ["--recompute-granularity", "selective", "--recompute-modules", *d.recompute]
    return []


# ------------------------------------------------------------------ torchtitan


def _torchtitan(setting: Setting, request: TrainingRequest, d: TrainingDecision, notes: list[str]) -> list[str]:
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


# ------------------------------------------------------------------ DeepSpeed


def _deepspeed(request: TrainingRequest, d: TrainingDecision) -> dict[str, object]:
    return {
        "train_batch_size": request.global_batch,
        "train_micro_batch_size_per_gpu": d.micro_batch,
        "gradient_accumulation_steps": d.microbatches,
        "fp16" if request.precision == "fp16" else "bf16": {"enabled": True},
        "zero_optimization": {"stage": d.sharding, "overlap_comm": True, "contiguous_gradients": True},
        "tensor_parallel": {"autotp_size": d.mesh.tp},
        "sequence_parallel_size": d.mesh.cp,
    }


def _deepspeed_notes(setting: Setting, d: TrainingDecision) -> list[str]:
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
