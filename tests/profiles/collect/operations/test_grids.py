"""The grids: valid points, of shapes that real models have, most useful first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from profiles.collect.devices import Device
from profiles.collect.operations import GROUPS, benchmarks
from profiles.collect.operations.grids import diagonal, table
from profiles.collect.operations.work import work
from profiles.collect.points import Point
from profiles.measured_rows import validate
from profiles.measurements import OPERATIONS

_FEWEST = {"gemm": 2000, "attention_prefill": 500, "attention_decode": 500, "moe": 500, "collective": 80}


def _grids(device: Device, precisions: tuple[str, ...]) -> dict[str, list[Point]]:
    return {name: list(each.grid(device, precisions)) for name, each in benchmarks().items()}


@pytest.fixture(scope="module")
def grids(hopper: Device) -> dict[str, list[Point]]:
    return _grids(hopper, ("bf16", "fp8"))


_MODULES = ("block_sparse", "compressed", "dsa", "dsa_shared", "gdn", "kda", "mla_module", "short_conv", "state_space")
IMPORTED_ONLY = {f"{module}_{phase}" for module in _MODULES for phase in ("prefill", "decode")}
IMPORTED_ONLY |= {"encoder_attention", "expert_exchange", "hyper_connection", "wide_moe"}
"""Their kernels are the frameworks' own."""


def test_every_operation_has_a_benchmark_and_a_name_for_the_command_line() -> None:
    assert set(benchmarks()) == set(OPERATIONS) - IMPORTED_ONLY
    assert sorted(name for group in GROUPS.values() for name in group) == sorted(benchmarks())


def test_shapes_can_be_asked_for_without_torch() -> None:
    modules = "operations, operations.grids, operations.routing, operations.work, ranks"
    names = ", ".join(f"profiles.collect.{name.strip()}" for name in modules.split(","))
    program = f"import sys, {names}; sys.exit(bool({{'torch', 'numpy', 'pandas', 'yaml'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_grids_are_large_and_ask_nothing_twice(grids: dict[str, list[Point]]) -> None:
    for operation, points in grids.items():
        assert len(points) >= _FEWEST.get(operation, 0), operation
        assert len({point.key for point in points}) == len(points), operation


def test_every_point_makes_a_valid_row(grids: dict[str, list[Point]]) -> None:
    row = {"gpu": "H200", "latency_us": 1.0, "kernel": "k", "framework": "torch", "framework_version": "2"}
    for operation, points in grids.items():
        if points:
            rows = pd.DataFrame([{**row, **p.shape, "dtype": p.dtype, "num_gpus": p.num_gpus} for p in points])
            validate(OPERATIONS[operation], rows.assign(source="test", date="2026-01-01"))


def test_no_point_is_one_that_the_benchmark_refuses(grids: dict[str, list[Point]], hopper: Device) -> None:
    for operation, benchmark in benchmarks().items():
        for point in grids[operation][:200]:
            assert benchmark.unsupported(hopper, point) is None, point


def test_a_cpus_grid_leaves_out_what_takes_too_long(cpu: Device) -> None:
    for points in _grids(cpu, ("bf16",)).values():
        for point in points:
            flops, moved_bytes = work(point)
            assert flops <= table()["most"]["flops"]["cpu"]
            assert moved_bytes <= table()["most"]["moved_bytes"]["cpu"]


def test_the_first_points_cover_the_grid_coarsely(grids: dict[str, list[Point]]) -> None:
    first = [point.shape for point in grids["gemm"][:60]]
    assert len({shape["m"] for shape in first}) >= 5
    assert len({(shape["n"], shape["k"]) for shape in first}) >= 5


def test_diagonal_takes_early_entries_of_all_axes_before_a_late_one() -> None:
    order = list(diagonal("abc", [0, 1]))
    assert order[0] == ("a", 0)
    assert set(order[1:3]) == {("a", 1), ("b", 0)}
    assert len(order) == 6


@pytest.mark.parametrize("family", table()["dense"], ids=lambda family: family["model"])
def test_families_are_the_models_that_they_name(family: dict[str, int | str]) -> None:
    config = _config(str(family["model"]))
    heads = config["num_attention_heads"]
    assert (family["hidden"], family["intermediate"]) == (config["hidden_size"], config["intermediate_size"])
    assert (family["heads"], family["kv_heads"]) == (heads, config["num_key_value_heads"])
    default = 256 if str(config["model_type"]).startswith("gemma3") else config["hidden_size"] // heads
    assert family["head_dim"] == (config.get("head_dim") or default)


@pytest.mark.parametrize("family", table()["moe"], ids=lambda family: family["model"])
def test_moe_families_are_the_models_that_they_name(family: dict[str, int | str]) -> None:
    config = _config(str(family["model"]))
    names = ("num_experts", "n_routed_experts", "num_local_experts")
    assert family["experts"] == next(config[name] for name in names if config.get(name))
    assert family["top_k"] == config["num_experts_per_tok"]
    assert family["hidden"] == config["hidden_size"]
    assert family["intermediate"] == (config.get("moe_intermediate_size") or config["intermediate_size"])


def _config(model: str) -> dict[str, int]:
    path = Path("costmodels/models/architectures") / f"{model.replace('/', '--')}.json"
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    found: dict[str, int] = config.get("text_config", config)
    return found


def test_collective_messages_can_be_shared_out(hopper: Device) -> None:
    points = _grids(hopper, ("bf16",))["collective"]
    assert {point.num_gpus for point in points} == {2, 4, 8}
    assert np.all([int(point.shape["message_bytes"]) % (2 * point.num_gpus) == 0 for point in points])
    assert {point.num_gpus for point in points if point.shape["kind"] == "send_recv"} == {2}
