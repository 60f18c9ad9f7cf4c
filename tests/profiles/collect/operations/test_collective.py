"""Collectives over two real gloo ranks."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator

import pytest

from profiles.collect.devices import Device
from profiles.collect.operations.collective import KINDS, Collective
from profiles.collect.points import Point, Settings
from profiles.collect.ranks import RankDied
from profiles.collect.timing import measure
from profiles.errors import Unsupported

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def two(cpu: Device) -> Device:
    return dataclasses.replace(cpu, indices=(0, 1))


@pytest.fixture(scope="module")
def collective() -> Iterator[Collective]:
    benchmark = Collective()
    yield benchmark
    benchmark.close()


def _point(kind: str = "all_reduce", dtype: str = "bf16", message_bytes: int = 4096, num_gpus: int = 2) -> Point:
    return Point("collective", dtype, {"kind": kind, "message_bytes": message_bytes}, num_gpus)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_the_right_result_and_a_time(
    two: Device, collective: Collective, kind: str, dtype: str
) -> None:
    """Preparing runs it on known numbers and refuses a wrong result."""
    prepared = collective.prepare(two, _point(kind, dtype))
    timing = measure(two, prepared, Settings(cap_s=0.1))
    assert (prepared.framework, prepared.kernel) == ("gloo", "gloo")
    assert 0 < timing.p10_us <= timing.median_us <= timing.p90_us
    assert timing.method == "host_clock"
    prepared.run()
    assert prepared.close is not None
    prepared.close()


def test_a_wrong_result_is_refused(two: Device, collective: Collective, monkeypatch: pytest.MonkeyPatch) -> None:
    group = collective._group(two, "gloo", 2)
    monkeypatch.setattr(group, "call", lambda *_: [{"right": True}, {"right": False}])
    monkeypatch.setattr(collective, "_found", {})
    with pytest.raises(Unsupported, match="gloo: all_reduce in fp32 gave a wrong result"):
        collective.prepare(two, _point(dtype="fp32"))


def test_a_dead_rank_is_an_error_and_the_next_point_is_measured(two: Device, collective: Collective) -> None:
    prepared = collective.prepare(two, _point())
    os.kill(collective._groups[2]._ranks[0].process.pid, signal.SIGKILL)
    with pytest.raises(RankDied, match="rank 0 of 2"):
        measure(two, prepared, Settings(cap_s=0.1))
    assert prepared.close is not None
    prepared.close()
    again = collective.prepare(two, _point())
    assert measure(two, again, Settings(cap_s=0.1)).median_us > 0


def test_closing_ends_the_ranks_and_another_run_starts_new_ones(two: Device, collective: Collective) -> None:
    collective.prepare(two, _point())
    group = collective._groups[2]
    collective.close()
    assert not group.running
    assert collective.prepare(two, _point()).framework == "gloo"


@pytest.mark.parametrize(
    ("point", "said"),
    [
        (_point("broadcast"), "collective 'broadcast' is not among all_reduce"),
        (_point(dtype="fp8"), "not in fp8"),
        (_point(num_gpus=4), "a collective of 4 needs 4 devices; 2 may take part"),
        (_point(num_gpus=1), "a collective of 1 needs 2 devices"),
        (_point(message_bytes=1001), "message_bytes=1001 is no multiple of 4"),
    ],
)
def test_what_cannot_be_measured_has_a_reason(two: Device, point: Point, said: str) -> None:
    assert said in str(Collective().unsupported(two, point))


def test_send_recv_is_between_two(hopper: Device) -> None:
    assert "send_recv is between 2 ranks" in str(Collective().unsupported(hopper, _point("send_recv", num_gpus=4)))


def test_a_message_that_does_not_fit_is_refused_before_ranks_start(two: Device) -> None:
    with pytest.raises(Unsupported, match="all_reduce of 1,000,000,000,000 bytes on 2 ranks"):
        Collective().prepare(two, _point(message_bytes=10**12))
