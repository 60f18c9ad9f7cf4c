"""Rows of ``silicon_sample.csv`` of aiconfigurator-core: what it says in a column of words, and which engines it
means.

What its columns mean was checked against repeats of one measurement under two descriptions, and against the runs that
it quotes (``tests/benchmarks/silicon``): ``moe_tp = moe_ep = k`` beside ``tp × dp = k²`` is k GPUs with all experts
whole, and where the experts' group is larger than tp and dp is blank, the rest of it is attention data parallelism.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from costmodels.serving.frameworks.framework import find_framework
from planner.contract.words import folded
from planner.serving.campaigns import campaigns, narrow_cache
from profiles.values import number

DESCRIBED = "silicon_data_source"
"""Its column of words: ``…; silicon_concurrency=64; measured=2026-04-17; …``."""

_CACHE = "fp8"
"""Beside weights of 8 and 4 bits in NVIDIA's own runs."""

_OF_ITS_AUTHORS = "/Users/"
"""In it where NVIDIA measured; all others are quoted from InferenceX."""

_DYNAMO = "NVIDIA Dynamo"
"""Who measured its authors' rows of round lengths: through a router, and often of several engines (batch × dp users of
each are listed), so that constants hardly follow them."""

_SCATTERED = 4
"""Tokens by which answers end apart in NVIDIA's own runs of one length under vLLM and TensorRT-LLM, whose steps take
one prompt; its other engines have :data:`_BUDGET` tokens a step. Inferred from these runs, as the fit reads them."""

_BUDGET = 8192


def users_sampled(record: Mapping[str, str]) -> float | None:
    """Users at once of all engines behind a row, where it says them."""
    told = re.search(r"silicon_concurrency=(\d+)", record.get(DESCRIBED, ""))
    return float(told[1]) if told else None


def as_sampled(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` with what a row of the samples says and means; of other tables as it is. Adds to ``notes``."""
    out = dict(record)
    said = out.get(DESCRIBED, "")
    if not said:
        return out
    if not out.get("date") and (day := re.search(r"measured=(\d{4}-\d\d-\d\d)", said)):
        out["date"] = day[1]
    if not (out.get("campaign") or out.get("source")):
        _campaign(out, said, notes)
    _engine(out, notes)
    return out


def _campaign(out: dict[str, str], said: str, notes: list[str]) -> None:
    drawn = campaigns()["inferencex"].spread
    if _OF_ITS_AUTHORS not in said:
        out["campaign"] = "InferenceX"
    else:
        isl, osl, users, dp = (number(out.get(name, "")) for name in ("isl", "osl", "batch_size", "dp"))
        budget = _BUDGET
        if isl and not isl % 1000:  # whose lengths are drawn alike
            out["campaign"] = _DYNAMO
        elif isl and osl:
            alike = folded(out.get("framework", "")).startswith("sgl")
            drawn = "" if alike else f"{max(1 - _SCATTERED / osl, 0.5):.4f}-1"
            at_once = users_sampled(out) or (users or 1) * (dp or 1)
            budget = _BUDGET if alike else int(isl + at_once)
        own = {"max_num_batched_tokens": str(budget)} | narrow_cache(out.get("precision", ""), _CACHE)
        words = find_framework(framework).words if (framework := out.get("framework")) else {}
        given = {words.get(name, name) for name, text in out.items() if text}
        if own := {name: text for name, text in own.items() if name not in given}:
            out |= own
            notes.append(f"{DESCRIBED}: started as NVIDIA's runs seem to be: {', '.join(map('='.join, own.items()))}")
    if drawn and not out.get("spread"):
        out["spread"] = drawn
        whose = f"a run of {out.get('campaign') or 'NVIDIA'}"
        notes.append(
            f"{DESCRIBED}: {whose}, lengths are taken to be drawn from {drawn.partition('-')[0]} of isl and osl on"
        )


def _engine(out: dict[str, str], notes: list[str]) -> None:
    tp, dp, ep, moe_tp = (int(number(out.get(name, "")) or 1) for name in ("tp", "dp", "ep", "moe_tp"))
    experts = ep * moe_tp
    squared = ep == moe_tp > 1 and tp * dp == experts
    doubled = tp == dp > 1 and moe_tp == 1 and ep == tp * dp
    if squared or doubled:
        k = math.isqrt(experts)
        split, replicas = (k, 1) if squared and dp == 1 else (1, k)
        out |= {"tp": str(split), "dp": str(replicas), "ep": str(k), "moe_tp": "1"}
        notes.append(f"tp {tp}, dp {dp}, moe_tp {moe_tp}, moe_ep {ep} of the samples are {k} GPUs with whole experts")
    elif not number(out.get("dp", "")) and experts > tp and experts % tp == 0:
        out["dp"] = str(experts // tp)
        notes.append(f"dp is blank: {out['dp']}, so that attention has as many GPUs as experts have")
