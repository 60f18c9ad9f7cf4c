"""An export as a document and as an archive: the files that the command writes."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest

from planner.contract.documents import checked
from planner.contract.exported import MANIFEST
from planner.exports.document import archive, parse_export
from planner.exports.exporting import export
from planner.exports.registry import exported
from planner.exports.request import ExportRequest
from planner.kinds import example
from profiles.errors import InputError, Unsupported
from tests.planner.exports.made import MODELS, asked, layout, planned

PLAN = planned("vllm", MODELS["dense"], [("aggregated", layout(tp=4), 2)])
VALUES = asked(PLAN).values.model_dump(mode="json", exclude_defaults=True)


def request(**fields: Any) -> ExportRequest:
    given = {"plan": json.loads(PLAN.to_json()), "to": "shell", "values": VALUES, **fields}
    return checked(ExportRequest, given, "request")


def test_the_files_are_those_of_the_command() -> None:
    made = export(request())
    assert {name: text for name, text in made.files.items() if name != MANIFEST} == exported("shell", asked(PLAN))[1]
    assert (made.target, made.of, made.plan) == ("shell", "serving", PLAN.digest)
    assert parse_export(made.to_json()) == made


def test_the_archive_holds_them_and_what_is_to_run_may_run() -> None:
    made = export(request())
    content = archive(made)
    assert content == archive(export(request()))
    with zipfile.ZipFile(io.BytesIO(content)) as held:
        assert {name: held.read(name).decode() for name in held.namelist()} == made.files
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in held.infolist()}
    assert modes["start-all.sh"] == 0o755
    assert modes[MANIFEST] == 0o644


@pytest.mark.parametrize("kind", ["serving", "training"])
def test_plans_of_each_kind_that_has_targets_are_taken(kind: str) -> None:
    to, values = {
        "serving": ("slurm", {"draft_model": "org/eagle"}),
        "training": ("slurm", {"script": "train.py"}),
    }[kind]
    made = export(checked(ExportRequest, {"plan": example(kind), "to": to, "values": values}, "request"))
    assert made.of == kind
    assert made.files


def test_what_is_wrong_is_said() -> None:
    edited = {**json.loads(PLAN.to_json()), "digest": "0" * 64}
    with pytest.raises(InputError, match="edited since it was made") as refused:
        request(plan=edited)
    assert "edited: true" in refused.value.message + refused.value.hint
    assert export(request(plan=edited, edited=True)).files["start-all.sh"].count("EDITED") == 1
    with pytest.raises(InputError, match="of kind 'experts'"):
        request(plan=example("experts"))
    with pytest.raises(Unsupported, match="--to nvidia-smi: the plan's policy"):
        export(request(plan=example("power"), to="nvidia-smi", values={}))
    with pytest.raises(InputError, match="nodes is missing"):
        export(request(values={}))
    with pytest.raises(InputError, match="imag"):
        request(values={"imag": "x"})
