"""Options that count tokens take them as vLLM does: 16k, 16K."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Runner, complaint

ASKED = ("memory", "--model", "Qwen/Qwen3-32B", "--gpu", "H100", "--tp", "2", "--json")


@pytest.mark.parametrize(("text", "tokens"), [("16k", 16000), ("16K", 16384), ("16384", 16384), ("1.5k", 1500)])
def test_a_unit_is_read_as_vllm_reads_it(run: Runner, text: str, tokens: int) -> None:
    found, plain = (run(*ASKED, "--max-model-len", each) for each in (text, str(tokens)))
    assert found.code == 0, found.err
    assert json.loads(found.out) == json.loads(plain.out)


@pytest.mark.parametrize("text", ["0", "16q", "1.0001k", "-16k", ""])
def test_what_is_no_number_of_tokens_is_refused(run: Runner, text: str) -> None:
    message, _ = complaint(run(*ASKED, f"--max-model-len={text}"))
    assert "max-model-len" in message or "max_model_len" in message


def test_a_table_takes_them_too(run: Runner, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(
        "model,gpu,framework,tp,max_model_len\n"
        + "".join(f"Qwen/Qwen3-32B,H100,vllm,2,{each}\n" for each in ("16k", "16000"))
    )
    first, second = run("memory", str(table), "-o", str(tmp_path / "out.csv")), (tmp_path / "out.csv")
    assert first.code == 0, first.err
    one, other = (line.split(",", 5)[5] for line in second.read_text().splitlines()[1:])
    assert one == other
