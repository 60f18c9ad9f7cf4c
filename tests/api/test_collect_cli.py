"""``plan profile collect``: what it measures, prints and leaves behind, however it ends."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import Runner, complaint

from api.cli.commands import proposing
from profiles.collect import runner
from profiles.collect.devices import Device, find_device
from profiles.collect.journal import FILE, read, read_points, write_points
from profiles.collect.points import Outcome, Point, Prepared, Settings, Timing
from profiles.descriptions import read_descriptions, template, type_name
from profiles.manifest import MANIFEST
from profiles.store import ProfileStore

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
GEMMS = [Point("gemm", "bf16", {"m": m, "n": 64, "k": 64}) for m in (1, 2, 4, 8)]
FOUND: dict[str, tuple[Any, str]] = {
    "generation": ("some-cpu", "reported by Linux"),
    "peak_flops.bf16": (1e12, "measured on 2026-01-01: a product"),
    "memory_bytes": (find_device("cpu").memory_bytes, "reported by Linux"),
    "memory_bandwidth_bytes_per_s": (2e10, "measured on 2026-01-01: a copy"),
    "sm_count": (find_device("cpu").sm_count, "reported by Linux"),
    "boost_clock_mhz": (2500.0, "reported by Linux"),
    "l2_bytes": (2**25, "reported by Linux"),
    "tdp_watts": (10.0, "assumed, no sensor tells"),
    "idle_watts": (2.0, "assumed, no sensor tells"),
    "scale_up_link": ("shared_memory", "processes of one host"),
    "scale_up_bytes_per_s": (1e10, "measured on 2026-01-01: a copy"),
    "pcie_bytes_per_s": (1e10, "measured on 2026-01-01: a copy"),
}
TIMING = Timing(10.0, 9.0, 11.0, 20, 0.005, 1, "host_clock")


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    """This machine's CPU as a user would describe it."""
    text, _ = template(find_device("cpu").describe())
    ((_, fields),) = yaml.safe_load(text).items()
    made_up: dict[str, Any] = {
        "generation": "some-cpu",
        "boost_clock_mhz": 2500,
        "l2_bytes": 2**25,
        "tdp_watts": 200,
        "idle_watts": 80,
        "scale_up_link": "shared_memory",
        "scale_up_bytes_per_s": 1e10,
        "memory_bandwidth_bytes_per_s": 2e10,
        "pcie_bytes_per_s": 1e10,
    }
    fields |= {name: value for name, value in made_up.items() if fields[name] is None}
    fields |= {"peak_flops": {"bf16": 1e12}, "node": {"gpus": 2, "default_fabric": "roce-200g"}}
    fields["sources"]["*"] = "made up for a test"
    file = tmp_path / "facts.yaml"
    file.write_text(yaml.safe_dump({"My-CPU": fields}))
    return file


def points(folder: Path, chosen: Sequence[Point]) -> str:
    file = folder / "points.jsonl"
    file.write_text(write_points(chosen))
    return str(file)


@pytest.fixture
def asked(tmp_path: Path, facts: Path) -> list[str]:
    """Arguments that measure four small products on this CPU."""
    return [
        *("profile", "collect", "--device", "cpu", "--ops", "gemm", "--budget", "60s", "--target-error", "50%"),
        *("--points", points(tmp_path, GEMMS), "--gpu-facts", str(facts), "--out", str(tmp_path / "store")),
    ]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[Prepared]:
    """Timings that take no time; the list holds what was timed."""
    timed: list[Prepared] = []

    def measure(device: Device, prepared: Prepared, settings: Settings, watch: Any) -> Timing:
        timed.append(prepared)
        return TIMING

    monkeypatch.setattr(runner, "measure", measure)
    return timed


def test_small_products_are_measured_and_become_rows(run: Runner, asked: list[str], tmp_path: Path) -> None:
    ran = run(*asked)
    assert ran.code == 0, ran.err
    assert "4 points" in ran.out
    assert "nothing left to ask" in ran.out
    rows = ProfileStore(tmp_path / "store").query("gemm")
    assert sorted(rows["m"]) == [1, 2, 4, 8]
    assert set(rows["gpu"]) == {"My-CPU"}
    assert (rows["latency_us"] > 0).all()
    assert rows["power_watts"].isna().all()


