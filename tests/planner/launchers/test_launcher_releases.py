"""What releases take: the data files, how names are found in them, and how a new one is made."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path

import pytest

from planner.launchers.probe import _options
from planner.launchers.refresh import difference, main, written
from planner.launchers.releases import RELEASES, ReleaseOptions, known_releases, nearest_release, release
from profiles.errors import InputError, UnknownName

FILES = sorted(RELEASES.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_data_file_is_read_and_says_where_it_is_from(path: Path) -> None:
    framework, _, version = path.stem.rpartition("-")
    found = release(framework, version)
    assert (found.framework, found.version) == (framework, version)
    assert dt.date.fromisoformat(found.made) >= dt.date(2026, 1, 1)
    assert len(found.source) > 20
    assert len(found.options) > 5
    for option in found:
        assert found.resolve(option.flag) is option
        if option.choices is not None and isinstance(option.default, str):
            assert option.default in option.choices, option.flag


@pytest.fixture
def vllm() -> ReleaseOptions:
    return release("vllm", "0.33")


def test_names_are_found_as_the_parser_finds_them(vllm: ReleaseOptions) -> None:
    for word in ("--tensor-parallel-size", "--tensor_parallel_size", "-tp", "--tensor-parallel"):
        assert vllm.resolve(word).flag == "--tensor-parallel-size"
    assert vllm.resolve("--kv-transfer-config.kv_role").type == "json"
    assert release("sglang", "0.5.23").resolve("--tp").names == ("--tp-size", "--tensor-parallel-size")
    with pytest.raises(InputError, match="--pp: several options of SGLang"):
        release("sglang", "0.5.23").resolve("--pp")


@pytest.mark.parametrize("gone", ["--swap-space", "--cuda-graph-sizes", "--num-speculative-tokens", "--port.x"])
def test_an_option_that_is_gone_is_refused(vllm: ReleaseOptions, gone: str) -> None:
    with pytest.raises(InputError, match="has no such option"):
        vllm.resolve(gone)


def test_a_slip_is_refused_with_the_nearest(vllm: ReleaseOptions) -> None:
    with pytest.raises(InputError) as refused:
        vllm.resolve("--max-num-seq-s")
    assert "--max-num-seqs" in refused.value.hint


def test_values_are_held_against_type_and_choices(vllm: ReleaseOptions) -> None:
    assert vllm.resolve("-tp").wrong("4") is None
    assert "not of type int" in str(vllm.resolve("-tp").wrong("four"))
    assert vllm.resolve("--kv-cache-dtype").wrong("bfloat16") is None
    assert "not one of" in str(vllm.resolve("--kv-cache-dtype").wrong("bf17"))


def test_a_release_is_found_by_its_series_and_an_unknown_one_refused_with_the_nearest() -> None:
    assert release("vLLM").version == known_releases("vllm")[-1]
    assert release("sglang", "0.5").version == known_releases("sglang")[-1]
    with pytest.raises(UnknownName) as refused:
        release("vllm", "0.34.0")
    assert f"vllm@{known_releases('vllm')[-1]}" in refused.value.hint
    assert nearest_release("vllm", "0.34.0").version == known_releases("vllm")[-1]
    assert nearest_release("vllm", "0.1.0").version == known_releases("vllm")[0]


# ------------------------------------------------------------------ making one


def parser(*, later: bool) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("--size", "-s", type=int, default=2 if later else 1)
    made.add_argument("--kind", choices=["a", "b", "c"] if later else ["a", "b"], default="a")
    made.add_argument("--fast", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--names", nargs="+", help="Deprecated: say --list." if later else None)
    made.add_argument("--new" if later else "--old", type=float)
    return made


def test_a_parser_becomes_data_and_two_are_compared() -> None:
    old, new = ({"options": _options(parser(later=later), {})} for later in (False, True))
    assert new["options"]["--fast"] == {"type": "bool", "negation": "--no-fast", "takes": "none", "default": True}
    assert new["options"]["--names"]["takes"] == "many"
    assert list(difference(old, new)) == [
        "added --new",
        "changed --kind: choices with c",
        "deprecated --names (deprecated)",
        "gone --old",
        "changed --size: default 1 → 2",
    ]
    assert list(difference(new, new)) == []


def test_files_are_written_as_they_are_read() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        assert written(json.loads(text)) == text


def test_what_cannot_be_refreshed_is_said_in_two_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["trtllm", "1.2.0"], ["vllm", "new"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no vllm' >&2\nexit 1\n")
    stub.chmod(0o755)
    assert main(["vllm", "0.33.0", "--python", str(stub), "-o", str(tmp_path)]) == 2
    assert "ModuleNotFoundError" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_a_release_is_written_by_what_an_interpreter_answers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answer = tmp_path / "answer.json"
    options = {"--tensor-parallel-size": {"type": "int", "default": 1}}
    answer.write_text(json.dumps({"underscores": True, "beginnings": True, "options": options}))
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\ncat {answer}\n")
    stub.chmod(0o755)
    assert main(["vllm", "99.0", "--python", str(stub), "-o", str(tmp_path)]) == 0
    assert "gone --max-num-seqs" in capsys.readouterr().out
    assert json.loads((tmp_path / "vllm-99.0.json").read_text())["options"] == options
