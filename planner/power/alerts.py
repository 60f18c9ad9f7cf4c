"""A power plan as rules of Prometheus, on the metrics of dcgm-exporter."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from planner.power.document import CapLevel, PowerPlan, is_always
from planner.power.parts import class_name, parts, said
from planner.power.request import SupplyNode, leaves

POWER_METRIC, CLOCK_METRIC = "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_SM_CLOCK"
"""Of NVIDIA's dcgm-exporter: watts and MHz of every GPU."""


def _untemplated(text: str) -> str:
    """A text as an annotation of Prometheus, whose braces would else be its template language's."""
    return text.replace("{{", '{{ "{{" }}')


def prometheus(plan: PowerPlan) -> dict[str, str]:
    """rules.yaml: the row's power from DCGM's metrics, and alerts for each level, the brake, lost readings and caps
    that are not taken."""
    row, d, request = _metric(plan.request.supply.name), plan.decision, plan.request
    budget = request.supply.budget_watts
    other = sum(
        each.servers * next(kind.other_watts for kind in request.servers if kind.kind == each.kind)
        for each in d.by_kind
    )
    gpus = sum(
        each.servers * next(kind.gpus for kind in request.servers if kind.kind == each.kind) for each in d.by_kind
    )
    training = 0.0 if request.training is None else request.training.servers * request.training.watts
    share = f"{row}:power_share"
    inner = _inner(request.supply)
    of_row = f"{row}:watts / {budget:g}"
    seconds = max(int(request.telemetry.period_s), 1)
    rules: list[dict[str, Any]] = [
        {"record": f"{row}:watts", "expr": f'sum({POWER_METRIC}{{row="{row}"}}) + {other + training:g}'},
        *(_node_share(node, row, other / max(gpus, 1)) for node in inner),
        *(
            [{"record": f"{row}:node_power_share", "expr": of_row, "labels": {"node": request.supply.name}}]
            if inner
            else []
        ),
        {"record": share, "expr": f"max({row}:node_power_share)" if inner else of_row},
        *(_level_alert(level, share, d.delay_s) for level in d.levels),
        {
            "alert": "RowPowerAboveBudget",
            "expr": f"{share} > {d.brake_above:g}",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": "The row draws more than its budget: the brake is pulled.",
                "description": "{{ $value | humanizePercentage }} of "
                + ("the budget of the node nearest to its own" if inner else f"{budget / 1e3:g} kW")
                + f"; it is let go below {d.brake_release:.0%}.",
            },
        },
        {
            "alert": "RowPowerReadingsLost",
            "expr": f'count({POWER_METRIC}{{row="{row}"}}) < {gpus} or absent({POWER_METRIC}{{row="{row}"}})',
            "for": f"{max(5 * seconds, 30)}s",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"Fewer than the row's {gpus} GPUs report their power.",
                "description": "Treat missing readings as the deepest level of caps.",
            },
        },
        *_not_taken(plan, share, row),
    ]
    document = {"groups": [{"name": f"{row}-power", "interval": f"{seconds}s", "rules": rules}]}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=160)
    ahead = (
        "\n# The plan's caps also count what waits in the engines' queues, which these metrics lack: alerts come later."
        if d.foresight_s
        else ""
    )
    roles = ", and role (decode, prefill)" if any(each.role for level in d.levels for each in level.clocks) else ""
    roles += ", kind (of server)" if any(part.kind is not None for part in parts(plan)) else ""
    beside = "\n# Training is added at its full watts: its GPUs carry no such labels." if training else ""
    nodes = ", node (the name of the lowest node of the supply above them)" if inner else ""
    note = (
        f"# {said(plan)}\n# GPUs of the row carry the labels row={row!r} and priority{roles}{nodes}"
        " (relabel the scrape of DCGM);\n# what the servers draw beside their GPUs is added as in the plan."
        f"{ahead}{beside}\n"
    )
    return {"rules.yaml": note + text}


def _inner(node: SupplyNode) -> list[SupplyNode]:
    """The nodes below."""
    return [each for child in node.children for each in (child, *_inner(child))]


def _node_share(node: SupplyNode, row: str, other_watts: float) -> dict[str, Any]:
    """Of a node below the row, whose GPUs carry the name of their lowest node; ``other_watts``: for each GPU."""
    below = "|".join(re.escape(each.name) for each in leaves(node))
    of = f'{POWER_METRIC}{{row="{row}",node=~{json.dumps(below, ensure_ascii=False)}}}'
    return {
        "record": f"{row}:node_power_share",
        "expr": f"(sum({of}) + count({of}) * {other_watts:g}) / {node.budget_watts:g}",
        "labels": {"node": node.name},
    }


def _asked_above(level: CapLevel) -> float:
    """The reading that calls for it, at once or once the level before is in effect."""
    found = level.step_above if level.above is None else level.above
    assert found is not None
    return found


def _level_alert(level: CapLevel, share: str, delay_s: float) -> dict[str, Any]:
    clocks = ", ".join(
        f"{_untemplated(class_name(each))} " + ("uncapped" if each.clock_mhz is None else f"{each.clock_mhz} MHz")
        for each in level.clocks
    )
    return {
        "alert": f"RowPowerLevel{level.level}",
        "expr": f"{share} > {_asked_above(level):.6g}",
        # A level that waits for the one before to act.
        **({"for": f"{max(round(delay_s), 1)}s"} if level.above is None else {}),
        "keep_firing_for": "10s",
        "labels": {"severity": "warning", "level": str(level.level)},
        "annotations": {
            "summary": f"Cap to level {level.level}: {clocks}.",
            "description": "Always set, whatever the row draws."
            if is_always(level)
            else f"Below {level.below:.1%} go back to level {level.back_to}.",
        },
    }


def _not_taken(plan: PowerPlan, share: str, row: str) -> Iterator[dict[str, Any]]:
    """An alert a priority, and a kind of server: its GPUs are faster than the deepest level that has long been called
    for."""
    if not plan.decision.levels:
        return
    last = plan.decision.levels[-1]
    for each, part in itertools.product(last.clocks, parts(plan)):
        if (own := part.set_to(each)) is None:
            continue
        labels = {"row": row, "priority": each.priority, "role": each.role, "kind": part.kind}
        of = ",".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in labels.items() if v is not None)
        told = _untemplated(class_name(each) + part.of)
        yield {
            "alert": "RowCapNotTaken",
            "expr": f"max({CLOCK_METRIC}{{{of}}}) > {own[0] + part.can.step_mhz} and on() {share} > "
            f"{_asked_above(last):.6g}",
            "for": f"{max(int(3 * plan.decision.delay_s), 15)}s",
            "labels": {
                "severity": "critical",
                "priority": class_name(each),
                **({} if part.kind is None else {"kind": part.kind}),
            },
            "annotations": {"summary": f"GPUs of {told} run above the clock of the deepest level."},
        }


def _metric(name: str) -> str:
    """A name that a metric may have."""
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return plain if re.match(r"[a-zA-Z_]", plain) else f"row_{plain}"
