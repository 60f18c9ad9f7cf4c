"""Parts of documents in words, the same in every view."""

from __future__ import annotations

from typing import Protocol

from costmodels.serving.frameworks.framework import Framework
from planner.contract.clusters import Pool
from planner.contract.deployment import Assumed
from planner.contract.engine import EngineGroup
from planner.contract.expert_placement import ExpertPlacement
from planner.serving.document.plan import Plan


def pool_words(pool: Pool) -> str:
    """``16 × H200, 8 a node, ib-400g between nodes, $3.99 per GPU-hour``."""
    name = "" if pool.name.casefold() == pool.gpu.casefold() else f"{pool.name}: "
    fewest = " (the fewest that do)" if pool.as_needed else ""
    words = [f"{name}{pool.gpus} × {pool.gpu}{fewest}", f"{pool.gpus_per_node} a node"]
    if pool.nodes > 1:
        words.append(f"{pool.fabric} between nodes")
    words.append("no price known" if pool.usd_per_gpu_hour is None else f"${pool.usd_per_gpu_hour:.2f} per GPU-hour")
    return ", ".join(words)


def group_words(group: EngineGroup, pool: Pool) -> str:
    """``4 engines × TP4 on 16 of 16 H200, ≤ 8,192 tokens a step, ≤ 96 sequences``."""
    engines, limits = len(group.replicas), group.limits
    each = " in each attention replica" if group.layout.dp > 1 else ""
    role = "" if group.role == "aggregated" else f"{group.role} "
    where = pool.gpu if pool.name.casefold() == pool.gpu.casefold() else f"{pool.gpu} in pool {pool.name}"
    return (
        f"{engines} {role}engine{'s' if engines > 1 else ''} × {group.layout.label} on "
        f"{engines * group.gpus_per_engine} of {pool.gpus} {where}, "
        f"≤ {limits.max_tokens_per_step:,} tokens a step, ≤ {limits.max_sequences:,} sequences{each}"
        f"{state_words(group)}"
    )


_DEFAULTS = {
    "limits.max_sequences": ("sequences", "max_sequences"),
    "limits.max_tokens_per_step": ("tokens a step", "max_tokens_per_step"),
    "limits.max_model_len": ("longest", "max_model_len"),
    "limits.memory_fraction": ("memory", "memory_fraction"),
    "chunked_prefill": ("chunked prefill", ""),
    "weights_precision": ("weights", "quantize"),
    "kv_precision": ("KV", "kv"),
}
"""Fields that are left to defaults: in words, and the decision whose option a framework has for it."""


def default_words(assumed: Assumed, framework: Framework) -> str:
    """``sequences 1,024 (--max-num-seqs)``: what a framework takes by default, and what says otherwise."""
    words, decision = _DEFAULTS.get(assumed.field, (assumed.field, ""))
    value = assumed.value
    text = {"true": "on", "false": "off"}.get(str(value), f"{value:,}" if isinstance(value, int) else str(value))
    option = framework.command.flags.get(decision)
    return f"{words} {text}" + (f" ({option})" if option else "")


class _Stated(Protocol):
    @property
    def clock_mhz(self) -> int | None: ...
    @property
    def power_cap_watts(self) -> float | None: ...


def state_words(of: _Stated) -> str:
    """``, ≤ 1,500 MHz, ≤ 500 W a GPU``; nothing where the driver chooses."""
    clock = "" if of.clock_mhz is None else f", ≤ {of.clock_mhz:,} MHz"
    return clock + ("" if of.power_cap_watts is None else f", ≤ {of.power_cap_watts:g} W a GPU")


def experts_words(placed: ExpertPlacement) -> str:
    """``experts: balance 0.52 → 0.99 (no placement exceeds 1.00); …``, mean over the windows."""
    windows = placed.balancedness
    before, after, bound = (
        sum(getattr(window, part) for window in windows) / len(windows) for part in ("before", "after", "bound")
    )
    return (
        f"experts: balance {before:.2f} → {after:.2f} (no placement exceeds {bound:.2f}); "
        "`plan experts` writes it for the engine"
    )


def percentile_of(plan: Plan, metric: str) -> float:
    """The percentile at which alternatives give ``metric``: the SLO's, else 90."""
    asked = [bound.percentile for bound in plan.request.slo.bounds if bound.metric == metric.lower()]
    return asked[0] if asked else 90.0
