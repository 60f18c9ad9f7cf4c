"""Plans for so many users at once, each of whom asks again as soon as the answer is there (a closed loop).

As many requests are then in flight as there are users, at whatever rate that makes. A plan for a rate R has R × E2E of
them in flight (Little's law), so the plan sought is that for the lowest rate which has as many in flight as there are
users. Its requests come at random, with more of them in flight at times than on average; users at once are never more
than they are, so what holds for the rate holds for them once the opening burst is through.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.serving.document.plan import Plan
from planner.serving.request import PlanRequest
from profiles.errors import Infeasible, LimitReached

ROUNDS = 12
"""Rates that are tried by formulas alone, ..."""

CONFIRMED_ROUNDS = 4
"""... and with simulations."""

CLOSE = 1.03
"""Requests in flight ÷ users up to which a rate is low enough."""

FIRST_TOKEN_S, NEXT_TOKENS_S = 1.0, 0.025
"""Of a request, for the first rate tried."""


def in_flight(plan: Plan) -> float:
    """Requests that are being served on average (Little's law)."""
    assert plan.prediction.e2e_ms is not None
    return plan.prediction.request_rate_rps.value * plan.prediction.e2e_ms.mean.value / 1e3


def planned_for_users(request: PlanRequest, planned: Callable[[PlanRequest], Plan]) -> Plan:
    """The plan for the workload's users at once; its request says them, and the rate that they make.

    Args:
        planned: the plan for a rate.

    Raises:
        Infeasible: what ``planned`` raises at the lowest rate, or no plan has as many requests in flight.
        LimitReached: no rate was found that has about as many in flight.
    """
    users = request.workload.concurrency
    assert users is not None
    rate = _rate(request, users, planned)
    for _ in range(CONFIRMED_ROUNDS):
        plan = planned(_at(request, rate))
        found = in_flight(plan)
        if found >= users:
            understood = plan.request.model_copy(update={"concurrency": users})
            return plan.model_copy(update={"request": understood}).sealed()
        rate *= users / found * 1.005
    raise LimitReached(
        f"workload: concurrency: no rate was found at which {users} requests are in flight; {rate:.4g} requests/s "
        f"have {found:.4g}",
        f"give the rate instead: rate={rate:.3g}",
    )


def _rate(request: PlanRequest, users: int, planned: Callable[[PlanRequest], Plan]) -> float:
    """About the lowest rate at which the plan, by formulas alone, has ``users`` requests in flight."""
    request = request.model_copy(update={"simulation": False})
    low, high, most, refusal = 0.0, float("inf"), 0.0, None
    rate = users / (FIRST_TOKEN_S + NEXT_TOKENS_S * request.workload.mean_osl)
    for _ in range(ROUNDS):
        try:
            found = in_flight(planned(_at(request, rate)))
        except Infeasible as error:
            high, refusal = rate, error
            carried = error.details.get("highest_rate_rps")
            if isinstance(carried, float) and low < carried < rate:
                rate = carried * (1 - 1e-6)
            elif not low:
                rate /= 8
            else:
                rate = (low + high) / 2
            continue
        most = max(most, found)
        if users <= found <= users * CLOSE:
            return rate
        if found < users:
            low = max(low, rate)
        else:
            high, refusal = min(high, rate), None
        aimed = rate * (users * (1 + CLOSE) / 2) / found
        rate = aimed if low < aimed < high else (low + high) / 2
        if high / max(low, 1e-300) < 1.002:
            break  # in flight jumps here: where more engines come in
    if refusal is None and high < float("inf"):
        return high
    if not most and refusal is not None:
        raise refusal
    raise Infeasible(
        f"workload: concurrency: {users} users at once are more than {request.cluster.name} holds within the SLO, "
        f"about {int(most)}",
        f"plan for fewer (by formulas about concurrency={max(int(most), 1)}), relax the SLO, or offer more GPUs",
        binding="concurrency",
        highest_concurrency=int(most),
    )


def _at(request: PlanRequest, rate_rps: float) -> PlanRequest:
    work = request.workload.model_copy(update={"rate_rps": rate_rps, "concurrency": None})
    return request.model_copy(update={"workload": work})