def test_the_summary_as_json(run: Runner, asked: list[str], tmp_path: Path, instant: list[Prepared]) -> None:
    fp8 = dataclasses.replace(GEMMS[0], dtype="fp8")
    points(tmp_path, [*GEMMS, fp8])
    ran = run(*asked, "--json", "--power")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    (group,) = found["measured"]
    assert (group["points"], group["outliers"], group["samples"], group["within_target_error"]) == (4, 4, 80, 1.0)
    assert group["spread_p90_over_p10"] == pytest.approx(11 / 9)
    (skipped,) = found["not_measured"]
    assert (skipped["status"], skipped["dtype"], skipped["points"]) == ("skipped", "fp8", 1)
    assert found["store_rows"] == {"gemm": 4}
    assert (found["ended"], found["order"], found["expected_error"]) == ("complete", "points", {})


def test_a_second_run_keeps_what_is_measured(run: Runner, asked: list[str], instant: list[Prepared]) -> None:
    assert run(*asked).code == 0
    again = run(*asked)
    assert "0 points" in again.out
    assert "4 kept from earlier runs" in again.out
    assert len(instant) == 4


def test_a_resumed_store_knows_its_own_type(run: Runner, asked: list[str], instant: list[Prepared]) -> None:
    assert run(*asked).code == 0
    at = asked.index("--gpu-facts")
    assert run(*asked[:at], *asked[at + 2 :]).code == 0
    assert run("profile", "list", "--profiles", asked[-1], "--gpu", "My-CPU", "--json").code == 0


@pytest.fixture
def unlisted(asked: list[str]) -> list[str]:
    """Arguments that measure this CPU without a word on what it is."""
    at = asked.index("--gpu-facts")
    return [*asked[:at], *asked[at + 2 :]]


def test_a_machine_that_nobody_listed_is_measured_at_once(run: Runner, unlisted: list[str], tmp_path: Path) -> None:
    ran = run(*unlisted)
    assert ran.code == 0, ran.err
    assert "not in the catalogue: measuring what it is" in ran.err
    store = tmp_path / "store"
    ((gpu, node),) = read_descriptions(store / "gpus.yaml")
    assert gpu.name == type_name(find_device("cpu").describe())
    assert set(ProfileStore(store).query("gemm")["gpu"]) == {gpu.name}
    today = dt.date.today().isoformat()
    assert gpu.sources["peak_flops.bf16"].startswith(f"measured on {today}")
    assert gpu.sources["memory_bandwidth_bytes_per_s"].startswith(f"measured on {today}")
    assert gpu.sources["sm_count"].startswith("reported")
    assert gpu.launch_us is not None
    assert node.gpus == find_device("cpu").count
    again = run(*unlisted)
    assert again.code == 0
    assert "measuring what it is" not in again.err  # the store knows
    assert run("profile", "list", "--profiles", str(store), "--gpu", gpu.name, "--json").code == 0


def test_what_is_found_of_a_machine_can_be_corrected_and_given_back(
    run: Runner, unlisted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: list[Prepared]
) -> None:
    monkeypatch.setattr("profiles.collect.detection.detect", lambda *_: FOUND)
    file = tmp_path / "mine.yaml"
    ran = run(*unlisted, "--describe", str(file))
    assert ran.code == 0, ran.err
    assert f"--gpu-facts {file}" in ran.err
    assert not (tmp_path / "store").exists()
    assert instant == []
    ((name, fields),) = yaml.safe_load(file.read_text()).items()
    fields["tdp_watts"], fields["sources"]["tdp_watts"] = 240, "a data sheet"
    file.write_text(yaml.safe_dump({name: fields}))
    assert run(*unlisted, "--gpu-facts", str(file)).code == 0
    ((gpu, _),) = read_descriptions(tmp_path / "store" / "gpus.yaml")
    assert (gpu.tdp_watts, gpu.sources["tdp_watts"]) == (240, "a data sheet")
    error, _ = complaint(run(*unlisted, "--describe", str(file)))
    assert "which is known" in error


def test_what_is_assumed_of_a_machine_is_said(
    run: Runner, unlisted: list[str], monkeypatch: pytest.MonkeyPatch, instant: list[Prepared]
) -> None:
    monkeypatch.setattr("profiles.collect.detection.detect", lambda *_: FOUND)
    assert "assumed, since nothing here tells: tdp_watts, idle_watts, and the network" in run(*unlisted).err


