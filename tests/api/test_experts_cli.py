"""``plan experts``, on the roofline alone: the command, its files and its refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from command import Runner

from costmodels.kernels.cost_model import CostModel
from planner.experts import placing

sys.path.append(str(Path(__file__).parents[1] / "costmodels"))

import synthetic

MIXTRAL = ("experts", "--model", "mistralai/Mixtral-8x7B-v0.1", "--cluster", "4xH200")
SKEWED = ("--synthetic", "sigma=0.7")


@pytest.fixture(autouse=True)
def _roofline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    store = synthetic.empty_store(tmp_path_factory.mktemp("unmeasured") / "store")

    def bare(gpu: Any, framework: str, *_: Any) -> CostModel:
        return CostModel(gpu, framework, store)

    monkeypatch.setattr(placing, "CostModel", bare)


def test_a_summary_says_what_was_gained_and_how_sure_that_is(run: Runner) -> None:
    code, out, _ = run(*MIXTRAL, *SKEWED, "--redundant", "4")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    for words in (
        "32 layers of 8, 2 a token",
        "3 per GPU and layer, 4 of 12 slots are copies",
        "no placement exceeds",
        "experts in order",
        "of which copies",
        "speed-up",
        "the counts are made up (--synthetic)",
    ):
        assert words in out


def test_json_is_the_document_and_keeps_the_published_schema(run: Runner, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    code, document, _ = run(*MIXTRAL, *SKEWED, "--redundant", "4", "--json", "-o", str(file))
    assert code == 0
    assert file.read_text(encoding="utf-8") == document
    code, schema, _ = run("schema", "experts")
    assert code == 0
    jsonschema.validate(json.loads(document), json.loads(schema))


def test_each_format_is_written_and_is_a_current_placement(run: Runner, tmp_path: Path) -> None:
    files = {"sglang": "a.json", "trtllm": "a.yaml", "vllm-ascend": "b.json", "eplb": "a.npz", "shardwright": "c.json"}
    for form, name in files.items():
        code, out, _ = run(*MIXTRAL, *SKEWED, "--redundant", "4", "--format", form, "-o", str(tmp_path / name))
        assert code == 0
        assert name in out.replace("\n", "")
    assert set(json.loads((tmp_path / "a.json").read_text())) == {"physical_to_logical_map"}
    assert yaml.safe_load((tmp_path / "a.yaml").read_text())["num_slots"] == 12
    assert np.load(tmp_path / "a.npz")["phy2log"].shape == (32, 12)
    for name in files.values():
        code, out, err = run(*MIXTRAL, *SKEWED, "--redundant", "4", "--current", str(tmp_path / name))
        assert (code, err) == (0, "")
        assert "Change" in out
    placement = json.loads((tmp_path / "c.json").read_text())
    placement["provenance"]["pack"] = "other"
    (tmp_path / "edited.json").write_text(json.dumps(placement))
    current = ("--redundant", "4", "--current", str(tmp_path / "edited.json"))
    code, _, err = run(*MIXTRAL, *SKEWED, *current)
    assert code == 2
    assert "edited.json: edited since it was made" in err
    assert run(*MIXTRAL, *SKEWED, *current, "--edited").code == 0


def test_few_moves_reach_part_of_what_many_reach(run: Runner, tmp_path: Path) -> None:
    first = tmp_path / "now.json"
    run(*MIXTRAL, *SKEWED, "--redundant", "4", "--seed", "1", "-o", str(first))
    reached = []
    for moves in ("0", "20", "1000"):
        code, out, _ = run(
            *MIXTRAL, *SKEWED, "--redundant", "4", "--current", str(first), "--max-moves", moves, "--json"
        )
        assert code == 0
        document = json.loads(out)
        assert document["decision"]["moves"]["copies"] <= int(moves)
        reached.append(document["proof"]["balancedness_after"])
    assert reached == sorted(reached)
    assert reached[0] < reached[2]


def test_after_losing_a_gpu_every_expert_has_a_copy(run: Runner, tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    run(*MIXTRAL, *SKEWED, "--redundant", "4", "-o", str(now))
    code, out, _ = run(*MIXTRAL, *SKEWED, "--redundant", "4", "--current", str(now), "--lost-gpus", "2", "--json")
    assert code == 0
    document = json.loads(out)
    assert [gpu["gpu"] for gpu in document["decision"]["gpus"]] == [0, 1, 3]
    for row in document["decision"]["physical_to_logical_map"]:
        assert len(row) == 9
        assert set(row) == set(range(8))
    code, _, err = run(*MIXTRAL, *SKEWED, "--redundant", "4", "--current", str(now), "--lost-gpus", "1,2")
    assert code == 3
    assert "error:" in err


def test_a_heat_map_is_drawn(run: Runner, tmp_path: Path) -> None:
    for name, start in (("load.png", b"\x89PNG"), ("load.svg", b"<?xml"), ("load.html", b"<!doctype html>")):
        code, _, err = run(*MIXTRAL, *SKEWED, "--plot", str(tmp_path / name))
        assert (code, err) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(start)


def test_without_matplotlib_a_plot_is_refused_before_the_work(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(*MIXTRAL, *SKEWED, "--plot", str(tmp_path / "load.png"))
    assert code == 2
    assert "matplotlib is not installed" in err
    assert "shardwright[plot]" in err


def test_routes_show_crossings(run: Runner, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "r.npy", np.argsort(random.random((50, 32, 8)), axis=2)[:, :, :2])
    code, out, _ = run(*MIXTRAL, "--routes", str(tmp_path / "r.npy"), "--objective", "traffic")
    assert code == 0
    assert "This is the proven optimum." in out
    assert "their GPU (held out)" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("experts",), 2, "--model is missing"),
        (("experts", "--model", "x"), 2, "--cluster is missing"),
        ((*MIXTRAL,), 2, "loads: no file is given"),
        ((*MIXTRAL, *SKEWED, "--objective", "speed"), 2, "objective: 'speed' is not known"),
        ((*MIXTRAL, *SKEWED, "--format", "yaml", "-o", "x"), 2, "--format: 'yaml' is not known"),
        ((*MIXTRAL, *SKEWED, "--format", "sglang"), 2, "--format sglang is given without a file"),
        ((*MIXTRAL, *SKEWED, "--plot", "load.gif"), 2, "--plot: load.gif is not one of"),
        ((*MIXTRAL, *SKEWED, "--plot", "no/such/load.png"), 2, "--plot: the directory no/such does not exist"),
        ((*MIXTRAL, *SKEWED, "-o", "no/such/p.json"), 2, "--output: the directory no/such does not exist"),
        ((*MIXTRAL, *SKEWED, "--slots-per-gpu", "many"), 2, "slots_per_gpu: 'many'"),
        ((*MIXTRAL, *SKEWED, "--slots-per-gpu", "1"), 3, "fewer than 8 experts"),
        ((*MIXTRAL, *SKEWED, "--slots-per-gpu", "9"), 3, "an expert would be there twice"),
        ((*MIXTRAL, *SKEWED, "--redundant", "3", "--format", "trtllm", "-o", "x.yaml"), 2, "equally many slots"),
        ((*MIXTRAL, *SKEWED, "--max-moves", "3"), 2, "max_moves needs the placement that runs now"),
        ((*MIXTRAL, "--loads", "none.json"), 2, "cannot be read"),
        ((*MIXTRAL, "--loads", "a.json", "b.json"), 2, "unexpected extra argument"),
    ],
)
def test_refusals_name_the_option_and_the_way_out(
    run: Runner, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (code, "")
    error, hint = ran.err.splitlines()
    assert message in error
    assert hint.startswith("hint: ")
