"""Levels as the programme chooses them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from planner.power import reference
from planner.power.judge import Days, Judge
from planner.power.ours import RowShape, Tightened, choose_clocks
from planner.power.policy import Policy, none, polca, static, threshold
from planner.power.reference import UNCAPPED, Met, reference_load
from planner.power.report import _candidates, _holding, _most_held
from planner.power.request import parse_power_request
from planner.power.row import row_without_load
from planner.power.simulator import RowModel
from planner.power.traffic import Bursts, ReferenceLoad, mean_lengths

SHAPE = RowShape(np.zeros(1), dynamic=0.6, prefill=0.4, rise=0.0)
SAVINGS, WEIGHTS = np.array([0.02, 0.05, 0.1]), np.array([0.02, 0.01, 0.001])


def chosen(row: RowModel, fields: dict[str, Any]) -> tuple[list[tuple[int | None, ...]], np.ndarray]:
    request = parse_power_request({**fields, "slo_impact": "hp_p50=1%,hp_p99=5%,lp_p50=5%,lp_p99=50%"})
    return choose_clocks(Judge(row, request, Days(10, 1)), SHAPE, SAVINGS, WEIGHTS, Tightened((0.95, 0.95)))


def depth(mhz: int | None) -> float:
    return np.inf if mhz is None else mhz


def test_low_priority_is_capped_first_and_levels_deepen(row: RowModel, fields: dict[str, Any]) -> None:
    levels, saved = chosen(row, fields)
    assert all(depth(lp) <= depth(hp) for hp, lp in levels)
    for before, now in itertools.pairwise(levels):
        assert all(depth(b) <= depth(a) for a, b in zip(before, now, strict=True))
    assert (saved >= SAVINGS - 1e-3).all()


def test_decode_is_capped_before_prefill(row: RowModel, fields: dict[str, Any]) -> None:
    parted = replace(row, kinds=[replace(kind, apart=True, prefill_gpus=4.0) for kind in row.kinds])
    levels, saved = chosen(parted, fields)
    assert all(len(level) == 4 for level in levels)
    for level in levels:
        decode, prefill = level[:2], level[2:]
        assert all(depth(d) <= depth(p) for d, p in zip(decode, prefill, strict=True))
        assert all(depth(lp) <= depth(hp) for hp, lp in (decode, prefill))
    assert (saved >= SAVINGS - 1e-3).all()


def test_what_a_policy_does_is_the_same_whoever_was_judged_before(row: RowModel, fields: dict[str, Any]) -> None:
    """Slots in which it does nothing are taken from those that ran before it."""
    busy = row.under(ReferenceLoad(0.4, Bursts(24, 0.3, 120, 20)))
    request = parse_power_request({**fields, "slo_impact": "hp_p50=1%"})
    judge = Judge(busy, request, Days(10, 1))
    readings = [judge.busy_slot(UNCAPPED, 8, slot).most_reading for slot in judge.slots()]
    tight = replace(busy, tree=replace(busy.tree, budgets=busy.tree.budgets * np.median(readings) / 0.8))
    exact = replace(polca(2, (1275, 1110), 1305), immediate=True)
    policies = [none(), threshold(2, 1110), polca(2, (1275, 1110), 1305), exact, static((1305, 1110))]
    together = Judge(tight, request, Days(10, 1))
    for policy in policies:
        seen, alone = together.verdict(policy, 8), Judge(tight, request, Days(10, 1)).verdict(policy, 8)
        assert repr(seen) == repr(alone)
    quiet = sum(each.readings[0] <= 0.8 for each in together._quiet.values())
    assert 0.2 < quiet / len(together.slots()) < 0.8


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("name", ["static", "threshold"])
def test_caps_that_are_free_to_choose_end_with_none(
    fields: dict[str, Any], shares: tuple[float, ...], name: str
) -> None:
    classes = [{"name": f"p{i}", "share": share} for i, share in enumerate(shares)]
    request = parse_power_request({**fields, "priorities": classes, "slo_impact": f"p{len(shares) - 1}_p50=5%"})
    found = _candidates(name, row_without_load(request), request)
    assert found[-1] == replace(none(), name=name)
    deepest = [min((mhz for mhz in each.clocks_mhz if mhz), default=np.inf) for each in found]
    assert deepest == sorted(deepest)
    assert all(each.name == name for each in found)


def test_caps_that_cost_more_than_is_allowed_give_way_to_milder_ones() -> None:
    policies = [threshold(2, 600), threshold(2, 1110), none()]

    class Strict:
        def holds(self, policy: Policy, n: int) -> bool:
            return n <= (4 if policy is policies[0] else 7)

        def largest(self, policy: Policy, guess: int) -> int:
            return max(n for n in range(9) if self.holds(policy, n))

    judge: Any = Strict()
    assert _holding(judge, policies, 7, 9) == (policies[1], 7)
    assert _holding(judge, policies[:1], 7, 9) == (policies[0], 4)


def test_what_nameplates_allow_is_not_taken_for_what_holds() -> None:
    def held(servers: int) -> Any:
        return SimpleNamespace(verdict=SimpleNamespace(servers=servers))

    one = held(3)
    assert _most_held({"nameplate": held(20), "none": one, "polca": held(2)}) is one
    assert _most_held({"nameplate": held(20)}) is None


def test_reference_traffic_is_what_engines_can_answer(row: RowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that never draws the published peak is offered more and more, but no more than it can decode."""
    monkeypatch.setattr(reference, "six_weeks", lambda *_: Met(0.5, 0.118, 0))
    load, _ = reference_load(row, 8)
    kind, (isl, osl) = row.kinds[0], mean_lengths()
    busy = float(kind.prompt_seconds(np.array(isl))) + osl * kind.full_token_s
    assert load.rate_rps * busy <= 0.86 * kind.engines
