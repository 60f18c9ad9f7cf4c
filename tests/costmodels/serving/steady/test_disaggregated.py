"""Prefill and decode engines: queueing laws, the transfer between them, and speculative decoding."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import Layouts
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.request_shape import RequestShape
from costmodels.serving.served_model import ServedModel
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from costmodels.serving.steady.disaggregated import (
    Decoding,
    Prefilling,
    PrefillSteps,
    decoding,
    joint,
    prefill_steps,
    prefilling,
    work_us,
)
from costmodels.serving.steady.kv_transfer import (
    Link,
    cache_bytes,
    copies,
    exposed_us,
    received_bytes,
    sent_bytes,
    with_queue,
)
from costmodels.serving.steady.steady_state import decode_batch, held_batch, steady_state
from costmodels.step.communication import Network
from profiles.hardware import find_fabric

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MODEL = find_architecture("Qwen3-32B")
NETWORK = Network(8, find_fabric("ib-400g"))
VLLM = find_framework("vllm")
NONE, CHUNK, LAYER = (
    KvConnector(name="any", overlap=overlap, first_token="decode_step", pipeline=())
    for overlap in ("none", "chunk", "layer")
)
LINK = Link("test", 50e9, 5.0)


def served(cost: CostModel, model: Architecture = MODEL) -> ServedModel:
    return ServedModel(model, choose_precision(model), VLLM, cost, NETWORK)


def steps(
    cost: CostModel, tp: int = 4, budget: int = 8192, isl: int = 4000, cached: int = 0, room: int = 64
) -> PrefillSteps:
    layouts = Layouts.of([(tp, 1, 1, 1, tp)])
    limits = np.array([budget]), np.array([room])
    return prefill_steps(served(cost), RequestShape(isl, 1, "balanced", cached), layouts, *limits)


def at(made: PrefillSteps, *utilisations: float) -> Prefilling:
    return prefilling(made.take(np.zeros(len(utilisations), np.int64)), np.array(utilisations))


def decode(
    cost: CostModel,
    *concurrency: float,
    tp: int = 4,
    osl: int = 500,
    kv_connector: KvConnector = NONE,
    drafting: SpeculativeDecoding | None = None,
) -> Decoding:
    layouts = Layouts.of([(tp, 1, 1, 1, tp)] * len(concurrency))
    shape = RequestShape(4000, osl, "balanced", drafting=drafting)
    return decoding(served(cost), shape, layouts, np.array(concurrency), kv_connector)


# --- the prefill queue -----------------------------------------------------------------------------------


def test_a_prompt_alone_in_its_step_waits_as_in_m_d_1(roofline_cost: CostModel) -> None:
    made = at(steps(roofline_cost, budget=2048), 0.3, 0.6, 0.9)  # two chunks a prompt: none fits beside it
    assert (made.steps.together == 1).all()
    service = made.steps.one.stage.value * made.steps.chunks
    rho = made.utilisation
    assert made.waiting_us == pytest.approx(rho * service / (2 * (1 - rho)))
    assert made.rate_rps.value == pytest.approx(rho / service * 1e6)
    assert made.queue_busy == pytest.approx(rho)


def simulated_wait(first: float, each: float, most: int, rate: float, prompts: int = 200_000) -> float:
    """Mean wait of a server that takes all that wait, ``most`` at a time; a step of k takes first + (k−1)·each."""
    arrivals = np.cumsum(np.random.default_rng(7).exponential(1 / rate, prompts))
    free, i, waits = 0.0, 0, 0.0
    while i < prompts:
        start = max(free, arrivals[i])
        j = min(int(np.searchsorted(arrivals, start, side="right")), i + most)
        waits += (start - arrivals[i:j]).sum()
        free, i = start + first + (j - i - 1) * each, j
    return waits / prompts


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("isl", [100, 500, 2000])
def test_prompts_that_share_steps_wait_about_as_long_as_in_a_simulation(
    roofline_cost: CostModel, isl: int, utilisation: float
) -> None:
    made = at(steps(roofline_cost, isl=isl), utilisation)
    one, full = float(made.steps.one.stage.value[0]), float(made.steps.full.stage.value[0])
    most = int(made.steps.together[0])
    assert most > 1
    rate = float(made.rate_rps.value[0]) / 1e6
    seen = simulated_wait(one, (full - one) / (most - 1), most, rate)
    done = float(made.done_us.value[0])
    assert done == pytest.approx(done - float(made.waiting_us[0]) + seen, rel=0.35)


@quick
@given(isl=st.integers(1, 20_000), budget=st.sampled_from([2048, 8192]), tp=st.sampled_from([1, 2, 8]))
def test_more_load_never_shortens_a_prefill(roofline_cost: CostModel, isl: int, budget: int, tp: int) -> None:
    made = at(steps(roofline_cost, tp, budget, isl), *np.linspace(0.01, 0.98, 30).tolist())
    assert (np.diff(made.rate_rps.value) > 0).all()
    assert (np.diff(made.done_us.value) >= -1e-6 * made.done_us.value[0]).all()
    for p in (0.5, 0.9, 0.99):
        assert (np.diff(made.percentile_us(p)) >= -1e-6 * made.done_us.value[0]).all()
    assert (made.done_us.low <= made.done_us.value).all()
    assert (made.done_us.value <= made.done_us.high).all()


def test_hits_in_the_prefix_cache_save_work_but_not_all_of_it(roofline_cost: CostModel) -> None:
    works = [float(work_us(steps(roofline_cost, isl=4000, cached=cached))[0]) for cached in (0, 1000, 2000, 3999)]
    assert works == sorted(works, reverse=True)
    assert works[0] / works[2] < 4000 / 2000 * 1.01  # the rest still attends to all of the prompt
    assert works[3] > 0


def test_memory_bounds_the_prompts_of_a_step(roofline_cost: CostModel) -> None:
    assert int(steps(roofline_cost, isl=100, room=3).together[0]) == 3
    assert int(steps(roofline_cost, isl=100, room=64).together[0]) == 64


# --- decode ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first_token", "steps_of_a_request"), [("transfer", 499), ("decode_step", 500)])
def test_a_decode_engine_obeys_littles_law(roofline_cost: CostModel, first_token: str, steps_of_a_request: int) -> None:
    kv_connector = NONE.model_copy(update={"first_token": first_token})
    got = decode(roofline_cost, 1, 16, 64, kv_connector=kv_connector)
    held = got.rate_rps.value / 1e6 * steps_of_a_request * got.cycle_us.value
    assert held == pytest.approx(got.concurrency)
    assert got.tpot_us.value == pytest.approx(got.step.latency.value)


def test_decode_alone_is_never_slower_per_token_than_with_prefills_between(roofline_cost: CostModel) -> None:
    b = np.array([4, 32, 128])
    layouts = Layouts.of([(4, 1, 1, 1, 4)] * 3)
    both = steady_state(served(roofline_cost), RequestShape(4000, 500, "balanced"), layouts, np.full(3, 8192), b)
    alone = decode(roofline_cost, *b.tolist())
    assert (alone.tpot_us.value <= both.tpot_us.value).all()
    for p in (0.5, 0.9, 0.99):
        assert (alone.tpot_percentile_us(p) <= both.tpot_percentile_us(p) * (1 + 1e-9)).all()


# --- drafting --------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.floats(0, 1))
def test_the_yield_of_a_step_is_the_sum_over_how_many_are_accepted(k: int, a: float) -> None:
    exact = sum(a**i for i in range(k + 1))
    assert SpeculativeDecoding(k, a).tokens_per_step == pytest.approx(exact)


def test_drafts_that_are_never_accepted_only_cost(roofline_cost: CostModel) -> None:
    plain = decode(roofline_cost, 8)
    useless = decode(roofline_cost, 8, drafting=SpeculativeDecoding(4, 0.0))
    assert useless.tpot_us.value[0] > plain.tpot_us.value[0]
    perfect = decode(roofline_cost, 8, drafting=SpeculativeDecoding(4, 1.0, draft_cost=0.0))
    assert perfect.tpot_us.value[0] == pytest.approx(float(perfect.step.latency.value[0]) / 5)
    assert perfect.step.latency.value[0] < 5 * plain.step.latency.value[0]  # weights and cache are read once


def test_a_dearer_drafter_costs_its_share_of_a_step(roofline_cost: CostModel) -> None:
    free, dear = (decode(roofline_cost, 8, drafting=SpeculativeDecoding(4, 0.7, cost)) for cost in (0.0, 0.05))
    assert dear.cycle_us.value / free.cycle_us.value == pytest.approx(1.2)
    default = SpeculativeDecoding(4, 0.7).share_of_step(MODEL.layers)
    assert default == pytest.approx(4 / MODEL.layers)


def test_drafting_in_the_aggregated_engine_keeps_littles_law(roofline_cost: CostModel) -> None:
    layouts, drafting = Layouts.of([(4, 1, 1, 1, 4)]), SpeculativeDecoding(4, 0.7)
    plain_shape, at = RequestShape(1000, 500, "balanced"), (layouts, np.array([8192]), np.array([32]))
    got = steady_state(served(roofline_cost), replace(plain_shape, drafting=drafting), *at)
    assert got.rate_rps.value[0] / 1e6 * 499 * got.tpot_us.value[0] == pytest.approx(32)
    plain = steady_state(served(roofline_cost), plain_shape, *at)
    assert got.tpot_us.value[0] < plain.tpot_us.value[0]


# --- the transfer ----------------------------------------------------------------------------------------


def last_piece(transfer: float, prefill: float, pieces: int) -> float:
    """When the last piece arrives after the prefill, piece by piece."""
    free = 0.0
    for i in range(1, pieces + 1):
        free = max(free, prefill * i / pieces) + transfer / pieces
    return free - prefill


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.integers(1, 30))
def test_what_is_exposed_is_when_the_last_piece_arrives(transfer: float, prefill: float, pieces: int) -> None:
    got = exposed_us(np.array([transfer]), np.array([prefill]), np.array([float(pieces)]), 64, CHUNK)[0]
    assert got == pytest.approx(last_piece(transfer, prefill, pieces))


def test_overlap_by_layer_by_chunk_and_not_at_all() -> None:
    one = np.ones(1)
    exposed = [exposed_us(64 * one, 1000 * one, 4 * one, 64, how)[0] for how in (LAYER, CHUNK, NONE)]
    assert exposed == pytest.approx([1, 16, 64])


@pytest.mark.parametrize("name", ["Qwen3-32B", "DeepSeek-V3", "gemma-3-12b-it"])
def test_every_byte_sent_is_received(roofline_cost: CostModel, name: str) -> None:
    it = served(roofline_cost, find_architecture(name))
    senders = Layouts.of([(1, 1, 1, 1, 1), (4, 1, 1, 1, 4), (2, 2, 1, 1, 2)])
    receivers = Layouts.of([(8, 1, 1, 1, 8), (1, 1, 1, 1, 1), (4, 1, 1, 1, 4)])
    times = copies(it, receivers, 3000)
    sent = sent_bytes(it, senders, 3000, times) * senders.tp * senders.pp
    received = received_bytes(it, receivers, 3000) * receivers.tp * receivers.pp
    assert sent == pytest.approx(received)
    assert (times >= 1 - 1e-9).all()


def test_the_cache_that_crosses_is_all_layers_and_heads_once_and_windows_send_their_window(
    roofline_cost: CostModel,
) -> None:
    assert cache_bytes(served(roofline_cost), 4000) == 4000 * 64 * 2 * 8 * 128 * 2
    gemma = served(roofline_cost, find_architecture("gemma-3-12b-it"))
    short, long = (cache_bytes(gemma, isl) / isl for isl in (1000, 10_000))
    assert long < short


def test_a_link_that_cannot_carry_the_rate_never_delivers() -> None:
    time, busy = with_queue(np.array([10.0, 10.0]), np.array([0.05, 0.1]))
    assert busy.tolist() == [0.5, 1.0]
    assert time[0] == pytest.approx(10 + 0.5 * 10 / (2 * 0.5))
    assert math.isinf(time[1])


# --- together --------------------------------------------------------------------------------------------


def test_a_request_sees_queue_prefill_transfer_and_first_steps(roofline_cost: CostModel) -> None:
    first, second = at(steps(roofline_cost), 0.7), decode(roofline_cost, 32)
    got = joint(served(roofline_cost), 4000, first, second, np.array([3000.0]), LINK, NONE)
    cycle, front = float(second.cycle_us.value[0]), float(got.front_us.value[0])
    assert front > 0
    assert got.ttft_us.value[0] == pytest.approx(front + float(first.done_us.value[0]) + 3000 + 1.5 * cycle)
    assert sum(float(part[0]) for part in got.ttft_parts_us.values()) == pytest.approx(float(got.ttft_us.value[0]))
    assert got.e2e_us.value[0] == pytest.approx(float(got.ttft_us.value[0]) + 499 * float(second.tpot_us.value[0]))
    for quantile in (got.ttft_percentile_us, got.tpot_percentile_us, got.e2e_percentile_us):
        values = np.array([quantile(p)[0] for p in np.linspace(0.01, 0.99, 40)])
        assert (np.diff(values) >= -1e-6 * values[0]).all()


def test_an_engine_that_holds_its_sequences_all_the_time_runs_at_their_captured_size(roofline_cost: CostModel) -> None:
    """One that shares them with others at random has one more, and jumps between sizes."""
    layouts, sequences = Layouts.of([(4, 1, 1, 1, 4)] * 4), np.array([0.5, 2.0, 8.0, 9.0])
    asked = served(roofline_cost), RequestShape(4000, 500, "balanced"), layouts, sequences
    held, open_load = held_batch(*asked), decode_batch(*asked)
    assert held.decodes.tolist() == [1, 2, 8, 16]
    assert held.context[2] == asked[1].context
    assert (open_load.decodes[:3] > held.decodes[:3]).all()
