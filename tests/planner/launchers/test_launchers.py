"""Every launcher keeps one contract; each then has its own words."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import json

import pytest

from costmodels.serving.frameworks.framework import find_framework
from planner.contract.engine import Launch, Layout, Limits
from planner.launchers import EngineSpec, cannot_express, find_launcher, launch, launchers
from planner.launchers.spec import CHECKPOINT, DRAFT_MODEL
from profiles.errors import UnknownName, Unsupported
from profiles.hardware import find_gpu

LIMITS = Limits(max_sequences=96, max_tokens_per_step=8192, max_model_len=4608, memory_fraction=0.9)


def layout(tp: int = 1, pp: int = 1, dp: int = 1, ep: int = 1) -> Layout:
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep, moe_tp=tp * dp // ep)


def spec(framework: str, **changes: object) -> EngineSpec:
    fields: dict[str, object] = {
        "framework": framework,
        "model": "org/model",
        "layout": layout(tp=4),
        "limits": LIMITS,
        "weights_precision": "bf16",
        "kv_precision": "bf16",
        "precision_converted": False,
        "published_precision": "bf16",
        "gpus_per_node": 8,
        "is_moe": False,
    }
    return EngineSpec(**{**fields, **changes})  # type: ignore[arg-type]


def value(command: tuple[str, ...], flag: str) -> str:
    """What follows ``flag``, which must be there once."""
    assert command.count(flag) == 1, f"{flag} in {command}"
    return command[command.index(flag) + 1]


LAYOUTS = [
    layout(tp=tp, pp=pp, dp=dp, ep=ep)
    for tp, pp, dp, ep in itertools.product((1, 2, 8), (1, 2), (1, 4), (1, 2, 4))
    if tp * dp % ep == 0
]


@pytest.mark.parametrize("framework", launchers())
class TestEveryLauncher:
    def test_declares_itself_under_its_own_name(self, framework: str) -> None:
        assert find_launcher(framework).framework.name == framework

    def test_flags_name_the_day_they_were_checked(self, framework: str) -> None:
        assert dt.date(2026, 1, 1) <= find_launcher(framework).words.checked_on

    @pytest.mark.parametrize("moe", [False, True])
    def test_expresses_a_layout_or_says_why_not(self, framework: str, moe: bool) -> None:
        for one in LAYOUTS:
            reason = cannot_express(framework, one, is_moe=moe)
            asked = spec(framework, layout=one, is_moe=moe)
            if reason is None:
                assert launch(asked).framework == framework
            else:
                with pytest.raises(Unsupported, match=r"layout TP"):
                    launch(asked)

    def test_plain_tensor_and_pipeline_parallel_work_for_any_model(self, framework: str) -> None:
        for moe in (False, True):
            assert cannot_express(framework, layout(tp=8, pp=2), is_moe=moe) is None

    def test_wide_expert_parallel_works_for_moe_models_only(self, framework: str) -> None:
        wide = layout(dp=8, ep=8)
        assert cannot_express(framework, wide, is_moe=True) is None
        assert cannot_express(framework, wide, is_moe=False) is not None

    def test_degrees_that_contradict_each_other_are_refused(self, framework: str) -> None:
        odd = Layout(tp=4, pp=1, dp=1, ep=2, moe_tp=4)
        assert "is not tp 4" in str(cannot_express(framework, odd, is_moe=True))

    def test_command_carries_the_model_and_every_limit(self, framework: str) -> None:
        command = launch(spec(framework)).command
        assert "org/model" in command
        assert {"96", "8192", "4608", "0.9", "4"} <= set(command)

    def test_same_engine_same_command(self, framework: str) -> None:
        assert launch(spec(framework)) == launch(spec(framework))

    def test_no_argument_is_empty_or_none(self, framework: str) -> None:
        for one in LAYOUTS:
            if cannot_express(framework, one, is_moe=True) is None:
                made = launch(spec(framework, layout=one, is_moe=True, gpus_per_node=4))
                assert all(word and word != "None" for word in made.command)
                assert all(note for note in made.notes)

    def test_launch_fits_the_plan_document(self, framework: str) -> None:
        made = launch(spec(framework))
        assert Launch.model_validate_json(made.model_dump_json()) == made

    def test_config_json_becomes_the_folder_that_is_served(self, framework: str) -> None:
        command = launch(spec(framework, model="/models/mine/config.json")).command
        assert "/models/mine" in command

    def test_fp8_kv_cache_is_said(self, framework: str) -> None:
        plain, fp8 = launch(spec(framework)), launch(spec(framework, kv_precision="fp8"))
        assert "fp8" in " ".join(set(fp8.command + fp8.notes) - set(plain.command + plain.notes))

    def test_engine_of_several_nodes_says_how_to_start_them(self, framework: str) -> None:
        made = launch(spec(framework, layout=layout(tp=8, pp=2)))
        assert any("2 nodes" in note for note in made.notes)
        assert not any("nodes" in note for note in launch(spec(framework, layout=layout(tp=8))).notes)

    def test_engines_that_share_a_node_are_told_apart(self, framework: str) -> None:
        shared, alone = launch(spec(framework)), launch(spec(framework, layout=layout(tp=8)))
        assert any("CUDA_VISIBLE_DEVICES" in note and "--port" in note for note in shared.notes)
        assert not any("CUDA_VISIBLE_DEVICES" in note for note in alone.notes)

    @pytest.mark.parametrize("published", ["fp8_block", "nvfp4", "mxfp4"])
    def test_published_quantisation_needs_no_flag(self, framework: str, published: str) -> None:
        made = launch(spec(framework, weights_precision=published, published_precision=published))
        assert "org/model" in made.command
        assert "--quantization" not in made.command

    @pytest.mark.parametrize(("published", "wanted"), [("fp8_block", "bf16"), ("bf16", "nvfp4")])
    def test_never_serves_weights_that_were_not_planned(self, framework: str, published: str, wanted: str) -> None:
        made = launch(
            spec(framework, weights_precision=wanted, published_precision=published, precision_converted=True)
        )
        assert "org/model" not in made.command
        assert CHECKPOINT in made.command
        assert any(CHECKPOINT in note and "beforehand" in note for note in made.notes)

    def test_unknown_precision_is_refused(self, framework: str) -> None:
        with pytest.raises(Unsupported, match="int2"):
            launch(spec(framework, weights_precision="int2", published_precision="int2"))


@pytest.mark.parametrize(("framework", "word"), [("vllm", "bfloat16"), ("sglang", "bfloat16")])
def test_the_cache_is_named_where_the_default_may_be_another(framework: str, word: str) -> None:
    assert "--kv-cache-dtype" not in launch(spec(framework)).command
    assert value(launch(spec(framework, is_sparse=True)).command, "--kv-cache-dtype") == word


def test_unknown_framework_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        find_launcher("vlm")
    assert "vllm" in caught.value.hint


class TestVllm:
    def test_dense_model_on_one_node(self) -> None:
        command = launch(spec("vllm")).command
        assert command[:3] == ("vllm", "serve", "org/model")
        assert value(command, "--tensor-parallel-size") == "4"
        assert value(command, "--max-num-batched-tokens") == "8192"
        assert value(command, "--max-num-seqs") == "96"
        assert value(command, "--max-model-len") == "4608"
        assert value(command, "--gpu-memory-utilization") == "0.9"
        assert "--kv-cache-dtype" not in command

    def test_attention_data_parallel_with_experts_over_all_gpus(self) -> None:
        command = launch(spec("vllm", layout=layout(tp=2, dp=4, ep=8), is_moe=True)).command
        assert value(command, "--tensor-parallel-size") == "2"
        assert value(command, "--data-parallel-size") == "4"
        assert "--enable-expert-parallel" in command
        assert value(command, "--max-num-seqs") == "96"  # per rank, as in the plan

    def test_experts_over_some_gpus_cannot_be_said(self) -> None:
        assert "over all GPUs of a stage or over none" in str(cannot_express("vllm", layout(tp=8, ep=4), is_moe=True))

    def test_data_parallel_over_nodes_starts_ranks_on_each(self) -> None:
        made = launch(spec("vllm", layout=layout(dp=16, ep=16), is_moe=True))
        assert value(made.command, "--data-parallel-size-local") == "8"
        assert value(made.command, "--data-parallel-address") == "$HEAD_ADDRESS"
        assert any("--data-parallel-start-rank 8·i" in note for note in made.notes)

    def test_a_rank_wider_than_a_node_uses_nnodes(self) -> None:
        made = launch(spec("vllm", layout=layout(tp=8, pp=2, dp=2, ep=16), is_moe=True))
        assert value(made.command, "--nnodes") == "4"
        assert value(made.command, "--node-rank") == "$NODE_RANK"

    def test_converts_to_fp8_while_loading(self) -> None:
        made = launch(spec("vllm", weights_precision="fp8", precision_converted=True))
        assert value(made.command, "--quantization") == "fp8_per_tensor"

    def test_quantised_checkpoint_does_not_choose_its_own_kv_precision(self) -> None:
        made = launch(spec("vllm", weights_precision="nvfp4", published_precision="nvfp4"))
        assert value(made.command, "--kv-cache-dtype") == "bfloat16"


class TestSglang:
    def test_tp_size_and_limits_are_those_of_the_whole_group(self) -> None:
        command = launch(spec("sglang", layout=layout(tp=2, dp=4, ep=4), is_moe=True)).command
        assert value(command, "--tp-size") == "8"
        assert value(command, "--attn-dp-size") == "4"
        assert not {"--dp-size", "--enable-dp-attention"} & set(command)
        assert value(command, "--ep-size") == "4"
        assert value(command, "--max-running-requests") == str(96 * 4)
        assert value(command, "--chunked-prefill-size") == str(8192 * 4)

    def test_attention_data_parallel_is_spelled_as_the_release_spells_it(self) -> None:
        command = launch(spec("sglang@0.5.11", layout=layout(tp=2, dp=4, ep=4), is_moe=True)).command
        assert value(command, "--dp-size") == "4"
        assert "--enable-dp-attention" in command
        assert "--attn-dp-size" not in command

    def test_without_data_parallel_nothing_is_multiplied(self) -> None:
        command = launch(spec("sglang")).command
        assert value(command, "--max-running-requests") == "96"
        assert "--enable-dp-attention" not in command

    def test_nodes(self) -> None:
        command = launch(spec("sglang", layout=layout(tp=8, pp=2))).command
        assert value(command, "--nnodes") == "2"
        assert value(command, "--dist-init-addr") == "$HEAD_ADDRESS:20000"

    def test_says_that_the_prediction_mixes_prefill_with_decode(self) -> None:
        assert "--enable-mixed-chunk" in launch(spec("sglang")).command


class TestTrtllm:
    def test_dense_model(self) -> None:
        command = launch(spec("trtllm")).command
        assert command[:2] == ("trtllm-serve", "org/model")
        assert value(command, "--tp_size") == "4"
        assert value(command, "--max_batch_size") == "96"
        assert "--enable_chunked_prefill" in command
        assert "--config" not in command
        assert "--ep_size" not in command

    def test_attention_data_parallel_goes_to_the_options_file(self) -> None:
        made = launch(spec("trtllm", layout=layout(dp=8, ep=4), is_moe=True, kv_precision="fp8"))
        assert value(made.command, "--tp_size") == "8"
        assert value(made.command, "--ep_size") == "4"
        assert value(made.command, "--config") == "trtllm-options.yaml"
        note = next(note for note in made.notes if "trtllm-options.yaml" in note)
        assert "enable_attention_dp: true" in note
        assert "{dtype: fp8, free_gpu_memory_fraction: 0.9}" in note

    def test_attention_is_either_tensor_or_data_parallel(self) -> None:
        assert "not both" in str(cannot_express("trtllm", layout(tp=2, dp=4, ep=8), is_moe=True))

    def test_several_nodes_are_one_mpi_world(self) -> None:
        made = launch(spec("trtllm", layout=layout(tp=8, pp=2)))
        assert any("srun -N 2 --ntasks 16" in note for note in made.notes)


def test_specs_are_values() -> None:
    assert spec("vllm") == spec("vllm")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec("vllm").model = "other"  # type: ignore[misc]


# --- roles and drafting ---


@pytest.mark.parametrize("framework", launchers())
@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_an_engine_of_one_role_says_so_and_how_requests_get_there(framework: str, role: str) -> None:
    made = launch(spec(framework, role=role))
    alone = launch(spec(framework))
    said = " ".join((*made.command, *made.notes))
    assert said != " ".join((*alone.command, *alone.notes))
    assert "requests go through" in said.lower() or "a proxy sends" in said
    for flag in made.command:
        assert flag.strip()


def test_vllm_joins_roles_by_a_connector() -> None:
    config = json.loads(value(launch(spec("vllm", role="decode")).command, "--kv-transfer-config"))
    assert config["kv_connector"] == "NixlConnector"


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_sglang_names_the_role_and_mixes_no_chunks(role: str) -> None:
    command = launch(spec("sglang", role=role)).command
    assert value(command, "--disaggregation-mode") == role
    assert "--enable-mixed-chunk" not in command
    assert "--enable-mixed-chunk" in launch(spec("sglang")).command


def test_trtllm_puts_the_transceiver_into_its_options() -> None:
    made = launch(spec("trtllm", role="prefill"))
    assert "--config" in made.command
    notes = " ".join(made.notes)
    assert "cache_transceiver_config" in notes
    assert "context_servers" in notes
    assert "generation_servers (prefill)" not in notes


@pytest.mark.parametrize("framework", launchers())
def test_drafting_names_the_tokens_and_leaves_the_drafter_to_the_reader(framework: str) -> None:
    made = launch(spec(framework, draft_tokens=4))
    said = " ".join((*made.command, *made.notes))
    assert DRAFT_MODEL in said
    assert "4" in said
    assert DRAFT_MODEL not in " ".join(launch(spec(framework)).command)


def test_drafted_tokens_are_counted_as_each_framework_counts_them() -> None:
    assert value(launch(spec("vllm", draft_tokens=4)).command, "--speculative-config.num_speculative_tokens") == "4"
    command = launch(spec("sglang", draft_tokens=4)).command
    assert value(command, "--speculative-num-steps") == "4"
    assert value(command, "--speculative-num-draft-tokens") == "5"


@pytest.mark.parametrize("framework", launchers())
def test_what_is_predicted_of_the_prefix_cache_is_said(framework: str) -> None:
    assert "a hit rate of 0.5" in " ".join(launch(spec(framework, prefix_hit=0.5)).notes)


def test_tensorrt_llm_is_told_the_kernels_for_experts_that_its_steps_are_priced_with() -> None:
    asked = (
        ("trtllm", "B200", "fp8_block", False),
        ("trtllm", "B200", "fp8_block", True),
        ("trtllm@1.1", "B200", "fp8_block", False),
        ("trtllm", "GB300", "nvfp4", True),
        ("trtllm", "H200", "nvfp4", True),
    )
    found = []
    for name, gpu, precision, replicas in asked:
        framework = find_framework(name)
        can, release = framework.capabilities, framework.release
        found.append(can.expert_backend(find_gpu(gpu), precision, release, replicas=replicas))
    assert found == ["TRTLLM", "DEEPGEMM", "DEEPGEMM", "TRTLLM", ""]
    told = launch(spec("trtllm", is_moe=True, layout=layout(tp=8), expert_backend="TRTLLM"))
    assert "moe_config: {backend: TRTLLM}" in " ".join(told.notes)


def test_a_variable_by_which_kernels_start_early_is_told_and_set() -> None:
    told, plain = (launch(spec("trtllm", early_launch=name)) for name in ("TRTLLM_ENABLE_PDL", ""))
    assert set(told.notes) - set(plain.notes) == {
        "Set TRTLLM_ENABLE_PDL=1 on each node: the prediction has kernels start early."
    }
