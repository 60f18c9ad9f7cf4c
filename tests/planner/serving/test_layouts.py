"""Legal layouts: against a twin that shares no code, rule by rule, and in how refusals are counted."""

from __future__ import annotations

import itertools

import pytest

from costmodels.models.architecture import (
    Architecture,
    DenseFeedForward,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    LayerGroup,
    MixtureOfExperts,
)
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework
from planner.serving.layouts import Rejected, Restrictions, layout_at, legal_layouts, with_replicas

Degrees = tuple[int, int, int, int, int]


def legal(
    model: Architecture, framework: str = "vllm", precision: str | None = None, **allowed: object
) -> tuple[set[Degrees], list[Rejected], int]:
    """(legal (tp, pp, dp, ep, moe_tp), refusals, considered)."""
    given = {"gpus": 8, "gpus_per_node": 8} | allowed
    layouts, rejected, considered = legal_layouts(
        model,
        choose_precision(model, precision),
        find_framework(framework),
        Restrictions(**given),  # type: ignore[arg-type]
    )
    rows = {
        (layout.tp, layout.pp, layout.dp, layout.ep, layout.moe_tp)
        for layout in (layout_at(layouts, i) for i in range(len(layouts)))
    }
    assert len(rows) == len(layouts), "a layout occurs twice"
    return rows, rejected, considered


def model(
    *groups: LayerGroup,
    heads: int = 64,
    kv_heads: int = 8,
    head_dim: int = 128,
    ffn: DenseFeedForward | MixtureOfExperts | None = None,
    precision: str = "bf16",
) -> Architecture:
    attention = GroupedQueryAttention(heads, kv_heads, head_dim)
    groups = groups or (LayerGroup(24, attention, ffn or DenseFeedForward(12288)),)
    return Architecture("made/up", "made_up", 4096, 32768, groups, 32768, False, precision)


def tps(found: set[Degrees]) -> set[int]:
    return {tp for tp, *_ in found}


def reasons(rejected: list[Rejected]) -> str:
    return "\n".join(r.reason for r in rejected)


# --- the twin ---


