"""What the requests reached of what the program lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tests.benchmarks.diff_plans.asking import Answer
from tests.benchmarks.diff_plans.inputs import KEPT
from tests.benchmarks.diff_plans.seams import made_of

Reached = dict[str, set[str]]


def reached(answers: Iterable[Answer]) -> Reached:
    """By dimension, what the answers show. Layers, precisions, frameworks … count where something was answered of
    them; operations where their times were asked, which the cost model was watched for."""
    found: Reached = {}
    for answer in answers:
        for dimension, value in _shown(answer):
            found.setdefault(dimension, set()).add(value)
    return found


def missing(to_reach: Mapping[str, frozenset[str]], found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """By dimension, what no request reached."""
    left = {dimension: sorted(names - found.get(dimension, set())) for dimension, names in to_reach.items()}
    return {dimension: names for dimension, names in left.items() if names}


def _shown(answer: Answer) -> Iterator[tuple[str, str]]:
    yield "exit code", str(answer.exit_code)
    yield from (("operation family", name) for name in answer.operations)
    if answer.exit_code != 0 or "--help" in answer.request.arguments:
        return
    yield "command", answer.request.command
    shows = SHOWS.get(answer.request.command)
    if shows is not None:
        yield from shows(answer.document)


def _planned(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    asked = plan["request"]
    yield from _model(asked["model"])
    for name in ("framework", "objective", "disaggregation"):
        yield name, asked[name]
    yield "routing", asked["workload"]["routing"]
    yield from (("metric", bound["metric"]) for bound in asked["slo"]["bounds"])
    for engine in plan["decision"]["engines"]:
        yield "role", engine["role"]
        yield "weights precision", engine["weights_precision"]
        yield "kv precision", engine["kv_precision"]


def _placed(placement: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    asked = placement["request"]
    yield "framework", asked["framework"]
    yield "experts objective", asked["objective"]
    yield from _model(asked["model"])


def _predicted(document: Any) -> Iterator[tuple[str, str]]:
    """Precisions count as asked: ``auto`` and ``fp4`` are names of others, and no plan shows them."""
    for row in document if isinstance(document, list) else document["rows"]:
        if row["error"] == "":
            yield "framework", row["framework"]
            yield from _model(row["model"])
            named = {"weights precision": row.get("precision"), "kv precision": row.get("kv_precision")}
            yield from ((dimension, name) for dimension, name in named.items() if name)


def _trained(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    asked = plan["request"]
    yield "training objective", asked["objective"]
    yield from _training(asked)


def _layouts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the rows name; what they leave to the framework's defaults is not counted."""
    for row in document["rows"]:
        if row["error"] == "":
            yield from _training(row)
            how, _, parts = (row.get("recompute") or "").partition(":")
            if how == "selective":
                yield from (("recomputed", part) for part in parts.split("+"))


def _training(setting: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if setting.get("framework"):
        yield "training framework", setting["framework"].partition("@")[0]
    for name in ("precision", "mode", "optimizer", "schedule", "attention"):
        if setting.get(name):
            yield f"training {name}", setting[name]


SHOWS: Mapping[str, Callable[[Any], Iterator[tuple[str, str]]]] = {
    "plan": _planned,
    "experts": _placed,
    "predict": _predicted,
    "train": _trained,
    "train predict": _layouts,
}
"""What an answer of a command reaches, read from its document."""


def _model(name: str) -> Iterator[tuple[str, str]]:
    kinds, reader = made_of(name, KEPT)
    yield from (("layer kind", kind) for kind in kinds)
    yield from (("model reader", each) for each in reader)
