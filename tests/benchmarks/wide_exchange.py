"""The exchange of tokens and experts against published figures (``data/deepep_published.csv``), for
:mod:`tests.benchmarks.wide_ep`: by the shipped law, and each GPU by constants fitted to the others on the same fabric.

Beside it, how far figures of one GPU, its cards and a number of nodes differ that several published, or that one
published several times (``data/exchange_repeats.csv``): no law of what a user can say is nearer to them than the one
time that is nearest to all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from costmodels.kernels.cost_model import CostModel
from costmodels.operations.exchanges import HIGH_THROUGHPUT
from costmodels.operations.questions import ExpertExchange
from costmodels.step.expert_exchange import (
    COMBINE_BYTES,
    DISPATCH_BYTES,
    exchange_facts,
    handed_out_us,
    high_throughput_us,
    nodes_reached,
    within_node,
)
from profiles.hardware import find_gpu
from tests.benchmarks.cards import card

DATA = Path(__file__).parent / "data"
CARD_BYTES_PER_S = 50e9
"""Of a GPU's cards, in all of these figures."""

SUPERSEDED = ("V1 2025-02-24", "PR 173, before", "V1 2025-04-21 (PR 130)")


def of_exchange() -> dict[str, Any]:
    table = pd.read_csv(DATA / "deepep_published.csv")
    table["mode"] = table["mode"].astype(str)
    law = table[table["mode"].isin(("low latency", "high throughput", "one-sided")) & (table["ep"] > 8)]
    law = law[~law["version"].isin(SUPERSEDED)].reset_index(drop=True)
    law = pd.concat([law, table[(table["mode"] == "one-sided") & (table["ep"] == 8)]], ignore_index=True)
    rows = [(*_law_us(row), row) for row in law.to_dict("records")]
    out: dict[str, Any] = {}
    frame = pd.DataFrame(
        {
            "group": [f"{r['library']}, {r['gpu']}, {r['nic']}, {r['mode']}, {r['operation']}" for _, _, r in rows],
            "measured": [measured for measured, _, _ in rows],
            "law": [predicted for _, predicted, _ in rows],
        }
    )
    for group, part in frame.groupby("group"):
        out[str(group)] = card(part["measured"].to_numpy(float), part["law"].to_numpy(float))
    out["left out"] = _left_out(law)
    out["repeats"] = of_repeats()
    return out


def _law_us(row: dict[str, Any]) -> tuple[float, float]:
    """(measured, by the shipped law), µs; where a bandwidth was published, of the bytes that it counts."""
    facts, phase = exchange_facts(), str(row["operation"])
    nodes = max(int(row["nodes"]), 1)
    if row["mode"] == "one-sided":
        law = facts["nvlink_domain"][phase]
        sent = row["tokens_per_rank"] * row["top_k"] * row["hidden"] * 2 / 1e6
        rate = law["per_mb"] + law["per_mb_doubling"] * np.log2(row["ep"] / 8)
        return float(row["latency_us"]), float(law["start_us"] + sent * rate)
    if row["mode"] == "low latency":
        law = facts["low_latency"][_place(row)][phase]
        each = DISPATCH_BYTES if phase == "dispatch" else COMBINE_BYTES
        sent = row["tokens_per_rank"] * row["top_k"] * row["hidden"] * each * (1 - 1 / nodes) / 1e6
        return float(row["latency_us"]), float(
            law["start_us"] + sent * (law["per_mb"] + law["per_mb_doubling"] * np.log2(nodes))
        )
    return _counted_us(row), _by_constants(row, _law(row, 1.0))


# ------------------------------------------------------------------ high throughput


def _asked(row: dict[str, Any]) -> ExpertExchange:
    """As DeepEP's test routes (``test_internode.py``, which UCCL runs, too): a group of experts for each node, of which
    a token takes four at most."""
    nodes = int(row["nodes"])
    return ExpertExchange(
        np.array([HIGH_THROUGHPUT]), np.array([float(row["tokens_per_rank"])]), np.ones(1), int(row["hidden"]),
        int(row["top_k"]), 256, nodes, min(nodes, 4), np.array([row["ep"]]), np.zeros(1, np.int64), 1.0,
    )  # fmt: skip


def _counted_us(row: dict[str, Any]) -> float:
    """Of a bandwidth that counts each token once for each node that it needs, its own among them."""
    each = DISPATCH_BYTES if row["operation"] == "dispatch" else COMBINE_BYTES
    reached = float(nodes_reached(np.array([row["nodes"]]), _asked(row))[0])
    return float(row["tokens_per_rank"] * reached * row["hidden"] * each / float(row["bandwidth_gb_s"]) / 1e3)


def _by_constants(row: dict[str, Any], law: dict[str, Any]) -> float:
    asked, nodes, phase = _asked(row), np.array([int(row["nodes"])]), str(row["operation"])
    near = within_node(_cost(str(row["gpu"])), asked, phase, np.array([8])).value
    return float(high_throughput_us(law, CARD_BYTES_PER_S, phase, asked, nodes, handed_out_us(asked, nodes, near))[0])


