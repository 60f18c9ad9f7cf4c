"""How prompts and decodes share the steps of an engine, in closed form over thousands of operating points.

Requests arrive at random (Poisson) at the rate λ of the whole engine at which they leave. A step without a chunk takes
d, a *mixed* step longer (chunked prefill: Sarathi-Serve, arXiv:2403.02310, §4); while prompts wait every step is mixed,
so that prompts are a class of priority that interrupts the decodes. With f the share of mixed steps, Δ what a chunk
adds to a step, and N the steps of a request after its first token:

    t = d + f·Δ                                        mean step
    T = N·t + burst + crowd                            time a request decodes; λ·T = sequences that decode (Little)

*In turn* (one rank whose step has room for one prompt): the chunks of prompts queue as in M/D/1 with service w, the
steps of one prompt. A prompt that ends its prefill leaves behind L = ρ + ρ²/(2(1−ρ)) others (Pollaczek–Khinchine,
Little), more than a random step finds: their chunks, and those that arrive meanwhile, are the burst. The time of N·d µs
of decodes behind Poisson interruptions of D µs is a delay busy period: mean N·d/(1−λD), variance λD²·N·d/(1−λD)³
(Conway, Maxwell & Miller, Theory of Scheduling, 1967, §8).

*Gated* (several prompts share a step, on one rank or on several in lock step): what arrives during one step is in the
next, t' = d + own·[any arrived] + shared·(how many). A Markov chain of decode and mixed steps with

    f/(1−f) = (1 − e^(−λd))·(q^(−s) − 1)/(1 − q)       q = e^(−λm): nothing arrives during a mixed step of m µs

as a run of mixed steps ends when none of s steps in a row, the steps of a prompt, sees an arrival. Deviations of a step
fade by r = P(mixed | mixed) − P(mixed | decode) a step (λ·shared for what grows with the number that arrive), so that
the burst is (m − t)·r/(1−r), and the variance of N steps that of one times N·(1+r)/(1−r). A step's variance also sets
how long an arrival waits for it to end: E[t²]/2t (renewal theory).

Pipeline stages: micro-batches stay in order, so a chunk of Δ µs a stage that is alone in the pipeline holds all of them
up for stages·Δ, but one right behind another for Δ only: Δ·(1 + (stages − 1)·h/s), h the share of the stages that no
other chunk is ahead of. Nobody enters while all slots are held up behind it.

*Crowd*: the number that decodes fluctuates like Poisson's, and each sequence more makes steps longer, which keeps more
sequences: with e = dlog d/dlog b its variance is b/(1−e) (processor sharing with state-dependent rate is insensitive to
the law of the service: π(n) ∝ Π λN·d(i)/i; Kelly, Reversibility and Stochastic Networks, 1979, §3.3). A request sees
the steps of its own time, b + 1/(1−e) sequences on average. Its mean over a lifetime varies by 2/3 of that without
feedback (M/D/∞), by all of it with the slowest: 2/(3−e). What chunks add to a lifetime is kept up in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import gammaincinv

from costmodels.arrays import concatenate_rows, take_rows
from costmodels.estimates import Floats, Ints

_FULL = 0.99
"""Utilisation at which queues are cut off: beyond it an operating point is not stable."""

_ROUNDS = 20
"""Iterations of the rate at most, ..."""

_CLOSE = 1e-7
"""... and the relative error at which they end."""


@dataclass(frozen=True)
class EngineLoad:
    """Operating points, [n] each; times in µs.

    Attributes:
        ranks, stages: attention data parallel, pipeline.
        concurrency: sequences that decode in each rank, on average; ``steps``: decode steps of a request; 0 where
            prompts are all there is: ``concurrency`` then says only what :attr:`load` there is.
        decode: d, from the start of one micro-batch without chunks to that of the next.
        own: what a chunk adds to the steps of its rank, and ``shared``: what each adds to the steps of all ranks.
        chunks: steps' worth of tokens in a prompt, at least 1; ``room``: prompts that fit into a rank's step, at
            least 1.
        sequence: what one decoding sequence adds to a micro-batch.
    """

    ranks: Ints
    stages: Ints
    concurrency: Floats
    steps: float
    decode: Floats
    own: Floats
    shared: Floats
    chunks: Floats
    room: Floats
    sequence: Floats

    @property
    def places(self) -> Floats:
        """Prompts that fit into a step of all ranks."""
        return self.ranks * self.room

    @property
    def load(self) -> Floats:
        """Share of the steps that the chunks of so many sequences' prompts need, at least."""
        return self.concurrency * self.chunks / (self.room * max(self.steps, 1.0) * self.stages)

    @property
    def per_place(self) -> Floats:
        """Steps of the engine that a prompt takes at least."""
        return self.chunks / self.places

    @property
    def full_step(self) -> Floats:
        """The step with as many chunks as there is room for, µs."""
        return self.decode + self.own * self.room + self.shared * self.places

    @property
    def gated(self) -> Floats:
        """How far prompts share steps (1), or take turns (0)."""
        return np.where(self.ranks > 1, 1.0, np.clip(self.room - 1, 0, 1))

    @property
    def occupied(self) -> Floats:
        """Chance that somebody decodes in a micro-batch."""
        return np.asarray(-np.expm1(-self.concurrency * self.ranks / self.stages))


