"""Runs the parts that are named (default: all) and writes what they found."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.databases import postgres
from tests.benchmarks.service import chaos, numbers

EVIDENCE = Path(__file__).parent / "evidence.json"


def _on_postgres(part: Callable[..., Any], folder: Path, *arguments: Any) -> Any:
    try:
        with postgres() as server:
            return part(folder, server, *arguments)
    except pytest.skip.Exception as reason:
        return {"skipped": str(reason)}


PARTS: dict[str, Callable[[Path], Any]] = {
    "stored": numbers.stored,
    "saturated": numbers.saturated,
    "predictions": numbers.predictions,
    "cancels": numbers.cancels,
    "fairness": numbers.fairness,
    "instances": lambda folder: _on_postgres(numbers.instances, folder),
    "memory": numbers.memory,
    "chaos_sqlite": lambda folder: chaos.chaos(folder, None, 1000, 2400),
    "chaos_postgresql": lambda folder: _on_postgres(chaos.chaos, folder, 1000, 2400),
}


def main(arguments: list[str]) -> int:
    broken = []
    found = json.loads(EVIDENCE.read_text("utf-8")) if EVIDENCE.is_file() else {}
    for name in arguments or PARTS:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)
            result = PARTS[name](Path(folder))
        found[name] = {"machine": f"{platform.machine()}, Python {platform.python_version()}", **result}
        print(json.dumps({name: found[name]}), flush=True)
        EVIDENCE.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        if result.get("held") is False:
            broken.append(name)
    for name in broken:
        print(f"{name}: does not hold", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
