"""plan profile fit and validate, and plan --profiles: measured rows laid over the pack, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Runner

from costmodels.kernels import cost_model
from profiles.store import ProfileStore, shipped_pack


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 collectives of a machine that is 10 % slower than the pack's H200, 5 of another, and one copy."""
    folder = tmp_path_factory.mktemp("few") / "measured"
    store = ProfileStore.create(folder, name="measured", version="1", attribution="the tests")
    rows = shipped_pack().query("collective", gpu="H200", framework="nccl")
    rows = rows[rows["dtype"] == "fp16"].sample(40, random_state=0)
    rows["latency_us"] *= 1.1 * np.exp(np.random.default_rng(0).normal(0, 0.01, len(rows)))
    store.add("collective", rows)
    store.add("collective", rows.head(5).assign(gpu="H100-SXM"))
    store.add("collective", rows.head(3).assign(gpu="H100-SXM", framework="home made"))
    copy = rows.head(1).drop(columns=["kind", "message_bytes"])
    store.add("memcpy", copy.assign(dtype="int8", num_gpus=1, kind="device_to_device", copied_bytes=4096))
    return folder


def test_fit_says_what_was_learnt_and_what_is_not_used(run: Runner, measured: Path) -> None:
    done = run("profile", "fit", "--profiles", str(measured))
    assert done.code == 0
    assert "H200 under vllm" in done.out
    assert "slower than the pack said" in done.out
    assert "memcpy: 1 row not used" in done.out
    assert "3 rows of home made not used" in done.out


def test_fit_as_json(run: Runner, measured: Path) -> None:
    document = json.loads(run("profile", "fit", "--profiles", str(measured), "--gpu", "H200", "--json").out)
    (collective,) = [each for each in document["gpus"]["H200"] if each["operation"] == "collective"]
    assert collective["learnt"][0]["rows"] == 40
    assert 0.05 < collective["learnt"][0]["shift"] < 0.15
    assert list(document["gpus"]) == ["H200"]


def test_validate_prints_the_error_before_and_after(run: Runner, measured: Path) -> None:
    document = json.loads(run("profile", "validate", "--profiles", str(measured), "--json").out)
    (card,) = document["gpus"]["H200"]
    assert (card["operation"], card["dtype"], card["rows"]) == ("collective", "bf16", 40)
    assert card["after"]["mape_pct"] < card["before"]["mape_pct"]
    shown = run("profile", "validate", "--profiles", str(measured)).out
    assert "→" in shown


def test_too_few_rows_get_no_figure(run: Runner, measured: Path) -> None:
    done = run("profile", "validate", "--profiles", str(measured), "--gpu", "H100-SXM")
    assert "fewer than 8 rows" in done.out
    assert "%" not in done.out.split("collective")[1].splitlines()[0]


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_what_is_not_there_is_refused_with_a_way_out(run: Runner, measured: Path, tmp_path: Path, command: str) -> None:
    ProfileStore.create(tmp_path / "empty", name="e", version="1", attribution="")
    for arguments, message in (
        (["--profiles", str(tmp_path / "nowhere")], "no manifest.json"),
        (["--profiles", str(tmp_path / "empty")], "has no rows"),
        (["--profiles", str(measured), "--gpu", "B200"], "has no rows of B200"),
        (["--profiles", str(measured), "--gpu", "B2000"], "'B2000' is not known"),
        (["--profiles", str(measured), "--framework", "vlm"], "'vlm' is not known"),
        ([], "--profiles"),
    ):
        done = run("profile", command, *arguments)
        assert done.code == 2
        assert message in done.err
        assert "hint: " in done.err


def test_fit_says_where_its_figures_are_of_other_forests(
    run: Runner, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"model_version": cost_model.MODEL_VERSION, "pack_hash": shipped_pack().manifest.content_hash}
    asked = ("profile", "fit", "--profiles", str(measured), "--gpu", "H100-SXM")
    monkeypatch.setattr(cost_model, "fitted_on", lambda: at)
    assert "was fitted with" not in run(*asked).err
    monkeypatch.setattr(cost_model, "fitted_on", lambda: {**at, "model_version": "0"})
    assert "was fitted with cost model 0" in run(*asked).err
    assert "was fitted with" not in run(*asked, "--quiet").err
