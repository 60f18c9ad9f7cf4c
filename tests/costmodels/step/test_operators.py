"""Operators: a step asks for exactly the work that the model's weights imply, however it is split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodels.models.architecture import Architecture, LatentAttention, MixtureOfExperts
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.gemm import GEMM
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch, Exchange, StepWork
from costmodels.operations.registry import families
from costmodels.operations.roofline import CODES, code
from costmodels.step.operators import step_work

DENSE, MOE, MLA, WINDOWED = "Qwen3-32B", "Qwen3-235B-A22B", "DeepSeek-V3", "gemma-3-27b-it"
HYBRID, SPARSE = "Qwen3.5-397B-A17B", "GLM-5"
MODELS = (DENSE, MOE, MLA, WINDOWED, HYBRID, SPARSE, "openai/gpt-oss-120b", "Llama-3.1-8B", "GLM-4.7-Flash")
COUNTED = tuple(model for model in MODELS if model != SPARSE)  # whose products are asked for one by one
PLAIN = (1, 1, 1, 1, 1)


def batch(prefills: int = 0, chunk: int = 0, prefix: int = 0, decodes: int = 0, context: int = 1, n: int = 1) -> Batch:
    """The same batch on every attention rank, ``n`` times."""
    columns = [np.full(n, value, np.int64) for value in (prefills, chunk, prefix, decodes, context)]
    return Batch(*columns, expert_tokens=np.full(n, prefills * chunk + decodes, np.float64))


PROMPT = batch(prefills=1, chunk=4096)
DECODES = batch(decodes=64, context=1000)


def step(model: str, layout: tuple[int, int, int, int, int], todo: Batch) -> StepWork:
    architecture = find_architecture(model)
    return step_work(architecture, choose_precision(architecture), Layouts.of([layout]), todo, "balanced")


def flops(made: StepWork, *operations: str) -> float:
    """FLOPs of one GPU in one step."""
    total = 0.0
    for operation in operations or ("gemm", "moe", "mla_bmm"):
        for asked in made.asked.get(operation, []):
            total += float(families().kernel(operation).work(asked.columns).flops @ asked.count)
    return total


def exchanges(made: StepWork) -> list[tuple[str, int, float, float]]:
    """(kind, ranks, bytes, count) of every collective."""
    return [
        (CODES["kind"][e.kind], int(e.ranks[0]), float(e.message_bytes[0]), float(e.count[0])) for e in made.exchanges
    ]


def columns(made: StepWork, operation: str, name: str) -> list[int]:
    return [int(asked.columns[name][0]) for asked in made.asked.get(operation, [])]


def body(model: Architecture) -> float:
    """Weights that every token is multiplied with: the active ones but for the embedding and the head."""
    tables = model.embedding_parameters * (1 if model.tied_embeddings else 2)
    return model.active_parameters - tables


# --- FLOPs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", COUNTED)
@pytest.mark.parametrize("todo", [PROMPT, DECODES], ids=["prefill", "decode"])
def test_products_of_a_step_are_two_flops_per_active_weight_and_token(model: str, todo: Batch) -> None:
    architecture = find_architecture(model)
    tokens, sampled = int(todo.tokens[0]), int(todo.prefills[0] + todo.decodes[0])
    expected = 2 * body(architecture) * tokens + 2 * architecture.embedding_parameters * sampled
    assert flops(step(model, PLAIN, todo)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("todo", [PROMPT, DECODES], ids=["prefill", "decode"])
def test_the_module_of_sparse_attention_holds_its_projections(todo: Batch) -> None:
    architecture = find_architecture(SPARSE)
    tokens, sampled = int(todo.tokens[0]), int(todo.prefills[0] + todo.decodes[0])
    made = step(SPARSE, PLAIN, todo)
    module = next(name for name in made.asked if name.startswith("dsa"))
    longest = {name: values * 0 + 1 for name, values in made.asked[module][0].columns.items() if "tokens" in name}
    short = {**made.asked[module][0].columns, **longest, "batch": np.array([tokens])}  # one key each: projections alone
    projections = architecture.layers * float(families().kernel(module).work(short).flops[0])
    expected = 2 * body(architecture) * tokens + 2 * architecture.embedding_parameters * sampled
    assert flops(made, "gemm", "moe") + projections == pytest.approx(expected, rel=0.01)


def test_linear_attention_asks_for_its_heads_and_sees_neither_prefix_nor_context() -> None:
    near, far = (
        step(HYBRID, (4, 1, 1, 4, 1), batch(prefills=2, chunk=512, prefix=p, decodes=8, context=c))
        for p, c in ((0, 10), (5000, 9000))
    )
    for made in (near, far):
        assert columns(made, "gdn_prefill", "batch") == [2]
        assert columns(made, "gdn_decode", "batch") == [8]
        assert columns(made, "gdn_decode", "key_heads") == [4]
        assert columns(made, "gdn_decode", "value_heads") == [16]
        assert float(made.asked["gdn_decode"][0].count[0]) == 45
        assert float(made.asked["attention_decode"][0].count[0]) == 15
    assert flops(near, "gdn_prefill", "gdn_decode", "gemm") == flops(far, "gdn_prefill", "gdn_decode", "gemm")


def test_drafted_tokens_are_so_many_more_sequences_to_states_and_indexers() -> None:
    todo = dataclasses.replace(DECODES, queries=4)
    assert columns(step(HYBRID, PLAIN, todo), "gdn_decode", "batch") == [256]
    assert set(columns(step(SPARSE, PLAIN, todo), "dsa_decode", "batch")) == {256}


def test_latent_attention_behind_a_prefix_rebuilds_the_whole_prompt() -> None:
    first, second = (flops(step(MLA, PLAIN, batch(prefills=1, chunk=1024, prefix=p)), "gemm") for p in (0, 3072))
    architecture = find_architecture(MLA)
    attention = architecture.layer_groups[0].attention
    assert isinstance(attention, LatentAttention)
    rebuild = 512 * attention.heads * (128 + 128)
    assert second - first == pytest.approx(2 * 3072 * rebuild * architecture.layers)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_gpus_share_the_work_of_a_dense_model(tp: int) -> None:
    whole, part = (flops(step(DENSE, (d, 1, 1, 1, 1), PROMPT)) for d in (1, tp))
    assert part * tp == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("model", [MOE, MLA])
@pytest.mark.parametrize(("dp", "ep"), [(8, 8), (8, 1), (4, 2)])
def test_data_parallel_ranks_do_their_own_attention_and_share_the_experts(model: str, dp: int, ep: int) -> None:
    for todo in (PROMPT, DECODES):
        alone = flops(step(model, PLAIN, todo))
        assert flops(step(model, (1, 1, dp, ep, dp // ep), todo)) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize(("ep", "moe_tp"), [(1, 4), (4, 1), (2, 2)])
def test_experts_are_shared_among_tensor_parallel_gpus_however_they_are_split(ep: int, moe_tp: int) -> None:
    whole = flops(step(MOE, PLAIN, PROMPT), "moe")
    assert 4 * flops(step(MOE, (4, 1, 1, ep, moe_tp), PROMPT), "moe") == pytest.approx(whole)


@pytest.mark.parametrize("operation", ["attention_prefill", "attention_decode"])
def test_attention_flops_are_shared_by_heads(operation: str) -> None:
    todo = batch(prefills=1, chunk=512, prefix=512, decodes=8, context=2000)
    whole, part = (flops(step(DENSE, (tp, 1, 1, 1, 1), todo), operation) for tp in (1, 8))
    assert whole > 0
    assert 8 * part == pytest.approx(whole)


def test_pipeline_stages_do_not_change_the_work_of_the_whole_model() -> None:
    assert flops(step(DENSE, (1, 4, 1, 1, 1), PROMPT)) == flops(step(DENSE, PLAIN, PROMPT))


# --- shapes -----------------------------------------------------------------------------------------------

MAY_BE_ZERO = {"prefix_tokens", "window_tokens", "gated", "dtype", "kv_dtype", "kind", "routing"}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.sampled_from([(1, 1, 1, 1, 1), (8, 1, 1, 1, 8), (8, 1, 1, 8, 1), (2, 2, 4, 8, 1), (1, 1, 16, 16, 1)]),
    st.integers(0, 4),
    st.integers(1, 9000),
    st.integers(0, 9000),
    st.integers(0, 300),
    st.integers(1, 9000),
)
def test_no_question_has_an_empty_shape(
    model: str,
    layout: tuple[int, int, int, int, int],
    prefills: int,
    chunk: int,
    prefix: int,
    decodes: int,
    context: int,
) -> None:
    made = step(model, layout, batch(prefills, chunk, prefix, decodes, context))
    for operation, parts in made.asked.items():
        assert operation.endswith("_prefill") <= bool(prefills)
        for asked in parts:
            assert np.all(asked.count > 0)
            for name, values in asked.columns.items():
                assert np.all(values >= (0 if name in MAY_BE_ZERO else 1)), (operation, name)
    for exchange in made.exchanges:
        assert np.all(exchange.ranks > 1)
        assert np.all(exchange.message_bytes > 0)


def test_candidates_are_answered_row_by_row() -> None:
    layouts = [(1, 1, 1, 1, 1), (4, 1, 1, 4, 1), (2, 1, 4, 8, 1)]
    architecture = find_architecture(MOE)
    together = step_work(
        architecture,
        choose_precision(architecture),
        Layouts.of(layouts),
        batch(decodes=32, context=500, n=3),
        "balanced",
    )
    for i, layout in enumerate(layouts):
        alone = step(MOE, layout, batch(decodes=32, context=500))
        for operation, parts in alone.asked.items():
            for asked, everyone in zip(parts, together.asked[operation], strict=True):
                mine = everyone.candidate == i
                for name, values in asked.columns.items():
                    assert everyone.columns[name][mine].tolist() == values.tolist()
                assert everyone.count[mine].tolist() == asked.count.tolist()
        assert together.moved_bytes[i] == alone.moved_bytes[0]
        assert together.small_kernels[i] == alone.small_kernels[0]


def test_kv_heads_are_replicated_where_there_are_more_gpus() -> None:
    for tp, expected in ((1, 4), (2, 2), (4, 1), (8, 1)):
        assert columns(step(MOE, (tp, 1, 1, 1, tp), DECODES), "attention_decode", "kv_heads") == [expected]
    split, replicated = (flops(step(MOE, (tp, 1, 1, 1, tp), PROMPT), "gemm") for tp in (4, 8))
    assert 8 * replicated > 4 * split


def test_a_window_counts_only_once_a_sequence_is_longer() -> None:
    def windows(todo: Batch) -> list[int]:
        made = step(WINDOWED, PLAIN, todo)
        return sorted(columns(made, "attention_decode", "window_tokens"))

    assert windows(batch(decodes=8, context=1024)) == [0, 0]
    assert windows(batch(decodes=8, context=1025)) == [0, 1024]
    assert windows(batch(prefills=1, chunk=1000, prefix=100, decodes=8, context=5)) == [0, 1024]


def test_only_sequences_not_tokens_meet_the_head() -> None:
    made = step(DENSE, PLAIN, batch(prefills=2, chunk=1000, decodes=30, context=10))
    heads = [a for a in made.asked["gemm"] if int(a.columns["n"][0]) == find_architecture(DENSE).vocabulary]
    assert [int(a.columns["m"][0]) for a in heads] == [32]


@pytest.mark.parametrize("model", [WINDOWED, DENSE])
def test_every_norm_of_a_layer_is_a_kernel(model: str) -> None:
    architecture = find_architecture(model)
    made = step(model, PLAIN, DECODES)
    norms = sum(group.count * group.norms for group in architecture.layer_groups)
    others = architecture.layers * (2 + 1) + 4  # rotary embedding and cache write, activation; the head
    assert made.small_kernels[0] == norms + others


# --- collectives ------------------------------------------------------------------------------------------


def test_one_gpu_exchanges_nothing() -> None:
    for model in MODELS:
        assert step(model, PLAIN, PROMPT).exchanges == []


@pytest.mark.parametrize("tp", [2, 8])
def test_a_dense_layer_reduces_twice(tp: int) -> None:
    architecture = find_architecture(DENSE)
    made = exchanges(step(DENSE, (tp, 1, 1, 1, 1), PROMPT))
    reduced = [e for e in made if e[0] == "all_reduce"]
    assert sum(count for *_, count in reduced) == 2 * architecture.layers
    assert {(ranks, size) for _, ranks, size, _ in reduced} == {(tp, 4096 * architecture.hidden * 2)}
    assert [e for e in made if e[0] != "all_reduce"] == [("all_gather", tp, architecture.vocabulary * 2.0, 1.0)]


def test_experts_within_one_attention_rank_reduce_like_a_dense_layer() -> None:
    made = exchanges(step(MOE, (8, 1, 1, 8, 1), DECODES))
    assert sum(count for kind, *_, count in made if kind == "all_reduce") == 2 * find_architecture(MOE).layers
    assert not [e for e in made if e[0] == "reduce_scatter"]


def test_experts_of_several_attention_ranks_gather_all_tokens_and_scatter_the_sums() -> None:
    architecture = find_architecture(MLA)
    moe_layers = sum(g.count for g in architecture.layer_groups if isinstance(g.feed_forward, MixtureOfExperts))
    made = exchanges(step(MLA, (1, 1, 16, 16, 1), DECODES))
    everyone = 64 * 16 * architecture.hidden * 2.0
    assert sorted(made) == [
        ("all_gather", 16, everyone, float(moe_layers)),
        ("reduce_scatter", 16, everyone, float(moe_layers)),
    ]
    mixed = exchanges(step(MLA, (4, 1, 4, 16, 1), DECODES))
    assert ("all_gather", 16, everyone / 4, float(moe_layers)) in mixed
    reduced = sum(count for kind, ranks, _, count in mixed if (kind, ranks) == ("all_reduce", 4))
    assert reduced == architecture.layers + (architecture.layers - moe_layers)  # attention, and the dense layers


def test_experts_see_the_mean_over_ranks_that_need_not_all_have_a_chunk() -> None:
    todo = batch(prefills=1, chunk=1000, decodes=10, context=100)
    quiet = Batch(todo.prefills, todo.chunk, todo.prefix, todo.decodes, todo.context, np.array([10 + 1000 / 8]))
    assert columns(step(MLA, (1, 1, 8, 8, 1), quiet), "moe", "tokens") == [8 * 10 + 1000]
    assert columns(step(MLA, (1, 1, 8, 8, 1), todo), "moe", "tokens") == [8 * 1010]


def test_nothing_is_asked_where_nothing_happens() -> None:
    made = StepWork(2)
    made.ask(GEMM, 1, np.array([False, False]), dtype=0, m=1, n=1, k=1)
    made.exchange("all_reduce", np.array([10.0, 0.0]), np.array([1, 8]), 1)
    assert made.asked == {}
    assert made.exchanges == []
    made.exchange("all_gather", np.array([10.0, 10.0]), np.array([1, 8]), np.array([2.0, 3.0]))
    (only,) = made.exchanges
    assert isinstance(only, Exchange)
    assert (only.kind, only.candidate.tolist(), only.count.tolist()) == (code("kind", "all_gather"), [1], [3.0])


def test_each_kind_of_attention_asks_for_its_own_kernels_only() -> None:
    grouped, latent = {"attention_prefill", "attention_decode"}, {"mla_prefill", "mla_decode", "mla_bmm"}
    linear, sparse = {"gdn_prefill", "gdn_decode"}, {"dsa_prefill", "dsa_decode"}
    for model in MODELS:
        made = step(model, PLAIN, batch(prefills=1, chunk=64, decodes=4, context=64))
        wanted = {MLA: latent, "GLM-4.7-Flash": latent, SPARSE: sparse, HYBRID: grouped | linear}.get(model, grouped)
        assert set(made.asked) - {"gemm", "moe"} == wanted
