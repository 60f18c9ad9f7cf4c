"""The engines of a fleet, each simulated under the mixture that it gets, and the fleet chosen anew until they hold.

An engine's capacity for a mixture is not Σ rate ÷ capacity of its classes to the percent, and a fluid optimum loads
every engine to what just holds. So each kind of engine that runs is simulated under its own mixture at its busiest
step: how much of it an engine carries within the promise, surely enough for as many engines as keep it together
(:mod:`planner.serving.fleets.tails`), is what the programme counts on from then on, as one factor on all classes of
that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodels.estimates import Floats
from costmodels.models.architecture import Architecture
from planner.contract.engine import Limits
from planner.contract.progress import Step
from planner.serving.confirmation.trial import SETTLES, Trial
from planner.serving.engines.groups import Group, Pair, limits_of, pairs_of
from planner.serving.engines.latency import Check
from planner.serving.fleets.class_outcomes import class_holds, promised
from planner.serving.fleets.counted import with_capacity
from planner.serving.fleets.decision import Answered, Fleet, ServiceLoad, solved
from planner.serving.fleets.tails import FORGETS, busiest, kept_for_mixtures, other_draw, rates_on
from planner.serving.fleets.under_mixtures import Mixtures
from planner.serving.planning import CostOf
from planner.serving.request import PlanRequest
from planner.solving.mix.clock import Deadline
from planner.solving.mix.question import MixQuestion
from profiles.errors import Infeasible, LimitReached

ROUNDS = 4
"""Fleets tried before only engines that have been simulated are chosen from."""

MOST_ROUNDS = 8

CLOSE = 0.015
"""Relative change of a kind's capacity that is no news."""

MOST_FACTOR = 1.3
"""Above the sum of the classes' capacities that a mixture is ever counted on to carry."""

BROKEN = 0.5
"""Of what a kind was counted on: below it, it is counted on no more for classes that miss the promise by themselves."""

NEAR_ENOUGH = 0.01
"""Gap above which a fleet that holds is looked for once more, in more time."""

OF_THE_FIRST = 0.7
"""Of the time, for fleets in which engines are counted on with classes that miss the promise by themselves."""

A_ROUND, THE_LAST, AGAIN = 0.25, 0.6, 0.75
"""Of the time that is left, for one fleet; for one that is looked for once more; and where none was found in that."""

ENDED = "the time limit ended the search: cheaper fleets were not ruled out by simulation"

NARROWED = "only engines that had been simulated were candidates in the end: others may be better"

Progress = Callable[[str], None]
Key = tuple[int, int]
"""(service, engine)."""


def _cost(found: Answered) -> float:
    return np.inf if found.answer.objective is None else found.answer.objective


@dataclass(frozen=True)
class Loaded:
    """One kind of engine at its busiest step: its group under its own mixture, the ``pairs`` that it serves requests
    in, and the simulation of it."""

    variant: int
    step: int
    request: PlanRequest
    group: Group
    used: float
    check: Check | None = None
    pairs: tuple[Pair, ...] = ()

    @property
    def trial(self) -> Trial:
        return self.tried()

    def tried(self, another: float | None = None, settles: float = FORGETS) -> Trial:
        """Where bounds are to hold in ``another`` draw of so many requests, too."""
        return Trial(self.request, self.group, list(self.pairs), another=another, settles=settles)


def joined(
    found: Answered, engines: Mapping[int, Loaded], beside: Mapping[int, Loaded] | None = None
) -> dict[int, Loaded]:
    """``engines`` by variant with the pairs in which each serves requests, also with engines ``beside`` them."""
    variants, every, out = found.fleet.chosen.variants, {**(beside or {}), **engines}, {}
    for variant, each in engines.items():
        roles = {"prefill": "decode", "decode": "prefill"}
        partners = [
            _at_most(other.group)
            for v, other in every.items()
            if variants[v].service == variants[variant].service and other.group.role == roles.get(each.group.role)
        ]
        out[variant] = replace(each, pairs=tuple(pairs_of([each.group, *partners])))
    return out


def _at_most(group: Group) -> Group:
    """A partner at its load, or at the most that the formulas see it carry: what is more is its own to mend."""
    most = float(group.candidate.rate_rps.value[0])
    return group if group.load_rps <= most else replace(group, load_rps=most, engine=group.candidate.at(most))


