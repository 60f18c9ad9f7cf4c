"""The whole job: statistics and a cluster in, a document out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from planner.contract.clusters import parse_cluster
from planner.experts.decision import Files, place_experts, prepared
from planner.experts.document import PlacementDocument
from planner.experts.outputs import read_current
from planner.experts.placing import Placed, default_placement, place
from planner.experts.ranks import Ranks, slots_of
from planner.experts.request import PlacementRequest, parse_placement_request
from planner.kinds import schema
from profiles.errors import Infeasible, InputError, Unsupported
from profiles.store import ProfileStore

MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
EIGHT = parse_cluster("4xH200")


FILES = ("loads", "routes", "holdout", "current")


def asked(**changes: Any) -> tuple[PlacementRequest, Files]:
    """The request, and the statistics in files among ``changes``."""
    files = Files(**{name: changes.pop(name) for name in FILES if isinstance(changes.get(name), Path | list)})
    fields = {"model": MIXTRAL, "cluster": EIGHT, "synthetic": "sigma=0.7", **changes}
    return parse_placement_request(fields), files


def made(bare: ProfileStore, **changes: Any) -> tuple[Placed, PlacementDocument]:
    request, files = asked(**changes)
    return place_experts(request, files=files, store=bare)


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of four groups of two experts each, which follow their group nine times of ten."""
    random = np.random.default_rng(0)
    group = np.argsort(random.random((32, 8)), axis=1).reshape(32, 4, 2)
    state, layers = random.integers(0, 4, 400), []
    for layer in range(32):
        state = np.where(random.random(400) < 0.9, state, random.integers(0, 4, 400))
        layers.append(group[layer][state])
    path = tmp_path_factory.mktemp("routes") / "routes.npy"
    np.save(path, np.stack(layers, axis=1))
    return path


def test_the_document_keeps_its_schema_and_reads_back(bare: ProfileStore) -> None:
    _, document = made(bare, redundant=4)
    text = document.to_json()
    jsonschema.validate(json.loads(text), schema("experts"))
    assert PlacementDocument.model_validate_json(text) == document
    assert schema("experts")["additionalProperties"] is False
    rows = [line for line in text.splitlines() if line.strip().startswith("[")]
    assert len(rows) == 32, "a row of the map is a line"


def test_the_same_request_gives_the_same_bytes(bare: ProfileStore) -> None:
    assert made(bare, redundant=4)[1].to_json() == made(bare, redundant=4)[1].to_json()


def test_balance_is_better_than_before_and_within_its_bound(bare: ProfileStore) -> None:
    _, document = made(bare, redundant=4, synthetic="sigma=0.7,windows=2,drift=0.1")
    proof = document.proof
    assert proof.balancedness_before < proof.balancedness_after <= proof.balancedness_bound + 1e-9
    for window in proof.windows:
        assert window.greedy is not None
        assert window.bound is not None
        assert window.after <= window.bound + 1e-9
    for layer in proof.layers:
        assert layer.bound <= layer.after + 1e-9
        assert layer.gap == pytest.approx(1 - layer.bound / layer.after, abs=1e-9)
        assert len(layer.gpu_load) == 4
    assert [layer.layer for layer in proof.layers] == list(range(32))
    decode = document.prediction[0]
    assert decode.name == "decode"
    assert decode.speedup == pytest.approx(decode.before.total_ms / decode.after.total_ms)
    assert decode.speedup >= 1


def test_slots_that_engines_do_not_take_are_told(bare: ProfileStore) -> None:
    """Ten slots on four GPUs: greedy placement takes equally many on each."""
    _, document = made(bare, redundant=2)
    assert document.proof.windows[0].greedy is None
    assert any(
        "10 slots do not divide by 4 GPUs" in note and "redundant=4" in note for note in document.provenance.notes
    )
    assert not any("do not divide" in note for note in made(bare, redundant=4)[1].provenance.notes)


def test_how_tokens_reach_their_experts_is_told(bare: ProfileStore) -> None:
    """Four GPUs gather, eight exchange."""
    few, many = (made(bare, cluster=parse_cluster(f"{n}xH200"))[1].provenance.notes for n in (4, 8))
    assert any("gathers all tokens" in note for note in few)
    assert any("low_latency in decode, high_throughput in prefill" in note for note in many)


