"""From an answer to the line that is kept of it: exit code, key figures, and hashes of document and view."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

VOLATILE_KEYS = frozenset({"package_version", "cost_model_version", "schema_version", "report_version"})
"""Taken out of documents wherever they stand. Nothing else need be: documents hold no clock readings."""

_VOLATILE_TEXT = re.compile(
    r"\b\d+(?:\+[0-9a-f]{12})+"  # of the cost model
    r"|(?<![\d.])\d+\.\d+\.\d+(?![\d.])"  # of a package
    r"|\b\d{4}-\d{2}-\d{2}\b"  # the day a fact was looked up
)

DIGITS = 6

Figures = dict[str, Any]


def steady(value: Any) -> Any:
    """``value`` (JSON) without versions and dates."""
    if isinstance(value, Mapping):
        return {key: steady(each) for key, each in value.items() if key not in VOLATILE_KEYS}
    if isinstance(value, list):
        return [steady(each) for each in value]
    return _VOLATILE_TEXT.sub("·", value) if isinstance(value, str) else value


def canonical(document: Any) -> str:
    """The document as the text that is hashed: steady, one value a line, keys in their own order (it is promised)."""
    return json.dumps(steady(document), indent=1, ensure_ascii=False)


def digest(text: str) -> str:
    """The first 16 hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rounded(value: Any) -> Any:
    """Numbers to :data:`DIGITS` significant digits, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def figures(document: Any) -> Figures:
    """The key figures of a document of any kind, told by what it holds; none of what is not an answer (schemas)."""
    if isinstance(document, list) or "rows" in document:
        rows = document if isinstance(document, list) else document["rows"]
        found = _rows(rows) if rows and "error" in rows[0] else {}
    elif document.get("kind") == "training":
        found = _training(document)
    elif document.get("kind") == "memory":
        found = _memory(document)
    elif "physical_to_logical_map" in document.get("decision", ()):
        found = _experts(document)
    elif document.get("kind") == "serving":
        found = _plan(document)
    elif "served" in document:
        found = _simulation(document)
    else:
        found = {}
    return {key: rounded(value) for key, value in found.items() if value is not None}


def _plan(plan: Mapping[str, Any]) -> Figures:
    predicted, proof, engines = plan["prediction"], plan["proof"], plan["decision"]["engines"]
    loads = predicted["engines"]
    return {
        "engines": [_engine(engine) for engine in engines],
        "rate_rps": predicted["request_rate_rps"]["value"],
        **_latencies(predicted),
        "objective": proof["objective_value"],
        "bound": proof["bound"],
        "operating_points": proof["operating_points_within_slo"],
        "candidates": proof["candidates"],
        "engine_load_rps": [load["load_rps"] for load in loads],
        "concurrency": [load["concurrency"] for load in loads],
        "memory_bytes": [load["memory"]["total_bytes"] - load["memory"]["unused_bytes"] for load in loads],
        "kv_tokens": [load["memory"]["kv_tokens"] for load in loads],
        "power_watts": predicted["power_watts"]["value"],
        "sure": [promise["confidence"] for promise in predicted["slo"]],
    }


def _engine(engine: Mapping[str, Any]) -> str:
    """``2 prefill tp4 of 4 H200, bf16/bf16, 5 × 2048``: how many, layout, precisions, sequences and tokens a step."""
    degrees = [
        f"{name}{degree}" for name, degree in engine["layout"].items() if isinstance(degree, int) and degree > 1
    ] or ["tp1"]
    layout, limits = " ".join(degrees), engine["limits"]
    return (
        f"{len(engine['replicas'])} {engine['role']} {layout} of {engine['gpus_per_engine']} {engine['gpu']}, "
        f"{engine['weights_precision']}/{engine['kv_precision']}, "
        f"{limits['max_sequences']} × {limits['max_tokens_per_step']}"
    )


def _latencies(document: Mapping[str, Any]) -> Figures:
    """Mean with its interval, and p99."""
    found = {}
    for metric in ("ttft", "tpot", "e2e"):
        latency = document[f"{metric}_ms"]
        if latency is not None:
            mean = latency["mean"]
            found[f"{metric}_ms"] = [mean["value"], mean["low"], mean["high"], latency["p99"]["value"]]
    return found


def _rows(rows: list[Mapping[str, Any]]) -> Figures:
    """A list a column, null where a row was refused. Figures of rows may be text, as in a CSV."""
    serving = [
        *(f"{metric}_ms_{part}" for metric in ("ttft", "tpot", "e2e") for part in ("mean", "low", "high", "p99")),
        "output_tokens_per_s_per_gpu",
        "memory_bytes_per_gpu",
        "kv_tokens",
    ]
    training = [
        *(f"{name}{part}" for name in ("iteration_s", "memory_bytes_per_gpu") for part in ("", "_low", "_high")),
        *("tokens_per_s_gpu", "mfu", "bubble_share", "exposed_communication_share"),
    ]
    columns = (name for name in (serving if "kv_tokens" in rows[0] else training) if name in rows[0])
    found: Figures = {name: [None if row[name] in ("", None) else float(row[name]) for row in rows] for name in columns}
    return {**found, "refused": [row["error"].partition(";")[0] for row in rows if row["error"]] or None}


def _memory(document: Mapping[str, Any]) -> Figures:
    return {"starts": document["starts"], **(document["memory"] or {}), **(document["largest"] or {})}


def _training(plan: Mapping[str, Any]) -> Figures:
    decision, predicted, proof = plan["decision"], plan["prediction"], plan["proof"]
    degrees = ((name, degree) for name, degree in decision["mesh"].items() if name == "gpus" or degree > 1)
    mesh = " ".join(f"{name}{degree}" for name, degree in degrees)
    return {
        "layout": f"{mesh}, sharding {decision['sharding']}, micro-batch {decision['micro_batch']}, "
        f"{decision['schedule']}",
        "stages": [stage["layers"] for stage in decision["stages"]],
        "iteration_s": [predicted["iteration_s"][part] for part in ("value", "low", "high")],
        **{name: predicted[name] for name in ("mfu", "bubble_share", "exposed_communication_share")},
        "objective": proof["objective_value"],
        "bound": proof["bound"],
        "legal": proof["legal"],
        "alternatives_s": [each["iteration_s"] for each in plan["alternatives"]["ranked"]],
    }


def _simulation(report: Mapping[str, Any]) -> Figures:
    return {
        "served": report["served"],
        "refused": sum(each["requests"] for each in report["refused"]),
        **_latencies(report),
        "attainment": report["attainment"]["value"],
        "goodput_rps": report["goodput_rps"]["value"],
        "output_tokens_per_s": report["output_tokens_per_s"],
        "capacity_rps": report["capacity_rps"],
        "preemptions": report["preemptions"],
        "utilisation": [group["utilisation"] for group in report["groups"]],
        "kv_peak": [group["kv_peak"] for group in report["groups"]],
    }


def _experts(placement: Mapping[str, Any]) -> Figures:
    proof, moves = placement["proof"], placement["decision"]["moves"]
    return {
        "balancedness": [proof[f"balancedness_{when}"] for when in ("before", "after", "bound")],
        "holdout": [window["after"] for window in proof["holdout"]],
        "speedup": [step["speedup"] for step in placement["prediction"]],
        "traffic": proof["traffic"] and [proof["traffic"][f"cost_{when}"] for when in ("before", "after", "bound")],
        "moves": moves and moves["copies"],
        "expert_bytes_per_gpu": placement["decision"]["expert_bytes_per_gpu"],
    }
