"""How much load an engine carries: whether it keeps up, and the highest rate whose percentiles hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.serving.simulator.arrivals import Requests, closed_loop, open_loop
from costmodels.serving.simulator.engine import Engine, refusals
from costmodels.serving.simulator.events import GivenUp, Limit, Missed, simulate
from costmodels.serving.simulator.outcome import Metric, Outcome
from profiles.errors import InputError

SETTLED = 0.5
"""Share of the arrivals after which an engine that keeps up has reached its level."""

GROWTH = 0.02
"""Share of the requests of the second half by which the queue may grow and still count as noise, ..."""

TENTH = 0.1
"""Share of the requests over which a queue is averaged."""

FEW = 10
"""... and requests: queues of that length come and go below capacity."""

WARM_UP = 0.1
"""Share of the requests of a run at its beginning that are not counted."""

BEYOND = 30
"""Requests of a run beyond the percentile that is asked for."""

FIRST_STEP = 1.05
"""From the first guess to the next rate that is tried; each further step is the square of the one before."""

BEYOND_FLOOD = 1.5
"""Of the rate at which requests that are all there from the start are served: no engine keeps up with more."""

IDLE = 2.0**-12
"""Of the first guess: an engine that does not meet the limits there never does."""

FEWEST = 250
"""Requests of a run that gives a guess."""

BATCHES = 10
"""Parts of a run by whose differences it is told how sure its percentiles are."""

LONG = 20_000
"""Requests over which a latency is told that grows all the time: where slower steps keep an engine from keeping up."""

LOOKS = 32
"""How often a run is looked at to see whether it can still meet the limits."""

FAR = 1.2
"""A limit missed by this factor is missed by far: by how much does not matter, and the run ends."""

NEAR_LIMIT = math.log(FAR)
"""Logarithm of the strain within which it is taken as a power of the rate."""

STEEPNESS = 1.25
"""dlog(strain)/dlog(rate) before two runs have told it: 0.4 to 1.6 in the first example's engines."""

MOST_BACK = 0.2
"""Logarithm of the rate, at most so far below one that fails."""

MODES, LEAP = 1.5, 1.2
"""A percentile lies between two modes where by the error of its share it may be so many times as long, or as short, or
beside a gap of so many times as much from one request to the next: which of them is told is a matter of luck, ..."""

UNSURE = 2.0
"""... by so many standard errors of that share."""

MANY = 100_000
"""Requests that tell, ..."""

HARDLY_MEET = 4.0
"""... where no more are in the engine on average: such a run is short, and where more meet there are no modes."""

PATIENCE = 2
"""Looks at the crossing before the bracket is halved."""

ROUNDING = 1 + 1e-9
"""Of a bracket's width: two logarithms differ by as much."""


def unanswered(outcome: Outcome, at_us: Floats) -> Ints:
    """Requests that had been sent but had no first token at each of the times."""
    served = outcome.served
    sent = np.sort(outcome.arrival_us[served])
    first = np.sort(outcome.first_us[served])
    return np.searchsorted(sent, at_us, side="right") - np.searchsorted(first, at_us, side="right")


def queue_growth(outcome: Outcome) -> float:
    """Requests by which the queue grew in the second half of the arrivals, as a share of their number: near 0
    where the engine keeps up, 1 − capacity ÷ rate where it does not; 0 where it is a matter of a few requests.
    Averages over tenths of the requests keep one burst from deciding."""
    return outcome.once("queue growth", lambda: _queue_growth(outcome))


def _queue_growth(outcome: Outcome) -> float:
    arrivals = np.sort(outcome.arrival_us[outcome.served])
    n = len(arrivals)
    tenth = max(int(n * TENTH), 1)
    middle = int(n * SETTLED)
    waiting = unanswered(outcome, arrivals)
    grown = waiting[n - tenth :].mean() - waiting[middle : middle + tenth].mean() if n else 0.0
    return float(grown) / (n - middle - tenth) if grown > FEW else 0.0


def keeps_up(outcome: Outcome) -> bool:
    """Whether the engine answers as fast as requests come."""
    return queue_growth(outcome) <= GROWTH


def growth_us(outcome: Outcome) -> float:
    """By how much each request waits longer for its first token than the one before it, where the engine does not keep
    up, µs; 0 where it does."""

    def growth() -> float:
        waits = outcome.of("ttft")
        return max(float(np.polyfit(np.arange(len(waits)), waits, 1)[0]), 0.0)

    return 0.0 if keeps_up(outcome) else outcome.once("growth", growth)


