"""Training plans in the forms that their frameworks read."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from planner.exports.registry import exported
from planner.exports.target import Asked
from planner.exports.trainers import bridge_overrides, said, titan_toml, titan_words
from planner.exports.training_options import check_fields
from planner.exports.values import Values
from planner.kinds import KINDS, example
from planner.training.document import TrainingPlan
from profiles.errors import InputError, Unsupported

FLAGS = (
    *("--training.seq_len", "8192", "--training.local_batch_size", "2", "--training.global_batch_size", "128"),
    *("--parallelism.tensor_parallel_degree", "2", "--parallelism.pipeline_parallel_degree", "2"),
    *("--parallelism.pipeline_parallel_schedule", "1F1B", "--parallelism.expert_tensor_parallel_degree", "1"),
    *("--activation_checkpoint.mode", "selective"),
)
NAMES = {"module": "llama3", "config": "llama3_8b"}


def made_for(framework: str, flags: tuple[str, ...] = FLAGS) -> TrainingPlan:
    plan = KINDS["training"].parse(json.dumps(example("training")))
    assert isinstance(plan, TrainingPlan)
    if framework.startswith("megatron"):
        return plan
    launch = plan.decision.launch.model_copy(update={"framework": framework, "arguments": flags})
    decision = plan.decision.model_copy(update={"launch": launch})
    request = plan.request.model_copy(update={"framework": framework})
    return plan.model_copy(update={"request": request, "decision": decision}).sealed()


def files(to: str, plan: TrainingPlan, release: str | None = None, **values: Any) -> dict[str, str]:
    return exported(to, Asked(plan, Values(**values), release))[1]


def test_torchtitan_before_0_3_reads_a_file() -> None:
    got = files("torchtitan", made_for("torchtitan@0.2"), module="llama3", config="8B")
    read = tomllib.loads(got["torchtitan.toml"])
    assert read["model"] == {"name": "llama3", "flavor": "8B"}
    assert read["training"] == {"seq_len": 8192, "local_batch_size": 2, "global_batch_size": 128}
    assert read["parallelism"]["pipeline_parallel_schedule"] == "1F1B"
    assert read["activation_checkpoint"] == {"mode": "selective"}
    assert "--training.seq_len 8192" in got["torchtitan.args"]


def test_torchtitan_from_0_3_takes_a_module_and_overrides() -> None:
    plan = made_for("torchtitan@0.2")
    with pytest.raises(InputError, match="module, config are missing"):
        files("torchtitan", plan, "torchtitan@0.3.0")
    got = files("torchtitan", plan, "torchtitan@0.3", **NAMES)
    assert set(got) == {"torchtitan.args"}
    lines = [line for line in got["torchtitan.args"].splitlines() if not line.startswith("#")]
    assert lines[:2] == ["--module llama3", "--config llama3_8b"]
    assert lines[-1] == "activation-checkpoint:selective"
    assert not any("expert_tensor" in line or "activation_checkpoint.mode" in line for line in lines)
    assert "--training.disable_cuda_graphs" in lines  # 0.3 refuses pipelines with them
    with pytest.raises(InputError, match=r"options of torchtitan 0\.9 are not known") as refused:
        files("torchtitan", plan, "torchtitan@0.9", **NAMES)
    assert "--assume-version" in refused.value.hint
    assert exported("torchtitan", Asked(plan, Values(**NAMES), "torchtitan@0.9", assume_version=True))[1]


def test_every_nth_layer_is_a_text_and_not_an_option_from_0_3_on() -> None:
    words = ("--activation_checkpoint.mode", "selective", "--activation_checkpoint.selective_ac_option", "10")
    read = tomllib.loads(titan_toml(said(words), "0.2.2", ()))
    assert read["activation_checkpoint"] == {"mode": "selective", "selective_ac_option": "10"}
    with pytest.raises(Unsupported, match="recomputing every n-th layer"):
        titan_words(said(words), "0.3.0")


def test_what_a_release_does_not_take_is_refused() -> None:
    with pytest.raises(Unsupported, match="shares them out only"):
        titan_words(said(("--parallelism.expert_tensor_parallel_degree", "2")), "0.3.0")
    with pytest.raises(Unsupported, match="8-bit products"):
        titan_words(said(("--model.converters", "float8")), "0.3.0")
    for fields, why in (
        ({"training": {"sequence": 1}}, "has no such option"),
        ({"training": {"seq_len": "8k"}}, "not of type int"),
        ({"parallelism": {"fsdp_reshard_after_forward": "sometimes"}}, "is not one of default"),
        ({"train": {}, "nothing": {"x": 1}}, "has no such option"),
    ):
        with pytest.raises(Unsupported, match=why):
            check_fields("torchtitan", "0.2.2", fields)


def test_what_deepspeeds_json_cannot_say_stands_beside_it() -> None:
    plan = made_for("deepspeed@0.18", ('{"train_batch_size": 8}',))
    target, got = exported("deepspeed", Asked(plan, Values(), None))
    assert set(plan.decision.launch.notes) <= set(target.told)
    assert json.loads(got["ds_config.json"]) == {"train_batch_size": 8}
    assert all(note in files("slurm", plan, script="train.py")["job.sbatch"] for note in plan.decision.launch.notes)


def test_bridge_is_told_what_megatron_is() -> None:
    plan = made_for("megatron")
    lines = dict(line.split("=", 1) for line in bridge_overrides(plan, "0.3.1"))
    mesh = plan.decision.mesh
    assert lines["model.pipeline_model_parallel_size"] == str(mesh.pp)
    assert lines["train.micro_batch_size"] == str(plan.decision.micro_batch)
    assert lines["ddp.use_distributed_optimizer"] == "true"
    assert lines["mixed_precision"] == "bf16_mixed"
    text = files("megatron-bridge", plan)["megatron-bridge.overrides"]
    words = subprocess.run(
        ["sh", "-c", 'grep -v "^#" | xargs printf "%s\\n"'], input=text, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words == bridge_overrides(plan, "0.3.1")
    with pytest.raises(Unsupported, match="made for torchtitan"):
        files("megatron-bridge", made_for("torchtitan@0.2"))


@pytest.mark.parametrize("to", ["kubernetes", "jobset"])
@pytest.mark.parametrize("framework", ["megatron", "torchtitan@0.2", "torchtitan@0.3"])
def test_jobs_run_torchrun_on_every_node(to: str, framework: str) -> None:
    plan = made_for(framework.replace("@0.3", "@0.2"))
    script = {} if framework.startswith("torchtitan") else {"script": "pretrain_gpt.py"}
    got = files(to, plan, framework if framework.endswith("0.3") else None, image="registry/train:1", **script, **NAMES)
    config, job = yaml.safe_load_all(got["training.yaml"])
    jsonschema.validate(job, JOBSET if to == "jobset" else {})
    spec = job["spec"]
    pod = (
        spec["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        if to == "jobset"
        else spec["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    )
    args = pod["containers"][0]["args"]
    assert args[args.index("--nnodes") + 1] == "2"
    assert ("-m" in args) == framework.startswith("torchtitan")
    assert ("--module" in args) == framework.endswith("0.3")
    if framework == "torchtitan@0.2":
        assert args[-1] == "/etc/plan/torchtitan.toml"
        assert "torchtitan.toml" in config["data"]


def test_slurm_quotes_what_the_plan_says() -> None:
    script = files("slurm", made_for("megatron"), script="my train.py")["job.sbatch"]
    inner = next(line for line in script.splitlines() if line.startswith("srun"))
    assert shlex.split(script[script.index(inner) :])[:4] == ["srun", "--kill-on-bad-exit=1", "sh", "-c"]
    assert "'my train.py'" in shlex.split(script[script.index(inner) :])[4]


JOBSET: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "network": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"enableDNSHostnames": {"type": "boolean"}},
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer"},
                            "template": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}
"""The part of JobSet v1alpha2 that is written (kubernetes-sigs/jobset api/jobset/v1alpha2)."""


@pytest.mark.parametrize("to", ["slurm", "kubernetes", "jobset", "megatron"])
def test_a_plan_that_fits_only_with_expandable_segments_is_started_with_them(to: str) -> None:
    plan = made_for("megatron")
    first, *others = [each.model_copy(update={"verdict": "fits"}) for each in plan.prediction.stages]
    values = {"script": "train.py", "image": "registry.example.com/train:v1"}
    for verdict, wanted in (("fits", False), ("expandable_segments", True)):
        stages = (first.model_copy(update={"verdict": verdict}), *others)
        prediction = plan.prediction.model_copy(update={"stages": stages})
        got = files(to, plan.model_copy(update={"prediction": prediction}).sealed(), **values)
        assert any("PYTORCH_CUDA_ALLOC_CONF" in text for text in got.values()) == wanted
        if wanted and to == "slurm":
            assert "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True\n" in got["job.sbatch"]
        if wanted and to in ("kubernetes", "jobset"):
            assert "name: PYTORCH_CUDA_ALLOC_CONF" in got["training.yaml"]
