"""``plan memory`` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import Runner, complaint

ASKED = ("memory", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100", "--framework", "vllm@0.19")


def test_the_view_says_whether_it_starts_and_which_part_takes_what(run: Runner) -> None:
    out = run(*ASKED, "--max-model-len", "8192").out
    for words in ("vllm 0.19.1: starts", "weights", "activations", "KV cache", "in the engine's log", "not given"):
        assert words in out


def test_what_does_not_start_is_an_answer(run: Runner) -> None:
    ran = run("memory", "--model", "deepseek-ai/DeepSeek-R1", "--gpu", "H100", "--tp", "8")
    assert ran.code == 0
    assert "does not start" in ran.out
    assert "the weights take" in ran.out


def test_json_is_the_document_alone(run: Runner, tmp_path: Path) -> None:
    target = tmp_path / "memory.json"
    ran = run(*ASKED, "--json", "-o", str(target))
    document = json.loads(ran.out)
    assert document == json.loads(target.read_text())
    assert set(document) == {
        *("kind", "schema_version", "starts", "reasons", "framework", "version", "memory", "largest"),
        *("notes", "provenance", "digest"),
    }
    assert set(document["memory"]) == {
        *("weights_bytes", "activation_bytes", "graph_bytes", "other_bytes", "kv_cache_bytes"),
        *("kv_bytes_per_token", "kv_cache_tokens", "logged_kv_tokens"),
    }
    assert set(document["largest"]) == {"context_tokens", "concurrency", "workload_requests"}


def test_a_framework_s_own_words_are_understood(run: Runner) -> None:
    engine = ("memory", "--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--framework", "sglang", "--json")
    ours = run(*engine, "--gpu-memory-utilization", "0.8", "--max-model-len", "8192")
    theirs = run(*engine, "--mem-fraction-static", "0.8", "--context-length=8192")
    assert ours.code == 0
    assert ours.out == theirs.out
    twice = run(*engine, "--mem-fraction-static", "0.8", "--gpu-memory-utilization", "0.7")
    assert "gpu_memory_utilization is given too" in complaint(twice)[0]
    replicas = run(*engine, "--dp", "2", "--max-running-requests", "64")
    assert "max_num_seqs, of one replica" in complaint(replicas)[1]
    other = run(*ASKED, "--mem-fraction-static", "0.8")
    assert "--mem-fraction-static" in complaint(other)[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--max-model-len", "10000000"), "max_model_len: 10,000,000"),
        (("--gpu", "H1000"), "H1000"),
        (("--gpu-memory-utilization", "2"), "gpu_memory_utilization"),
    ],
)
def test_what_is_wrong_takes_two_lines(run: Runner, more: tuple[str, str], words: str) -> None:
    ran = run(*ASKED, *more)
    assert ran.code == 2
    assert words in complaint(ran)[0]


def test_without_a_model_an_example_is_given(run: Runner) -> None:
    assert "plan memory --model" in complaint(run("memory", "--gpu", "H100"))[1]


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from api.cli.main import main; "
        f"main({list(ASKED)!r}); "
        "print([name for name in ('pandas', 'scipy', 'sklearn', 'pyarrow', 'pulp') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_a_draft_head_is_a_file(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "is not a draft head" in complaint(run(*ASKED, "--draft-model", str(tmp_path)))[0]
    assert "is no file" in complaint(run(*ASKED, "--draft-model", "yuhuili/EAGLE"))[0]


def test_what_is_said_beside_shapes_counts(run: Runner, tmp_path: Path) -> None:
    shapes = ("memory", "--model", "deepseek-ai/DeepSeek-V3", "--gpu", "B200", "--engines", "2xTP8", "--json")
    plain, drafting = (json.loads(run(*shapes, *more).out)["memory"] for more in ((), ("--draft",)))
    assert drafting["weights_bytes"] > plain["weights_bytes"]
    held = json.loads(run(*shapes, "--workload", "isl=4000,osl=500").out)
    assert held["largest"]["workload_requests"] > 1
    assert "is no file" in complaint(run(*shapes, "--draft-model", "nothing"))[0]


def test_a_folder_of_profiles_that_is_not_there_is_refused(run: Runner, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    said = complaint(run("memory", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100", "--profiles", gone))[0]
    assert said.startswith("--profiles: ")
    assert said.endswith("is no folder")
