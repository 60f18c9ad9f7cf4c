"""How many token-expert pairs each expert of the busiest GPU gets: the routing of a MoE row, made concrete.

Deterministic: the same point is always the same work. With T tokens, E experts, top_k choices and moe_ep GPUs
that hold E / moe_ep experts each, there are T·top_k pairs.

``balanced``: the busiest GPU has ⌈T·top_k / moe_ep⌉ pairs, spread over its experts as evenly as whole numbers go.

``power_law_<alpha>``: experts' popularities follow the density p(x) ∝ x^-alpha on [1, 0.8·T] (on [0.01, 2] while
T·top_k ≤ E), normalised to T·top_k pairs. This is the distribution of the shipped rows (aiconfigurator-core's
collector, as published at github.com/ai-dynamo/aiconfigurator, collector/vllm/collect_moe.py), which draws it at
random ten times and reports the mean. We take its E mid-quantiles instead of a draw, deal them to the GPUs in
:data:`SHUFFLES` seeded orders, take of each the busiest GPU, and of these the one with the median load. One
difference: no expert gets more than T pairs, since a token chooses an expert once; what exceeds T goes to the
others in proportion.
"""

from __future__ import annotations

import math
import random

SHUFFLES = 9


def busiest_loads(tokens: int, top_k: int, experts: int, moe_ep: int, routing: str) -> list[int]:
    """Pairs of each expert on the GPU with most of them; E / moe_ep numbers.

    Raises:
        ValueError: ``experts`` cannot be shared out evenly, or ``routing`` has not the form it must have.
    """
    if experts % moe_ep:
        raise ValueError(f"{experts} experts cannot be shared out evenly over moe_ep={moe_ep} GPUs")
    local, pairs = experts // moe_ep, tokens * top_k
    if routing == "balanced":
        mine = min(-(-pairs // moe_ep), local * tokens)
        return [mine // local + (index < mine % local) for index in range(local)]
    name, _, alpha = routing.rpartition("_")
    if name != "power_law":
        raise ValueError(f"routing {routing!r} is neither balanced nor power_law_<alpha>")
    loads = _whole(_capped(_quantiles(experts, float(alpha), tokens, top_k), pairs, tokens), pairs, tokens)
    return _busiest(loads, moe_ep)


def _quantiles(experts: int, alpha: float, tokens: int, top_k: int) -> list[float]:
    """Mid-quantiles of p(x) ∝ x^-alpha between its limits, by inverting its distribution function."""
    # With one token the upper limit 0.8·T is below the lower one; T·top_k > E then needs top_k > E: it cannot be.
    low, high = (1.0, 0.8 * tokens) if tokens * top_k > experts and tokens > 1 else (0.01, 2.0)
    ranks = [(index + 0.5) / experts for index in range(experts)]
    if abs(alpha - 1) < 1e-9:
        return [low * (high / low) ** rank for rank in ranks]
    power = 1 - alpha
    return [(low**power + rank * (high**power - low**power)) ** (1 / power) for rank in ranks]


def _capped(weights: list[float], pairs: int, most: int) -> list[float]:
    """``weights`` scaled to sum ``pairs`` with none above ``most``; the excess goes to the others in proportion."""
    capped: set[int] = set()
    while True:
        rest = sum(weight for index, weight in enumerate(weights) if index not in capped)
        scale = (pairs - most * len(capped)) / rest if rest else 0.0
        over = {i for i, weight in enumerate(weights) if i not in capped and weight * scale > most}
        if not over:
            return [most if index in capped else weight * scale for index, weight in enumerate(weights)]
        capped |= over


def _whole(loads: list[float], pairs: int, most: int) -> list[int]:
    """Rounded to whole numbers of the same sum: largest remainders are rounded up."""
    whole = [min(math.floor(load), most) for load in loads]
    order = sorted(range(len(loads)), key=lambda index: (whole[index] - loads[index], index))
    missing = pairs - sum(whole)
    while missing > 0:
        for index in order:
            if missing and whole[index] < most:
                whole[index] += 1
                missing -= 1
    return whole


def _busiest(loads: list[int], moe_ep: int) -> list[int]:
    local = len(loads) // moe_ep
    found = []
    for seed in range(SHUFFLES):
        dealt = loads.copy()
        random.Random(seed).shuffle(dealt)
        found.append(max((dealt[start : start + local] for start in range(0, len(dealt), local)), key=sum))
    return sorted(found, key=sum)[SHUFFLES // 2]