def is_legal(
    m: Architecture, framework: str, fp8_block: bool, degrees: Degrees, gpus: int, per_node: int, limits: dict[str, int]
) -> bool:
    tp, pp, dp, ep, moe_tp = degrees
    size, node = tp * pp * dp, min(per_node, gpus)
    if tp > limits.get("max_tp", tp) or pp > limits.get("max_pp", pp) or size > limits.get("max_engine_gpus", size):
        return False
    if tp > node and not limits.get("tp_across_nodes"):
        return False
    if size > node:
        if size % node:  # frameworks start as many ranks on every node
            return False
        # Walk the ranks through the nodes: a group may fill whole nodes or sit inside one.
        for group in (tp, tp * dp):
            for start in range(0, size, group):
                first, last = start // node, (start + group - 1) // node
                if first != last and (start % node or group % node):
                    return False
        if framework == "vllm" and pp > 1 and dp > 1 and tp % node:
            return False
    for layer in m.layer_groups:
        a, ffn = layer.attention, layer.feed_forward
        if a.heads % tp:
            return False
        cuts = [a.heads // tp]
        if isinstance(a, GroupedQueryAttention):
            if max(a.kv_heads, tp) % min(a.kv_heads, tp):
                return False
            cuts = [cuts[0] * a.head_dim, max(a.kv_heads // tp, 1) * a.head_dim]
        elif isinstance(a, GatedDeltaNet):
            cuts = [cuts[0] * a.key_dim, a.value_heads // tp * a.value_dim]
        else:
            cuts = [cuts[0] * (a.qk_nope_head_dim + a.qk_rope_head_dim)]
        if fp8_block and tp > 1 and any(cut % 128 for cut in cuts):
            return False
        widths = [(ffn.intermediate, tp)]
        if isinstance(ffn, MixtureOfExperts):
            if ffn.experts % ep:
                return False
            widths = [(ffn.intermediate, moe_tp), (ffn.shared_intermediate, tp)]
        for width, split in widths:
            if width % split or (fp8_block and width // split % 128):
                return False
    if not m.is_moe:
        return dp == ep == moe_tp == 1
    if framework == "vllm" and ep not in (1, tp * dp):
        return False
    return not (framework == "trtllm" and tp > 1 and dp > 1)


SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def twin(m: Architecture, framework: str, fp8_block: bool, gpus: int, per_node: int, **limits: int) -> set[Degrees]:
    found = set()
    for tp, pp, dp in itertools.product(SIZES, SIZES, SIZES):
        if tp * pp * dp > gpus or pp > m.layers:
            continue
        for ep in range(1, tp * dp + 1):
            if tp * dp % ep == 0:
                degrees = (tp, pp, dp, ep, tp * dp // ep)
                # A dense model has no experts to split: its one form is moe_tp = tp.
                judged = degrees if m.is_moe else (tp, pp, dp, ep, 1)
                if (m.is_moe or ep == 1) and is_legal(m, framework, fp8_block, judged, gpus, per_node, limits):
                    found.add(degrees)
    return found


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    ("name", "gpus", "per_node", "limits"),
    [
        ("Qwen/Qwen3-32B", 16, 8, {}),
        ("Qwen/Qwen3-32B", 16, 8, {"tp_across_nodes": 1}),
        ("Qwen/Qwen3-8B", 7, 8, {"max_pp": 2}),
        ("Qwen/Qwen3-30B-A3B", 24, 8, {}),
        ("Qwen/Qwen3-235B-A22B", 12, 4, {"max_engine_gpus": 12, "max_tp": 4}),
        ("openai/gpt-oss-20b", 16, 8, {"tp_across_nodes": 1}),
        ("deepseek-ai/DeepSeek-V3", 32, 8, {}),
        ("deepseek-ai/DeepSeek-V2-Lite", 6, 2, {}),
        ("Qwen/Qwen3.5-27B", 8, 8, {}),
        ("zai-org/GLM-5-FP8", 16, 8, {}),
    ],
)
def test_the_legal_layouts_are_those_of_the_exhaustive_twin(
    name: str, gpus: int, per_node: int, limits: dict[str, int], framework: str
) -> None:
    m = find_architecture(name)
    fp8_block = m.weight_precision == "fp8_block"
    allowed = limits | ({"tp_across_nodes": True} if "tp_across_nodes" in limits else {})
    found, _, _ = legal(m, framework, gpus=gpus, gpus_per_node=per_node, **allowed)
    assert found == twin(m, framework, fp8_block, gpus, per_node, **limits)
    assert found


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-8B", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3"]
)
def test_refusals_add_up_to_what_is_considered_and_not_legal(name: str, framework: str) -> None:
    for gpus in (1, 5, 16, 24):
        found, rejected, considered = legal(find_architecture(name), framework, gpus=gpus)
        assert sum(r.count for r in rejected) == considered - len(found)
        assert all(r.count > 0 and r.example.startswith("TP") for r in rejected)


# --- rule by rule ---


def test_a_dense_model_has_neither_data_nor_expert_parallel_layouts() -> None:
    found, _, _ = legal(model())
    assert found == {(tp, pp, 1, 1, tp) for tp in (1, 2, 4, 8) for pp in (1, 2, 3, 4, 6, 8) if tp * pp <= 8}


def test_attention_heads_divide_by_tp() -> None:
    found, rejected, _ = legal(model(heads=12, kv_heads=12))
    assert tps(found) == {1, 2, 3, 4, 6}
    assert "12 attention heads do not divide by tp" in reasons(rejected)


def test_kv_heads_divide_by_tp_or_replicate_evenly() -> None:
    found, rejected, _ = legal(model(heads=24, kv_heads=2))
    assert tps(found) == {1, 2, 4, 6, 8}
    assert "2 KV heads neither divide by tp nor replicate evenly over it" in reasons(rejected)


def test_latent_attention_needs_no_kv_heads_to_divide() -> None:
    attention = LatentAttention(24, 0, 512, 128, 64, 128)
    found, rejected, _ = legal(model(LayerGroup(24, attention, DenseFeedForward(12288))))
    assert tps(found) == {1, 2, 3, 4, 6, 8}
    assert "KV heads" not in reasons(rejected)


def test_linear_attention_splits_as_far_as_its_key_heads_and_their_blocks_do() -> None:
    m = model(LayerGroup(24, GatedDeltaNet(4, 16, 128, 128, 4), DenseFeedForward(12288)))
    assert tps(legal(m)[0]) == {1, 2, 4}
    narrow = model(LayerGroup(24, GatedDeltaNet(4, 16, 96, 128, 4), DenseFeedForward(12288)))
    found, rejected, _ = legal(narrow, precision="fp8_block")
    assert tps(found) == {1}
    assert "key heads of width 96 ÷ tp are not a multiple" in reasons(rejected)


def test_the_feed_forward_width_divides_by_tp() -> None:
    found, rejected, _ = legal(model(ffn=DenseFeedForward(12290)))
    assert tps(found) == {1, 2}
    assert "feed-forward width 12290 does not divide by tp" in reasons(rejected)


def test_no_split_cuts_through_a_scale_block_of_fp8_block() -> None:
    wide = model(ffn=DenseFeedForward(128 * 6))
    assert tps(legal(wide)[0]) == {1, 2, 4, 8}
    found, rejected, _ = legal(wide, precision="fp8_block")
    assert tps(found) == {1, 2}
    assert "width 768 ÷ tp is not a multiple of the 128-wide scale blocks" in reasons(rejected)


def test_no_split_of_attention_cuts_through_a_scale_block_of_fp8_block() -> None:
    narrow = model(head_dim=64)
    assert tps(legal(narrow)[0]) == {1, 2, 4, 8}
    found, rejected, _ = legal(narrow, precision="fp8_block")
    assert tps(found) == {1, 2, 4}, "at tp 8 one KV head of 64 is left"
    assert "KV heads of width 64 ÷ tp are not a multiple" in reasons(rejected)


def test_blocks_do_not_restrict_parts_that_are_not_quantized() -> None:
    m = find_architecture("Qwen/Qwen3-8B")
    assert legal(m, precision="fp8")[0] == legal(m, precision="bf16")[0]


@pytest.mark.parametrize("shared", [0, 96])
def test_every_layer_group_must_split(shared: int) -> None:
    attention = GroupedQueryAttention(64, 8, 128)
    experts = MixtureOfExperts(8, 2, 768, shared)
    m = model(LayerGroup(1, attention, DenseFeedForward(12292)), LayerGroup(23, attention, experts))
    found, rejected, _ = legal(m, gpus=64, gpus_per_node=64)
    assert tps(found) == {1, 2, 4}, "the dense first layer allows no more"
    assert "feed-forward width 12292" in reasons(rejected)


def test_experts_divide_by_ep_and_their_width_by_the_rest() -> None:
    m = model(ffn=MixtureOfExperts(6, 2, 768 + 4))
    found, rejected, _ = legal(m, "sglang")
    assert {ep for *_, ep, _ in found} == {1, 2, 3, 6}
    assert {moe_tp for *_, moe_tp in found} == {1, 2, 4}
    assert "6 experts do not divide by ep" in reasons(rejected)
    assert "expert width 772 does not divide by the tensor split of experts" in reasons(rejected)


def test_expert_splits_keep_scale_blocks_whole() -> None:
    m = model(ffn=MixtureOfExperts(64, 4, 384))
    assert max(moe_tp for *_, moe_tp in legal(m)[0]) == 8
    found, rejected, _ = legal(m, precision="fp8_block")
    assert {moe_tp for *_, moe_tp in found} == {1, 3}
    assert "expert width 384 ÷ tensor split is not a multiple" in reasons(rejected)


def test_a_shared_expert_is_split_by_tp_like_a_dense_layer() -> None:
    found, rejected, _ = legal(model(ffn=MixtureOfExperts(64, 4, 768, shared_intermediate=770)))
    assert tps(found) == {1, 2}
    assert "shared expert width 770 does not divide by tp" in reasons(rejected)


def test_vllm_splits_experts_over_all_gpus_of_a_stage_or_none() -> None:
    m = find_architecture("Qwen/Qwen3-30B-A3B")
    assert all(ep in (1, tp * dp) for tp, _, dp, ep, _ in legal(m, "vllm")[0])
    assert any(ep not in (1, tp * dp) for tp, _, dp, ep, _ in legal(m, "sglang")[0])


def test_trtllm_runs_attention_tensor_or_data_parallel_but_not_both() -> None:
    found, rejected, _ = legal(find_architecture("Qwen/Qwen3-30B-A3B"), "trtllm")
    assert not any(tp > 1 and dp > 1 for tp, _, dp, *_ in found)
    assert any(dp > 1 for _, _, dp, *_ in found)
    assert "tensor parallel or data parallel, not both" in reasons(rejected)


def test_a_tensor_parallel_group_stays_inside_a_node_unless_asked() -> None:
    found, rejected, _ = legal(model(), gpus=16)
    assert max(tps(found)) == 8
    assert "does not fit into a node of 8 GPUs (--tp-across-nodes allows it)" in reasons(rejected)
    wider, rejected, _ = legal(model(), gpus=16, tp_across_nodes=True)
    assert max(tps(wider)) == 16
    assert found < wider
    assert "--tp-across-nodes" not in reasons(rejected)


def test_a_pool_smaller_than_a_node_is_the_node() -> None:
    assert max(tps(legal(model(), gpus=4)[0])) == 4


def test_groups_of_an_engine_of_several_nodes_do_not_straddle_them() -> None:
    m = model(heads=48, kv_heads=48, ffn=MixtureOfExperts(48, 4, 768))
    found, rejected, _ = legal(m, "sglang", gpus=24)
    assert (3, 1, 1, 1, 3) in found, "inside a node any group may be"
    assert not any(tp == 3 and tp * pp * dp > 8 for tp, pp, dp, *_ in found)
    assert (2, 1, 3, 6, 1) in found
    assert not any(tp * dp == 6 and pp > 1 for tp, pp, dp, *_ in found)
    assert "does not fill them with whole tensor-parallel groups" in reasons(rejected)
    assert "stage of tp × dp GPUs straddles nodes" in reasons(rejected)


def test_vllm_has_no_pipelines_of_attention_replicas_over_several_nodes() -> None:
    m = find_architecture("Qwen/Qwen3-30B-A3B")
    found, rejected, _ = legal(m, "vllm", gpus=16)
    assert (1, 2, 8, 8, 1) not in found
    assert (1, 2, 4, 4, 1) in found, "inside a node the order of ranks does not matter"
    assert (1, 2, 8, 8, 1) in legal(m, "sglang", gpus=16)[0]
    assert "vLLM scatters the attention replicas" in reasons(rejected)


@pytest.mark.parametrize(
    ("option", "most", "degree"),
    [
        ("max_tp", 2, lambda x: x[0]),
        ("max_pp", 2, lambda x: x[1]),
        ("max_engine_gpus", 4, lambda x: x[0] * x[1] * x[2]),
    ],
)
def test_the_users_limits_are_kept_and_named(option: str, most: int, degree: object) -> None:
    m = find_architecture("Qwen/Qwen3-30B-A3B")
    free, _, _ = legal(m)
    found, rejected, _ = legal(m, **{option: most})
    assert found == {x for x in free if degree(x) <= most}  # type: ignore[operator]
    assert f"above --{option.replace('_', '-')} {most}" in reasons(rejected)


def test_there_are_no_more_pipeline_stages_than_layers() -> None:
    attention = GroupedQueryAttention(64, 8, 128)
    found, _, _ = legal(model(LayerGroup(3, attention, DenseFeedForward(12288))))
    assert {pp for _, pp, *_ in found} == {1, 2, 3}


@pytest.mark.parametrize("name", ["Qwen/Qwen3-32B", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b"])
def test_more_gpus_take_no_layout_away(name: str) -> None:
    m = find_architecture(name)
    before: set[Degrees] = set()
    for gpus in range(1, 27):
        found, _, _ = legal(m, gpus=gpus)
        assert before <= found, gpus
        before = found


@pytest.mark.parametrize("name", ["Qwen/Qwen3-32B", "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3"])
def test_a_legal_layout_is_legal_on_a_pool_of_its_own_size(name: str) -> None:
    m = find_architecture(name)
    for degrees in legal(m, gpus=24)[0]:
        assert degrees in legal(m, gpus=degrees[0] * degrees[1] * degrees[2])[0]


@pytest.mark.parametrize(
    ("framework", "row", "expected"),
    [
        ("sglang", {"tp": "8", "dp": "8", "enable_dp_attention": "true"}, ("1", "8")),
        ("sglang", {"tp": "8", "dp": "2", "enable_dp_attention": "True"}, ("4", "2")),
        ("sglang", {"tp": "8", "enable_dp_attention": "true"}, ("8", None)),
        ("sglang", {"tp": "8", "dp": "8", "enable_dp_attention": "false"}, ("8", "8")),
        ("sglang", {"tp": "8", "dp": "2", "num_gpus": "16", "enable_dp_attention": "true"}, ("8", "2")),
        ("sglang", {"tp": "8", "dp": "2", "pp": "2", "num_gpus": "32", "enable_dp_attention": "true"}, ("8", "2")),
        ("sglang", {"tp": "8", "dp": "2", "pp": "2", "num_gpus": "16", "enable_dp_attention": "true"}, ("4", "2")),
        ("sglang", {"tp": "1", "dp": "8", "dp_attention": "true"}, ("1", "8")),
        ("sglang", {"tp": "8", "dp_attention": "true"}, ("1", "8")),
        ("trtllm", {"tp": "4", "enable_attention_dp": "1"}, ("1", "4")),
        ("vllm", {"tp": "2", "dp": "2", "dp_attention": "true"}, ("2", "2")),
    ],
)
def test_a_group_that_holds_attention_replicas_is_divided_by_them(
    framework: str, row: dict[str, str], expected: tuple[str, str | None]
) -> None:
    notes: list[str] = []
    told = with_replicas(row, find_framework(framework), notes)
    assert (told["tp"], told.get("dp")) == expected
    assert bool(notes) == (row["tp"] != told["tp"] and "dp" in row)


def test_key_heads_that_end_inside_a_scale_block_are_loaded_where_values_are_narrower() -> None:
    """MiMo-V2-Flash: vLLM's recipe starts it on four GPUs, though a key head is one block and a half."""
    assert {1, 2, 4} <= tps(legal(find_architecture("XiaomiMiMo/MiMo-V2-Flash"))[0])
