"""An engine as the compiled loop takes it."""

from __future__ import annotations

import numpy as np

from costmodels.serving.simulator.compiled.state import Array, Curve, Spec
from costmodels.serving.simulator.engine import Engine
from costmodels.serving.simulator.step_table import StepCurve

_ROUNDING = 1e-6
"""Tokens: sums of fractional gains (speculation) are compared with the cache no more finely than this."""


def spec_of(engine: Engine, *, jump: bool) -> Spec:
    """``jump``: whether steps that are alike are taken at once."""
    table, policy, overheads = engine.table, engine.policy, engine.overheads
    return Spec(
        ranks=table.ranks,
        stages=table.stages,
        queries=table.latency.queries,
        budget=int(engine.token_budget),
        most=int(engine.max_sequences),
        waste=policy.block_tokens - 1,
        graph_most=policy.graph_most,
        polling=policy.polling,
        grant=float(engine.kv_tokens + _ROUNDING),
        kv_tokens=float(engine.kv_tokens),
        cached_share=float(engine.cached_share),
        reserve_share=float(policy.reserve_share),
        gain=float(engine.tokens_per_step),
        drafted=float(1 + engine.draft_share),
        sequence_us=float(overheads.sequence_us),
        factor=float(overheads.step_factor),
        request_us=float(overheads.request_us),
        serial_us=float(overheads.serial_us),
        prefill_first=policy.prefill_first,
        mixed=policy.mixed,
        chunked=policy.chunked,
        shortest_queue=policy.dispatch == "shortest_queue",
        with_cache=engine.role == "decode",
        first_token_here=engine.first_token_here,
        jump=jump,
        graph_sizes=np.array(policy.graph_sizes, np.int64),
    )


def curve_of(curve: StepCurve) -> Curve:
    return Curve(
        _array(curve.tokens),
        _array(curve.linear),
        _array(curve.alone_knots),
        _array(curve.alone),
        _array(curve.decodes),
        _array(curve.mixed),
        _array(curve.contexts),
        _array(curve.decode),
        _array(curve.chunks),
        _array(curve.prefixes),
        _array(curve.chunk),
        _array(curve.expert) if curve.expert is not None else np.zeros((2, 0)),
        float(curve.beside),
    )


def _array(values: object) -> Array:
    return np.array(values, np.float64)