def test_memory_counts_copies(bare: ProfileStore) -> None:
    _, document = made(bare, redundant=4)
    one = 3 * 4096 * 14336 * 2
    assert document.decision.copy_bytes == one
    assert document.decision.expert_bytes_per_gpu == 3 * 32 * one
    assert document.decision.redundant_bytes_per_gpu == 32 * one


def test_routes_alone_are_enough_and_traffic_finds_the_planted_groups(bare: ProfileStore, routes: Path) -> None:
    placed, document = made(bare, synthetic=None, routes=routes, objective="traffic", balance_tolerance=10.0)
    traffic = document.proof.traffic
    assert traffic is not None
    assert traffic.exact
    assert traffic.between_gpus_after == pytest.approx(0.075, abs=0.02)  # 1 in 10 goes anywhere, 3 of 4 of it elsewhere
    assert traffic.between_gpus_after == traffic.between_gpus_bound < traffic.between_gpus_before
    assert traffic.heldout_after == pytest.approx(traffic.between_gpus_after, abs=0.02)
    assert placed.proven


def test_balance_with_routes_renames_gpus_and_keeps_every_load(bare: ProfileStore, routes: Path) -> None:
    plain, _ = made(bare, synthetic=None, routes=routes, objective="balance")
    decided = plain.decided.after.balancedness(plain.job.loads.counts)
    assert plain.after.balancedness(plain.job.loads.counts) == pytest.approx(decided)
    assert plain.crossed is not None
    assert plain.crossed[1].cost.sum() < plain.crossed[0].cost.sum()


def test_traffic_stays_within_the_tolerance(bare: ProfileStore, routes: Path) -> None:
    placed, _ = made(bare, synthetic=None, routes=routes, objective="traffic", balance_tolerance=0.02)
    counts = placed.job.loads.counts
    most = placed.decided.after.gpu_loads(counts).max(axis=-1)
    assert (placed.after.gpu_loads(counts).max(axis=-1) <= 1.02 * most * (1 + 1e-6)).all()


def test_time_takes_the_tolerance_that_takes_least_time(bare: ProfileStore, routes: Path) -> None:
    """Tokens that stay with their experts gain from nearness, and a decode step that only reads weights loses nothing
    by imbalance."""
    common = {"synthetic": None, "routes": routes, "dispatch": "stay", "decode_tokens": 8}
    common["cluster"] = parse_cluster("2xH200")
    by_time, by_balance = (made(bare, objective=goal, **common)[1] for goal in ("time", "balance"))
    assert by_time.prediction[0].after.total_ms <= by_balance.prediction[0].after.total_ms * (1 + 1e-9)


