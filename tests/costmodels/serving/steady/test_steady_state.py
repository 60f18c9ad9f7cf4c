"""Steady state: the laws of queues and of common sense, on a cost model that is smooth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costmodels.estimates import Estimates
from costmodels.kernels.cost_model import CostModel
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.steady.steady_state import Steady, steady_state
from costmodels.step.communication import Network
from profiles.hardware import find_fabric

Layout = tuple[int, int, int, int, int]
GRID = [1, 2, 4, 8, 16, 32, 64, 128, 256]
DENSE, MOE, MLA = "Qwen3-32B", "Qwen3-235B-A22B", "DeepSeek-V3"
ALONE, TP, PP, DP = (1, 1, 1, 1, 1), (4, 1, 1, 1, 1), (1, 4, 1, 1, 1), (1, 1, 8, 8, 1)
ENGINES = [(DENSE, TP), (DENSE, PP), (MOE, (8, 1, 1, 8, 1)), (MOE, DP), (MLA, (2, 1, 8, 16, 1))]
NAMES = [f"{model}-tp{x[0]}-pp{x[1]}-dp{x[2]}" for model, x in ENGINES]

# The fixture is made once and never written to: sharing it between examples is meant.
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def steady(
    cost: CostModel,
    model: str = DENSE,
    layout: Layout = TP,
    concurrency: list[int] | None = None,
    isl: int = 2000,
    osl: int = 500,
    budget: int = 8192,
) -> Steady:
    """One engine at several concurrencies."""
    asked = np.array(concurrency or GRID)
    architecture = find_architecture(model)
    network = Network(8, find_fabric("ib-400g"))
    served = ServedModel(architecture, choose_precision(architecture), find_framework("vllm"), cost, network)
    shape, layouts = RequestShape(isl, osl, "balanced"), Layouts.of([layout] * len(asked))
    return steady_state(served, shape, layouts, np.full(len(asked), budget), asked)


def assert_ordered(made: Estimates) -> None:
    assert np.all((made.low <= made.value) & (made.value <= made.high))
    assert np.isfinite(made.high).all()


loads = st.tuples(
    st.sampled_from(ENGINES),
    st.integers(1, 400),
    st.integers(1, 12_000),
    st.integers(2, 2000),
    st.sampled_from([2048, 8192]),
)
Load = tuple[tuple[str, Layout], int, int, int, int]


def of(cost: CostModel, load: Load) -> Steady:
    (model, layout), concurrency, isl, osl, budget = load
    return steady(cost, model, layout, [concurrency], isl, osl, budget)


# --- laws -------------------------------------------------------------------------------------------------


@quick
@given(load=loads)
def test_littles_law_holds(roofline_cost: CostModel, load: Load) -> None:
    got = of(roofline_cost, load)
    (_, layout), concurrency, _, osl, _ = load
    rate = got.rate_rps.value[0] / 1e6
    assert rate * (osl - 1) * got.tpot_us.value[0] == pytest.approx(concurrency * layout[2])
    peak_sequences = concurrency * layout[2] + rate * got.ttft_us.value[0]  # decoding, and not yet decoding
    assert rate * got.e2e_us.value[0] == pytest.approx(peak_sequences)


@quick
@given(load=loads)
def test_no_request_is_faster_than_the_steps_it_needs(roofline_cost: CostModel, load: Load) -> None:
    got = of(roofline_cost, load)
    _, _, isl, osl, budget = load
    assert got.tpot_us.value[0] >= got.decode.latency.value[0] * (1 - 1e-9)
    assert got.tpot_us.value[0] <= got.balanced.longest[0] / (osl - 1) * (1 + 1e-9)
    own = isl / budget * (got.mixed.stage.value[0] - got.decode.stage.value[0])
    assert got.ttft_us.value[0] >= own
    assert got.e2e_us.value[0] == pytest.approx(got.ttft_us.value[0] + (osl - 1) * got.tpot_us.value[0])
    for made in (got.rate_rps, got.ttft_us, got.tpot_us, got.e2e_us):
        assert_ordered(made)


@quick
@given(load=loads)
def test_percentiles_rise(roofline_cost: CostModel, load: Load) -> None:
    got = of(roofline_cost, load)
    shares = np.linspace(0.01, 0.99, 50)
    for quantile in (got.ttft_percentile_us, got.tpot_percentile_us, got.e2e_percentile_us):
        values = np.array([quantile(p)[0] for p in shares])
        assert np.all(np.diff(values) >= -1e-6 * values[0]), quantile.__name__
    assert got.tpot_percentile_us(0.5)[0] <= got.tpot_us.value[0] * (1 + 1e-9)  # the long tail is above


def test_the_mean_wait_is_the_mean_of_its_percentiles(roofline_cost: CostModel) -> None:
    got = steady(roofline_cost, concurrency=[8], isl=7500, osl=200)
    assert got.queue_busy[0] > 0.3
    shares = (np.arange(20_000) + 0.5) / 20_000
    mean = np.mean([got.ttft_percentile_us(p)[0] for p in shares])
    assert mean == pytest.approx(got.ttft_us.value[0], rel=0.01)


def test_the_queue_is_that_of_one_server_with_equal_services(roofline_cost: CostModel) -> None:
    got = steady(roofline_cost, concurrency=[64], isl=8192 - 65, osl=300)  # as long as a step has room
    service = got.mixed.stage.value[0]  # one chunk a prompt
    busy = got.rate_rps.value[0] / 1e6 * service
    assert got.queue_busy[0] == pytest.approx(busy)
    assert got.waiting_us[0] == pytest.approx(busy * service / (2 * (1 - busy)))


# --- concurrency ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "layout"), ENGINES, ids=NAMES)
@pytest.mark.parametrize(("isl", "osl"), [(2000, 500), (100, 1000), (10_000, 300)])
def test_more_sequences_never_lower_the_rate_nor_the_time_per_token(
    roofline_cost: CostModel, model: str, layout: Layout, isl: int, osl: int
) -> None:
    got = steady(roofline_cost, model, layout, GRID, isl, osl)
    stable = got.stable
    assert stable[0]
    assert np.all(np.diff(stable.astype(int)) <= 0)  # once prefill cannot keep up, it never can again
    for values in (got.rate_rps.value, got.tpot_us.value, got.queue_busy):
        assert np.all(np.diff(values[stable]) >= -1e-9 * values[0])


def test_a_prefill_that_cannot_keep_up_is_unstable(roofline_cost: CostModel) -> None:
    # 64 sequences of 10 tokens each end every 9 steps, and every step has room for one prompt.
    got = steady(roofline_cost, concurrency=[4, 8, 16, 64], isl=8000, osl=10)
    assert got.stable.tolist() == [True, True, False, False]
    assert got.mixed_share[-1] == 1
    assert np.isfinite(got.ttft_us.value).all()


def test_a_step_without_room_for_prompts_is_unstable(roofline_cost: CostModel) -> None:
    assert not steady(roofline_cost, concurrency=[256], budget=256).stable[0]


@quick
@given(load=loads)
def test_a_looser_budget_never_makes_an_engine_unstable(roofline_cost: CostModel, load: Load) -> None:
    (model, layout), concurrency, isl, osl, _ = load
    tight, loose = (steady(roofline_cost, model, layout, [concurrency], isl, osl, b) for b in (2048, 8192))
    assert loose.stable[0] >= tight.stable[0]
    assert loose.mixed_share[0] <= tight.mixed_share[0] + 0.02


def test_longer_prompts_cost_throughput_and_first_tokens(roofline_cost: CostModel) -> None:
    made = [steady(roofline_cost, concurrency=[32], isl=isl, osl=500) for isl in (100, 1000, 4000, 16_000)]
    assert np.all(np.diff([m.rate_rps.value[0] for m in made]) < 0)
    assert np.all(np.diff([m.ttft_us.value[0] for m in made]) > 0)


def test_short_prompts_share_a_step(roofline_cost: CostModel) -> None:
    # 512 arrivals in 9 steps, 100 tokens each: one a step would not do, but 8192 tokens have room for dozens.
    got = steady(roofline_cost, concurrency=[512], isl=100, osl=10)
    assert got.stable[0]


@pytest.mark.parametrize(("model", "layout"), ENGINES, ids=NAMES)
@pytest.mark.parametrize("budget", [2048, 8192])
def test_percentiles_do_not_fall_with_concurrency(
    roofline_cost: CostModel, model: str, layout: Layout, budget: int
) -> None:
    got = steady(roofline_cost, model, layout, GRID, 2000, 500, budget)
    for p in (0.5, 0.9, 0.99):
        for quantile in (got.ttft_percentile_us, got.tpot_percentile_us):
            values = quantile(p)[got.stable]
            # In a pipeline that is nearly full prompts share steps, and the formula's queue is shorter by as much.
            less = 0.05 if got.decode.latency.value[0] > got.decode.stage.value[0] and p == 0.99 else 2e-3
            assert np.all(np.diff(values) >= -less * values[1:]), (quantile.__name__, p)


def test_with_one_output_token_concurrency_is_how_busy_prefill_is(roofline_cost: CostModel) -> None:
    got = steady(roofline_cost, concurrency=[0.25, 0.5, 0.9], isl=8192, osl=1)  # type: ignore[list-item]
    assert got.queue_busy == pytest.approx([0.25, 0.5, 0.9], rel=0.02)
    assert (got.tpot_us.value == 0).all()
    assert (np.diff(got.ttft_percentile_us(0.9)) > 0).all()


# --- layouts ----------------------------------------------------------------------------------------------


def test_without_prefills_an_engine_is_its_decode_step(roofline_cost: CostModel) -> None:
    got = steady(roofline_cost, concurrency=[1], isl=1, osl=100_000)
    assert got.tpot_us.value[0] == pytest.approx(got.decode.latency.value[0], rel=0.03)
    assert got.mixed_share[0] < 1e-3


def test_one_attention_rank_has_the_mixed_share_of_its_own_chunks(roofline_cost: CostModel) -> None:
    got = steady(roofline_cost, concurrency=[50], isl=8192 - 51, osl=501)
    # Each of 50 sequences leaves after 500 steps, and a chunk comes for it.
    assert 0.95 * 50 / 500 < got.mixed_share[0] <= 50 / 500


def test_ranks_wait_for_the_chunks_of_each_other(roofline_cost: CostModel) -> None:
    alone = steady(roofline_cost, MOE, (8, 1, 1, 8, 1), [16])
    together = steady(roofline_cost, MOE, DP, [16])
    share = 16 / 499
    assert alone.mixed_share[0] < together.mixed_share[0] < 1 - (1 - share) ** 8  # chunks that wait start together
    # The rate is that of all eight ranks.
    assert together.rate_rps.value[0] * 499 * together.tpot_us.value[0] / 1e6 == pytest.approx(8 * 16)


def test_two_ranks_carry_between_one_and_two_times_what_one_does(roofline_cost: CostModel) -> None:
    one, two = (steady(roofline_cost, MLA, x, [32]).rate_rps.value[0] for x in ((8, 1, 1, 8, 1), (8, 1, 2, 16, 1)))
    assert one < two < 2 * one * 1.3  # experts are spread over twice the GPUs


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_pipelining_keeps_the_throughput_per_gpu_of_decodes_but_chunks_hold_it_up(
    roofline_cost: CostModel, pp: int
) -> None:
    # The same sequences per stage: every stage does 1/pp of the work of a step, host, hops and the fullest stage aside.
    for isl, least in ((1, 0.6), (2000, 0.4)):
        one = steady(roofline_cost, DENSE, ALONE, [32], isl=isl)
        many = steady(roofline_cost, DENSE, (1, pp, 1, 1, 1), [32 * pp], isl=isl)
        kept = many.rate_rps.value[0] / (pp * one.rate_rps.value[0])
        assert least < kept < 1.01
        assert many.tpot_us.value[0] == pytest.approx(one.tpot_us.value[0] / kept, rel=1e-6)
    assert kept < 0.9


def test_operating_points_do_not_depend_on_each_other(roofline_cost: CostModel) -> None:
    together = steady(roofline_cost, MOE, DP, GRID)
    for i in (0, 4, 8):
        alone = steady(roofline_cost, MOE, DP, [GRID[i]])
        assert alone.ttft_us.value[0] == pytest.approx(together.ttft_us.value[i])
        assert alone.e2e_percentile_us(0.99)[0] == pytest.approx(together.e2e_percentile_us(0.99)[i])


@pytest.mark.parametrize(("model", "layout"), ENGINES, ids=NAMES)
def test_a_point_that_is_taken_out_stays_what_it_is(roofline_cost: CostModel, model: str, layout: Layout) -> None:
    every = steady(roofline_cost, model, layout)
    for i in (0, 5, len(GRID) - 1):
        one = every.take(np.array([i]))
        for p in (0.5, 0.99):
            for quantile in ("ttft_percentile_us", "tpot_percentile_us", "e2e_percentile_us"):
                assert getattr(one, quantile)(p).tolist() == [getattr(every, quantile)(p)[i]]


def test_uncertain_kernels_give_uncertain_promises(synthetic_cost: CostModel) -> None:
    got = steady(synthetic_cost, "Llama-3.1-8B", (2, 1, 1, 1, 1), [1, 16, 128])
    for made in (got.rate_rps, got.ttft_us, got.tpot_us, got.e2e_us):
        assert_ordered(made)
        assert np.all(made.low < made.high)
