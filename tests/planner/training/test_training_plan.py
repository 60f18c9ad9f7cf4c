"""The training plan: a document that its schema accepts, the same for the same request, that predicts as named layouts
are predicted; and refusals that say what would do."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from typing import Any

import jsonschema
import pytest
from roofline_cost import roofline_links

from planner.kinds import schema
from planner.training import machines, planning
from planner.training.configuration import read_configuration
from planner.training.document import TrainingPlan, parse_training_plan
from planner.training.exports import files
from planner.training.launchers.known_models import position_flags
from planner.training.launchers.megatron import layout_string, model_flags
from planner.training.planning import plan_training, setting_of
from planner.training.prediction import predicted
from planner.training.request import parse_training_request
from planner.training.search import Search
from profiles.errors import Infeasible, InputError, LimitReached

SMALL = {
    "model": "llama:hidden=4096,layers=16,heads=32,kv_heads=8,ffn=14336,vocab=128256",
    "cluster": "2x8xH100",
    "global_batch": 32,
    "seq_len": 4096,
}


@pytest.fixture(autouse=True)
def _rooflines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machines.Machines, "links", lambda self, gpu, per_node, fabric: roofline_links(gpu.name, per_node)
    )


def plan(**changes: Any) -> TrainingPlan:
    return plan_training(parse_training_request({**SMALL, **changes}))


def test_the_document_is_what_its_schema_says_and_reads_back() -> None:
    made = plan()
    jsonschema.validate(json.loads(made.to_json()), schema("training"))
    assert parse_training_plan(made.to_json()) == made
    assert made.to_json() == plan().to_json()
    assert (made.kind, made.schema_version) == ("training", "1.0")
    jsonschema.Draft202012Validator.check_schema(schema("training-request"))


def test_documents_of_another_kind_or_version_are_refused() -> None:
    document = json.loads(plan().to_json())
    for changed, says in (
        ({"kind": "serving"}, "kind"),
        ({"schema_version": "9.9"}, "schema_version"),
        ({"x": 1}, "x"),
    ):
        with pytest.raises(InputError, match=says):
            parse_training_plan(json.dumps({**document, **changed}))


def test_a_plan_predicts_what_its_layout_predicts_when_it_is_named() -> None:
    made = plan(pp=[3], tp=[2], recompute=False)
    d = made.decision
    runs = [stage.runs[turn] for turn in range(d.mesh.vpp) for stage in d.stages]
    named = read_configuration(
        {
            "model": SMALL["model"],
            "gpu": d.gpu,
            "seq_len": "4096",
            "global_batch": "32",
            **{name: str(getattr(d.mesh, name)) for name in ("tp", "pp", "vpp", "dp", "cp", "ep", "moe_tp")},
            "sharding": str(d.sharding),
            "micro_batch": str(d.micro_batch),
            "recompute": f"selective:{'+'.join(d.recompute)}" if d.recompute else "none",
            "stage_layers": "|".join(map(str, runs)),
        }
    )
    answer = predicted([named], machines.Machines())
    assert answer.times is not None
    assert answer.times.total.value[0] / 1e6 == pytest.approx(made.prediction.iteration_s.value)
    assert answer.memory.allocated.max() == pytest.approx(made.prediction.memory_bytes_per_gpu.value)


def test_the_stages_cover_the_model_and_the_ranks() -> None:
    made = plan(pp=[4])
    stages = made.decision.stages
    assert sum(stage.layers for stage in stages) == 16
    assert all(sum(stage.runs) == stage.layers for stage in stages)
    assert [stage.first_rank for stage in stages] == [k * stages[0].ranks for k in range(4)]
    assert stages[-1].first_rank + stages[-1].ranks == made.decision.gpus_used
    assert made.decision.gpus_used + made.decision.gpus_idle == 16
    assert stages[-1].last_node == (made.decision.gpus_used - 1) // 8


def test_parts_and_proof_add_up() -> None:
    made = plan()
    assert sum(made.prediction.seconds_by_part.values()) == pytest.approx(made.prediction.iteration_s.value)
    assert made.proof.status == "optimal"
    assert made.proof.bound <= made.proof.objective_value
    assert made.proof.gap == pytest.approx(0)
    assert made.alternatives.ranked[0].iteration_s >= made.prediction.iteration_s.value
    losses = [each.loses_by for each in made.alternatives.ranked]
    assert losses == sorted(losses)


@pytest.mark.parametrize("objective", ["gpus", "memory"])
def test_a_search_that_runs_out_of_time_on_the_way_proves_nothing(
    objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few GPUs, or in little memory, nobody knows whether anything fits."""
    original = planning.search_pools

    def out_of_time(setting: Any, request: Any, pools: Any, most: int) -> Search:
        if most < 8 or pools[0].capacity < 20e9:
            return Search(out_of_time=True)
        return original(setting, request, pools, most)

    monkeypatch.setattr(planning, "search_pools", out_of_time)
    made = plan(objective=objective)
    assert made.proof.status == "time_limit"
    assert made.proof.bound < made.proof.objective_value
    assert made.proof.gap > 0


