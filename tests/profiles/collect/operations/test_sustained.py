"""A load that lasts: two states of one layer, a time of its own, and a ratio that the summary says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from profiles.collect.devices import Device
from profiles.collect.journal import Header, Journal
from profiles.collect.points import Outcome, Point, Settings, Timing
from profiles.collect.runner import InOrder, Runner
from profiles.collect.session import Asked
from profiles.collect.timing import measure
from profiles.errors import InputError

torch = pytest.importorskip("torch")

from profiles.collect.operations import sustained  # noqa: E402 - needs torch
from profiles.collect.operations.sustained import Sustained  # noqa: E402


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sustained, "REST_S", 0.0)


@pytest.mark.usefixtures("hasty")
def test_both_states_time_the_same_layer(cpu: Device) -> None:
    benchmark = Sustained(0.3)
    rested, lasting = benchmark.grid(cpu, ("fp32",))
    assert {**rested.shape, "state": ""} == {**lasting.shape, "state": ""}
    timings = [measure(cpu, benchmark.prepare(cpu, point), Settings()) for point in (rested, lasting)]
    assert all(timing.median_us > 0 for timing in timings)
    assert timings[0].repeats == 5


def test_a_layer_is_its_products_and_its_attention(cpu: Device) -> None:
    point = next(iter(Sustained().grid(cpu, ("fp32",))))
    prepared = Sustained().prepare(cpu, point)
    size = {name: int(value) for name, value in point.shape.items() if name != "state"}
    width = (2 * size["heads"] + 2 * size["kv_heads"]) * size["head_dim"] + 3 * size["intermediate"]
    assert prepared.flops > 2 * size["tokens"] * size["hidden"] * width
    assert prepared.kernel.startswith("cpu_mm")


def test_eight_bit_products_keep_attention_in_sixteen(hopper: Device) -> None:
    assert [point.dtype for point in Sustained().grid(hopper, ("fp8",))] == ["fp8", "fp8"]
    assert list(Sustained().grid(hopper, ("int4",))) == []


def test_what_does_not_fit_the_budget_is_not_begun(tmp_path: Path, cpu: Device) -> None:
    point = next(point for point in Sustained(60).grid(cpu, ("fp32",)) if point.shape["state"] == "sustained")
    with Journal(tmp_path) as journal:
        journal.begin(Header("a test", "2026-11-26", "", cpu.describe(), cpu.versions))
        runner = Runner(cpu, {"sustained": Sustained(60)}, journal, Settings(), time.monotonic() + 5)
        report = runner.run(InOrder([point]))
    assert (report.ended, report.outcomes) == ("budget", [])


@pytest.mark.parametrize(("text", "said"), [("soon", "'soon' is no time"), ("0s", "is no time"), ("6m", "do not fit")])
def test_times_that_are_none_or_too_long(text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"--sustained: .*{said}"):
        Asked.parse("gemm", "bf16", "10m", "1%", text)


def test_the_option_brings_the_operation() -> None:
    assert Asked.parse("gemm", "bf16", "10m", "1%", "30s").operations == ("sustained", "gemm")


def test_the_summary_says_the_ratio() -> None:
    from api.cli.views.collect_summary import _sustained

    def outcome(state: str, us: float) -> Outcome:
        timing = Timing(us, us, us, 5, 0.0, 0, "cuda_events")
        return Outcome(Point("sustained", "bf16", {"state": state}), "measured", timing=timing)

    assert _sustained([outcome("rested", 100.0), outcome("sustained", 116.0)]) == {"bf16": 1.16}
    assert _sustained([outcome("sustained", 116.0)]) == {}