def over_us(outcome: Outcome, metric: Metric, p: float | None, requests: float) -> float:
    """What a share ``p`` of so many ``requests`` stays below, the mean with None: as it was seen, where the engine
    keeps up; else each waits longer than the one before it, and more of them wait longer still."""
    found = outcome.mean_us(metric) if p is None else outcome.percentile_us(metric, p)
    growth = 0.0 if metric == "tpot" else growth_us(outcome)
    return found + growth * (0.5 if p is None else p) * (requests - len(outcome)) if growth else found


def once_settled(outcome: Outcome, warm_up: float) -> Outcome:
    """The requests after the first share of them, while the engine fills; all of one that does not keep up, which never
    settles: how long its last ones wait is a matter of how many came before."""
    settled_part = outcome.trimmed(warm_up)
    return settled_part if keeps_up(settled_part) else outcome


def saturated_rps(engine: Engine, isl: Ints, osl: Ints, rate_rps: float, *, seed: int = 0) -> float:
    """What an engine answers that is sent ``rate_rps``, requests per second, while it is full: where that is less than
    it is sent, all that it can, whichever of its limits it is at (cache, sequences, prefill).

    Args:
        isl, osl: of the requests, five times as many as the engine holds or more: the last that it holds leave it
            empty, and the first half are not counted, since those that fill it came together.
    """
    outcome = simulate(engine, open_loop(isl, osl, rate_rps, seed=seed))
    finish = np.sort(outcome.finish_us[outcome.served])
    held = min(int(outcome.timeline[:, 2].max()), len(finish) // 3)
    full = finish[int(len(finish) * SETTLED) : len(finish) - held]
    return float((len(full) - 1) / (full[-1] - full[0]) * 1e6)


def requests_to_settle(share: float) -> float:
    """Requests that pass while an engine loaded to ``share`` of what it can do forgets its state.

    The queue of a busy server relaxes in 1/(√μ − √λ)² (M/M/1: Cohen, The Single Server Queue, 1982, §II.2), that is
    share/(1 − √share)² arrivals, nearly 4/(1 − share)²; a server of many places does at the same rate when it is full.
    """
    return share / (1 - math.sqrt(share)) ** 2 if share < 1 else math.inf


def most_share(requests: float) -> float:
    """The highest load, as a share of what an engine can do, that settles within so many requests."""
    root = math.sqrt(requests)
    return (root / (1 + root)) ** 2


def standard_error_us(outcome: Outcome, metric: Metric, p: float) -> float:
    """Of a percentile, by batch means (Law, Simulation Modeling and Analysis, §9.5.3): requests near each other share
    their fate, batches of them hardly."""
    values = outcome.of(metric)
    batches = [np.quantile(batch, p) for batch in np.array_split(values, BATCHES)] if len(values) >= BATCHES else []
    return float(np.std(batches, ddof=1) / math.sqrt(BATCHES)) if batches else float("nan")


def _surely_us(outcome: Outcome, metric: Metric, p: float, errors: float) -> float:
    """A percentile and so many standard errors: of its own, or of the share of requests below it, whichever is less.

    Next to a step of the distribution (requests that met a prompt, and those that met none) a batch's percentile lies
    on either side of it, while how many are below is known as well as elsewhere.
    """
    seen = outcome.percentile_us(metric, p)
    if len(outcome.of(metric)) < BATCHES:
        return seen
    surely = min(p + errors * share_error(outcome, metric, p), 1.0)
    own = errors * float(np.nan_to_num(standard_error_us(outcome, metric, p)))
    return min(seen + own, outcome.percentile_us(metric, surely))


def share_error(outcome: Outcome, metric: Metric, p: float) -> float:
    """Standard error of the share of requests below a percentile, by batch means."""
    values, seen = outcome.of(metric), outcome.percentile_us(metric, p)
    if len(values) < BATCHES:
        return 0.0
    shares = [batch.mean() for batch in np.array_split(values <= seen, BATCHES)]
    return float(np.std(shares, ddof=1)) / math.sqrt(BATCHES)


def between_modes(outcome: Outcome, metric: Metric, p: float, limit_us: float | None = None) -> bool:
    """Whether it takes more requests to tell what a share ``p`` of them stays below, or whether that is at most
    ``limit_us``: requests that meet another and those that meet none lie far apart, and about 1 − ``p`` of them meet
    one."""
    if not len(outcome.of(metric)):
        return False
    unsure = UNSURE * max(share_error(outcome, metric, p), math.sqrt(p * (1 - p) / len(outcome)))
    low, high = (outcome.percentile_us(metric, min(max(q, 0.0), 1.0)) for q in (p - unsure, p + unsure))
    if limit_us is not None and not low <= limit_us < high:
        return False
    return high > MODES * low or (high > LEAP * low and _leaps(outcome.of(metric), low, high))


def _leaps(values: Floats, low: float, high: float) -> bool:
    """Whether values between two of them leave a gap from one to :data:`LEAP` times as much: a queue's do not."""
    between = np.sort(values[(values >= low) & (values <= high)])
    return bool((between[1:] > LEAP * between[:-1]).any())


def strain_of(outcome: Outcome, limits: Sequence[Limit]) -> float:
    """See :class:`Settled`."""
    if not outcome.served.all() or not keeps_up(outcome):
        return math.inf
    shares = []
    for metric, p, limit_us, errors in limits:
        seen = _surely_us(outcome, metric, p, errors) if errors else outcome.percentile_us(metric, p)
        shares.append(seen / limit_us if limit_us > 0 else math.inf)
    return max([share for share in shares if not math.isnan(share)], default=0.0)


def meets(outcome: Outcome, limits: Sequence[Limit]) -> bool:
    """Whether every percentile holds, nothing was refused, and the engine keeps up."""
    return strain_of(outcome, limits) <= 1


def requests_needed(percentile: float, in_flight: float, beyond: int = BEYOND) -> int:
    """How many requests a run of :func:`capacity_rps` takes: so many of them ``beyond`` the percentile, and as many as
    fill the engine within the warm-up.

    Requests that overlap share their batch: the share of them beyond a limit varies 10–50 times as much from run to run
    as that of independent ones would (about as many as are in flight), so that more requests help slowly. Over ten
    seeds, two engines and two workloads each (10–60 requests in flight), the capacity's standard deviation was 4–5 % at
    p90 with 500 requests and with 1000, 7–12 % at p99 with 1500.

    Args:
        percentile: of the limit, 0–1.
        in_flight: requests in the engine on average (rate × time of a request).
    """
    return math.ceil(max(beyond / (1 - percentile), in_flight / WARM_UP))


def capacity_rps(
    engine: Engine,
    isl: Ints,
    osl: Ints,
    limits: Sequence[Limit],
    *,
    seed: int = 0,
    tolerance: float = 0.02,
    near_rps: float | None = None,
    near_strain: float | None = None,
) -> float:
    """The highest rate of Poisson arrivals at which every limit holds, requests per second; 0 where not even a
    nearly idle engine meets them.

    Percentiles grow smoothly with the rate, so that two runs near the limits tell where the worst of them is reached
    (regula falsi in the logarithms of rate and strain); where a run says no more than that it fails, steps that grow,
    then bisection. The guess is refined on a quarter of the requests first. All rates see the same requests at the same
    random gaps (common random numbers), scaled so that their mean is the rate's to the digit: the answer is one of the
    rate and not of luck, and one at which a run has held.

    Args:
        isl, osl: lengths of the requests of one run, shape [n]; :func:`requests_needed` says how many.
        tolerance: the answer is at most this share below the highest rate.
        near_rps: where to begin, such as the closed form's estimate (None: at what the engine serves when all
            requests are there from the start). It changes how long the search takes, and the answer by no more than
            ``tolerance``.
        near_strain: that of a run at ``near_rps`` in which a limit did not hold: the search begins below it.

    Raises:
        InputError: a tolerance or a guess that is not positive.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance: {tolerance} is not positive", "give for example 0.02")
    if near_rps is not None and not (near_rps > 0 and math.isfinite(near_rps)):
        raise InputError(f"near_rps: {near_rps} is not a positive number", "give a rate, or None")
    everyone = closed_loop(isl, osl, len(isl))
    if refusals(engine, everyone).any():
        return 0.0

    near = near_rps or simulate(engine, everyone).rate_rps
    step = FIRST_STEP
    if len(isl) >= 4 * FEWEST and near_strain is None:
        some, coarse = len(isl) // 4, 4 * tolerance
        rough = capacity_rps(engine, isl[:some], osl[:some], limits, seed=seed, tolerance=coarse, near_rps=near)
        near, step = rough or near, 1 + tolerance

    bracket = _Bracket(tolerance, step)
    rate = near
    if near_strain is not None:
        bracket.add(near, near_strain)
        rate = bracket.next_rps()
    while True:
        bracket.add(rate, settled(engine, open_loop(isl, osl, rate, seed=seed), limits).strain)
        if bracket.closed:
            return bracket.holds
        if bracket.holds == 0 and bracket.fails < near * IDLE:
            return 0.0
        if bracket.fails == math.inf and bracket.flat and rate > BEYOND_FLOOD * simulate(engine, everyone).rate_rps:
            return bracket.holds  # so few requests that no rate is too much
        rate = bracket.next_rps()


class _Bracket:
    """Between which rates the strain becomes 1."""

    def __init__(self, tolerance: float, step: float) -> None:
        self._tolerance, self._step = math.log1p(tolerance), math.log(step)
        self._low, self._high = (-math.inf, -math.inf), (math.inf, math.inf)  # log rate, log strain
        self._back = False  # whether it has looked below one that fails
        self._wide = 0  # looks since the bracket was last halved
        self._width = math.inf

    @property
    def holds(self) -> float:
        """The highest rate known to hold; 0: none."""
        return math.exp(self._low[0])

    @property
    def fails(self) -> float:
        """The lowest rate known to fail."""
        return math.exp(self._high[0]) if self._high[0] < math.inf else math.inf

    @property
    def flat(self) -> bool:
        """Whether steps have grown beyond a doubling."""
        return self._step > math.log(2)

    def add(self, rate: float, strain: float) -> None:
        point = (math.log(rate), math.log(strain) if strain > 0 else -math.inf)
        if strain <= 1:
            self._low = max(self._low, point)
        else:
            self._high = min(self._high, point)
        width = self._high[0] - self._low[0]
        self._wide = self._wide + 1 if width > self._width / 2 else 0
        if not self._wide:
            self._width = width

    @property
    def _near(self) -> bool:
        """Whether both ends lie where strain is as good as a power of the rate."""
        return self._low[1] > -NEAR_LIMIT and self._high[1] < NEAR_LIMIT

    @property
    def _crossing(self) -> float:
        """Log rate at which the chord reaches the limit."""
        (x, y), (x_high, y_high) = self._low, self._high
        return x - y * (x_high - x) / (y_high - y) if y_high > y else x

    @property
    def closed(self) -> bool:
        """Whether the highest rate is as near as asked for."""
        if not self._high[0] - self._low[0] < math.inf:
            return False
        return (self._crossing if self._near else self._high[0]) - self._low[0] <= self._tolerance * ROUNDING

    def next_rps(self) -> float:
        """Where to look next: so far below the crossing that it should hold, and close the bracket."""
        (x, y), (x_high, y_high) = self._low, self._high
        if x == -math.inf:  # below what fails
            back = (y_high + self._tolerance / 2) / STEEPNESS
            if self._back or y_high == math.inf:
                back, self._step = max(self._step, back if y_high < math.inf else 0.0), 2 * self._step
            x_next, self._back = x_high - max(min(back, max(MOST_BACK, self._step)), self._tolerance), True
        elif x_high == math.inf:  # above what holds
            x_next, self._step = x + self._step, 2 * self._step
        else:
            x_next = (x + x_high) / 2
            if math.isfinite(y) and math.isfinite(y_high) and self._wide < PATIENCE:
                inset = min(self._tolerance / 2, (x_high - x) / 4)
                x_next = min(max(self._crossing - self._tolerance / 2, x + inset), x_high - inset)
        return math.exp(x_next)


class Settled(NamedTuple):
    """What a run showed after its warm-up.

    Attributes:
        outcome: None where it ended early, for certain that a limit would not hold.
        strain: the worst of the percentiles ÷ its limit; infinite where the run ended early, requests were refused, or
            the engine did not keep up (without which any percentile is a matter of how long one looks).
    """

    outcome: Outcome | None
    strain: float

    @property
    def holds(self) -> bool:
        return self.strain <= 1


def settled(engine: Engine, load: Requests, limits: Sequence[Limit], warm_up: float = WARM_UP) -> Settled:
    """The requests of an open loop after the warm-up. The run ends as soon as some limit is missed by far for certain,
    by time and by number: by less, it says by how much."""
    far = [
        limit._replace(limit_us=limit.limit_us * FAR, percentile=max(1 - (1 - limit.percentile) * FAR, 0.0))
        for limit in limits
    ]
    try:
        outcome = simulate(engine, load, sample_us=float(load.arrival_us[-1]) / LOOKS, give_up=Missed(far, warm_up))
    except GivenUp:
        return Settled(None, math.inf)
    counted = outcome.trimmed(warm_up)
    return Settled(counted, strain_of(counted, limits))
