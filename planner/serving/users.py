"""Plans for so many users at once, each of whom asks again as soon as the answer is there (a closed loop).

As many requests are then in flight as there are users, at whatever rate that makes. A plan for a rate R has R × E2E of
them in flight (Little's law), so the plan sought is that for the lowest rate which has as many in flight as there are
users. Its requests come at random, with more of them in flight at times than on average; users at once are never more
than they are, so what holds for the rate holds for them once the opening burst is through.

Requests in flight grow with the rate as long as the fleet is the same, and fall where more engines come in: a fleet at
the most that it carries may hold more users than a larger one at a higher rate. So fleets are judged by what they have
in flight at their most, from the cheapest on, and the rate is then sought within the first that holds them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

from planner.serving.document.plan import Plan
from planner.serving.fleet.programme import BY_REQUEST
from planner.serving.request import PlanRequest
from planner.serving.ways_out import rounded_down
from profiles.errors import Infeasible, LimitReached

ROUNDS = 24
"""Rates that are tried by formulas alone, ..."""

CONFIRMED_ROUNDS = 12
"""... and with simulations, at most."""

CLOSE = 1.03
"""Requests in flight ÷ users up to which a rate is low enough."""

FURTHEST = 1.5
"""By what factor one rate that is tried exceeds the last, at most."""

BEYOND = 1.05
"""What is asked of the simulations ÷ what formulas say is carried, where that is not enough."""

NEAR = 1.002
"""Rates this close to each other are one."""

HARDLY_ANY = 64
"""By what factor the rate is lower that the cheapest of all fleets is found at."""

INSIDE = 1 - 1e-6
"""Of the most that a fleet carries: what it is asked to carry."""

FIRST_TOKEN_S, NEXT_TOKENS_S = 1.0, 0.025
"""Of a request, for the first rate tried."""

Planned = Callable[[PlanRequest], Plan]


def in_flight(plan: Plan) -> float:
    """Requests that are being served on average (Little's law)."""
    assert plan.prediction.e2e_ms is not None
    return plan.prediction.request_rate_rps.value * plan.prediction.e2e_ms.mean.value / 1e3


IN_STEP = (
    "promises are of requests that come at random with as many in flight as there are users; users whose requests are "
    "all of one length, as benchmarks send them, end and ask together, and wait longer for the first token: "
    "`plan simulate` with the same concurrency plays them"
)


def planned_for_users(request: PlanRequest, planned: Planned) -> Plan:
    """The plan for the workload's users at once; its request says them, and the rate that they make.

    Args:
        planned: the plan for a rate.

    Raises:
        Infeasible: what ``planned`` raises at the lowest rate, or no plan has as many requests in flight.
        LimitReached: no rate was found that has about as many in flight.
    """
    users = request.workload.concurrency
    assert users is not None
    formulas = request.model_copy(update={"simulation": False})
    by_formulas = _Search(formulas, users, planned, ROUNDS)
    try:
        found = by_formulas.lowest(_first_rate(request, users))
        rate_rps = found.rate_rps
    except Infeasible:
        if not request.simulation:
            raise
        rate_rps = by_formulas.highest_rps * BEYOND  # the simulation has the last word
    if request.simulation:
        found = _Search(request, users, planned, CONFIRMED_ROUNDS).upwards(rate_rps)
    understood = found.plan.request.model_copy(update={"concurrency": users})
    provenance = found.plan.provenance
    if request.workload.spread is None and request.workload.recorded is None:
        provenance = provenance.model_copy(update={"notes": (*provenance.notes, IN_STEP)})
    return found.plan.model_copy(update={"request": understood, "provenance": provenance}).sealed()


def _first_rate(request: PlanRequest, users: int) -> float:
    return users / (FIRST_TOKEN_S + NEXT_TOKENS_S * request.workload.mean_osl)


@dataclass(frozen=True)
class _At:
    """The plan for a rate."""

    rate_rps: float
    plan: Plan

    @property
    def in_flight(self) -> float:
        return in_flight(self.plan)

    @property
    def value(self) -> float:
        """What fleets are told apart by: what they cost; all are one where that is not what is asked."""
        return 0.0 if self.plan.request.objective in BY_REQUEST else self.plan.proof.objective_value

    @property
    def most_rps(self) -> float:
        """What its fleet carries."""
        return max(self.rate_rps, self.rate_rps / self.plan.prediction.utilisation * INSIDE)


class _Search:
    """For the lowest rate whose plan has as many requests in flight as there are users."""

    def __init__(self, request: PlanRequest, users: int, planned: Planned, rounds: int) -> None:
        self._request, self._users, self._planned, self._rounds = request, users, planned, rounds
        self._tried: dict[float, _At | None] = {}
        self._refusal: Infeasible | None = None

    def at(self, rate_rps: float) -> _At | None:
        """The plan for a rate; None: there is none."""
        if rate_rps not in self._tried:
            if len(self._tried) >= self._rounds:
                raise self._out_of_rounds()
            work = self._request.workload.model_copy(update={"rate_rps": rate_rps, "concurrency": None})
            try:
                plan = self._planned(self._request.model_copy(update={"workload": work}))
                self._tried[rate_rps] = _At(rate_rps, plan)
            except Infeasible as error:
                self._refusal = error
                self._tried[rate_rps] = None
        return self._tried[rate_rps]

    @property
    def highest_rps(self) -> float:
        """Of the rates that were tried: the highest that has a plan, or else the lowest."""
        return max((each.rate_rps for each in self._tried.values() if each is not None), default=min(self._tried))

    def lowest(self, rate_rps: float) -> _At:
        """Beginning at a rate, which may be any."""
        begins, most, below = self._holding(rate_rps)
        begins, most = self._cheapest(begins, most, below)
        return self._within(begins, most)

    def upwards(self, rate_rps: float) -> _At:
        """From a rate that is about right or too low, and whose fleet has none cheaper that would do; or from any,
        where no formula says one."""
        few: _At | None = None
        most_rps = float("inf")  # what is carried, once a refusal has told it
        while True:
            here = self.at(rate_rps)
            if few is not None and here is not None and here.value > few.value:
                few, here = self._top_of(few, rate_rps)
            if here is None:
                carried = self._refused_above(rate_rps)
                if carried is None or (few is not None and carried <= few.rate_rps * NEAR):
                    raise self._too_many()
                rate_rps = most_rps = min(carried, most_rps)
            elif here.in_flight >= self._users:
                return here if few is None or few.value < here.value else self._within(few, here, CLOSE**2)
            elif rate_rps >= most_rps:
                raise self._too_many()
            else:
                aimed = rate_rps * min(self._users * (1 + CLOSE) / 2 / here.in_flight, FURTHEST)
                few, rate_rps = here, min(aimed, most_rps)

    def _top_of(self, few: _At, beyond_rps: float) -> tuple[_At, _At | None]:
        """(the most of a fleet that is known, the least of the next one or of this one where it holds the users)."""
        while beyond_rps > few.rate_rps * NEAR**2:
            rate = (few.rate_rps + beyond_rps) / 2
            here = self.at(rate)
            if here is None or here.value > few.value:
                beyond_rps = rate
            elif here.in_flight >= self._users:
                return few, here
            else:
                few = here
        return few, self.at(beyond_rps)

    def _refused_above(self, rate_rps: float) -> float | None:
        """What is carried where a rate is not."""
        carried = self._refusal.details.get("highest_rate_rps") if self._refusal else None
        return carried * INSIDE if isinstance(carried, float) and 0 < carried < rate_rps else None

    def _holding(self, rate_rps: float) -> tuple[_At, _At, float]:
        """(a plan, its fleet at its most, where that holds the users; a rate up to which no fleet does)."""
        low, high = 0.0, float("inf")
        while True:
            here = self.at(rate_rps)
            if here is None:
                high = min(high, rate_rps)
                carried = self._refused_above(rate_rps)
                if carried is not None:
                    high = min(high, carried * NEAR)  # of formulas it is the most that there is
                if carried is not None and carried > low:
                    rate_rps = carried
                else:
                    rate_rps = (low + high) / 2 if low else rate_rps / 8
            else:
                most = here if here.in_flight >= self._users else self._at_most(here)
                if most.in_flight >= self._users:
                    return here, most, low
                low = max(low, most.rate_rps)
                aimed = low * max(self._users / most.in_flight, NEAR)
                rate_rps = aimed if aimed < high else (low + high) / 2
            if high <= max(low, 0.0) * NEAR or high < 1e-9:
                raise self._too_many()

    def _at_most(self, here: _At) -> _At:
        """The fleet of a plan at the most that it carries: what is left for that rate may be more, never less."""
        return here if here.most_rps <= here.rate_rps * NEAR else self.at(here.most_rps) or here

    def _cheapest(self, begins: _At, most: _At, below: float) -> tuple[_At, _At]:
        """The cheapest fleet that holds the users, between a rate up to which none does and one that does: (its plan
        at about the lowest rate at which it is the plan, and at a rate where it holds them)."""
        if not below:  # no fleet was seen that does not: is there any that costs less?
            idle = self.at(begins.rate_rps / HARDLY_ANY)
            if idle is None or idle.value >= begins.value:
                return idle or begins, most
            top = self._at_most(idle)
            if top.in_flight >= self._users:
                return idle, top
            below = top.rate_rps
        # Most often one engine less: what that carries is known.
        engines = sum(len(group.replicas) for group in begins.plan.decision.engines)
        rate = begins.most_rps * (engines - 1) / engines * INSIDE
        while begins.rate_rps > below * NEAR**2:
            least = below * NEAR**2
            if not least < rate < begins.rate_rps:
                rate = least
            here = self.at(rate)
            if here is None:
                break
            if here.value >= begins.value:
                begins, rate = here, least  # are there any between? If not, this is the last
                continue
            top = here if here.in_flight >= self._users else self._at_most(here)
            if top.in_flight >= self._users:
                begins, most = here, top
            else:
                below = top.rate_rps
            rate = (below * begins.rate_rps) ** 0.5 if rate == least else 0.0
        return begins, most

    def _within(self, begins: _At, most: _At, close: float = CLOSE) -> _At:
        """Of one fleet, about the lowest rate at which it has as many in flight."""
        users = self._users
        while begins.in_flight < users and most.in_flight > users * close and most.rate_rps > begins.rate_rps * NEAR:
            share = log(users * (1 + CLOSE) / 2 / begins.in_flight) / log(most.in_flight / begins.in_flight)
            here = self.at(begins.rate_rps * (most.rate_rps / begins.rate_rps) ** min(max(share, 0.02), 0.98))
            if here is None:
                break
            if here.in_flight >= users:
                most = here
            else:
                begins = here
        return begins if begins.in_flight >= users else most

    def _too_many(self) -> Infeasible:
        held = max((each.in_flight for each in self._tried.values() if each is not None), default=0.0)
        if not held and self._refusal is not None:
            return self._refusal
        most, where = int(held), self._request.cluster.name
        if not most:  # a user who asks again at once is as many requests as fit into the time of one
            rate = max(each.rate_rps for each in self._tried.values() if each is not None)
            return Infeasible(
                f"workload: concurrency: {where} holds the SLO for fewer requests than one user makes who asks again "
                f"at once: {rate:.3g} a second, {held:.2g} of them in flight",
                f"give a rate instead of users (rate={rounded_down(rate):g} holds), relax the SLO, or offer more GPUs",
                binding="concurrency",
                highest_concurrency=0,
            )
        return Infeasible(
            f"workload: concurrency: {self._users} users at once are more than {where} holds within the SLO, about "
            f"{most}",
            "plan for fewer, relax the SLO, or offer more GPUs",
            binding="concurrency",
            highest_concurrency=most,
        )

    def _out_of_rounds(self) -> LimitReached:
        known = [each for each in self._tried.values() if each is not None]
        rate = max((each.rate_rps for each in known), default=1.0)
        held = max((each.in_flight for each in known), default=0.0)
        return LimitReached(
            f"workload: concurrency: no rate was found at which {self._users} requests are in flight; {rate:.4g} "
            f"requests/s have {held:.4g}",
            f"give the rate instead: rate={rate:.3g}",
        )