def test_fewest_gpus_and_least_memory_are_objectives() -> None:
    fastest, fewest, least = plan(), plan(objective="gpus"), plan(objective="memory")
    assert fewest.decision.gpus_used <= fastest.decision.gpus_used
    assert fewest.proof.objective_value == fewest.decision.gpus_used
    assert least.proof.objective_value < max(s.used_bytes for s in fastest.prediction.stages)
    assert least.proof.bound <= least.proof.objective_value


def test_several_pools_are_compared() -> None:
    assert plan(cluster="8xA100-SXM-80GB+8xH100", pp_across_pools=False).decision.gpu == "H100-SXM"


def test_what_does_not_fit_says_the_smallest_cluster_that_would() -> None:
    large: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-405B",
        "global_batch": 64,
        "tp": [8],
        "cp": [1],
        "micro_batch": [1],
    }
    with pytest.raises(Infeasible) as raised:
        plan(**large, cluster="8xH100")
    assert raised.value.exit_code == 3
    assert "does not fit on 8 × H100-SXM: stage 0 of the leanest layout (TP8" in raised.value.message
    assert "most of it optimizer" in raised.value.message
    smallest = raised.value.details["smallest_gpus"]
    assert isinstance(smallest, int)
    assert f"have {smallest:,} × H100-SXM" in raised.value.hint
    assert plan(**large, cluster=f"{smallest}xH100")


def test_what_else_to_allow_is_said_only_where_that_fits() -> None:
    large = {"model": "meta-llama/Llama-3.1-405B", "global_batch": 64, "tp": [8], "cp": [1], "micro_batch": [1]}
    with pytest.raises(Infeasible) as raised:
        plan(**large, cluster="8xH100", sharding=[2])
    assert "sharding 3" not in raised.value.hint
    small = {"model": "meta-llama/Llama-3.1-8B", "global_batch": 64, "tp": [1], "pp": [1], "cp": [1]}
    with pytest.raises(Infeasible) as raised:
        plan(**small, cluster="8xH100", sharding=[0])
    assert raised.value.hint.endswith("or allow sharding 3")
    assert plan(**small, cluster="8xH100", sharding=[3])


def test_a_time_limit_before_any_layout_says_so() -> None:
    with pytest.raises(LimitReached, match="time_limit_s"):
        plan(time_limit_s=1e-9)


def test_restrictions_that_leave_nothing_say_so() -> None:
    with pytest.raises(Infeasible, match="no layout is legal") as raised:
        plan(dp=[3], micro_batch=[1])
    assert raised.value.hint.startswith("allow dp ")
    assert "another global batch" in raised.value.hint


