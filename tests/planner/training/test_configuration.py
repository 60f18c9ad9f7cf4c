"""Reading layouts as people write them: forms of cells, defaults that are said, refusals that name the column."""

from __future__ import annotations

from typing import Any

import pytest

from costmodels.training.layouts import ATTENTION, RECOMPUTED, SCHEDULES
from planner.training.configuration import TrainingConfiguration, column_names, read_configuration
from planner.training.rules import check
from profiles.errors import InputError

LLAMA = {"model": "meta-llama/Llama-3.1-8B", "gpu": "H100", "seq_len": "8192", "global_batch": "64", "dp": "8"}


def read(**changes: Any) -> TrainingConfiguration:
    configuration = read_configuration({**LLAMA, **{name: str(value) for name, value in changes.items()}})
    check(configuration)
    return configuration


def refusal(**changes: Any) -> InputError:
    with pytest.raises(InputError) as raised:
        read(**changes)
    return raised.value


def test_numbers_may_be_written_as_spreadsheets_write_them() -> None:
    assert read(tp="2.0", dp="4", num_gpus="8.0").tp == 2


def test_the_shape_of_a_llama_model_may_stand_in_columns() -> None:
    shape = {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256}
    model = read(model="", **shape).model
    assert model.architecture.parameters == read().model.architecture.parameters


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("gpt:hidden=12288,layers=96,heads=96,vocab=51200", 174.6),
        ("gpt:hidden=25600,layers=128,heads=160,vocab=51200", 1008.0),
        ("llama:hidden=8192,layers=80,heads=64,kv_heads=8,ffn=28672,vocab=128256", 70.6),
        ("llama:hidden=2048,layers=8,heads=16,ffn=8192,vocab=32000,experts=8,top_k=2,moe_ffn=1024", 0.668),
    ],
)
def test_written_out_models_have_the_parameters_that_their_papers_state(model: str, billions: float) -> None:
    assert read(model=model, seq_len="2048").model.parameters(2048) / 1e9 == pytest.approx(billions, rel=0.005)


def test_blank_means_the_frameworks_default_and_the_answer_says_which() -> None:
    said = dict(each.split("=", 1) for each in read().defaults)
    assert said["framework"] == "megatron"
    assert said["sharding"] == "1"
    assert said["recompute"] == "none"
    assert said["attention"] == "te"
    titan = dict(each.split("=", 1) for each in read(framework="torchtitan").defaults)
    assert titan["sharding"] == "3"
    assert titan["recompute"] == "selective:op"


def test_columns_of_the_field_are_understood() -> None:
    names, strangers = column_names(["model", "seq", "mbs", "gbs", "n_gpus", "etp", "source"])
    assert list(names.values()) == ["model", "seq_len", "micro_batch", "global_batch", "num_gpus", "moe_tp"]
    assert strangers == ("source",)


def test_a_column_that_is_nearly_known_is_refused_and_one_that_is_there_twice() -> None:
    with pytest.raises(InputError, match="micro_batches: the column is not known"):
        column_names(["model", "micro_batches"])
    with pytest.raises(InputError, match="gbs: the column is there twice"):
        column_names(["global_batch", "gbs"])


def test_a_gpu_may_be_named_by_its_server() -> None:
    assert read(gpu="DGX-H100").gpu.name == "H100-SXM"


def test_dp_follows_from_the_gpus() -> None:
    c = read(dp="", num_gpus=32, tp=4, pp=2)
    assert c.dp == 4
    assert "dp=4" in c.defaults


@pytest.mark.parametrize(
    ("text", "selective", "whole"),
    [
        ("none", (), 0),
        ("full", (), None),
        ("full:4", (), 4),
        ("selective", ("core_attn",), 0),
        ("selective:layernorm+mlp", ("layernorm", "mlp"), 0),
    ],
)
def test_recomputation_is_read(text: str, selective: tuple[str, ...], whole: int | None) -> None:
    c = read(recompute=text)
    assert c.selective == sum(1 << RECOMPUTED.index(part) for part in selective)
    assert c.recomputed == whole


def test_1f1b_over_virtual_stages_is_interleaved() -> None:
    c = read(pp=4, vpp=2, dp=2, schedule="1F1B")
    assert SCHEDULES[c.schedule] == "interleaved"
    assert "schedule=interleaved (1f1b with vpp)" in c.defaults


def test_schedules_attention_and_sharding_are_read() -> None:
    c = read(pp=4, vpp=2, dp=2, attention="unfused", sharding="hybrid:2", cp=1)
    assert SCHEDULES[c.schedule] == "interleaved"
    assert ATTENTION[c.attention] == "unfused"
    assert (c.sharding, c.shard_ranks) == (1, 2)


def test_torchtitans_local_batch_is_what_the_pipeline_splits() -> None:
    c = read(framework="torchtitan@2024.12", pp=8, dp=8, micro_batch=32, global_batch=256, recompute="full")
    assert (c.micro_batch, c.microbatches) == (4, 8)
    assert any(each.startswith("micro_batch=4") for each in c.defaults)


def test_uneven_stages_are_read_and_said() -> None:
    assert read(pp=2, dp=4, stage_layers="15|17").split == (15, 17)
    assert read(pp=4, dp=2, stage_layers="7|8*2|9").split == (7, 8, 8, 9)
    deep = read(model="deepseek-ai/DeepSeek-V3", seq_len=4096, pp=4, dp=16, ep=16, moe_tp=1)
    assert sum(deep.split) == 61
    assert any(each.startswith("stage_layers=") for each in deep.defaults)


