"""What the workload's facts do: the same engines beside themselves without prefix hits, or without drafting."""

from __future__ import annotations

from costmodels.serving.simulator.outcome import Metric
from planner.serving.document.prediction import Effect
from planner.serving.engines.groups import Pair
from planner.serving.engines.protocol import LoadedEngine


def effects_of(pair: Pair) -> tuple[Effect, ...]:
    """One effect for each fact: the engines of ``pair`` without it, with as many sequences decoding (and in a prefill
    engine, as many prompts a second)."""
    work = pair.prefill.job.workload
    effects = []
    if work.cached_tokens:
        ttft, tpot = _means(pair, {"prefix_hit": 0.0})
        left = work.mean_isl - work.cached_tokens
        effects.append(
            Effect(
                fact="prefix_hit",
                summary=f"{work.cached_tokens:,} of {work.mean_isl:,} prompt tokens are found in the cache; the other "
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
    workload = pair.prefill.job.workload.model_copy(update=without)
    first, transfer = pair.prefill.engine.serving(workload), pair.transfer
    if transfer is None:
        return _ms(first, "ttft"), _ms(first, "tpot")
    second = transfer.decode.serving(workload)
    tpot = _ms(second, "tpot")
    if first is None:
        return None, tpot
    done, done_now = first.own_us("ttft", None), transfer.prefill.own_us("ttft", None)
    assert done is not None
    assert done_now is not None
    # All but the prefill is as it was, save the decode steps before the first token.
    others = float(pair.served.ttft_us.value[0]) - done_now
    slower_us = second.loaded.cycle_us.value - transfer.decode.loaded.cycle_us.value
    others += float(slower_us[0]) * transfer.decode.cycles_before_first_token
    return (done + others) / 1e3, tpot


def _ms(engine: LoadedEngine | None, metric: Metric) -> float | None:
    """The engine's own mean."""
    us = None if engine is None else engine.own_us(metric, None)
    return None if us is None else us / 1e3