@dataclass(frozen=True)
class StepMix:
    """What requests meet at a rate, [n] each; times in µs.

    Attributes:
        step: t. ``mixed_share``: f. ``longest``: the step with as many chunks as it has room for.
        burst: what the chunks found at the first token add to a request's time.
        noise: variance of a request's decode time by the chunks that come.
        gain: time per µs that decoding is prolonged by.
        busy: share of time that prefill is busy. ``delayed``: share of prompts that wait for more than a step's end.
        wait: mean wait of a prompt, but for the end of a step without chunks. ``run``: what it waits for the end of.
        service: its own steps.
    """

    step: Floats
    mixed_share: Floats
    longest: Floats
    burst: Floats
    noise: Floats
    gain: Floats
    busy: Floats
    delayed: Floats
    wait: Floats
    run: Floats
    service: Floats


def _held_up(x: EngineLoad, rate: Floats, chunk: Floats, whole: Floats, first: Floats) -> tuple[Floats, Floats]:
    """(by how much a pipeline multiplies the delay of a chunk, µs for which it lets nobody in behind one); ``first``:
    share of prompts that follow no other at once."""
    ahead = x.stages - 1
    window = rate * ahead * (x.decode + chunk)
    alone = first * -np.expm1(-window) / np.maximum(window, 1e-12)
    closed = ahead * chunk * (1 - np.exp(-x.concurrency / x.stages)) ** ahead
    return np.where(ahead > 0, 1 + ahead * alone / whole, 1.0), closed


def _in_turn(x: EngineLoad, rate: Floats) -> StepMix:
    """One rank whose steps have room for one prompt."""
    least, whole = x.chunks / x.room, np.ceil(x.chunks)
    added = x.chunks * (x.own + x.shared)  # by a prompt, in all its steps
    steps, busy, work = whole, np.zeros_like(rate), added
    for _ in range(3):  # in a queue, the rest of a step goes to the next prompt
        work = added + steps * x.decode
        busy = np.minimum(rate * work, _FULL)
        steps = least + (whole - least) * (1 - busy)
    chunk = added / steps
    factor, closed = _held_up(x, rate, chunk, steps, 1 - busy)
    delay = added * factor
    longest = x.decode + chunk * factor
    step = np.minimum(x.decode / np.maximum(1 - rate * delay, 1e-6), longest)
    share = np.minimum(rate * step * steps, 1.0)
    gain = step / x.decode
    left = busy + busy**2 / (2 * (1 - busy)) - rate * x.decode / 2
    burst = delay * gain * ((1 - share) * left - share * (1 - busy) * (steps - 1) / (2 * steps))
    # Of the chunks that come meanwhile, and of those found.
    noise = rate * x.steps * x.stages * step + np.maximum(left, 0) * (1 + np.maximum(left, 0))
    wait = busy * work / (2 * (1 - busy)) + rate * closed**2 / 2
    mates = np.minimum(x.room - 1, 2 * rate * (wait + (1 - busy) * x.decode / 2 * x.occupied))
    return StepMix(
        step=step,
        mixed_share=share,
        longest=longest,
        burst=np.maximum(burst, 0),
        noise=noise * (1 - share) * (delay * gain) ** 2,
        gain=gain,
        busy=busy,
        delayed=1 - (1 - busy) * np.exp(-rate * closed),
        wait=wait + mates * added * x.stages,
        run=work,
        service=added + whole * x.decode,
    )


