"""The view of ``plan import``."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console

from api.cli.console import bullet, facts, heading, indented, table
from api.cli.views.words import default_words
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.deployment import DeploymentDocument
from planner.contract.engine import EngineGroup

FEW = 6
"""Kept flags that are named."""


def show(document: DeploymentDocument, out: Console) -> None:
    """Prints the engines, what was filled in and what was kept."""
    heading(out, f"{document.model} on {document.cluster.name}, {document.framework}")
    rows = table("engines", "role", "layout", "GPU", "weights", "KV", left=6)
    for group in document.engines:
        rows.add_row(
            f"{len(group.replicas)} x {group.id}",
            group.role,
            layout_label(group),
            group.gpu,
            group.weights_precision,
            group.kv_precision,
        )
    indented(out, rows)
    limits = table("batch limits", "sequences", "tokens a step", "longest", "memory")
    for group in document.engines:
        each = group.limits
        limits.add_row(
            group.id,
            f"{each.max_sequences:,}",
            f"{each.max_tokens_per_step:,}",
            f"{each.max_model_len:,}",
            f"{each.memory_fraction:g}",
        )
    indented(out, limits)
    lines = [("read from", document.read_as)]
    if document.draft_tokens:
        lines.append(("drafts", f"{document.draft_tokens} tokens a step"))
    if document.assumed:
        lines.append(("by default", ", ".join(_assumed(document))))
        lines.append(("as said by", "; ".join(dict.fromkeys(each.source for each in document.assumed))))
    if document.kept:
        lines.append(("kept", _kept(document)))
    facts(out, lines)
    for note in document.provenance.notes:
        bullet(out, note)


def layout_label(group: EngineGroup) -> str:
    """As layouts are called, with the experts' tensor split where it says more."""
    layout = group.layout
    whole = layout.moe_tp in (1, layout.tp * layout.dp)
    return layout.label if whole else f"{layout.label} MoE-TP{layout.moe_tp}"


def _assumed(document: DeploymentDocument) -> Iterable[str]:
    """What is the same of all engines is said once."""
    framework = find_framework(document.framework)
    of: dict[str, list[str]] = {}
    for each in document.assumed:
        of.setdefault(default_words(each, framework), []).append(each.engine)
    for said, engines in of.items():
        yield said if len(engines) == len(document.engines) else f"{', '.join(engines)}: {said}"


def _kept(document: DeploymentDocument) -> str:
    flags = list(dict.fromkeys(each.flag for each in document.kept))
    more = len(flags) - FEW
    return ", ".join(flags[:FEW]) + (f" and {more} more (--json)" if more > 0 else "") + ": without meaning here"
