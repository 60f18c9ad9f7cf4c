"""An event simulator of one serving engine: continuous batching, iteration by iteration.

Every step is scheduled as the framework's scheduler would (a :class:`Policy`), takes the time that
:class:`StepTable` says, and ends with its tokens, first tokens and finished sequences. Between two arrivals, ends,
chunks and overflows of the cache a batch of decodes does not change and its context grows evenly, so that the sum of
its steps has a closed form on the piecewise-linear tables: the simulator jumps. With pipeline stages,
micro-batches are in flight one behind the other, and when each enters and leaves depends on the one before it: then
these two times alone are stepped, and all else waits until something changes.

Attention ranks work in lock step: the slowest sets the time, the experts see everyone's tokens, and a rank without
work runs a dummy step of one token (vLLM and SGLang do so).

The loop itself is compiled (:mod:`costmodels.serving.simulator.compiled`): at first use on a machine, for some seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from costmodels.serving.frameworks.policies import Policy
from costmodels.serving.simulator.arrivals import Requests, open_loop
from costmodels.serving.simulator.compiled import native, state
from costmodels.serving.simulator.compiled.spec import curve_of, spec_of
from costmodels.serving.simulator.engine import Engine, Overheads, refusals
from costmodels.serving.simulator.outcome import Metric, Outcome
from costmodels.serving.simulator.step_table import Grid, StepCurve, StepTable

__all__ = ["Engine", "GivenUp", "Limit", "Missed", "Overheads", "load_loop", "simulate"]

_METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")


class Limit(NamedTuple):
    """``metric`` at ``percentile`` (0–1) is at most ``limit_us``, by so many standard ``errors`` of what was seen."""

    metric: Metric
    percentile: float
    limit_us: float
    errors: float = 0.0


class Missed(NamedTuple):
    """When a run is of no use any more: some of the ``limits`` cannot hold, whatever comes, for the requests of an open
    loop after the first ``warm_up`` (share)."""

    limits: Sequence[Limit]
    warm_up: float


class GivenUp(Exception):
    """A limit of :class:`Missed` cannot hold any more."""


def load_loop() -> None:
    """Loads the compiled loop, by an engine of one request: what it takes to compile (at first use on a machine, some
    ten seconds) is no part of the time limit of a search."""
    none, line = np.zeros((2, 2)), np.ones(2)
    curve = StepCurve(Grid((1, 2), (1, 2), (1, 2), (1, 2), (1, 2), 1), line, line, none, none, None, np.zeros(2))
    policy = Policy(
        prefill_first=False,
        mixed=True,
        chunked=True,
        reserve_share=1.0,
        block_tokens=1,
        graph_step=1,
        graph_most=1,
        dispatch="round_robin",
    )
    engine = Engine(StepTable(1, 1, curve, curve), policy, kv_tokens=8, token_budget=2, max_sequences=2)
    simulate(engine, open_loop(np.ones(1, np.int64), np.full(1, 2), 1.0))


def simulate(
    engine: Engine,
    requests: Requests,
    *,
    jump: bool = True,
    sample_us: float = 1e6,
    give_up: Missed | None = None,
) -> Outcome:
    """Serves ``requests`` to the last token.

    Args:
        jump: False: every step by itself, for comparison.
        sample_us: simulated time between the samples of the timeline.
        give_up: looked at with every sample.

    Raises:
        GivenUp: there is no use in going on.
    """
    n = len(requests)
    osl = np.ones(n, np.int64) if engine.role == "prefill" else _whole(requests.osl)
    refused = refusals(engine, requests)
    limits = [] if give_up is None else give_up.limits
    asked = state.Sent(
        _whole(requests.isl),
        osl,
        np.array(requests.arrival_us, np.float64),
        np.array(refused, np.int64),
        requests.concurrency is not None,
        float(sample_us),
        np.array([_METRICS.index(limit.metric) for limit in limits], np.int64),
        np.array([limit.percentile for limit in limits], np.float64),
        np.array([limit.limit_us for limit in limits], np.float64),
        0 if give_up is None else int(n * give_up.warm_up),
    )
    spec = spec_of(engine, jump=jump)
    seen = state.Seen(np.zeros(n), np.full(n, np.nan), np.full(n, np.nan), np.full(n, -1, np.int64), _whole([0] * n))
    through, slowest = curve_of(engine.table.latency), curve_of(engine.table.stage)
    how, end, busy_us, steps, timeline = native.run(spec, through, slowest, asked, seen, state.fresh(spec, asked))
    if how == state.GIVEN_UP:
        raise GivenUp
    if how == state.STUCK:
        raise RuntimeError("the simulation is stuck: requests wait and nothing can run")
    return Outcome(
        isl=requests.isl,
        osl=np.ones_like(requests.osl) if engine.role == "prefill" else requests.osl,
        arrival_us=seen.sent_us,
        first_us=seen.first_us,
        finish_us=seen.finish_us,
        preemptions=seen.preemptions,
        rank=seen.rank,
        refused=refused,
        end_us=end,
        busy_us=busy_us,
        steps=steps,
        timeline=timeline,
    )


def _whole(values: object) -> NDArray[np.int64]:
    return np.array(values, np.int64)
