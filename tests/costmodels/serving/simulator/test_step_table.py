"""Step tables against the steps they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.operations.questions import Batch
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.step_table import StepCurve, StepTable, step_tables_at
from costmodels.serving.step import StepTimes
from costmodels.step.communication import Network
from profiles.hardware import find_fabric
from tests.costmodels.tables_of_steps import random_steps, step_tables

Layout = tuple[int, int, int, int, int]
DENSE, WINDOWS, MOE, LATENT = "Qwen3-32B", "google/gemma-3-12b-it", "Qwen3-235B-A22B", "DeepSeek-V3"
ENGINES = [
    (DENSE, (4, 1, 1, 1, 1)),
    (DENSE, (2, 4, 1, 1, 1)),
    (WINDOWS, (2, 1, 1, 1, 1)),
    (MOE, (4, 1, 1, 4, 1)),
    (MOE, (2, 1, 4, 8, 1)),
    (LATENT, (8, 1, 1, 8, 1)),
    (LATENT, (2, 2, 4, 8, 1)),
]
NETWORK = Network(8, find_fabric("ib-400g"))
LIMITS = {"most_tokens": 8192, "most_sequences": 512, "longest_tokens": 32_768}


def served(cost: CostModel, model: str, framework: str = "vllm") -> ServedModel:
    architecture = find_architecture(model)
    return ServedModel(architecture, choose_precision(architecture), find_framework(framework), cost, NETWORK)


def tables(
    cost: CostModel, model: str, layouts: list[Layout], framework: str = "vllm", **changes: object
) -> list[StepTable]:
    limits = {**LIMITS, **changes}
    return step_tables(served(cost, model, framework), Layouts.of(layouts), "balanced", **limits)  # type: ignore[arg-type]


def steps(cost: CostModel, model: str, layout: Layout, batch: Batch, framework: str = "vllm") -> StepTimes:
    return served(cost, model, framework).step(Layouts.of([layout] * len(batch.decodes)), batch, "balanced")


def random_batch(n: int, seed: int, queries: int = 1) -> Batch:
    return random_steps(n, seed, queries)[1]


def by_table(curve: StepCurve, batch: Batch) -> Floats:
    return np.array(
        [
            curve.step_us(
                int(batch.decodes[i]),
                float(batch.context[i]),
                [(int(batch.chunk[i]), float(batch.prefix[i]))] * int(batch.prefills[i]),
                float(batch.expert_tokens[i]),
            )
            for i in range(len(batch.decodes))
        ]
    )


@pytest.mark.parametrize(("model", "layout"), ENGINES)
def test_a_table_says_what_the_steps_take(roofline_cost: CostModel, model: str, layout: Layout) -> None:
    batch = random_batch(400, 1)
    if layout[2] == 1:  # alone with its tokens
        batch = Batch(
            batch.prefills, batch.chunk, batch.prefix, batch.decodes, batch.context, batch.tokens.astype(float)
        )
    truth = steps(roofline_cost, model, layout, batch)
    (table,) = tables(roofline_cost, model, [layout])
    assert (table.ranks, table.stages) == (layout[2], layout[1])
    for curve, exact in ((table.latency, truth.latency), (table.stage, truth.stage)):
        error = np.abs(by_table(curve, batch) / exact.value - 1)
        assert np.quantile(error, 0.95) < 0.012
        assert np.median(error) < 0.001


@pytest.mark.parametrize("framework", ["vllm", "sglang", "trtllm"])
def test_experts_see_the_tokens_of_busy_and_of_idle_ranks(roofline_cost: CostModel, framework: str) -> None:
    """One rank's prompt among idle ranks, and a rank's decodes beside another's prompt: frameworks differ in what
    experts take with prompts and without."""
    layout = (2, 1, 4, 8, 1)
    batch = random_batch(300, 4)
    share = np.exp(np.random.default_rng(4).uniform(-np.log(4), np.log(4), 300))
    batch = replace(batch, expert_tokens=np.maximum(batch.tokens * share, 1.0))
    truth = steps(roofline_cost, MOE, layout, batch, framework).latency.value
    (table,) = tables(roofline_cost, MOE, [layout], framework=framework)
    error = np.abs(by_table(table.latency, batch) / truth - 1)
    assert np.quantile(error, 0.95) < 0.01
    assert np.median(error) < 0.001


def test_verifying_steps_see_all_their_tokens(roofline_cost: CostModel) -> None:
    batch = random_batch(300, 2, queries=4)
    batch = Batch(
        batch.prefills, batch.chunk, batch.prefix, batch.decodes, batch.context, batch.tokens.astype(float), queries=4
    )
    truth = steps(roofline_cost, DENSE, (4, 1, 1, 1, 1), batch).latency.value
    (table,) = tables(roofline_cost, DENSE, [(4, 1, 1, 1, 1)], queries=4)
    assert np.quantile(np.abs(by_table(table.latency, batch) / truth - 1), 0.95) < 0.012


def test_contexts_are_as_long_beside_prompts(roofline_cost: CostModel) -> None:
    """Where steps with prompts are slower than those without (their constants differ), so is attention over what is in
    the cache, however long that is."""
    batch = random_batch(300, 5)
    mixed = np.flatnonzero((batch.prefills > 0) & (batch.decodes > 30))
    batch = replace(
        batch,
        **{name: getattr(batch, name)[mixed] for name in ("prefills", "chunk", "prefix", "decodes")},
        context=np.full(len(mixed), 30_000),
        expert_tokens=batch.tokens[mixed].astype(float),
    )
    for framework in ("vllm", "sglang", "trtllm"):
        truth = steps(roofline_cost, DENSE, (4, 1, 1, 1, 1), batch, framework).latency.value
        (table,) = tables(roofline_cost, DENSE, [(4, 1, 1, 1, 1)], framework=framework)
        assert np.abs(by_table(table.latency, batch) / truth - 1).max() < 0.01


def test_knots_are_exact(roofline_cost: CostModel) -> None:
    (table,) = tables(roofline_cost, DENSE, [(4, 1, 1, 1, 1)])
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    decoding = Batch(zero, zero, zero, 64 * one, 8192 * one, np.array([64.0]))
    exact = steps(roofline_cost, DENSE, (4, 1, 1, 1, 1), decoding).latency.value[0]
    assert table.latency.decode_us(64, 8192) == pytest.approx(exact)
    prefill = Batch(one, 2048 * one, 4096 * one, zero, zero, np.array([2048.0]))
    exact = steps(roofline_cost, DENSE, (4, 1, 1, 1, 1), prefill).latency.value[0]
    assert table.latency.step_us(0, 0.0, [(2048, 4096.0)]) == pytest.approx(exact)


def test_many_layouts_at_once_are_each_by_itself_and_in_order(roofline_cost: CostModel) -> None:
    layouts = [(4, 1, 2, 8, 1), (2, 1, 1, 2, 1), (1, 2, 4, 4, 1), (8, 1, 1, 8, 1)]
    for table, layout in zip(tables(roofline_cost, MOE, layouts), layouts, strict=True):
        (alone,) = tables(roofline_cost, MOE, [layout])
        assert (table.ranks, table.stages) == (layout[2], layout[1])
        for batch in ({"decodes": 30, "context": 900.0}, {"decodes": 7, "context": 5.0, "chunks": [(300, 0.0)]}):
            assert table.latency.step_us(**batch) == pytest.approx(alone.latency.step_us(**batch))
            assert table.stage.step_us(**batch) == pytest.approx(alone.stage.step_us(**batch))


def test_ends_bracket_the_value(roofline_cost: CostModel) -> None:
    layout = (4, 1, 1, 1, 1)
    low, value, high = (tables(roofline_cost, DENSE, [layout], end=end)[0] for end in ("low", "value", "high"))
    batch = random_batch(100, 3)
    between = [by_table(table.latency, batch) for table in (low, value, high)]
    assert (between[0] < between[1]).all()
    assert (between[1] < between[2]).all()


def test_tables_of_several_ends_are_those_of_each(roofline_cost: CostModel) -> None:
    asked = served(roofline_cost, MOE), Layouts.of([(4, 1, 1, 4, 1), (2, 1, 4, 8, 1)])
    together = step_tables_at(("high", "low"), *asked, "balanced", **LIMITS)
    for end in ("high", "low"):
        for at, alone in zip(together, step_tables(*asked, "balanced", end=end, **LIMITS), strict=True):
            for batch in ({"decodes": 30, "context": 900.0}, {"decodes": 7, "context": 5.0, "chunks": [(300, 0.0)]}):
                assert at[end].latency.step_us(**batch) == alone.latency.step_us(**batch)


def test_tables_go_on_beyond_their_grid(roofline_cost: CostModel) -> None:
    (table,) = tables(roofline_cost, DENSE, [(4, 1, 1, 1, 1)], most_tokens=100, most_sequences=4, longest_tokens=300)
    curve = table.latency
    assert curve.step_us(1000, 50_000.0) > curve.step_us(500, 20_000.0) > curve.step_us(4, 300.0) > 0
    assert curve.step_us(0, 0.0, [(4000, 9000.0)]) > curve.step_us(0, 0.0, [(2000, 9000.0)]) > 0