def test_what_a_restriction_would_have_to_allow_gives_a_plan() -> None:
    with pytest.raises(Infeasible) as raised:
        plan(tp=[3])
    hint = raised.value.hint
    for tp in re.findall(r"\d+", hint.partition("allow tp ")[2].partition(", or")[0]):
        assert plan(tp=[int(tp)]).decision.mesh.tp == int(tp)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seq_len": 200_000, "model": "meta-llama/Llama-3.1-8B"}, "seq_len: 200000"),
        ({"precision": "fp8", "cluster": "8xA100-SXM-80GB"}, "precision"),
        ({"precision": "mxfp8", "cluster": "8xH100"}, "precision: mxfp8 on H100-SXM, which has no products of blocks"),
        ({"ep": [2]}, "ep: "),
        ({"mtp": 1}, "mtp: 1"),
        ({"framework": "jax"}, "framework"),
        ({"optimizer": "lion9"}, "optimizer"),
        ({"attention": "unknown"}, "attention"),
        ({"global_batch": 0}, "global_batch"),
        ({"tp": [0]}, "tp"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        plan(**changes)


def test_megatrons_flags_say_what_the_model_is() -> None:
    """As published commands of these models have them (Megatron-LM's examples)."""
    llama = shlex.join(plan(model="meta-llama/Llama-3.1-8B").decision.launch.arguments)
    for words in ("--ffn-hidden-size 14336", "--normalization RMSNorm", "--disable-bias-linear", "--swiglu"):
        assert words in llama
    assert "--position-embedding-type rope --untie-embeddings-and-output-weights" in llama
    assert "--kv-channels" not in llama
    qwen = shlex.join(plan(model="Qwen/Qwen3-30B-A3B").decision.launch.arguments)
    for words in ("--moe-ffn-hidden-size 768", "--kv-channels 128", "--qk-layernorm", "--num-experts 128"):
        assert words in qwen
    assert "--moe-grouped-gemm --moe-token-dispatcher-type alltoall" in qwen  # as is predicted, and not so unasked
    assert "--moe-grouped-gemm" not in llama
    assert "--moe-layer-freq" not in qwen
    gpt = plan(model="gpt:hidden=2048,layers=24,heads=16,vocab=51200")
    for word in ("--swiglu", "--normalization", "--ffn-hidden-size", "--position-embedding-type"):
        assert word not in gpt.decision.launch.arguments
    setting = setting_of(parse_training_request({**SMALL, "model": "deepseek-ai/DeepSeek-V3", "cluster": "8xH100"}))
    deepseek = " ".join(map(str, model_flags(setting.model, 4096)))
    for words in ("--moe-layer-freq ([0]*3+[1]*58)", "--qk-head-dim 128 --qk-pos-emb-head-dim 64 --v-head-dim 128"):
        assert words in deepseek
    assert "--kv-lora-rank 512 --q-lora-rank 1536" in deepseek
    assert "--moe-shared-expert-intermediate-size 2048" in deepseek


def test_what_deepspeeds_file_cannot_say_is_told() -> None:
    made = plan(model="meta-llama/Llama-3.1-8B", framework="deepspeed", cluster="8xA100-SXM-40GB", dp=[4], pp=[1])
    (stage,) = made.decision.stages
    notes = "; ".join(made.decision.launch.notes)
    assert stage.recomputed > 0
    assert f"it has to recompute whole layers: {stage.recomputed} of 32" in notes


def test_torchtitan_recomputes_every_nth_layer() -> None:
    made = plan(model="meta-llama/Llama-3.1-8B", framework="torchtitan", cluster="8xH100", seq_len=8192, dp=[8], pp=[1])
    (stage,) = made.decision.stages
    assert 0 < stage.recomputed < stage.layers / 2, "else the case asks for another"
    words = made.decision.launch.arguments
    every = int(words[words.index("--activation_checkpoint.selective_ac_option") + 1])
    assert stage.layers // every == stage.recomputed
    assert not made.decision.recompute


def test_later_torchtitans_recompute_all_layers_or_none() -> None:
    one = {"model": "meta-llama/Llama-3.1-8B", "cluster": "8xH100", "seq_len": 8192, "dp": [8], "pp": [1]}
    (stage,) = plan(framework="torchtitan@0.3.0", **one).decision.stages
    assert stage.recomputed in (0, stage.layers)


def test_megatrons_flags_name_every_degree_and_uneven_stages() -> None:
    made = plan(tp=[2], pp=[3], vpp=[1], framework="megatron")
    words = made.decision.launch.arguments
    pairs = dict(itertools.pairwise(words))
    assert pairs["--tensor-model-parallel-size"] == "2"
    assert pairs["--pipeline-model-parallel-size"] == "3"
    assert pairs["--global-batch-size"] == "32"
    runs = [stage.layers for stage in made.decision.stages]
    assert pairs["--pipeline-model-parallel-layout"] == layout_string(runs)


def test_the_layout_string_is_megatrons() -> None:
    assert layout_string([1, 2, 1]) == "Et|t*2|tL"


def test_every_framework_has_a_way_to_start() -> None:
    for framework in ("megatron", "megatron-deepspeed", "torchtitan", "deepspeed"):
        made = plan(framework=framework, sharding=None)
        assert made.decision.launch.arguments
        if framework == "deepspeed":
            assert json.loads(made.decision.launch.arguments[0])["train_batch_size"] == 32


def test_a_plan_is_written_for_its_framework_and_for_no_other() -> None:
    made = plan(tp=[2], pp=[3], vpp=[1])
    text = files(made, "megatron")["megatron.args"]
    flags = [line for line in text.splitlines() if not line.startswith("#")]
    assert [word for line in flags for word in shlex.split(line)] == list(made.decision.launch.arguments)
    assert "--tensor-model-parallel-size 2" in flags
    with pytest.raises(InputError, match="to: torchtitan does not train this plan"):
        files(made, "torchtitan")
    assert json.loads(files(plan(framework="deepspeed"), "deepspeed")["ds_config.json"])["zero_optimization"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("meta-llama/Llama-3.1-8B", "--rotary-base 500000 --use-rope-scaling --rope-scaling-factor 8.0"),
        ("Qwen/Qwen3-8B", "--rotary-base 1000000 --norm-epsilon 1e-06"),
        ("mistralai/Mixtral-8x7B-v0.1", "--rotary-base 1000000"),
    ],
)
def test_megatrons_flags_say_positions_epsilon_and_vocabulary(model: str, said: str) -> None:
    made = plan(model=model, tp=[2], cluster="16xH100", framework="megatron")
    words = shlex.join(made.decision.launch.arguments)
    assert said in words
    assert f"--tokenizer-type HuggingFaceTokenizer --tokenizer-model {model}" in words
    pairs = dict(itertools.pairwise(made.decision.launch.arguments))
    assert int(pairs["--padded-vocab-size"]) % 256 == 0
    assert 0 <= int(pairs["--padded-vocab-size"]) - int(pairs["--vocab-size"]) < 256


