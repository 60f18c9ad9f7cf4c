"""Where a plan places experts, what is exported carries the placement, in the framework's own file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from planner.contract.expert_placement import ExpertPlacement
from planner.exports.registry import exported, names_for
from planner.serving.document.plan import Plan
from profiles.errors import Unsupported
from tests.planner.exports.made import MODELS, asked, layout, planned

EXPERTS, COPIES, RANKS, FIRST, LAYERS = 256, 8, 8, 3, 61
PLACED = ExpertPlacement(
    slots_per_rank=(EXPERTS + COPIES) // RANKS,
    layer_index=tuple(range(FIRST, LAYERS)),
    physical_to_logical_map=tuple(
        tuple((slot + layer) % EXPERTS for slot in range(EXPERTS + COPIES)) for layer in range(FIRST, LAYERS)
    ),
    balancedness=(),
    gap=0.0,
)


def wide(framework: str, eplb: str = "static", *, placed: bool = True) -> Plan:
    shape = layout(dp=8, ep=8).model_copy(
        update={"exchange": "high_throughput", "redundant": COPIES, "eplb": eplb}
        if framework == "sglang"
        else {"exchange": "nvlink_one_sided", "redundant": COPIES, "eplb": eplb}
    )
    plan = planned(framework, MODELS["latent"], [("prefill", shape, 1), ("decode", layout(tp=8, ep=8), 1)])
    first, second = plan.decision.engines
    first = first.model_copy(update={"expert_placement": PLACED if placed else None})
    decision = plan.decision.model_copy(update={"engines": (first, second)})
    return plan.model_copy(update={"decision": decision}).sealed()


def maps(files: dict[str, str]) -> list[Any]:
    """Every placement in files: in those of its own, and in ConfigMaps."""
    found = [json.loads(text) for name, text in files.items() if name.endswith("expert-location.json")]
    for name, text in files.items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            for held, inner in (document or {}).get("data", {}).items() if isinstance(document, dict) else ():
                found += [json.loads(inner)] if held == "expert-location.json" else []
    return found


@pytest.mark.parametrize("target", ["shell", "slurm", "kubernetes", "dynamo", "skypilot"])
def test_sglang_is_given_the_placement_beside_the_command(target: str) -> None:
    files = exported(target, asked(wide("sglang")))[1]
    (given,) = maps(files)
    rows = given["physical_to_logical_map"]
    assert (len(rows), len(rows[0])) == (LAYERS, EXPERTS + COPIES)
    assert tuple(map(tuple, rows[FIRST:])) == PLACED.physical_to_logical_map
    assert rows[0] == [slot % EXPERTS for slot in range(EXPERTS + COPIES)]
    assert any("--init-expert-location" in text and "expert-location.json" in text for text in files.values())


def test_what_the_loads_would_place_is_refused_without_them() -> None:
    with pytest.raises(Unsupported, match="placed by loads, and the plan has none") as refused:
        exported("shell", asked(wide("sglang", placed=False)))
    assert "--expert-loads" in refused.value.hint
    assert not maps(exported("shell", asked(wide("sglang", "dynamic", placed=False)))[1])


def test_tensorrt_llm_has_it_in_its_options() -> None:
    files = exported("shell", asked(wide("trtllm")))[1]
    options = [yaml.safe_load(text) for name, text in files.items() if name.endswith("trtllm-options.yaml")]
    (balanced,) = [each["moe_config"]["load_balancer"] for each in options if "moe_config" in each]
    assert (balanced["num_slots"], balanced["layer_updates_per_iter"]) == (EXPERTS + COPIES, 0)
    assert balanced["initial_global_assignments"][FIRST] == list(PLACED.physical_to_logical_map[0])
    moving = exported("shell", asked(wide("trtllm", "dynamic", placed=False)))[1]
    assert any("layer_updates_per_iter: 2" in text for text in moving.values())


def test_a_placement_without_an_exchange_is_named_too() -> None:
    plan = wide("sglang")
    first, second = plan.decision.engines
    plain = first.model_copy(update={"layout": layout(dp=8, ep=8)})
    made = plan.model_copy(update={"decision": plan.decision.model_copy(update={"engines": (plain, second)})}).sealed()
    script = exported("shell", asked(made))[1]["node-0/start.sh"]
    assert script.count("--init-expert-location") == 1


@pytest.mark.parametrize("framework", ["sglang", "trtllm"])
def test_every_file_that_a_command_names_is_delivered(framework: str) -> None:
    shape = layout(dp=8, ep=8)
    one = planned(framework, MODELS["latent"], [("aggregated", shape, 2)], kv="fp8")
    groups = tuple(each.model_copy(update={"expert_placement": PLACED}) for each in one.decision.engines)
    plan = one.model_copy(update={"decision": one.decision.model_copy(update={"engines": groups})}).sealed()
    for target in names_for("serving"):
        try:
            files = exported(target, asked(plan))[1]
        except Unsupported:
            continue
        whole = "\n".join(files.values())
        for name in set(re.findall(r"(?:HERE\"?/[\w-]+/|/etc/plan/)([\w.-]+\.(?:json|yaml))", whole)):
            beside = any(path.rpartition("/")[2] == name for path in files)
            assert beside or f"{name}: " in whole, (target, name)


def test_no_variable_sizes_the_buffers_of_vllm_any_more() -> None:
    """They hold max_num_batched_tokens since 0.20, which the command says."""
    shape = layout(dp=8, ep=8)
    narrow = shape.model_copy(update={"exchange": "low_latency", "eplb": "dynamic", "dispatch_tokens": 512})
    plan = planned("vllm@0.29", MODELS["latent"], [("prefill", shape, 1), ("decode", narrow, 1)])
    serve = yaml.safe_load(exported("ray-serve", asked(plan))[1]["serve.yaml"])
    assert "runtime_env" not in str(serve)
