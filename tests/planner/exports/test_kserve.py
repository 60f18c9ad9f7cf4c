"""KServe: engines of several nodes, where their weights lie, and the ports that it probes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from planner.contract.engine import Layout
from planner.exports.registry import exported
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from profiles.errors import Unsupported
from tests.planner.exports.made import MODELS, asked, layout, planned


def spec(shape: Layout, model: str = "latent", roles: bool = False, **values: Any) -> dict[str, Any]:
    parts: Any = [("prefill", shape, 1), ("decode", shape, 2)] if roles else [("aggregated", shape, 2)]
    files = exported("kserve", asked(planned("vllm", MODELS[model], parts), **values))[1]
    found: dict[str, Any] = yaml.safe_load(files["service.yaml"])["spec"]
    return found


@pytest.mark.parametrize(
    ("shape", "model", "counted"),
    [
        (layout(dp=16, ep=16), "latent", {"data": 16, "dataLocal": 8}),
        (layout(tp=4, dp=8, ep=32), "experts", {"data": 8, "dataLocal": 2}),
        (layout(tp=8, pp=2), "dense", {"pipeline": 2}),
    ],
)
def test_nodes_are_counted_by_a_degree_that_gives_them(shape: Layout, model: str, counted: dict[str, int]) -> None:
    made = spec(shape, model)
    assert made["parallelism"] == counted
    leader, worker = (made[part]["containers"][0] for part in ("template", "worker"))
    ranks = [each["args"][each["args"].index("--node-rank") + 1] for each in (leader, worker)]
    assert ranks == ["0", "$(LWS_WORKER_INDEX)"]
    assert ("--headless" in leader["args"], "--headless" in worker["args"]) == (False, True)
    assert ("--port" in leader["args"], "--port" in worker["args"]) == (True, False)
    assert "readinessProbe" not in worker


@pytest.mark.parametrize("shape", [layout(tp=16), layout(tp=4, pp=4)])
def test_nodes_that_no_degree_gives_are_refused(shape: Layout) -> None:
    with pytest.raises(Unsupported, match="neither gives the 2 that this one has"):
        spec(shape, "dense")


def test_an_engine_of_one_node_has_no_degrees_beside_its_command() -> None:
    made = spec(layout(tp=4), "dense")
    assert not {"parallelism", "worker"} & {*made}


def test_weights_are_read_where_kserve_puts_them_and_answer_to_the_name() -> None:
    made = spec(layout(tp=4), "dense", first_port=9000)
    container = made["template"]["containers"][0]
    assert made["model"] == {"uri": f"hf://{MODELS['dense']}", "name": MODELS["dense"]}
    assert container["args"][0] == "/mnt/models"
    assert container["args"][-2:] == ["--served-model-name", MODELS["dense"]]
    own = spec(layout(tp=4), "dense", checkpoint="/models/mine")
    assert own["model"]["uri"] == "pvc://models/mine"
    assert own["template"]["containers"][0]["args"][-3:] == ["--served-model-name", MODELS["dense"], "/models/mine"]


def test_ports_are_those_that_kserve_probes() -> None:
    made = spec(layout(tp=4), "dense", roles=True, first_port=9000)
    ports = {
        role: made[part]["template"]["containers"][0]["ports"][0]["containerPort"]
        if part
        else made["template"]["containers"][0]["ports"][0]["containerPort"]
        for role, part in (("decode", ""), ("prefill", "prefill"))
    }
    assert ports == {"decode": 8001, "prefill": 8000}


@pytest.mark.parametrize("degrees", [{"pipeline": 2, "tensor": 8}, {"data": 16, "dataLocal": 8, "expert": True}])
def test_a_service_of_several_nodes_that_leaves_the_command_to_kserve_is_imported(degrees: dict[str, Any]) -> None:
    pod = {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}
    service = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": "r1"},
        "spec": {
            "model": {"uri": "hf://deepseek-ai/DeepSeek-R1", "name": "r1"},
            "parallelism": degrees,
            "template": pod,
            "worker": pod,
        },
    }
    document = deployment_of(parse_import_request({"text": yaml.safe_dump(service), "gpu": "H200"}))
    (group,) = document.engines
    assert group.layout.gpus == 16
    assert (group.layout.tp, group.layout.pp, group.layout.dp) == (
        degrees.get("tensor", 1),
        degrees.get("pipeline", 1),
        degrees.get("data", 1),
    )
