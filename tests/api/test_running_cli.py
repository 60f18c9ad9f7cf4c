"""`plan import`, `plan check` and `plan compare` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.main import main

COMMAND = "vllm serve Qwen/Qwen3-8B --tensor-parallel-size 1 --max-model-len 8192"


def said(capture: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capture.readouterr()
    return out, err


def test_a_command_becomes_a_document_that_other_commands_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "running.json"
    assert main(["import", COMMAND, "--gpu", "H200", "-o", str(path)]) == 0
    assert "1 x engine-0" in said(capsys)[0]
    assert main(["memory", str(path)]) == 0
    assert "starts" in said(capsys)[0]
    assert main(["import", COMMAND, "--gpu", "H200", "--json"]) == 0
    assert said(capsys)[0] == path.read_text("utf-8")


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        (["import", COMMAND], "gpu: command does not say which GPUs", "--gpu H100"),
        (["import", "nothing.yaml"], "is neither a file, a folder nor a command", "plan import"),
        (["import"], "COMMAND is missing", "plan import"),
        (["import", f"{COMMAND} --nope", "--gpu", "H200"], "--nope: argument 6", ""),
        (["import", COMMAND, "--gpu", "H200", "--set", "TP"], "is not NAME=VALUE", "--set TP=8"),
        (
            ["import", f"{COMMAND} --max-num-seqs $SEQS", "--gpu", "H200", "--set", "SEQ=8"],
            "'SEQ' is not known",
            "SEQS",
        ),
        (["check", COMMAND, "--gpu", "H200", "--set", "TP=8"], "'TP' is not known", "there are none"),
        (["compare", "a.json", "b.json", "--gpu", "H200"], "--gpu: has no effect beside documents", "leave it out"),
        (["check", COMMAND, "--gpu", "H200", "--slo", "ttft=1s"], "slo: needs a workload", "isl=4000"),
        (["compare"], "DOCUMENT is missing", "plan compare"),
    ],
)
def test_what_is_wrong_takes_two_lines(
    line: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    out, err = said(capsys)
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert hint in second


def test_a_check_answers_in_fifteen_lines_and_by_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", COMMAND, "--gpu", "H200", "-q"]) == 0
    out, _ = said(capsys)
    assert out.startswith("YES: starts")
    big = "vllm serve deepseek-ai/DeepSeek-R1 --tensor-parallel-size 4"
    assert main(["check", big, "--gpu", "H100", "-q"]) == 3
    out, _ = said(capsys)
    assert out.startswith("NO: does not start")
    assert len(out.splitlines()) <= 15
    assert max(map(len, out.splitlines())) <= 100
    assert main(["check", big, "--gpu", "H100", "-q", "--json"]) == 3
    assert json.loads(said(capsys)[0])["verdict"] == "does_not_start"


def test_scripts_and_their_files_are_read_from_their_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "options.yaml").write_text("max-num-seqs: 7\n")
    script = tmp_path / "serve.sh"
    script.write_text(f"{COMMAND} --config options.yaml --max-num-batched-tokens $BUDGET\n")
    line = ["import", str(script), "--gpu", "H200", "--json"]
    assert main(line) == 2
    assert "--set BUDGET=" in said(capsys)[1]
    assert main([*line, "--set", "BUDGET=1024"]) == 0
    limits = json.loads(said(capsys)[0])["engines"][0]["limits"]
    assert (limits["max_sequences"], limits["max_tokens_per_step"]) == (7, 1024)
