"""What the workload's facts do: the same engines beside themselves without prefix hits, or without drafting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from costmodels.serving.steady.disaggregated import (
    Decoding,
    Prefilling,
    decoding,
    prefill_steps,
    prefilling,
    work_us,
)
from planner.serving.document.prediction import Effect
from planner.serving.engines.groups import Group, Pair
from planner.serving.operating_points import Job, OperatingPoints, predict


def effects_of(pair: Pair) -> tuple[Effect, ...]:
    """One effect for each fact: the engines of ``pair`` without it, with as many sequences decoding (and in a prefill
    engine, as many prompts a second)."""
    work = pair.prefill.job.workload
    effects = []
    if work.cached_tokens:
        ttft, tpot = _means(pair, {"prefix_hit": 0.0})
        left = work.isl - work.cached_tokens
        effects.append(
            Effect(
                fact="prefix_hit",
                summary=f"{work.cached_tokens:,} of {work.isl:,} prompt tokens are found in the cache; the other "
                f"{left:,} are computed and attend to all of them, which stay in the cache"
                + ("" if ttft is not None else "; without the hits these engines could not keep up with prefill"),
                ttft_ms_without=ttft,
                tpot_ms_without=tpot,
            )
        )
    drafting = pair.prefill.job.shape.drafting
    if drafting is not None:
        ttft, tpot = _means(pair, {"speculation": None})
        effects.append(
            Effect(
                fact="speculation",
                summary=f"{drafting.draft_tokens} drafted tokens, each accepted with probability "
                f"{drafting.acceptance:g}: {drafting.tokens_per_step:.2f} tokens a step on average",
                ttft_ms_without=ttft,
                tpot_ms_without=tpot,
            )
        )
    return tuple(effects)


def _means(pair: Pair, without: dict[str, float | None]) -> tuple[float | None, float | None]:
    """(mean TTFT, mean TPOT) in ms with the workload changed; None where the engines cannot keep up."""
    first, second = pair.prefill, pair.decode
    job = replace(first.job, workload=first.job.workload.model_copy(update=without))
    if isinstance(first.loaded, OperatingPoints):
        p = first.loaded
        steady = predict(job, p.layouts, p.budget, p.concurrency, p.most).steady
        if not bool(steady.stable[0]):
            return None, None
        return float(steady.ttft_us.value[0]) / 1e3, float(steady.tpot_us.value[0]) / 1e3
    assert isinstance(second.loaded, Decoding)
    decode = _decoding(job, second)
    done = _prefilled_us(job, first)
    tpot = float(decode.tpot_us.value[0]) / 1e3
    if done is None:
        return None, tpot
    assert isinstance(first.loaded, Prefilling)
    # All but the prefill is as it was, save the decode steps before the first token.
    others = float(pair.served.ttft_us.value[0] - first.loaded.done_us.value[0])
    assert first.roles is not None
    before = first.roles.decode_cycles(second.layouts) - second.loaded.tokens * second.loaded.steps_per_token
    others += float((decode.cycle_us.value - second.loaded.cycle_us.value)[0] * before[0])
    return (done + others) / 1e3, tpot


def _decoding(job: Job, group: Group) -> Decoding:
    assert isinstance(group.loaded, Decoding)
    assert group.roles is not None
    there = replace(group.job, workload=job.workload)
    return decoding(there.served, there.shape, group.layouts, group.loaded.concurrency, group.roles.kv_connector)


def _prefilled_us(job: Job, group: Group) -> float | None:
    room = np.array([group.max_sequences * int(group.layouts.pp[0])])
    steps = prefill_steps(job.served, job.shape, group.layouts, np.array([group.budget]), room)
    utilisation = group.rate_per_us * work_us(steps)
    if utilisation[0] >= 1:
        return None
    return float(prefilling(steps, utilisation).done_us.value[0])
