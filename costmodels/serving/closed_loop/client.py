"""What a client with a fixed number of requests in flight sees of many configurations: calibrated, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodels.estimates import Estimates, Floats, Ints
from costmodels.operations.layouts import Layouts
from costmodels.serving.closed_loop.loop_grid import grid_questions
from costmodels.serving.closed_loop.protocol import Gate, closed_loop
from costmodels.serving.frameworks.calibration import Spread
from costmodels.serving.served_model import ServedModel
from costmodels.serving.speculative_decoding import SpeculativeDecoding
from costmodels.serving.step import interval


@dataclass(frozen=True)
class Load:
    """What the client does, and how the engine was started; shape [n] each.

    Attributes:
        concurrency: requests in flight, of the whole engine.
        isl, osl: longest lengths, tokens.
        token_budget: most tokens of one step of an attention rank.
        most_running: sequences that the whole engine holds at once; the rest wait.
        shortest: lengths are uniform between this share of the longest and all of it.
        cached_share: of each prompt, that the prefix cache holds.
        gate: when the engine lets waiting prompts in.
        drafted: tokens drafted per step (speculative decoding), of which as many are accepted as in the runs that the
            framework's calibration was fitted to; 0: none.
    """

    concurrency: Ints
    isl: Ints
    osl: Ints
    token_budget: Ints
    most_running: Ints
    shortest: Floats
    cached_share: Floats
    gate: Gate
    drafted: Ints

    @classmethod
    def of(
        cls,
        concurrency: Ints,
        isl: Ints,
        osl: Ints,
        token_budget: Ints,
        most_running: Ints,
        shortest: Floats | float = 1.0,
        cached_share: Floats | float = 0.0,
    ) -> Load:
        """An engine that is started plainly; all lengths alike where no ``shortest`` is given."""
        n = len(concurrency)
        return cls(
            concurrency,
            isl,
            osl,
            token_budget,
            most_running,
            np.broadcast_to(np.asarray(shortest, np.float64), n),
            np.broadcast_to(np.asarray(cached_share, np.float64), n),
            Gate.none(n),
            np.zeros(n, np.int64),
        )


@dataclass(frozen=True)
class Latency:
    """One latency of ``n`` configurations, µs: the mean with its 80 % interval, and percentiles of requests."""

    mean: Estimates
    p50: Floats
    p99: Floats


@dataclass(frozen=True)
class Answers:
    """What clients see of ``n`` configurations; throughput of the whole engine, shape [n]."""

    ttft: Latency
    tpot: Latency
    e2e: Latency
    output_tokens_per_s: Floats


def closed_loop_answers(
    served: ServedModel, layouts: Layouts, load: Load, routing: str, drafting: SpeculativeDecoding | None = None
) -> Answers:
    """Plays the closed loop on every configuration (:mod:`costmodels.serving.closed_loop.protocol`).

    Args:
        drafting: how all of them draft, with the acceptance that is known of the load (None: as ``load`` says).
    """
    framework, calibration = served.framework, served.framework.calibration
    running = np.minimum(load.concurrency, load.most_running)
    drafted = 0 if drafting is None else drafting.draft_tokens * np.ceil(running / (layouts.dp * layouts.pp))
    questions = grid_questions(
        layouts,
        running,
        load.token_budget - drafted,
        load.isl,
        load.osl,
        load.shortest,
        load.cached_share,
        mixed=framework.scheduler.mixed,
    )
    if drafting is None:
        longer, tokens_per_step = 1.0, calibration.tokens_per_step(load.drafted)
        times = served.step(questions.layouts, questions.batch, routing)
    else:
        longer = 1 + drafting.share_of_step(served.model.layers)
        tokens_per_step = np.full(len(layouts), drafting.tokens_per_step)
        verified = questions.batch.verifying(drafting.queries)
        times = served.step(questions.layouts, verified, routing)
    loop = closed_loop(
        questions.grid(longer * times.latency.value, longer * times.stage.value, tokens_per_step),
        load.concurrency,
        load.most_running,
        layouts.dp,
        load.osl,
        load.shortest,
        load.gate.after(tokens_per_step),
    )
    prompt = load.isl * (1 + load.shortest) / 2
    tpot_mean = np.nanmean(loop.tpot, axis=1)
    front = calibration.front_us(prompt, load.concurrency.astype(np.float64), tpot_mean)
    levels = len(times.latency.how) // len(layouts)
    how = times.latency.how.reshape(levels, -1).max(axis=0)
    inside = np.asarray(times.latency.inside.reshape(levels, -1).all(axis=0), dtype=np.bool_)

    def latency(values: Floats, spread: Spread) -> Latency:
        mean = np.nanmean(values, axis=1)
        low, high = interval(mean, spread)
        # Where kernels are less sure than held-out runs were, so is the request.
        down, up = (
            (getattr(times.latency, side) / times.latency.value).reshape(levels, -1) for side in ("low", "high")
        )
        low = np.where(inside, low, np.minimum(low, mean * down.min(axis=0)))
        high = np.where(inside, high, np.maximum(high, mean * up.max(axis=0)))
        p50, p99 = np.nanquantile(values, [0.5, 0.99], axis=1)
        return Latency(Estimates(mean, low, high, how.astype(np.int8), inside), p50, p99)

    # Requests that wait in front of the engine are slower by that in every loop: throughput falls with the longer loop.
    ttft = loop.ttft + front[:, None]
    e2e = loop.e2e + front[:, None]
    slower = np.nanmean(loop.e2e, axis=1) / np.nanmean(e2e, axis=1)
    return Answers(
        latency(ttft, calibration.ttft),
        latency(loop.tpot, calibration.tpot),
        latency(e2e, calibration.e2e),
        loop.output_tokens_per_s * slower,
    )
