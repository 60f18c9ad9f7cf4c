"""Token routes, read as a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.experts.model import MoeModel
from planner.experts.routes import RecordedRoutes, loads_of_routes, read_routes
from profiles.errors import InputError

MODEL = MoeModel("made/up", layers=4, moe_layers=(1, 2, 3), experts=5, top_k=2)


def record(token: int, layer: int, experts: Any, **more: Any) -> dict[str, Any]:
    return {"problem_id": 0, "layer": layer, "token_idx": token, "experts": experts, "gating_probs": [0.6, 0.4], **more}


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def random_routes(tokens: int, seed: int = 0) -> np.ndarray:
    """Shape [tokens, MoE layers, top_k]."""
    random = np.random.default_rng(seed)
    return np.argsort(random.random((tokens, 3, 5)), axis=2)[:, :, :2]


def expected(routes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transitions and coactivation, counted one by one."""
    moved, used = np.zeros((2, 5, 5)), np.zeros((3, 5, 5))
    for token in routes:
        for layer in range(3):
            for i in token[layer]:
                for j in token[layer]:
                    used[layer, i, j] += 1
                if layer < 2:
                    for j in token[layer + 1]:
                        moved[layer, i, j] += 1
    return moved, used


def same(read: RecordedRoutes, routes: np.ndarray) -> None:
    moved, used = expected(routes)
    assert np.array_equal(read.all.transitions, moved)
    assert np.array_equal(read.all.coactivation, used)
    assert read.all.tokens == len(routes)
    for half, part in zip(read.halves, (routes[0::2], routes[1::2]), strict=True):
        assert np.array_equal(half.transitions, expected(part)[0])
        assert half.tokens == len(part)


@pytest.mark.parametrize("order", ["token by token", "layer by layer", "shuffled"])
def test_lines_in_any_order_count_the_same(tmp_path: Path, order: str) -> None:
    routes = random_routes(20)
    records = [record(t, layer + 1, routes[t, layer].tolist()) for t in range(20) for layer in range(3)]
    if order == "layer by layer":
        records.sort(key=lambda r: (r["layer"], r["token_idx"]))
    elif order == "shuffled":  # tokens still appear first in order: halves are by order of appearance
        tail = [r for r in records if r["layer"] != 2]
        np.random.default_rng(1).shuffle(tail)  # type: ignore[arg-type]
        records = [r for r in records if r["layer"] == 2] + tail
    read = read_routes(lines(tmp_path / "r.jsonl", records), MODEL)
    same(read, routes)
    assert read.unpaired == 0


def test_an_array_of_routes_counts_the_same_with_and_without_dense_layers(tmp_path: Path) -> None:
    routes = random_routes(33)
    np.save(tmp_path / "moe.npy", routes.astype(np.int16))
    np.save(tmp_path / "all.npy", np.concatenate([np.full((33, 1, 2), -1), routes], axis=1))
    for name in ("moe.npy", "all.npy"):
        same(read_routes(tmp_path / name, MODEL), routes)


def test_an_array_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.experts.routes._BATCH", 15)
    routes = random_routes(47)
    np.save(tmp_path / "r.npy", routes)
    same(read_routes(tmp_path / "r.npy", MODEL), routes)


def test_sequences_are_told_apart(tmp_path: Path) -> None:
    routes = random_routes(2)
    records = [record(0, layer + 1, routes[p, layer].tolist(), problem_id=p) for layer in range(3) for p in (0, 1)]
    same(read_routes(lines(tmp_path / "r.jsonl", records), MODEL), routes)


def test_finished_tokens_leave_memory_and_may_come_again(tmp_path: Path) -> None:
    routes = random_routes(6)
    records = [record(0, layer + 1, routes[t, layer].tolist()) for t in range(6) for layer in range(3)]
    same(read_routes(lines(tmp_path / "r.jsonl", records), MODEL), routes)


def test_a_missing_layer_is_counted_and_bridged_by_nothing(tmp_path: Path) -> None:
    records = [record(0, 1, [0, 1]), record(0, 3, [2, 3]), *(record(1, layer, [0, 1]) for layer in (1, 2, 3))]
    read = read_routes(lines(tmp_path / "r.jsonl", records), MODEL)
    assert read.unpaired == 2
    assert read.all.transitions.sum() == 8
    assert read.all.coactivation[0].sum() == 8


def test_routes_imply_loads(tmp_path: Path) -> None:
    routes = random_routes(9)
    np.save(tmp_path / "r.npy", routes)
    loads = loads_of_routes(read_routes(tmp_path / "r.npy", MODEL).all, "r")
    assert np.array_equal(loads.counts[0], [np.bincount(routes[:, layer].ravel(), minlength=5) for layer in range(3)])


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ('{"layer": 2, "token_idx": 0, "expe', "line 2 is not whole JSON"),
        ("[1, 2]", "line 2 is not a record"),
        ("{}", "line 2: key 'layer' is missing"),
        (record(0, 2, [0, 5]), "line 2: expert 5 does not exist"),
        (record(0, 2, [0, -1]), "line 2: expert -1 does not exist"),
        (record(0, 2, [0, True]), "line 2: expert true does not exist"),
        (record(0, 2, [0]), r"line 2: experts \[0\] are not 2 different ones"),
        (record(0, 2, [3, 3]), r"line 2: experts \[3, 3\] are not 2 different ones"),
        (record(0, 2, 3), "line 2: layer and token_idx are integers, experts a list"),
        (record(0, 0, [0, 1]), "line 2: layer 0 has no experts"),
        (record(0, 9, [0, 1]), "line 2: layer 9 has no experts"),
        (record(0, 1, [0, 1]), "line 2: layer 1 of token 0 is given twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, last: Any, message: str) -> None:
    path = lines(tmp_path / "r.jsonl", [record(0, 1, [0, 1]), last])
    with pytest.raises(InputError, match=message) as refused:
        read_routes(path, MODEL)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        (np.zeros((4, 3)), "has shape"),
        (np.zeros((4, 2, 2), int), "has shape"),
        (np.zeros((4, 3, 2)), "not integers"),
        (np.full((4, 3, 2), [0, 7]), "token 0, layer 1: experts \\[0, 7\\]"),
        (np.full((4, 3, 2), 1), "repeat or do not exist"),
    ],
)
def test_a_bad_array_is_refused(tmp_path: Path, routes: np.ndarray, message: str) -> None:
    np.save(tmp_path / "r.npy", routes)
    with pytest.raises(InputError, match=message):
        read_routes(tmp_path / "r.npy", MODEL)


def test_other_files_empty_ones_and_missing_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name, message in (
        ("r.txt", "not a kind of file"),
        ("empty.jsonl", "no routes"),
        ("no.jsonl", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            read_routes(tmp_path / name, MODEL)
