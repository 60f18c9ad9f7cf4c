"""Every command of a plan's engines, as its scripts give it to a node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.exports.fleet import StartedFleet, released
from planner.exports.serving import ServingTarget
from planner.exports.targets.shell import FILES, Shell
from planner.serving.document.plan import Plan
from tests.planner.exports.made import asked

ARCHITECTURES = Path("costmodels/models/architectures")


def model_names() -> list[str]:
    """The bundled models."""
    return [path.stem.replace("--", "/", 1) for path in sorted(ARCHITECTURES.glob("*.json"))]


def checkpoint(name: str, folder: Path) -> Path:
    """A folder that holds the model's config.json and nothing else."""
    place = folder / name.replace("/", "--")
    place.mkdir(parents=True, exist_ok=True)
    config = json.loads((ARCHITECTURES / f"{name.replace('/', '--')}.json").read_text("utf-8"))["config"]
    (place / "config.json").write_text(json.dumps(config))
    return place


def commands(plan: Plan, model: Path, **values: Any) -> Iterator[tuple[str, list[str]]]:
    """(engine and node, words after the program) of every process.

    Raises:
        Unsupported: the platform of scripts cannot run it.
    """
    given = asked(plan, checkpoint=str(model), draft_model=str(model), **values)
    target: ServingTarget = Shell(given)
    if (reason := target.cannot()) is not None:
        from profiles.errors import Unsupported

        raise Unsupported(reason, "")
    fleet = StartedFleet(plan, given.values, released(plan, None, assume=False))
    for engine in fleet.engines:
        for rank in range(len(engine.shares)):
            place = fleet.placed(engine, rank, fleet.addresses, FILES)
            start = fleet.start(engine, place)
            yield f"{engine.id}/{rank}", list(start.command[len(fleet.framework.command.program) :])