@cache
def _cost(gpu: str) -> CostModel:
    return CostModel(find_gpu(gpu), "sglang")


def _fitted(rows: list[dict[str, Any]]) -> float:
    """The constant of their places that is nearest to ``rows``, ÷ the shipped one: what the host keeps up with where
    it posts messages, else the cards' share."""
    measured = np.array([_counted_us(row) for row in rows])
    times = np.arange(20, 181) / 100
    off = [np.abs(np.log([_by_constants(row, _law(row, t)) for row in rows] / measured)).mean() for t in times]
    return float(times[int(np.argmin(off))])


def _law(row: dict[str, Any], times: float) -> dict[str, Any]:
    """Of a row's place, the constant that is fitted taken ``times`` over."""
    law = exchange_facts()["high_throughput"][_place(row, high=True)]
    if "posted" in law:
        return dict(law) | {"posted": {phase: times * value for phase, value in law["posted"].items()}}
    return dict(law) | {"cards": times * law["cards"]}


def _left_out_high(high: pd.DataFrame) -> dict[str, Any]:
    """Figures of each GPU by a constant of the others' with cards of the same kind, and of each kind of cards by the
    other kind's on the same GPU (RoCE a tenth slower than InfiniBand, as shipped)."""
    cards = np.where(high["nic"].str.contains("EFA"), "EFA", high["nic"].str.extract(r"(CX7|Thor2)")[0].fillna(""))
    high = high.assign(cards=cards)
    out: dict[str, Any] = {}
    for left_out, same in (("gpu", "cards"), ("cards", "gpu")):
        for (kept, name, phase), own in high.groupby([same, left_out, "operation"]):
            rest = high[(high[same] == kept) & (high[left_out] != name) & (high["operation"] == phase)]
            if not len(rest):
                continue
            rows, times = own.to_dict("records"), _fitted(rest.to_dict("records"))
            measured = np.array([_counted_us(row) for row in rows])
            predicted = np.array([_by_constants(row, _law(row, times)) for row in rows])
            out[f"high throughput, {kept}, {name}, {phase}"] = card(measured, predicted) | {
                "nodes": {
                    int(row["nodes"]): round(float(100 * (p / m - 1)), 1)
                    for row, m, p in zip(rows, measured, predicted, strict=True)
                }
            }
    return out


def of_repeats() -> dict[str, Any]:
    """By GPU, cards, nodes and direction: the figures, and the mean error that no one time can be below, %."""
    table = pd.read_csv(DATA / "exchange_repeats.csv")
    out: dict[str, Any] = {}
    for (gpu, cards, nodes, phase), part in table.groupby(["gpu", "cards", "nodes", "operation"]):
        each = 1 / part["bandwidth_gb_s"].to_numpy(float)
        out[f"{gpu}, {cards}, {nodes} nodes, {phase}"] = {
            "gb_s": part["bandwidth_gb_s"].tolist(),
            "floor_mape_pct": round(100 * min(float(np.abs(time / each - 1).mean()) for time in each), 1),
        }
    return out


# ------------------------------------------------------------------ left out


def _place(row: dict[str, Any], high: bool = False) -> str:
    """Whose constants hold; AMD's nodes have their own in low latency alone."""
    if "MI300" in str(row["gpu"]) and not high:
        return "amd"
    return next(
        (place for cards, place in (("EFA", "efa"), ("Thor2", "roce")) if cards in str(row["nic"])), "infiniband"
    )


def _left_out(law: pd.DataFrame) -> dict[str, Any]:
    """Between nodes: of low latency, figures of each GPU by a line through those of the others on the same fabric."""
    out: dict[str, Any] = {}
    low = law[law["mode"] == "low latency"].assign(
        place=[_place(row) for row in law[law["mode"] == "low latency"].to_dict("records")]
    )
    for (place, phase), part in low.groupby(["place", "operation"]):
        for gpu in part["gpu"].unique():
            others, own = part[part["gpu"] != gpu], part[part["gpu"] == gpu]
            if not len(others):
                continue

            def features(rows: pd.DataFrame, doubling: bool = place == "efa") -> np.ndarray:
                sent = rows["tokens_per_rank"] * rows["top_k"] * rows["hidden"] * (1 - 1 / rows["nodes"])
                first = sent * np.log2(rows["nodes"]) if doubling else np.ones(len(rows))
                return np.column_stack([first, sent]).astype(float)

            weight = 1 / others["latency_us"].to_numpy(float)
            fitted, *_ = np.linalg.lstsq(features(others) * weight[:, None], np.ones(len(others)), rcond=None)
            out[f"{place}, {gpu}, {phase}"] = card(own["latency_us"].to_numpy(float), features(own) @ fitted)
    return out | _left_out_high(law[law["mode"] == "high throughput"])