@dataclass(frozen=True)
class Settled:
    """The fleet that holds. ``engines``: its kinds by variant; ``factor``: of what each was counted on."""

    found: Answered
    engines: Mapping[int, Loaded]
    factor: Mapping[Key, float]
    notes: tuple[str, ...]


def _solved(
    fleet: Fleet, deadline: Deadline, kinds: Sequence[int] | None, like: Answered | None, *, longer: bool
) -> Answered:
    """The best fleet in a part of the time that is left. Raises what ``solved`` raises."""
    part = THE_LAST if longer else A_ROUND
    try:
        return solved(fleet, kinds=kinds, seconds=part * deadline.left, like=like)
    except LimitReached:
        if deadline.left <= 0:
            raise
        return solved(fleet, kinds=kinds, seconds=AGAIN * deadline.left, like=like)


class Confirming:
    """Simulates and chooses anew."""

    def __init__(self, cost_of: Mapping[int, CostOf], models: Mapping[int, Architecture], progress: Progress) -> None:
        self._tell, self._mixtures = progress, Mixtures(cost_of, models)
        self._strict: set[Key] = set()  # kinds whose requests do not make up for those that miss the promise
        self._raised: set[Key] = set()  # kinds that were believed to carry more than at first
        self._capped: Container[Key] = ()  # kinds that are never believed to

    def settled(
        self, fleet: Fleet, deadline: Deadline, at_most: Container[Key] = (), like: Answered | None = None
    ) -> Settled:
        """The best fleet whose engines hold that is found by the ``deadline``; kinds ``at_most`` are counted on for no
        more than ``fleet`` says, whatever they carry of what they get in it; ``like``: as of
        :func:`planner.serving.fleets.decision.solved`, whose errors this raises."""
        self._capped = at_most
        strict = {
            s: each.strict
            for s, each in enumerate(fleet.services)
            if each.strict is not None and (each.capacity > each.strict).any()
        }
        found: Settled | None = None
        try:
            found = self._settled(fleet, deadline.part(OF_THE_FIRST) if strict else deadline, like)
            if not strict or NARROWED not in found.notes:
                return found
        except (Infeasible, LimitReached):
            if not strict:
                raise
        # What keeps the promise for every class keeps it for all together: never dearer than that.
        try:
            other = self._settled(with_capacity(fleet, strict), deadline, found.found if found else like)
        except (Infeasible, LimitReached):
            if found is None:
                raise
            return found
        return other if found is None or _cost(other.found) < _cost(found.found) else found

    def _settled(self, fleet: Fleet, deadline: Deadline, found: Answered | None) -> Settled:
        self._strict, self._raised = set(), set()  # engines of other fleets have other numbers
        factor: dict[Key, float] = {}
        notes: tuple[str, ...] = ()
        simulated: set[Key] = set()
        now = fleet
        best: tuple[Answered, dict[int, Loaded]] | None = None
        latest: tuple[Answered, dict[int, Loaded]] | None = None
        longer = ended = False
        for turn in range(MOST_ROUNDS):
            only = self._only(fleet, simulated) if turn >= ROUNDS else None
            try:
                found = _solved(now, deadline, only, found, longer=longer)
            except (Infeasible, LimitReached) as error:
                ended = isinstance(error, LimitReached) and turn > 0
                if best is None and not ended:
                    raise
                notes = (*notes, ENDED) if ended else notes
                break
            done = 100 * (1 - 0.5 ** (turn + 1))
            self._tell(Step(f"simulating engines under their mixtures (fleet {turn + 1})", done))
            loaded, news, holds = self._judged(found, factor, simulated, last=turn >= ROUNDS)
            latest = found, loaded
            if holds and (best is None or _cost(found) < _cost(best[0])):
                best = (found, loaded)
                notes = (NARROWED,) if only is not None else ()
            if not news:
                if longer or (found.answer.gap or 0.0) <= NEAR_ENOUGH:
                    break
                longer = True
            now = with_capacity(fleet, {s: self._scaled(each, s, factor) for s, each in enumerate(fleet.services)})
        if best is None and latest is not None and len(fleet.steps) > 1:
            best = latest  # what is looked for in every step may begin with engines that miss the promise
        if best is None and ended:
            raise LimitReached(
                "fleet: the time limit ended the search before a fleet was found whose engines hold when they are "
                "simulated under their own mixtures",
                "raise --time-limit, or see what the formulas say with --no-simulation",
            )
        if best is None:
            raise Infeasible(
                "slo: no fleet was found whose engines hold when they are simulated under their own mixtures",
                "relax the SLO, give --headroom, or see what the formulas say with --no-simulation",
                binding="slo",
                relax_ms={
                    s.asked.name: {b.label: 1.05 * b.limit_ms for b in s.asked.slo.bounds} for s in fleet.services
                },
            )
        return Settled(best[0], best[1], factor, notes)

    def _only(self, fleet: Fleet, simulated: set[Key]) -> list[int] | None:
        kept = [i for i, v in enumerate(fleet.chosen.variants) if (v.service, v.engine) in simulated]
        return kept or None

    def _scaled(self, each: ServiceLoad, service: int, factor: Mapping[Key, float]) -> Floats:
        out = each.capacity.copy()
        if each.strict is not None and (mine := [engine for s, engine in self._strict if s == service]):
            out[:, mine] = each.strict[:, mine]
        for (s, engine), by in factor.items():
            if s == service:
                out[:, engine] *= by
        return out

    def _judged(
        self, found: Answered, factor: dict[Key, float], simulated: set[Key], *, last: bool
    ) -> tuple[dict[int, Loaded], bool, bool]:
        """(the kinds that run, whether one of them carries other than was counted on, whether none carries less).
        ``factor`` learns it; what was seen to carry more than before, beside more of its like or with other requests,
        is believed once."""
        engines = found.answer.engines
        assert engines is not None
        loaded: dict[int, Loaded] = {}
        learnt: dict[Key, float] = {}
        for variant in np.flatnonzero(engines.max(axis=0) > 0).tolist():
            t, used = busiest(found, variant)
            if used <= 0:
                continue
            one = self.loaded(found, variant, t, used)
            if one is None:
                v = found.fleet.chosen.variants[variant]
                learnt[v.service, v.engine] = 0.5 * factor.get((v.service, v.engine), 1.0)
                continue
            loaded[variant] = one
        loaded = joined(found, loaded)
        for variant, each in loaded.items():
            if not each.pairs:  # its partners do not keep up with what they get
                continue
            v = found.fleet.chosen.variants[variant]
            key, used = (v.service, v.engine), each.used
            new = self._carries(found, each, key, used, factor.get(key, 1.0))
            before = learnt.get(key, np.inf)
            learnt[key] = min(before, new)
        news, holds = False, True
        for key, new in learnt.items():
            if new < BROKEN and self._leans(found.fleet.services[key[0]], key):
                self._strict.add(key)
                factor.pop(key, None)
                news, holds = True, False
                continue
            old = factor.get(key, 1.0)
            first = key not in simulated
            up, down = new > old * (1 + CLOSE), new < old * (1 - CLOSE)
            if down or (up and (first or not (last or key in self._raised))):
                factor[key] = new
                news = True
                holds &= not down
                if not first and up:
                    self._raised.add(key)
            simulated.add(key)
        return loaded, news, holds

    def _carries(self, found: Answered, each: Loaded, key: Key, used: float, old: float) -> float:
        """The factor that the simulation allows."""
        most, _ = self._counted_on(found, each)
        promise = found.fleet.services[key[0]].asked.promise
        if promise == "class" and most > 0:
            most = self.within_classes(found, each, most)
        used /= 1 + (found.fleet.request.headroom or 0.0)  # by the load that it was simulated at
        return min(max(old * most * used / each.group.load_rps, 1e-3), 1.0 if key in self._capped else MOST_FACTOR)

    def _counted_on(self, found: Answered, each: Loaded) -> tuple[float, float]:
        """Requests per second that an engine is counted on for, and those that it carries at its own draw of arrivals.

        In other steps and after losses it gets requests that are not simulated: room is left for them too.
        """
        if found.fleet.request.headroom is not None:
            bare = each.tried(settles=SETTLES).highest_rps()
            return bare, bare
        if found.question.survive.any or found.question.steps > 1:
            engines = found.answer.engines
            assert engines is not None
            slo = found.fleet.services[found.fleet.chosen.variants[each.variant].service].asked.slo
            bare = each.tried(settles=SETTLES).highest_rps()
            return bare * kept_for_mixtures(slo, int(engines[each.step][each.variant])), bare
        bare = each.trial.highest_rps()
        sure = each.tried(other_draw(found, each.variant, each.step)).highest_rps()
        return min(sure, bare) or bare, bare  # none surely: a bound on the edge of what requests see at any load

    def within_classes(self, found: Answered, each: Loaded, most: float) -> float:
        """The highest of some rates at which every class keeps the promise by itself."""
        service = found.fleet.chosen.variants[each.variant].service
        classes, slo = found.fleet.services[service].classes, found.fleet.services[service].asked.slo
        rates = rates_on(found, each.variant, each.step)
        for share in (1.0, 0.93, 0.86, 0.8, 0.72, 0.64, 0.5, 0.35, 0.2):
            group = replace(each.group, load_rps=most * share)
            trial = replace(each, group=group).trial
            check = trial.check()
            if check is None:
                continue
            limits = promised(slo)
            if group.role != "aggregated":  # what the rest of a request's way leaves
                limits = [(limit.metric, limit.percentile, limit.limit_us) for limit in trial.limits]
            outcome = check.outcomes["value"]
            if all(held is not False for held in class_holds(outcome, classes, rates, limits).values()):
                return most * share
        return most * 0.1

    def _leans(self, service: ServiceLoad, key: Key) -> bool:
        """Whether a kind is counted on for classes that miss the promise by themselves."""
        strict = service.capacity if service.strict is None or key in self._strict else service.strict
        return bool((strict[:, key[1]] <= 0)[service.capacity[:, key[1]] > 0].any())

    def without_tails(self, settled: Settled) -> MixQuestion | None:
        """The question of a fleet whose engines were counted on for what they carry at their own draw of arrivals,
        nothing left free for others; None where nothing was."""
        found = settled.found
        if found.fleet.request.headroom is not None or not found.fleet.request.simulation:
            return None
        kept = np.ones(len(found.fleet.chosen.variants))
        for variant, each in settled.engines.items():
            if each.pairs:
                sure, bare = self._counted_on(found, each)
                kept[variant] = sure / bare if bare else 1.0
        return replace(found.question, work=[work * kept for work in found.question.work])

    # -------------------------------------------------------------- one engine

    def loaded(self, found: Answered, variant: int, t: int, used: float) -> Loaded | None:
        """A kind of engine under its mixture in step ``t``; None: it does not keep up with it at any load."""
        engines = found.answer.engines
        assert engines is not None
        service = found.fleet.services[found.fleet.chosen.variants[variant].service]
        under, count = self._mixtures.of(found, variant, t), int(engines[t][variant])
        if under.candidate is None:
            return None
        load = under.rps / count
        load = load if used > 0 else min(load, float(under.candidate.rate_rps.value[0]))
        share = under.rps / max(float(service.rates[t].sum()), 1e-300) if used > 0 else 0.0
        group = Group(
            f"engine-{variant}", under.candidate, (variant,), count, share, load, under.at(load),
            under.candidate.rate_rps,
        )  # fmt: skip
        return Loaded(variant, t, under.request, group, used)

    def limits(self, found: Answered, variant: int, t: int) -> Limits | None:
        """What a kind is started with for its mixture in step ``t``; None: as of :meth:`loaded`."""
        candidate = self._mixtures.of(found, variant, t).candidate
        return None if candidate is None else limits_of(candidate)

    def standing_by(self, found: Answered, engines: Mapping[int, Loaded]) -> dict[int, Loaded]:
        """The kinds that run and get no request in any step: what a loss needs. As if they carried what they can."""
        counts, out = found.answer.engines, {}
        assert counts is not None
        for variant in np.flatnonzero(counts.any(axis=0)).tolist():
            if variant in engines:
                continue
            each = self.loaded(found, variant, int(np.argmax(counts[:, variant])), 0.0)
            if each is None:
                raise Infeasible(
                    "survive: an engine that stands by for a loss does not keep up with the requests that it would get",
                    "relax the SLO, give --headroom, or see what the formulas say with --no-simulation",
                    binding="slo",
                )
            out[variant] = each
        return joined(found, out, engines)

    def with_checks(self, engines: Mapping[int, Loaded]) -> dict[int, Loaded]:
        """The kinds with simulations at their loads, steps at the ends of their interval too."""
        out = {}
        for variant, each in engines.items():
            trial = each.trial if each.pairs else None  # without partners nobody sees it
            check = None if trial is None else trial.check()
            out[variant] = replace(each, check=None if trial is None or check is None else trial.with_ends(check))
        return out
