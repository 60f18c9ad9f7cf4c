"""Settings: ``shardwright.toml``, the environment, and which of them wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Runner, complaint

from api.settings import FILE, PREFIX, settings
from api.settings_schema import NAMES, Settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a user folder of their own."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("api.settings.platformdirs.user_config_dir", lambda name: str(tmp_path / "home" / name))
    return work


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text, encoding="utf-8")


def test_nothing_is_set_by_default(run: Runner) -> None:
    assert settings() == {}
    assert "Nothing is set" in run("--print-config").out


def test_the_environment_wins_over_the_nearer_file_over_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Runner
) -> None:
    write(folder.parent / "home" / "shardwright", 'cluster = "8xH100"\nframework = "sglang"\nconfidence = 0.8\n')
    write(folder, 'cluster = "16xH200"\nframework = "vllm"\nprofiles = ["mine"]\n')
    monkeypatch.setenv("SHARDWRIGHT_CLUSTER", "4xB200")
    monkeypatch.setenv("SHARDWRIGHT_CACHE", "/somewhere")  # no setting
    found = settings()
    assert {name: each.value for name, each in found.items()} == {
        "cluster": "4xB200",
        "framework": "vllm",
        "profiles": ("mine",),
        "confidence": 0.8,
    }
    assert found["cluster"].source == "$SHARDWRIGHT_CLUSTER"
    assert found["framework"].source == FILE
    shown = run("--print-config").out
    assert "$SHARDWRIGHT_CLUSTER" in shown
    assert "0.8" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('clustr = "4xH100"', "key: 'clustr' is not known"),
        ("confidence = 7", "confidence: 7"),
        ("cluster =", "not valid TOML"),
        ("cluster = 16", "cluster: 16"),
    ],
)
def test_a_wrong_file_is_refused_by_name(folder: Path, run: Runner, text: str, said: str) -> None:
    write(folder, text)
    error, hint = complaint(run("models"))
    assert FILE in error
    assert said in error
    assert hint


def test_an_unknown_variable_is_refused_by_name(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDWRIGHT_CLUSTR", "4xH100")
    error, hint = complaint(run("models"))
    assert "SHARDWRIGHT_CLUSTR" in error
    assert "SHARDWRIGHT_CLUSTER" in hint


def test_an_option_and_a_request_win_over_settings(folder: Path, run: Runner) -> None:
    write(folder, 'cluster = "nowhere"\nmodel = "nobody/nothing"\nworkload = "isl=1"\n')
    (folder / "request.yaml").write_text("model: nobody/asked\n", encoding="utf-8")
    assert "nobody/asked" in complaint(run("--request", "request.yaml", "--cluster", "4xH100"))[0]
    assert "nobody/optional" in complaint(run("--model", "nobody/optional", "--cluster", "4xH100"))[0]
    assert "nowhere" in complaint(run("--model", "Qwen/Qwen3-8B"))[0]


def test_settings_of_planning_do_not_stand_before_other_commands(folder: Path, run: Runner) -> None:
    write(folder, 'cluster = "4xH100"\nmodel = "Qwen/Qwen3-8B"\n')
    assert run("models").code == 0
    assert "plan.json: cannot be read" in complaint(run("simulate", "plan.json", "--rate", "1"))[0]


def test_the_environment_has_one_prefix() -> None:
    assert Settings.model_config["env_prefix"] == PREFIX


def test_every_setting_is_in_the_docs() -> None:
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "serving.md").read_text("utf-8")
    of_the_service = (docs / "rest.md").read_text("utf-8")
    for name in NAMES:
        assert f"`{name}`" in text or f"`SHARDWRIGHT_{name.upper()}`" in of_the_service, name
