"""Ways out of a refused fleet are tried before they are told."""

from __future__ import annotations

from planner.serving.fleets.nearest import UNTRIED, with_tried_share
from planner.serving.fleets.request import FleetRequest, parse_fleet_request
from planner.serving.fleets.ways_out import carried_then
from planner.solving.mix.clock import Deadline
from profiles.errors import Infeasible

CHAT = {"isl": 500, "osl": 100, "rate_rps": 9}
ASKED = {
    "cluster": "4xL40S",
    "services": [{"name": "chat", "model": "Qwen/Qwen3-8B", "slo": "ttft=1s", "load": {"classes": [CHAT]}}],
    "survive": {"engines": 1},
}


def refused(part: float, way: str = "have 5 GPUs of L40S") -> Infeasible:
    hint = f"{way}, or {carried_then(part)}" if part else way
    return Infeasible("survive: engines 1", hint, binding="survive", share_survived=part)


def tried(carries: float, *, seconds: float = 60.0, first: float = 0.95) -> tuple[Infeasible, list[float]]:
    """The refusal that is told of a fleet that ``carries`` a part of the load once it is simulated, and what was
    tried: a part that is too much is said to be 0.06 too much."""
    shares: list[float] = []

    def fails(request: FleetRequest) -> Infeasible | None:
        shares.append(request.survive.share)
        return None if request.survive.share <= carries else refused(round(request.survive.share - 0.06, 2))

    request = parse_fleet_request(ASKED)
    return with_tried_share(request, refused(first), fails, Deadline(seconds)), shares


def test_the_part_of_the_load_that_is_told_is_one_that_was_found_to_be_carried() -> None:
    told, shares = tried(0.85)
    assert shares == [0.95, 0.89, 0.83]
    assert told.hint == "have 5 GPUs of L40S, or carry 83% of the load then (survive: share: 0.83)"
    assert told.details["share_survived"] == 0.83


def test_where_no_part_is_carried_none_is_told() -> None:
    told, _ = tried(0.0, first=0.1)
    assert told.hint == "have 5 GPUs of L40S"
    assert told.details["share_survived"] == 0.0


def test_what_no_time_was_left_to_try_says_so() -> None:
    told, shares = tried(0.85, seconds=0.0)
    assert not shares
    assert told.hint.endswith(UNTRIED)
