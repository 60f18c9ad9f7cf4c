"""Command lines as they stand in public recipes: imported right, or the mistake named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.contract.deployment import DeploymentDocument
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.launchers.releases import known_releases
from planner.serving.document.opening import drafts, engine_fields
from planner.serving.memory import memory
from planner.serving.memory_document import parse_memory_request
from profiles.errors import InputError

RECIPES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("recipes.yaml").read_text("utf-8"))
ASKED = ("text", "gpu", "model", "variables", "files")
LIMITS = {
    "sequences": "max_sequences",
    "tokens": "max_tokens_per_step",
    "longest": "max_model_len",
    "memory": "memory_fraction",
}


def read(recipe: dict[str, Any]) -> DeploymentDocument:
    if recipe.get("needs") and not known_releases(recipe["needs"]):
        pytest.skip(f"the options of {recipe['needs']} are not known")
    return deployment_of(parse_import_request({name: recipe[name] for name in ASKED if name in recipe}))


def names(recipes: list[dict[str, Any]]) -> list[str]:
    return [recipe["source"].rpartition("//")[2][:60] for recipe in recipes]


RIGHT = [recipe for recipe in RECIPES if "engines" in recipe]
WRONG = [recipe for recipe in RECIPES if "error" in recipe]
STARTS = [recipe for recipe in RECIPES if "starts" in recipe]


def test_there_are_fifty_with_their_sources() -> None:
    assert len(RECIPES) >= 50
    assert len(WRONG) + len(STARTS) >= 15
    assert all(recipe["source"] for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RIGHT, ids=names(RIGHT))
def test_a_recipe_is_imported_right(recipe: dict[str, Any]) -> None:
    document = read(recipe)
    assert len(document.engines) == len(recipe["engines"])
    for group, said in zip(document.engines, recipe["engines"], strict=True):
        want = {
            "tp": 1,
            "pp": 1,
            "dp": 1,
            "ep": 1,
            "moe_tp": said.get("tp", 1) * said.get("dp", 1) // said.get("ep", 1),
        } | {name: value for name, value in said.items() if name in group.layout.model_dump()}
        assert group.layout.model_dump(include=set(want)) == want
        assert len(group.replicas) == said.get("replicas", 1)
        assert group.role == said.get("role", "aggregated")
        assert document.draft_tokens == said.get("draft", 0)
        for name, field in LIMITS.items():
            if name in said:
                assert getattr(group.limits, field) == said[name], name
        if "weights" in said:
            assert group.weights_precision == said["weights"]
        assert group.kv_precision == said.get("kv", "bf16")


@pytest.mark.parametrize("recipe", WRONG, ids=names(WRONG))
def test_the_mistake_is_named(recipe: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        read(recipe)
    assert recipe["error"] in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("recipe", STARTS, ids=names(STARTS))
def test_what_does_not_start_is_said(recipe: dict[str, Any]) -> None:
    document = read(recipe)
    for group in document.engines:
        made = memory(parse_memory_request({**engine_fields(document, group), "draft": drafts(document)}))
        assert made.starts is recipe["starts"]
        assert made.reasons