def test_held_out_windows_are_scored_and_not_fitted_on(bare: ProfileStore, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", random.gamma(1.0, 100.0, (32, 8)) + 1)
    _, document = made(bare, synthetic=None, loads=[tmp_path / "a.npy"], holdout=[tmp_path / "b.npy"], redundant=4)
    assert [window.name for window in document.proof.holdout] == ["b"]
    assert document.proof.holdout[0].after < document.proof.windows[0].after
    assert document.proof.holdout[0].bound is None


def test_unlike_gpus_get_loads_by_their_speed(bare: ProfileStore) -> None:
    cluster = parse_cluster("8xH200+8xA100")
    placed, _ = made(bare, cluster=cluster, redundant=24, decode_tokens=100_000)
    assert placed.topology.speed.mean() == pytest.approx(1.0)
    tokens = placed.after.gpu_loads(placed.job.loads.counts)[0] * placed.topology.speed
    assert tokens[:, :8].sum() > 1.5 * tokens[:, 8:].sum()


def test_groups_stay_on_nodes(bare: ProfileStore) -> None:
    placed, _ = made(bare, cluster=parse_cluster("2x2xH200"), groups=2, redundant=0)
    for row in placed.after.physical_to_logical:
        assert {frozenset((row[:4] // 4).tolist()), frozenset((row[4:] // 4).tolist())} == {
            frozenset({0}),
            frozenset({1}),
        }


def test_before_is_experts_in_order_and_again_from_the_first() -> None:
    job, _ = prepared(*asked(redundant=4))
    row = default_placement(job.ranks.topology(job.slots), job.model).physical_to_logical[0]
    assert row.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]


# ------------------------------------------------------------------ slots


@pytest.mark.parametrize(
    ("per_gpu", "redundant", "slots"),
    [
        (None, None, [3, 3, 3, 3]),
        ([4], None, [4, 4, 4, 4]),
        ([4, 2], None, [4, 4, 2, 2]),
        (None, 0, [3, 3, 2, 2]),
        (None, 5, [4, 4, 4, 3]),
    ],
)
def test_slots_are_given_for_each_gpu_or_as_copies_to_share_out(
    per_gpu: list[int] | None, redundant: int | None, slots: list[int]
) -> None:
    ranks = Ranks.of(parse_cluster("2xH200+2xH100"))
    assert slots_of(ranks, 10, per_gpu, redundant).tolist() == slots


@pytest.mark.parametrize(
    ("per_gpu", "redundant", "message"),
    [
        ([3], 4, "both given"),
        ([0], None, "not one positive number"),
        ([3, 3, 3], None, "nor one for each of 2 pools"),
        (None, -1, "negative"),
    ],
)
def test_slots_that_make_no_sense_are_refused(per_gpu: list[int] | None, redundant: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        slots_of(Ranks.of(parse_cluster("2xH200+2xH100")), 10, per_gpu, redundant)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synthetic": None}, "no file is given"),
        ({"loads": [Path("a.json")]}, "loads and synthetic are both given"),
        ({"objective": "traffic"}, "needs token routes"),
        ({"dispatch": "stay"}, "needs token routes"),
        ({"balance_tolerance": -0.1}, "balance_tolerance: -0.1 should be greater than or equal to 0"),
        ({"decode_tokens": 0}, "decode_tokens: 0"),
        ({"synthetic": "sigma=much"}, "sigma='much' is not a number"),
        ({"synthetic": "skew=1"}, "'skew' is not known"),
        ({"synthetic": "windows=2"}, "is not understood"),
        ({"synthetic": "sigma=7"}, "sigma=7 is not between 0 and 3"),
        ({"max_moves": 3}, "max_moves needs the placement that runs now"),
        ({"lost_gpus": [1]}, "lost_gpus needs the placement that runs now"),
        ({"model": "Qwen/Qwen3-32B"}, "no experts"),
        ({"cluster": parse_cluster("8xH200+4x4xH100")}, "nodes of 4, 8 GPUs"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        prepared(*asked(**changes))
    assert refused.value.hint


def test_too_few_slots_too_many_and_too_large_ones_are_refused(bare: ProfileStore) -> None:
    for slots, message in ((1, "fewer than 8 experts"), (9, "an expert would be there twice")):
        with pytest.raises(Infeasible, match=message):
            place(prepared(*asked(slots_per_gpu=[slots]))[0], store=bare)
    deepseek = {"model": "deepseek-ai/DeepSeek-V3", "slots_per_gpu": [128], "cluster": parse_cluster("8xH200")}
    with pytest.raises(Infeasible, match=r"GiB.*more than the 140 GiB"):
        place(prepared(*asked(**deepseek))[0], store=bare)


def test_a_precision_that_a_gpu_lacks_is_refused(bare: ProfileStore) -> None:
    with pytest.raises(Unsupported, match="no fp8 tensor cores"):
        place(prepared(*asked(cluster=parse_cluster("8xV100-SXM"), precision="fp8"))[0], store=bare)


def test_our_own_document_is_a_current_placement(bare: ProfileStore, tmp_path: Path) -> None:
    placed, document = made(bare, redundant=4)
    path = tmp_path / "p.json"
    path.write_text(document.to_json())
    again = read_current(path, placed.job.model, placed.topology)
    assert np.array_equal(again.physical_to_logical, placed.after.physical_to_logical)
