"""What torchtitan and Megatron Bridge are told, in the form of their release: TOML, overrides, arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence

from planner.exports.training_options import Fields, check_fields
from planner.training.document import TrainingPlan
from planner.training.launchers.megatron import layout_string
from profiles.errors import Unsupported

CONFIG_FILE = "torchtitan.toml"
TEXTS = ("selective_ac_option",)
"""Options whose numbers are texts: op, or the n of every n-th layer."""

MODES = {"none": "none", "full": "full", "selective": "selective"}


def said(arguments: Sequence[str]) -> dict[str, dict[str, object]]:
    """torchtitan's flags (``--section.key VALUE``) as section → key → value."""
    found: dict[str, dict[str, object]] = {}
    for place, word in enumerate(arguments):
        if word.startswith("--"):
            section, _, key = word[2:].partition(".")
            value = arguments[place + 1]
            number = value.isascii() and value.isdigit() and key not in TEXTS
            typed: object = int(value) if number else value
            found.setdefault(section, {})[key] = [value] if key == "converters" else typed
    return found


def titan_toml(fields: Fields, release: str, told: Sequence[str]) -> str:
    """The file of releases before 0.3.

    Raises:
        Unsupported: an option that the release has not.
    """
    check_fields("torchtitan", release, fields)
    lines = [f"# {' '.join(line.split())}" for line in told]
    for section, values in fields.items():
        lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """A value of TOML; its texts are JSON's, but for a character that JSON may leave as it is."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value).replace("\x7f", "\\u007f")


def titan_words(fields: Fields, release: str) -> list[str]:
    """The overrides of releases from 0.3 on, after --module and --config; how activations are recomputed comes last.

    Raises:
        Unsupported: an option that the release has not.
    """
    kept = {section: dict(values) for section, values in fields.items()}
    mode = str(kept.get("activation_checkpoint", {}).get("mode", "none"))
    if "selective_ac_option" in kept.get("activation_checkpoint", {}):
        raise Unsupported(
            f"recomputing every n-th layer: torchtitan {release} recomputes all layers or parts of each",
            "export for --framework torchtitan@0.2, or plan with --no-recompute",
        )
    if kept.get("parallelism", {}).pop("expert_tensor_parallel_degree", 1) != 1:
        raise Unsupported(
            f"experts split over GPUs: torchtitan {release} shares them out only", "plan with --moe-tp 1, or for 0.2"
        )
    if kept.pop("model", {}):
        raise Unsupported(
            f"8-bit products: torchtitan {release} takes them from its config registry, not from the command line",
            "plan with --precision bf16, or name a --set config=… that has them and plan so",
        )
    if kept.get("parallelism", {}).get("pipeline_parallel_degree", 1) != 1:
        kept.setdefault("training", {})["disable_cuda_graphs"] = True  # it refuses both together
    check_fields("torchtitan", release, kept)
    plain = {section: values for section, values in kept.items() if section != "activation_checkpoint"}
    words = [
        word
        for section, values in plain.items()
        for key, value in values.items()
        for word in ([f"--{section}.{key}"] if value is True else [f"--{section}.{key}", str(value)])
    ]
    return [*words, f"activation-checkpoint:{MODES[mode]}"]


_PRECISIONS = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_current_scaling_mixed",
    "mxfp8": "bf16_with_mxfp8_mixed",
    "nvfp4": "bf16_with_nvfp4_mixed",
}


def bridge_overrides(plan: TrainingPlan, release: str) -> list[str]:
    """Overrides of a recipe's configuration (``key=value``, as Hydra has them).

    Raises:
        Unsupported: what the release has no option for.
    """
    asked, decided = plan.request, plan.decision
    mesh = decided.mesh
    flags = decided.launch.arguments
    model: dict[str, object] = {
        "tensor_model_parallel_size": mesh.tp,
        "pipeline_model_parallel_size": mesh.pp,
        "context_parallel_size": mesh.cp,
        "sequence_parallel": decided.sequence_parallel,
        "seq_length": asked.seq_len,
    }
    if "--expert-model-parallel-size" in flags:
        model |= {"expert_model_parallel_size": mesh.ep, "expert_tensor_parallel_size": mesh.moe_tp}
    if mesh.pp > 1:
        runs = [stage.runs[turn] for turn in range(mesh.vpp) for stage in decided.stages]
        if len(set(runs)) > 1:
            model["pipeline_model_parallel_layout"] = layout_string(runs)
        elif mesh.vpp > 1:
            model["virtual_pipeline_model_parallel_size"] = mesh.vpp
    for flag, key in (("granularity", "recompute_granularity"), ("method", "recompute_method")):
        if f"--recompute-{flag}" in flags:
            model[key] = flags[flags.index(f"--recompute-{flag}") + 1]
    if "--recompute-num-layers" in flags:
        model["recompute_num_layers"] = int(flags[flags.index("--recompute-num-layers") + 1])
    elif decided.recompute:
        model["recompute_modules"] = list(decided.recompute)
    ddp: dict[str, object] = {
        "use_distributed_optimizer": decided.sharding >= 1,
        "overlap_grad_reduce": "--overlap-grad-reduce" in flags,
        "overlap_param_gather": "--overlap-param-gather" in flags,
    }
    if decided.sharding >= 2:
        strategy = "optim_grads" if decided.sharding == 2 else "optim_grads_params"
        ddp |= {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": strategy}
    fields: dict[str, dict[str, object]] = {
        "model": model,
        "train": {"micro_batch_size": decided.micro_batch, "global_batch_size": asked.global_batch},
        "dataset": {"sequence_length": asked.seq_len},
        "ddp": ddp,
        "optimizer": {"use_distributed_optimizer": decided.sharding >= 1},
        "mixed_precision": {"": _PRECISIONS[asked.precision]},
    }
    if "--tp-comm-overlap" in flags:
        fields["comm_overlap"] = {"tp_comm_overlap": True}
    check_fields("megatron-bridge", release, fields)
    return [
        f"{section}.{key}={_override(value)}" if key else f"{section}={_override(value)}"
        for section, values in fields.items()
        for key, value in values.items()
    ]


def _override(value: object) -> str:
    """A value as Hydra reads it: texts with marks of its grammar in quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(map(_override, value))}]"
    text = str(value)
    return text if text.replace("_", "").replace("-", "").isalnum() else f"'{text}'"
