"""Searches of layouts, kept while rates and loads are tried: what engines carry does not depend on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from costmodels.models.precision import Precision
from planner.serving.engines.options import Offer, in_either_role, offers_of
from planner.serving.layouts import Rejected
from planner.serving.operating_points import LayoutSearch
from planner.serving.request import PlanRequest

MOST = 4
"""Requests whose searches are kept: what is tried differs in its rate, or is not asked again."""


@dataclass(frozen=True)
class SearchedLayouts:
    """What was found on the pools of a ``request`` in one precision, and which pools were refused."""

    request: PlanRequest
    searches: list[LayoutSearch]
    refused: list[Rejected]

    @cached_property
    def offers(self) -> list[Offer]:
        """The engines that prefill or decode."""
        return list(offers_of(self.request, in_either_role(self.searches)))


class KnownSearches:
    """By all of a request but its rate, and by precision."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Precision], SearchedLayouts] = {}

    def of(self, request: PlanRequest, precision: Precision, make: Callable[[], SearchedLayouts]) -> SearchedLayouts:
        """What is known; what there is to ``make`` where nothing is."""
        key = (but_for_rate(request), precision)
        if key not in self._known:
            found = make()
            while len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            self._known[key] = found
        return self._known[key]


def but_for_rate(request: PlanRequest) -> str:
    """A request, in words, without what searches do not depend on."""
    work = request.workload.model_copy(update={"rate_rps": None, "concurrency": None})
    same = {"workload": work, "simulation": True, "headroom": 0.0, "objective": request.goal}
    return request.model_copy(update=same).model_dump_json(warnings=False)  # a model may be a bare config.json
