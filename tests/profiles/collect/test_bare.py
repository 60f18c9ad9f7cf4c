"""``python -m profiles.collect`` on a machine that has nothing but Python and torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profiles.collect.journal import FILE, read, write_points
from profiles.collect.points import Point
from profiles.descriptions import measured_document, type_name
from profiles.importers import find_importer

ROOT = Path(__file__).parents[3]
BLOCKED = ("pandas", "pyarrow", "pydantic", "yaml", "sklearn", "scipy", "rich", "typer", "pynvml")
START = f"""
import sys
for name in {BLOCKED}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
from profiles.collect.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
POINTS = [
    Point("gemm", "bf16", {"m": 4, "n": 64, "k": 64}),
    Point("gemm", "fp8", {"m": 4, "n": 64, "k": 64}),
    Point("launch", "int8", {"kind": "kernel"}),
]

torch = pytest.importorskip("torch")


def bare(*arguments: str, limit: str = "") -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", START, *arguments]
    if limit:
        words = ["bash", "-c", f'{limit}; exec "$@"', "bash", *words]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def points(tmp_path: Path) -> Path:
    file = tmp_path / "points.jsonl"
    file.write_text(write_points(POINTS))
    return file


def asked(points: Path, out: Path) -> list[str]:
    return [
        *("--device", "cpu", "--ops", "gemm,launch", "--points", str(points)),
        *("--budget", "20s", "--target-error", "50%", "--gpus", "1", "--out", str(out)),
    ]


def test_it_measures_journals_and_is_imported_elsewhere(tmp_path: Path, points: Path) -> None:
    ran = bare(*asked(points, tmp_path / "out"))
    assert ran.returncode == 0, ran.stderr
    assert "gemm bf16: 1 measured" in ran.stdout
    assert "gemm fp8: 1 skipped" in ran.stdout
    assert "ended: complete" in ran.stdout
    entries = list(read(tmp_path / "out" / FILE))
    assert [entry.outcome.status for entry in entries] == ["measured", "skipped", "measured"]
    assert entries[0].header.versions["torch"] == torch.__version__
    device = dict(entries[0].header.device)
    assert device["measured"]["peak_flops.bf16"][0] > 0
    rows = dict(find_importer("collect").read(tmp_path / "out", {}))
    name = type_name(device)  # the journal says what the machine is
    assert {operation: table["gpu"].tolist() for operation, table in rows.items()} == {"gemm": [name], "launch": [name]}
    known = find_importer("collect").catalogue(tmp_path / "out", {})
    assert known.find_gpu(name).sm_count == device["sm_count"]
    facts = tmp_path / "facts.yaml"
    facts.write_text(measured_document(device).replace(f"{name}:", "this-cpu:").replace("[]", f"[{device['name']}]"))
    rows = dict(find_importer("collect").read(tmp_path / "out", {"gpu_facts": str(facts)}))
    assert rows["gemm"]["gpu"].tolist() == ["this-cpu"]


def test_what_is_wrong_takes_two_lines(tmp_path: Path, points: Path) -> None:
    ran = bare("--device", "cpu", "--budget", "soon", "--out", str(tmp_path))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == ["error: --budget: 'soon' is no time", "hint: write it as 90s, 10m or 1h"]


def test_a_disk_that_is_full_keeps_what_was_measured(tmp_path: Path, points: Path) -> None:
    out = tmp_path / "out"
    first = bare(*asked(points, out), limit="ulimit -f 2")  # KiB: the header and an outcome at most
    assert first.returncode == 2
    error, hint = first.stderr.splitlines()[-2:]
    assert error.startswith("error: journal")
    assert hint == "hint: make room, then run again: everything measured before is kept"
    kept = [entry.outcome.point for entry in read(out / FILE)]
    assert kept == POINTS[: len(kept)]
    assert len(kept) < len(POINTS)
    assert (out / FILE).read_bytes().endswith(b"\n")
    assert bare(*asked(points, out)).returncode == 0
    assert {entry.outcome.point.key for entry in read(out / FILE)} == {point.key for point in POINTS}