def _gated(x: EngineLoad, rate: Floats) -> StepMix:
    """Several prompts share the steps."""
    whole = np.ceil(x.chunks)
    together = np.ones_like(rate)  # chunks in a mixed step
    calm = -np.expm1(-rate * x.decode)  # a decode step is followed by a mixed one
    for _ in range(4):
        added = x.own * np.maximum(together / x.ranks, 1) + x.shared * together
        mixed = x.decode + added
        quiet = np.exp(-np.minimum(rate * mixed, 30))
        factor, closed = _held_up(x, rate, added, whole, quiet)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # endless runs of mixed steps, where there is next to no pause
            runs = np.where(whole > 1, (quiet**-whole - 1) / np.maximum(1 - quiet, 1e-12), 1 / quiet)
            share = np.where(np.isfinite(runs), calm * runs / (1 + calm * runs), 1.0)
        # No fewer than full steps take.
        full = rate * x.decode * x.per_place / np.maximum(1 - rate * x.per_place * added * factor, 1e-6)
        share = np.maximum(share, np.minimum(full, 1))
        step = x.decode + share * added * factor
        together = np.clip(rate * step * whole / share, 1, x.places)
    growing = np.minimum(rate * x.shared * x.chunks, _FULL)
    of_number = x.shared * together / added
    fading = np.clip((1 - of_number) * np.clip(1 - quiet - calm, 0, 1) + of_number * growing, 0, _FULL)
    scatter = share * x.shared**2 * (together - 1) / (1 - np.minimum(rate * x.shared, _FULL) ** 2)
    rest = (share * mixed**2 + scatter) / (2 * step)  # of a mixed step that an arrival finds
    idle_rest = (1 - share) * x.decode**2 / (2 * step) * x.occupied
    alone = x.decode + x.own + x.shared
    # Chunks of the steps that a prompt is in: those that came with it, or where it takes several, those that overlap.
    company = np.where(
        whole > 1, rate * whole * alone / np.maximum(1 - rate * whole * x.shared, 0.05), 2 * rate * (rest + idle_rest)
    )
    seen = np.minimum(1 + company, x.places)
    own_step = x.decode + x.own * np.maximum(seen / x.ranks, 1) + x.shared * seen
    # What no step has room for waits as for that many servers (Sakasegawa, Ann. Inst. Stat. Math. 29, 1977).
    longest = x.full_step
    work = longest * x.per_place
    load = np.minimum(rate * work, _FULL)
    overflow = load ** (np.sqrt(2 * (x.places + 1)) - (whole > 1)) * work / (2 * (1 - load))
    burst = np.maximum(own_step - step, 0) * fading / (1 - fading) * whole * factor
    variance = (share * (1 - share) * added**2 + scatter) * factor**2
    waiting = np.minimum(share * mixed / step, 1)
    return StepMix(
        step=np.minimum(step, longest * factor),
        mixed_share=share,
        longest=longest * factor,
        burst=burst,
        noise=x.steps * x.stages * variance * whole * (1 + fading) / (1 - fading) + burst**2,
        gain=1 / (1 - fading),
        busy=waiting,
        delayed=1 - (1 - waiting) * np.exp(-rate * (x.decode * x.occupied + closed)),
        wait=rest + overflow + whole * (own_step - alone) * x.stages + rate * closed**2 / 2,
        run=mixed,
        service=whole * alone,
    )


def step_mix(x: EngineLoad, rate: Floats) -> StepMix:
    """What requests meet at ``rate`` [n], requests per µs of the whole engine."""
    gated = x.gated
    if not gated.any():
        return _in_turn(x, rate)
    if (gated == 1).all():
        return _gated(x, rate)
    return _between(_in_turn(x, rate), _gated(x, rate), gated)


@dataclass(frozen=True)
class Equilibrium:
    """Operating points in balance, [n] each; times in µs.

    ``rate``: requests per µs of the whole engine. ``time``: that a request decodes, mean, and its standard
    ``deviation`` between requests. ``shortest``, ``longest``: what it can be at least and at most. ``mixture``: what
    requests meet.
    """

    rate: Floats
    time: Floats
    deviation: Floats
    shortest: Floats
    longest: Floats
    mixture: StepMix