def test_the_grid_is_measured_within_its_budget(
    run: Runner, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(device: Device, prepared: Prepared, settings: Settings, watch: Any) -> Timing:
        time.sleep(0.2)
        return TIMING

    monkeypatch.setattr(runner, "measure", slowly)
    at = asked.index("--points")
    began = time.monotonic()
    ran = run(*asked[:at], *asked[at + 2 :], "--grid", "--budget", "5s", "--ops", "gemm,launch", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["ended"], found["order"]) == (0, "budget", "grid")
    assert {group["operation"] for group in found["measured"]} == {"gemm", "launch"}
    assert time.monotonic() - began < 20


def test_ctrl_c_prints_the_summary_and_keeps_the_rows(
    run: Runner, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0

    def interrupted(device: Device, prepared: Prepared, settings: Settings, watch: Any) -> Timing:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return TIMING

    monkeypatch.setattr(runner, "measure", interrupted)
    ran = run(*asked)
    assert ran.code == 130
    assert "2 points" in ran.out
    assert "interrupted; the same command goes on" in ran.out
    assert len(ProfileStore(tmp_path / "store").query("gemm")) == 2


@pytest.mark.slow
def test_a_killed_run_leaves_a_readable_store_and_goes_on(run: Runner, asked: list[str], tmp_path: Path) -> None:
    many = [Point("gemm", "bf16", {"m": m, "n": 64, "k": 64}) for m in range(1, 500)]
    points(tmp_path, many)
    journal = tmp_path / "store" / FILE
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", *asked], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 100
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    ProfileStore(tmp_path / "store").verify()
    kept = [entry.outcome.point for entry in read(journal)]
    assert kept == many[: len(kept)]
    points(tmp_path, many[: len(kept) + 2])
    ran = run(*asked, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["kept_points"] == len(kept)
    assert len(ProfileStore(tmp_path / "store").query("gemm")) == len(kept) + 2


def test_a_lost_device_is_an_error_after_the_summary(
    run: Runner, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any) -> Timing:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def gone(_: Device) -> None:
        raise RuntimeError("unspecified launch failure")

    monkeypatch.setattr(runner, "measure", fault)
    monkeypatch.setattr(Device, "synchronize", gone)
    ran = run(*asked)
    assert ran.code == 2
    assert "1 failed" in ran.out or "failed: RuntimeError" in ran.out
    error, hint = ran.err.splitlines()[-2:]
    assert "stopped answering (unspecified launch failure)" in error
    assert "run again to go on" in hint


# ------------------------------------------------------------------------------------------------------- refused


def test_facts_of_another_type_do_not_describe_this_one(run: Runner, asked: list[str], facts: Path) -> None:
    content = yaml.safe_load(facts.read_text())
    content["My-CPU"]["aliases"] = ["Somebody else's"]
    facts.write_text(yaml.safe_dump(content))
    error, hint = complaint(run(*asked))
    assert "--gpu-facts" in error
    assert "aliases" in hint


def test_a_newer_store_is_refused_before_anything_is_measured(
    run: Runner, asked: list[str], tmp_path: Path, instant: list[Prepared]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MANIFEST).write_text(json.dumps({"format_version": 99}))
    assert "newer" in complaint(run(*asked))[0]
    assert instant == []


def test_a_folder_that_holds_something_else_is_refused(run: Runner, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("")
    assert "no profile store" in complaint(run(*asked))[0]


def test_a_machine_without_cuda_or_torch_gets_one_error(
    run: Runner, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.version.cuda is None:
        error, hint = complaint(run(*asked, "--device", "cuda"))
        assert "built without CUDA" in error
    monkeypatch.setitem(sys.modules, "torch", None)
    error, hint = complaint(run(*asked))
    assert error.startswith("torch cannot be imported")
    assert "pip install 'shardwright[collect]'" in hint


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--grid"], "--grid and --points"),
        (["--ops", "gemms"], "'gemms' is not known"),
        (["--precision", "bf17"], "'bf17' is not known"),
        (["--budget", "10"], "--budget"),
        (["--target-error", "0"], "--target-error"),
        (["--gpus", "4096"], "--gpus: 4096"),
        (["--device", "npu"], "'npu' is not known"),
        (["--points", "missing.jsonl"], "missing.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_understood_is_named(run: Runner, asked: list[str], more: list[str], said: str) -> None:
    assert said in complaint(run(*asked, *more))[0]


# ----------------------------------------------------------------------------------------------------- the sampler


class FakeSampler:
    """Offers the points from the last to the first."""

    def __init__(self, cost: Any, points: Sequence[Point], seconds: Any) -> None:
        self.points = points
        self.left = list(range(len(points)))
        self.observed: dict[int, float] = {}
        self.skipped: list[int] = []

    def take(self, count: int) -> list[int]:
        taken = self.left[-count:][::-1]
        self.left = self.left[: len(self.left) - len(taken)]
        return taken

    def observe(self, index: int, latency_us: float) -> None:
        self.observed[index] = latency_us
        self.left = [i for i in self.left if i != index]

    def skip(self, index: int) -> None:
        self.skipped.append(index)

    def errors(self) -> dict[str, float]:
        return {"gemm": 0.5 / (1 + len(self.observed))}


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> proposing.Active:
    monkeypatch.setattr(proposing, "Sampler", FakeSampler)
    monkeypatch.setattr(proposing, "seconds_of", lambda cost, points, settings: np.ones(len(points)))
    gemms = [Point("gemm", "bf16", {"m": m, "n": 64, "k": 64}) for m in range(1, 11)]
    copies = [Point("memcpy", "int8", {"kind": "device_to_device", "copied_bytes": 2**i}) for i in range(3)]
    return proposing.Active(None, {"gemm": gemms, "memcpy": copies}, Settings())  # type: ignore[arg-type]


def done(point: Point, seconds: float = 1.0) -> Outcome:
    return Outcome(point, "measured", timing=TIMING, seconds=seconds)


def test_the_sampler_chooses_and_learns(active: proposing.Active) -> None:
    sampler: Any = active._sampler
    active.learn([done(sampler.points[9])])  # of an earlier run
    copies = active.next()
    assert [p.operation for p in copies] == ["memcpy"]
    active.learn([done(copies[0], 5.0)])
    batch = active.next()
    assert [int(p.shape["m"]) for p in batch] == [9, 8, 7, 6]
    active.learn([done(batch[0]), Outcome(batch[1], "skipped", "out of memory", seconds=1.0)])
    assert (sampler.observed, sampler.skipped) == ({9: 10.0, 8: 10.0}, [7])
    assert active.expected_error() == {"gemm": 0.5 / 3}


def test_what_failed_in_an_earlier_run_is_offered_again(active: proposing.Active) -> None:
    sampler: Any = active._sampler
    active.learn([Outcome(sampler.points[9], "failed", "once")])
    assert sampler.skipped == []


def test_everything_is_asked_once_in_the_end(active: proposing.Active) -> None:
    seen: list[Point] = []
    while batch := active.next():
        seen += batch
        active.learn([done(point) for point in batch])
    assert len(seen) == len({point.key for point in seen}) == 13


@pytest.mark.slow
def test_points_are_proposed_for_a_machine_that_is_not_here(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    ran = run("profile", "propose", "--gpu", "H200", "--ops", "gemm", "--count", "12", "-o", str(file))
    assert ran.code == 0, ran.err
    found = read_points(file)
    assert len(found) == len({point.key for point in found}) == 12
    assert {point.operation for point in found} == {"gemm"}


@pytest.mark.slow
def test_a_plan_is_made_from_what_two_ranks_and_the_sampler_measured(run: Runner, facts: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    collect = [
        *("profile", "collect", "--device", "cpu", "--gpus", "2", "--gpu-facts", str(facts), "--out", str(out)),
        *("--target-error", "20%", "--json"),
    ]
    shapes = [
        Point("collective", "bf16", {"kind": "all_reduce", "message_bytes": 65536}, 2),
        Point("collective", "bf16", {"kind": "send_recv", "message_bytes": 65536}, 2),
        *GEMMS,
    ]
    ran = run(*collect, "--ops", "gemm,collective", "--budget", "60s", "--points", points(tmp_path, shapes))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["store_rows"] == {"gemm": 4, "collective": 2}
    ran = run(*collect, "--ops", "gemm,memcpy,launch", "--budget", "60s")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    error = found["expected_error"]["gemm"]
    assert 0 < error["after"] < 10  # the CPU's peaks are made up, so it need not have fallen
    assert found["store_rows"]["gemm"] > 4
    ran = run(
        *("--model", "Qwen/Qwen3-0.6B", "--cluster", "2xMy-CPU", "--workload", "isl=128,osl=16"),
        *("--profiles", str(out), "--json"),
    )
    assert ran.code == 0, ran.err
    assert "My-CPU" in ran.out