def test_a_config_says_its_own_positions_and_what_nobody_knows_is_said() -> None:
    base = {"rope_theta": 5e6, "rms_norm_eps": 1e-6}
    assert position_flags("mine", base) == ["--rotary-base", 5_000_000, "--norm-epsilon", "1e-06"]
    llama = {**base, "rope_scaling": {"rope_type": "llama3", "factor": 32.0}}
    assert position_flags("mine", llama)[-3:] == ["--use-rope-scaling", "--rope-scaling-factor", "32.0"]  # type: ignore[index]
    assert position_flags("mine", {**base, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}) is None
    assert position_flags("Qwen/Qwen3-235B-A22B-Instruct-2507", None) is None
    made = plan(model="Qwen/Qwen2.5-7B-Instruct", cluster="8xH100", framework="megatron")
    assert any("--rotary-base" in note for note in made.decision.launch.notes)
    assert "--rotary-base" not in made.decision.launch.arguments
    written_out = plan(framework="megatron")
    assert not any("--rotary-base" in note for note in written_out.decision.launch.notes)


def test_virtual_stages_are_of_a_pipeline_and_of_frameworks_that_have_them() -> None:
    made = plan(vpp=[2])
    assert made.decision.mesh.vpp == 2
    assert made.decision.mesh.pp > 1
    with pytest.raises(InputError, match="vpp: DeepSpeed ZeRO has no virtual stages"):
        plan(vpp=[2], framework="deepspeed")
    with pytest.raises(InputError, match="vpp: 2 virtual stages without pipeline stages"):
        plan(vpp=[2], pp=[1])
    with pytest.raises(InputError, match=r"moe_tp: 2, but .* has no experts"):
        plan(moe_tp=[2])


def test_old_releases_of_megatron_have_stages_that_are_alike() -> None:
    made = plan(framework="megatron@2.5", pp=[2, 4])
    assert len({run for stage in made.decision.stages for run in stage.runs}) == 1


def test_layers_are_recomputed_whole_or_parts_of_each_as_flags_can_say() -> None:
    made = plan(global_batch=64, seq_len=16384, cluster="8xH100", tp=[4, 8], pp=[1, 2])
    assert not (made.decision.recompute and any(stage.recomputed for stage in made.decision.stages))
