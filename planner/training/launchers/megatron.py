"""Megatron-LM's flags."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from costmodels.models.architecture import Attention, DenseFeedForward, GroupedQueryAttention, LatentAttention
from costmodels.training.models import TrainedModel
from costmodels.training.setting import Setting
from planner.training.launchers.known_models import position_flags, vocabulary_flags
from planner.training.request import TrainingRequest

if TYPE_CHECKING:
    from planner.training.document import TrainingDecision


def arguments(
    setting: Setting, request: TrainingRequest, d: TrainingDecision, notes: list[str], with_one_number_s: float
) -> list[str]:
    """The flags of ``pretrain_gpt.py``; what they cannot say goes to ``notes``. ``with_one_number_s``: as of
    :func:`~planner.training.launchers.launch.launch`."""
    mesh = d.mesh
    flags: list[object] = [
        *("--tensor-model-parallel-size", mesh.tp, "--pipeline-model-parallel-size", mesh.pp),
        *("--context-parallel-size", mesh.cp, "--micro-batch-size", d.micro_batch),
        *("--global-batch-size", request.global_batch, "--seq-length", request.seq_len),
        *model_flags(setting.model, request.seq_len),
        *_text_flags(setting, request, d, notes),
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
    flags += _stage_flags(d)
    flags += _recompute_flags(d, notes, with_one_number_s)
    return [str(flag) for flag in flags]


def model_flags(model: TrainedModel, longest: int) -> list[object]:
    """Sizes and forms of the layers, where they are not what Megatron-LM takes unasked.

    Args:
        longest: tokens of a sequence.
    """
    architecture, attention = model.architecture, model.kinds[-1].attention
    flags: list[object] = ["--num-layers", architecture.layers, "--hidden-size", architecture.hidden]
    flags += ["--num-attention-heads", attention.heads, "--max-position-embeddings", longest]
    flags += [*_attention_flags(attention, architecture.hidden), *_feed_forward_flags(model)]
    if not model.layer_norm:
        flags += ["--normalization", "RMSNorm", "--disable-bias-linear"]
    if getattr(attention, "bias", False) and not model.layer_norm:
        flags.append("--add-qkv-bias")
    flags += ["--swiglu"] if _is_gated(model) else []
    flags += [] if model.learned_positions else ["--position-embedding-type", "rope"]
    flags += [] if architecture.tied_embeddings else ["--untie-embeddings-and-output-weights"]
    return flags


def _attention_flags(attention: Attention, hidden: int) -> list[object]:
    flags: list[object] = []
    if isinstance(attention, GroupedQueryAttention):
        if attention.kv_heads != attention.heads:
            flags += ["--group-query-attention", "--num-query-groups", attention.kv_heads]
        if attention.head_dim * attention.heads != hidden:
            flags += ["--kv-channels", attention.head_dim]
        if attention.qk_norm != "none":
            flags.append("--qk-layernorm")
    if isinstance(attention, LatentAttention):
        flags += ["--multi-latent-attention", "--kv-lora-rank", attention.kv_lora_rank]
        flags += ["--q-lora-rank", attention.q_lora_rank] if attention.q_lora_rank else []
        flags += ["--qk-head-dim", attention.qk_nope_head_dim, "--qk-pos-emb-head-dim", attention.qk_rope_head_dim]
        flags += ["--v-head-dim", attention.v_head_dim]
    return flags


def _feed_forward_flags(model: TrainedModel) -> list[object]:
    experts, dense = model.experts, _dense(model)
    flags: list[object] = []
    if dense and (dense[0].gated or dense[0].intermediate != 4 * model.architecture.hidden):
        flags += ["--ffn-hidden-size", dense[0].intermediate]
    if experts is None:
        return flags
    flags += ["--num-experts", experts.experts, "--moe-router-topk", experts.top_k]
    flags += ["--moe-ffn-hidden-size", experts.intermediate]
    if experts.shared_intermediate:
        flags += ["--moe-shared-expert-intermediate-size", experts.shared_intermediate]
    if dense:
        whole = [int(not isinstance(model.kinds[place].feed_forward, DenseFeedForward)) for place in model.order]
        runs = "+".join(f"[{bit}]*{len(list(run))}" for bit, run in groupby(whole))
        flags += ["--moe-layer-freq", f"({runs})"]
    return flags


def _dense(model: TrainedModel) -> list[DenseFeedForward]:
    return [kind.feed_forward for kind in model.kinds if isinstance(kind.feed_forward, DenseFeedForward)]


def _is_gated(model: TrainedModel) -> bool:
    return model.experts.gated if model.experts is not None else _dense(model)[0].gated


def _text_flags(setting: Setting, request: TrainingRequest, d: TrainingDecision, notes: list[str]) -> list[object]:
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


def _stage_flags(d: TrainingDecision) -> list[object]:
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


def _recompute_flags(d: TrainingDecision, notes: list[str], with_one_number_s: float) -> list[object]:
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
