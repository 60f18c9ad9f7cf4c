"""What is asked for: budgets, errors, names and grids, and what of them a machine can measure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import FakeBenchmark, a_device, gemm

from profiles.collect.devices import Device
from profiles.collect.points import Point
from profiles.collect.session import Asked, measurable, parse_budget, parse_error
from profiles.errors import InputError, UnknownName


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 m ", 120)])
def test_budgets_have_a_unit(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "-5m", "1d", "ten minutes", "1m30s"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--budget"):
        parse_budget(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.02", 0.02), ("0.5 %", 0.005)])
def test_errors_are_shares(text: str, share: float) -> None:
    assert parse_error(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "0", "1", "60%", "one"])
def test_other_errors_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--target-error"):
        parse_error(text)


def test_names_stand_for_operations_each_once() -> None:
    asked = Asked.parse("attention, gemm,attention", "fp8,bf16", "1m", "1%")
    assert asked.operations == ("attention_prefill", "attention_decode", "gemm")
    assert asked.precisions == ("fp8", "bf16")


@pytest.mark.parametrize(("ops", "precision"), [("gem", "bf16"), ("gemm", "fp9")])
def test_unknown_names_are_refused(ops: str, precision: str) -> None:
    with pytest.raises(UnknownName, match=r"--ops|--precision"):
        Asked.parse(ops, precision, "1m", "1%")


def test_naming_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="--ops: nothing is named"):
        Asked.parse(" , ", "bf16", "1m", "1%")


def test_the_source_names_no_host() -> None:
    header = Asked.parse("gemm", "bf16", "1m", "1%").header(a_device(), seed=3)
    assert header.source == "shardwright harness on 2x Test CPU"
    assert header.settings["seed"] == 3
    assert header.versions["python"]


class Odd(FakeBenchmark):
    """Refuses odd sizes in fp16, each with its size."""

    def unsupported(self, device: Device, point: Point) -> str | None:
        odd = point.dtype == "fp16" and int(point.shape["m"]) % 2 == 1
        return f"m must be even (m={point.shape['m']})" if odd else super().unsupported(device, point)

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        yield from (gemm(m, dtype=dtype) for m in range(1, 6) for dtype in precisions if dtype != "int8")


def test_what_cannot_be_measured_is_counted_once_a_reason() -> None:
    points, refused = measurable(a_device(), {"gemm": Odd()}, ("bf16", "fp16"))
    assert [int(p.shape["m"]) for p in points["gemm"] if p.dtype == "fp16"] == [2, 4]
    assert [o.reason for o in refused] == ["m must be even (m=1) (and 2 points more of the grid)"]


def test_a_precision_in_which_nothing_can_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="--precision fp8: no fp8 here"):
        measurable(a_device(), {"gemm": Odd(refuses=("fp8",))}, ("bf16", "fp8"))


def test_a_precision_that_a_grid_leaves_out_is_refused_in_the_benchmarks_words() -> None:
    with pytest.raises(InputError, match="--precision int8: no int8 here"):
        measurable(a_device(), {"gemm": Odd(refuses=("int8",))}, ("bf16", "int8"))


def test_nothing_to_measure_is_refused() -> None:
    class Empty(FakeBenchmark):
        def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
            yield from ()

    with pytest.raises(InputError, match="--ops: nothing of gemm can be measured on Test CPU"):
        measurable(a_device(), {"gemm": Empty()}, ("bf16",))