@pytest.mark.parametrize(
    ("changes", "starts", "says"),
    [
        ({"global_batch": 60}, "global_batch: 60", "56 or 64"),
        ({"model": "gpt:hidden=1024,layers=24,heads=16,vocab=50257", "tp": 3, "dp": 1}, "tp: 3", "16 attention heads"),
        ({"tp": 3, "dp": 1}, "tp: 3", "nearest that does: 2 or 4"),
        ({"model": "Qwen/Qwen3-30B-A3B", "ep": 5, "dp": 5, "global_batch": 60}, "ep: 5", "nearest that does: 4 or 8"),
        ({"pp": 64, "dp": 1}, "pp: 64", "32 layers"),
        ({"seq_len": 131073}, "seq_len: 131073", "positions"),
        ({"seq_len": 8191, "tp": 2}, "seq_len: 8191", "multiple"),
        ({"cp": 2, "dp": 4, "attention": "unfused"}, "cp: 2", "unfused"),
        ({"cp": 3, "dp": 1}, "cp: 3", "nearest that does: 2 or 4"),
        ({"ep": 4}, "ep: 4", "no experts"),
        ({"moe_tp": 2}, "moe_tp: 2", "no experts"),
        ({"sharding": 3, "pp": 2, "dp": 4}, "sharding: ", "refuses 3 with pp"),
        ({"sharding": "hybrid:3"}, "sharding: ", "does not divide"),
        ({"sharding": 4}, "sharding: ", "not known"),
        ({"recompute": "selective:op"}, "recompute: ", "cannot recompute"),
        ({"recompute": "some"}, "recompute: ", "not known"),
        ({"framework": "deepspeed", "recompute": "selective"}, "recompute: ", "no selective"),
        ({"schedule": "zero-bubble", "pp": 2, "dp": 4}, "schedule: ", "has no zero-bubble"),
        ({"schedule": "interleaved", "pp": 2, "dp": 4}, "schedule: ", "vpp"),
        ({"vpp": 2}, "vpp: 2", "without pipeline"),
        ({"attention": "flash4"}, "attention: ", "not known"),
        ({"precision": "fp8", "gpu": "A100-SXM-80GB"}, "precision: ", "fp8"),
        ({"precision": "int8"}, "precision: ", "not known"),
        ({"gpu": "H101"}, "gpu: ", "not known"),
        ({"framework": "megatron2"}, "framework: ", "not known"),
        ({"tp": "NaN"}, "tp: ", "not a whole number"),
        ({"tp": 0}, "tp: 0", "between 1"),
        ({"tp": -2}, "tp: -2", "between 1"),
        ({"dp": "2.5"}, "dp: ", "not a whole number"),
        ({"num_gpus": 9}, "num_gpus: 9", "= 8"),
        ({"num_gpus": 9, "dp": "", "tp": 2}, "num_gpus: 9", "not a multiple"),
        ({"sequence_parallel": "maybe"}, "sequence_parallel: ", "neither"),
        ({"mtp": 1}, "mtp: 1", "has 0"),
        ({"model": "llama:hidden=4096,layers=32,heads=32,vocab=128256"}, "model: ffn is missing", ""),
        ({"model": "gpt:hidden=4096,layers=32,heads=33,vocab=51200"}, "model: heads 33", "divide"),
        ({"model": "gpt:hidden=4096,layers=32,heads=32,vocab=51200,colour=3"}, "model: 'colour=3'", "not known"),
        ({"model": "gpt:hidden=4096,layers=2,heads=32,vocab=51200,positions=1024"}, "seq_len: 8192", "1024 positions"),
        ({"hidden": 4096}, "hidden: ", "no effect"),
        ({"stage_layers": "16|17", "pp": 2, "dp": 4}, "stage_layers: ", "33 layers"),
        ({"stage_layers": "8*9999", "pp": 2, "dp": 4}, "stage_layers: 9999 stages", "not 2"),
    ],
)
def test_a_refusal_names_the_column_and_the_value(changes: dict[str, Any], starts: str, says: str) -> None:
    error = refusal(**changes)
    assert error.message.startswith(starts), error.message
    assert says in f"{error.message} {error.hint}", (error.message, error.hint)
    assert error.hint


def test_experts_have_rules_of_their_own() -> None:
    moe = {"model": "Qwen/Qwen3-30B-A3B", "seq_len": 4096}
    assert refusal(**moe, ep=3).message.startswith("ep: 3")
    assert refusal(**moe, ep=16, moe_tp=1).message.startswith("ep: ep 16")
    wrong = refusal(**moe, tp=2, dp=4, ep=4, moe_tp=1, sequence_parallel="false")
    assert wrong.message.startswith("sequence_parallel:")
    assert read(**moe, tp=2, dp=4, ep=8, moe_tp=1).sequence_parallel


def test_experts_are_whole_where_they_are_shared_out_and_nobody_says_else() -> None:
    moe = {"model": "Qwen/Qwen3-30B-A3B", "seq_len": 4096, "tp": 2, "dp": 4}
    assert read(**moe, ep=8).etp == 1
    assert read(**moe).etp == 2
    assert read(**moe, framework="torchtitan").etp == 1


def test_a_release_has_facts_of_its_own() -> None:
    assert read(framework="megatron@2.5").framework.defaults["attention"] == "unfused"
    assert read(framework="Megatron-LM@v3.0").framework.hidden == ()
    assert read(framework="torchtitan@2025.6").framework.loss_bytes < read(framework="torchtitan").framework.loss_bytes


def test_torchtitan_has_no_stage_that_shards_optimizer_states_alone() -> None:
    assert "has no 1" in refusal(framework="torchtitan", sharding=1).message
    assert refusal(framework="torchtitan", sharding=1).hint == "choose from 0, 2, 3"
    assert read(framework="torchtitan", sharding=2).sharding == 2
