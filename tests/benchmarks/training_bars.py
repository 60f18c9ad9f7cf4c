"""Figures of training layouts, each beside its first bar and its goal, as ``make bench-training`` prints them."""

from __future__ import annotations

from typing import Any

SEARCHES_OF_THE_BAR = ("175B on 1,024 A100", "1T on 3,072 A100", "1T on 16,384 H100", "DeepSeek-V3 on 2,048 H100")


def bars(evidence: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each figure: what it is, its value, first bar and goal (a pair: between them), and which of them it meets."""
    iteration, memory, speed = evidence["iteration"], evidence["memory"], evidence["speed"]
    shipped = {name: cards["as shipped"] for name, cards in iteration.items()}
    left_out = {name: cards["source left out"] for name, cards in iteration.items()}
    rows: list[tuple[str, float, Any, Any]] = [
        ("dense 16-bit, MAPE %", shipped["dense, 16-bit"]["mape_pct"], 6, 4),
        ("dense 16-bit, source left out, MAPE %", left_out["dense, 16-bit"]["mape_pct"], 10, 6),
        ("dense 8-bit and fewer, MAPE %", shipped["dense, 8-bit"]["mape_pct"], 12, 8),
        ("dense 8-bit and fewer, source left out, MAPE %", left_out["dense, 8-bit"]["mape_pct"], 12, 8),
        ("experts, MAPE %", shipped["experts"]["mape_pct"], 25, 15),
        ("experts, source left out, MAPE %", left_out["experts"]["mape_pct"], 25, 15),
        ("peak memory, torchtitan, MAPE %", memory["torchtitan"]["mape_pct"], 8, 4),
        ("peak memory, torchtitan, worst row under, %", -memory["torchtitan"]["worst_under_pct"], 5, 5),
        ("Galvatron's 150 rows, MAPE %", memory["Galvatron, all rows"]["mape_pct"], 5, 2),
        ("pairs put in the wrong order, %", 100 - evidence["ordering"]["right_pct"], 10, 3),
        ("regret, %", evidence["ordering"]["regret_pct"], 3, 1),
        ("80 % intervals, source left out, %", _coverage(left_out), (70, 90), (75, 85)),
        *((f"search, {name}, CPU s", speed[f"search, {name}, CPU s"], 5, 1) for name in SEARCHES_OF_THE_BAR),
        ("CPU ms for 1,000 named layouts", 1e6 / speed["named_layouts_per_cpu_s"], 1000, 333),
    ]
    out = [
        {"what": what, "value": round(value, 2), "bar": bar, "goal": goal, "meets": _meets(value, bar, goal)}
        for what, value, bar, goal in rows
    ]
    print("\nbars: value, first bar, goal")
    for row in out:
        print(f"  {row['what']:<52} {row['value']:>8} {row['bar']!s:>10} {row['goal']!s:>10}  {row['meets']}")
    return out


def _coverage(left_out: dict[str, Any]) -> float:
    """Of the rows of the three classes together."""
    cards = [left_out[name] for name in ("dense, 16-bit", "dense, 8-bit", "experts")]
    return float(sum(card["coverage_pct"] * card["rows"] for card in cards) / sum(card["rows"] for card in cards))


def _meets(value: float, bar: Any, goal: Any) -> str:
    def within(limit: Any) -> bool:
        return bool(limit[0] <= value <= limit[1] if isinstance(limit, tuple) else value <= limit)

    return "goal" if within(goal) else "first bar" if within(bar) else "missed"
