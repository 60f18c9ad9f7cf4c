"""``plan --expert-loads``: what reaches the planner, what is refused before it, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Runner, Stub, asking, complaint
from example_plan import engine_group, example_plan

from api.cli.console import page
from api.cli.views import plan as view
from planner.contract.expert_placement import ExpertBalance, ExpertPlacement
from planner.serving import planning

MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"


def counts(folder: Path, name: str, experts: int = 8) -> str:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"logical_count": [[10 + e for e in range(experts)]] * 32}), "utf-8")
    return str(file)


def test_files_arrive_as_windows(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def planned(*_: Any, **given: Any) -> Any:
        seen.update(given)
        return example_plan()

    monkeypatch.setattr(planning, "plan", planned)
    files = [word for name in ("monday", "tuesday") for word in ("--expert-loads", counts(tmp_path, name))]
    assert run(*asking(model=MIXTRAL), *files).code == 0
    loads = seen["expert_loads"]
    assert loads.names == ("monday", "tuesday")
    assert np.array_equal(loads.counts[0, 0], np.arange(10, 18))


def test_without_files_there_are_no_loads(run: Runner, planner: Stub) -> None:
    ran = run(*asking())
    assert ran.code == 0
    assert "experts:" not in ran.out


def test_a_dense_model_is_refused_before_the_file_is_read(run: Runner, planner: Stub) -> None:
    error, hint = complaint(run(*asking(expert_loads="nowhere.json")))
    assert error == "--expert-loads: Qwen/Qwen3-32B has no routed experts to place"
    assert hint.startswith("leave it out")
    assert planner.requests == []


def test_counts_of_another_model_are_refused(run: Runner, planner: Stub, tmp_path: Path) -> None:
    file = counts(tmp_path, "other", experts=16)
    error, hint = complaint(run(*asking(model=MIXTRAL, expert_loads=file)))
    assert file in error
    assert "16 experts" in error
    assert "32 MoE layers with 8 experts each" in hint
    assert planner.requests == []


def test_the_view_says_what_the_placement_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    plan = example_plan()
    placed = ExpertPlacement(
        slots_per_rank=1,
        layer_index=(0,),
        physical_to_logical_map=((1, 0),),
        balancedness=(
            ExpertBalance(window="monday", before=0.5, after=0.98, bound=1.0),
            ExpertBalance(window="tuesday", before=0.54, after=1.0, bound=1.0),
        ),
        gap=0.01,
    )
    engine = engine_group().model_copy(update={"expert_placement": placed})
    plan = plan.model_copy(update={"decision": plan.decision.model_copy(update={"engines": (engine,)})})
    with page() as out:
        view.show(plan, out)
    said = capsys.readouterr().out
    words = "experts: balance 0.52 → 0.99 (no placement exceeds 1.00); `plan experts` writes it for the engine"
    assert words in said
    assert max(map(len, said.splitlines())) <= 100
