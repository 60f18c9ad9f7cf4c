"""Ways out of a refused fleet are tried before they are told."""

from __future__ import annotations

from planner.serving.fleets.nearest import UNTRIED, with_tried_share, with_tried_supplies
from planner.serving.fleets.request import FleetRequest, parse_fleet_request
from planner.serving.fleets.ways_out import More, carried_then, to_have
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


def tried_supplies(needs: dict[str, int], *, seconds: float = 60.0) -> tuple[Infeasible, list[dict[str, int | None]]]:
    """The refusal that is told of a fleet which is found, once it is simulated, where one of the supplies has what it
    ``needs``; and what the supplies had that were tried."""
    ways = [[More("H100-SXM", 8, "GPUs", 8)], [More("quota of L40S", 10, "GPUs", 1)]]
    seen: list[dict[str, int | None]] = []

    def fails(request: FleetRequest) -> Infeasible | None:
        assert request.cluster is not None
        large, small = request.cluster.pools
        seen.append({"H100-SXM": large.gpus, "quota of L40S": small.quota_gpus})
        enough = any((seen[-1][name] or 0) >= count for name, count in needs.items())
        return None if enough else Infeasible("fleet: more", "have more")

    pools = [{"gpu": "H100", "gpus": 4}, {"gpu": "L40S", "as_needed": True, "quota_gpus": 4}]
    request = parse_fleet_request({**ASKED, "cluster": {"name": "c", "pools": pools}})
    error = Infeasible("fleet: the load is more", f"{to_have(ways)}, or wait", have=ways)
    return with_tried_supplies(request, error, fails, Deadline(seconds)), seen


def test_the_supplies_that_are_told_are_those_that_a_fleet_was_found_with() -> None:
    told, seen = tried_supplies({"quota of L40S": 12})
    assert told.hint == "have a quota of 12 GPUs of L40S, or wait"
    assert [each["H100-SXM"] for each in seen] == [8, 16, 24, 4, 4, 4]  # whole instances, and none of them does
    assert [each["quota of L40S"] for each in seen[3:]] == [10, 11, 12]


def test_supplies_that_no_time_was_left_to_try_say_so() -> None:
    told, seen = tried_supplies({"quota of L40S": 12}, seconds=0.0)
    assert not seen
    assert told.hint == f"have 8 GPUs of H100-SXM or a quota of 10 GPUs of L40S{UNTRIED}, or wait"


def test_where_no_supply_does_others_are_asked_for() -> None:
    told, _ = tried_supplies({"H100-SXM": 1000})
    assert told.hint == "offer more pools, or serve less, or wait"