def equilibrium(x: EngineLoad) -> Equilibrium:
    """The rate at which as many sequences decode as are asked for, and what requests meet at that rate."""
    gated = x.gated
    kinds = [np.flatnonzero(kind) for kind in (gated == 0, gated == 1, (gated > 0) & (gated < 1))]
    rows = [kind for kind in kinds if len(kind)]
    return concatenate_rows([_equilibrium(take_rows(x, kind)) for kind in rows], rows)


def _equilibrium(x: EngineLoad) -> Equilibrium:
    if not x.steps:
        rate = np.minimum(x.load, _FULL) / (x.full_step * x.per_place)
        none = np.zeros_like(rate)
        return Equilibrium(rate, none, none, none, none, step_mix(x, rate))
    present = x.concurrency * x.ranks
    micro_steps = x.steps * x.stages
    shortest = micro_steps * x.decode
    elastic = np.minimum(x.sequence * x.concurrency / (x.decode * x.stages), 0.9)

    def at(rate: Floats) -> tuple[StepMix, Floats]:
        met = step_mix(x, rate)
        crowd = x.steps * x.sequence * met.gain * elastic / (1 - elastic)
        return met, np.minimum(micro_steps * met.step + met.burst + crowd, micro_steps * met.longest)

    # rate·T(rate) rises with the rate: regula falsi on logarithms between no delay at all and the most.
    high = np.log(present / shortest)
    over = np.log(at(np.exp(high))[1] / shortest)
    low = high - over
    under = np.log(at(np.exp(low))[1] / shortest) - over
    before = np.zeros(len(high), np.int64)
    here = low
    for _ in range(_ROUNDS):
        here = np.clip(high - over * (high - low) / np.maximum(over - under, 1e-15), low, high)
        value = here + np.log(at(np.exp(here))[1] / present)
        side = np.where(value > 0, 1, -1)
        # An end that stays twice is weighted down, lest it stay for ever (Illinois).
        weight = np.where(side == before, 0.5, 1.0)
        low, under = np.where(side > 0, low, here), np.where(side > 0, under * weight, value)
        high, over = np.where(side > 0, here, high), np.where(side > 0, value, over * weight)
        before = side
        if np.abs(value).max() < _CLOSE:
            break
    rate = np.exp(here)
    met = at(rate)[0]
    time = present / rate
    # Chunks and sequences both come with the arrivals of a lifetime: their sums over it correlate by ½ ÷ √⅔.
    chunks = np.sqrt(met.noise / (1 - elastic))
    crowd = x.steps * x.sequence * met.gain * np.sqrt(x.concurrency / (1 - elastic) * 2 / (3 - elastic))
    deviation = np.sqrt(chunks**2 + crowd**2 + 2 * 0.5 / np.sqrt(2 / 3) * chunks * crowd)
    return Equilibrium(
        rate, time, deviation, np.minimum(shortest, time), np.maximum(micro_steps * met.longest, time), met
    )


def _between(first: StepMix, second: StepMix, weight: Floats) -> StepMix:
    def mean(name: str) -> Floats:
        here, there = getattr(first, name), getattr(second, name)
        return np.asarray(here + weight * (there - here))

    return StepMix(**{field.name: mean(field.name) for field in fields(StepMix)})


def gamma_quantile(mean: Floats, deviation: Floats, p: Floats | float) -> Floats:
    """What a share ``p`` stays below, of a gamma law with that mean and standard deviation, [n]; 0 for p ≤ 0."""
    shape = np.clip((mean / np.maximum(deviation, 1e-9)) ** 2, 1e-3, 1e8)
    return np.asarray(gammaincinv(shape, np.maximum(p, 0.0)) * mean / shape)


def wait_percentile_us(mean_us: Floats, delayed: Floats, run_us: Floats, p: float) -> Floats:
    """Wait that a share ``p`` stays below, [n].

    A share ``delayed`` waits at all, for the rest of a run and for what is ahead in the queue, o on average. For M/D/1
    the variance of such a wait is run²/12 + o² + ⅔·run·o exactly; a gamma law with these two moments.
    """
    mean = mean_us / np.maximum(delayed, 1e-12)
    rest = np.minimum(run_us / 2, mean)
    queued = mean - rest
    deviation = np.sqrt(rest**2 / 3 + queued**2 + 2 / 3 * run_us * queued)
    return gamma_quantile(mean, deviation, 1 - (1 - p) / np.maximum(delayed, 1e-12))
