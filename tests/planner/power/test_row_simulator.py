"""The row simulator: the same in any batch, work conserved, power between idle and full, caps act when they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.power import arrays, readings
from planner.power.again import come_again
from planner.power.drawn import DayOfRequests, Packed
from planner.power.policy import Policy, none, polca, static
from planner.power.simulator import Outcome, RowModel, chance_of, held_for, simulate
from planner.power.traffic import (
    Bursts,
    RecordedLoad,
    ReferenceLoad,
    busiest,
    stretch,
    whole_day,
)

HOURS = 7200
FREE = Policy("free", brakes=False)


def one(row: RowModel, policy: Policy, n: int = 8, seed: int = 3, seconds: int = HOURS) -> Outcome:
    assert row.load is not None
    day = whole_day(row.load, 12, seed, 0)
    keep = day.second < seconds
    assert day.square is None
    day = type(day)(*(getattr(day, name)[keep] for name in ("second", "server", "isl", "osl", "count")))
    return simulate(row, policy, n, row.requests(day), chance_of(seed, 0), seconds)


def test_a_replicate_is_the_same_alone_and_among_others(row: RowModel) -> None:
    alone = one(row, polca(2, (1275, 1110), 1305))
    for n in (7, 9, 8):
        again = one(row, polca(2, (1275, 1110), 1305), n)
    assert again.watts.tobytes() == alone.watts.tobytes()
    assert again.latency_s.tobytes() == alone.latency_s.tobytes()


def test_servers_do_not_change_when_others_come(row: RowModel) -> None:
    assert row.load is not None
    few, many = (whole_day(row.load, n, 5, 1) for n in (8, 11))
    first = many.server < 8
    assert np.array_equal(few.second, many.second[first])
    assert np.array_equal(few.isl, many.isl[first])
    assert np.array_equal(row.servers(11).group[:8], row.servers(8).group)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.3, 0.5)])
def test_every_rack_and_kind_has_all_priorities(row: RowModel, shares: tuple[float, ...]) -> None:
    """With as many racks or kinds as priorities each had one of its own: the racks of high priority bound the row."""
    leaves = 4
    tree = replace(
        row.tree,
        names=("row", *"abcd"),
        budgets=np.array([40_000.0] + [10_000.0] * leaves),
        below=np.vstack([np.ones(leaves, bool), np.eye(leaves, dtype=bool)]),
        places=np.array([6] * leaves),
    )
    many = replace(row, kinds=row.kinds * 2, mix=np.array([18.0, 6.0]), tree=tree, group_shares=np.array(shares))
    servers = many.servers(24)
    assert np.bincount(servers.leaf).tolist() == [6] * leaves
    assert np.bincount(servers.kind).tolist() == [18, 6]
    for of in (servers.leaf, servers.kind):
        for each in np.unique(of):
            mine = np.bincount(servers.group[of == each], minlength=len(shares))
            assert np.abs(mine - np.array(shares) * (of == each).sum()).max() <= 1.5


def test_a_stretch_is_that_part_of_its_day(row: RowModel) -> None:
    assert row.load is not None
    day, part = whole_day(row.load, 8, 5, 1), stretch(row.load, 8, 5, 1, 36_000, "exponential")
    inside = (day.second >= 36_000 - 300) & (day.second < 36_900)
    assert np.array_equal(day.second[inside] - 36_000 + 300, part.second)
    assert np.array_equal(day.osl[inside], part.osl)


@pytest.mark.parametrize("policy", [FREE, none(), static((1305, 600)), polca(2, (1275, 1110), 1305)])
def test_work_is_conserved_under_every_policy(row: RowModel, policy: Policy) -> None:
    totals = one(row.under(ReferenceLoad(0.3, row.load.bursts)), policy).totals  # type: ignore[union-attr]
    assert totals[arrays.WORK_DONE] + totals[arrays.WORK_LEFT] == pytest.approx(totals[arrays.WORK_IN], rel=1e-9)
    assert totals[arrays.TOKENS_DONE] + totals[arrays.TOKENS_LEFT] == pytest.approx(totals[arrays.TOKENS_IN], rel=1e-9)


def test_power_lies_between_idle_and_all_at_work(row: RowModel) -> None:
    watts = one(row, FREE).watts
    kind = row.kinds[0]
    assert watts.min() >= 8 * kind.idle_watts - 1e-6
    assert watts.max() <= 8 * kind.most_watts + 1e-6
    nothing = DayOfRequests(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0))
    idle = simulate(row, FREE, 8, row.requests(nothing), chance_of(0, 0), 600)
    assert np.allclose(idle.watts, 8 * kind.idle_watts)


def test_a_lower_clock_draws_less_and_takes_longer(row: RowModel) -> None:
    fast, slow = one(row, FREE), one(row, static((705, 705)))
    assert slow.watts.max() < fast.watts.max()
    assert np.median(slow.latency_s) > 1.1 * np.median(fast.latency_s)


def test_a_cap_acts_after_its_delay_and_the_brake_after_its_own(row: RowModel) -> None:
    calm = replace(row.timing, error=0.0, failure_rate=0.0)
    row = replace(row, timing=calm, tree=replace(row.tree, budgets=row.tree.budgets * 0.6))
    braked = one(row.under(ReferenceLoad(0.3, row.load.bursts)), none())  # type: ignore[union-attr]
    assert braked.brakes > 0
    free = one(row.under(ReferenceLoad(0.3, row.load.bursts)), FREE)  # type: ignore[union-attr]
    over = int(np.flatnonzero(free.watts > row.budget_watts)[0])
    assert np.array_equal(braked.watts[: over + 5], free.watts[: over + 5])
    assert braked.watts[over + 12 : over + 40].max() < free.watts[over + 12 : over + 40].max()


def test_the_brake_is_let_go_whatever_becomes_of_commands(row: RowModel) -> None:
    """It has wires of its own: what was told last holds again."""
    calm = replace(row.timing, error=0.0, failure_rate=0.0)
    low = replace(row.tree, budgets=row.tree.budgets * 0.6)
    load = ReferenceLoad(0.3, row.load.bursts)  # type: ignore[union-attr]
    reached = one(replace(row, timing=calm, tree=low).under(load), none())
    cut_off = one(replace(row, timing=replace(calm, failure_rate=1.0), tree=low).under(load), none())
    assert reached.brakes > 0
    assert cut_off.watts.tobytes() == reached.watts.tobytes()


def test_a_class_that_no_command_reaches_is_as_fast_as_ever(row: RowModel) -> None:
    row = replace(row, tree=replace(row.tree, budgets=row.tree.budgets * 0.75))
    dead = replace(row, timing=replace(row.timing, dead=(1,)))
    policy = replace(polca(2, (600, 405), 705), brakes=False)
    group = row.servers(8).group

    def low(outcome: Outcome) -> np.ndarray:
        return outcome.latency_s[group[outcome.latency_server] == 1]

    assert np.array_equal(low(one(dead, policy)), low(one(row, FREE)))
    assert np.median(low(one(row, policy))) > np.median(low(one(row, FREE)))


def test_latency_is_that_of_an_engine_alone(row: RowModel) -> None:
    kind = row.kinds[0]
    load = RecordedLoad(np.arange(0, 7000, 350.0), np.full(20, 2000), np.full(20, 500), 1)
    outcome = simulate(row, FREE, 1, row.requests(load.as_recorded(0)), chance_of(0, 0), HOURS)
    expected = float(kind.prompt_seconds(np.array(2000.0))) + 499 * kind.token_s
    assert np.allclose(outcome.latency_s, expected, rtol=0.03)
    energy = 20 * (
        kind.prefill_watts * float(kind.prompt_seconds(np.array(2000.0))) + kind.decode_watts * 499 * kind.token_s
    )
    assert outcome.watts.sum() - HOURS * kind.idle_watts == pytest.approx(energy, rel=0.03)


def test_the_busiest_slots_come_nearest_to_the_budget(row: RowModel) -> None:
    load = ReferenceLoad(0.05, Bursts(24, 0.6, 120, 20))
    slots = busiest(load, 4, range(3), 3 * 96, "exponential")
    assert len(set(slots)) == 3 * 96
    highest = {
        (day, 900 * int(slot)): watts
        for day in range(3)
        for slot, watts in enumerate(
            simulate(row, FREE, 40, row.requests(whole_day(load, 40, 4, day)), chance_of(4, day))
            .watts.reshape(96, -1)
            .max(axis=1)
        )
    }
    top = sorted(highest, key=lambda slot: -highest[slot])[:5]
    assert all(slots.index(slot) < 20 for slot in top)


CURVE = ((1.1, 600.0), (1.25, 60.0), (2.0, 5.0))


def trips_after(load: float) -> int:
    """Seconds at a load until the breaker trips, counted one by one."""
    loads, holds = (np.log(np.array(each)) for each in zip(*CURVE, strict=True))
    wear, seconds = 0.0, 0
    while wear < 1 - 1e-9 and seconds < 5000:
        wear, seconds = readings.worn(wear, load, loads, holds), seconds + 1
    return seconds


def test_a_breaker_trips_when_its_curve_says() -> None:
    assert [trips_after(load) for load, _ in CURVE] == [600, 60, 5]
    assert trips_after(1.09) == 5000
    assert 60 < trips_after(1.2) < 600
    assert trips_after(3.0) < 5
    assert held_for(CURVE, 60) == pytest.approx(1.25, rel=2e-3)
    assert held_for(CURVE, 601) is None
    assert held_for(((1.2, 100.0),), 25) == pytest.approx(2.4, rel=2e-3)  # heat goes with the square


def test_a_breaker_cools_below_its_curve() -> None:
    loads, holds = (np.log(np.array(each)) for each in zip(*CURVE, strict=True))
    hot = readings.worn(0.0, 1.25, loads, holds)
    assert hot == pytest.approx(1 / 60)
    assert readings.worn(hot, 1.0, loads, holds) == pytest.approx(1 / 60 - 1 / 600)
    assert readings.worn(0.0, 0.5, loads, holds) == 0


def test_breakers_are_worn_by_what_their_node_draws(row: RowModel) -> None:
    tight = replace(row.tree, budgets=row.tree.budgets * 0.55, curves=(CURVE,))
    free, worn = one(row, FREE), one(replace(row, tree=tight), FREE)
    assert free.wear.max() == 0
    assert np.array_equal(free.watts, worn.watts)
    loads, holds = (np.log(np.array(each)) for each in zip(*CURVE, strict=True))
    wear, most = 0.0, 0.0
    for watts in worn.watts:
        wear = readings.worn(wear, watts / tight.budgets[0], loads, holds)
        most = max(most, wear)
    assert most > 0
    assert worn.wear.max() == pytest.approx(most)


def test_a_brake_that_waits_for_the_breaker_is_pulled_less_and_in_time(row: RowModel) -> None:
    """Short peaks above the budget wear the breaker little; what would trip it is braked before."""
    budget = float(np.quantile(one(row, FREE).watts, 0.98))
    tight = replace(row.tree, budgets=np.array([budget]), curves=(CURVE,))
    soon = replace(row, tree=tight)
    late = replace(soon, timing=replace(row.timing, by_breaker=True))
    for policy in (none(), polca(2, (1275, 1110), 1305)):
        by_reading, by_breaker = one(soon, policy), one(late, policy)
        assert by_breaker.brakes < by_reading.brakes
        assert by_breaker.braked.sum() == by_breaker.brakes
        assert by_breaker.wear.max() < 1
    bare = replace(late, tree=replace(tight, curves=((),)))
    assert np.array_equal(one(bare, none()).watts, one(replace(soon, tree=bare.tree), none()).watts)


def test_a_warm_breaker_is_not_loaded_again_too_soon(row: RowModel) -> None:
    """The brake is kept until the breaker has room for what it carried before: let go at once it tripped."""
    assert row.load is not None
    for rate, quantile in ((0.05, 0.5), (0.05, 0.3), (0.2, 0.3)):
        busy = row.under(ReferenceLoad(rate, row.load.bursts))  # type: ignore[union-attr]
        budget = float(np.quantile(one(busy, FREE).watts, quantile))
        tight = replace(row.tree, budgets=np.array([budget]), curves=(((1.02, 60.0), (1.2, 12.0)),))
        waits = one(replace(busy, tree=tight, timing=replace(row.timing, by_breaker=True)), none())
        assert waits.brakes > 20
        assert waits.wear.max() < 1


def test_what_waits_is_foreseen(row: RowModel) -> None:
    """Watts of the next seconds lie nearer to what was foreseen than to what was drawn."""
    busy = row.under(ReferenceLoad(0.4, row.load.bursts))  # type: ignore[union-attr]
    seen = one(busy, Policy("free", brakes=False, foresight_s=3.0))
    assert np.array_equal(seen.watts, one(busy, FREE).watts)
    assert (seen.foreseen >= seen.watts - 1e-6).all()
    later = np.lib.stride_tricks.sliding_window_view(seen.watts[1:], 3).max(axis=1)
    plain, ahead = (np.maximum(later - each[: len(later)], 0).mean() for each in (seen.watts, seen.foreseen))
    assert ahead < plain


def apart(row: RowModel) -> RowModel:
    """The same row with GPUs for prefill and others for decode."""
    return replace(row, kinds=[replace(kind, apart=True, prefill_gpus=4.0) for kind in row.kinds])


def test_one_clock_a_priority_is_that_of_both_roles(row: RowModel) -> None:
    parted = apart(row)
    assert (row.columns, parted.columns) == (2, 4)
    narrow, wide = one(parted, static((1305, 600))), one(parted, static((1305, 600, 1305, 600)))
    assert narrow.watts.tobytes() == wide.watts.tobytes()


def test_a_clock_of_decode_leaves_prefill_alone(row: RowModel) -> None:
    busy = apart(row.under(ReferenceLoad(0.4, row.load.bursts)))  # type: ignore[union-attr]
    free, decode, both = (one(busy, static(c)) for c in ((None,) * 4, (600, 600, None, None), (600,) * 4))
    assert decode.totals[arrays.WORK_DONE] == pytest.approx(free.totals[arrays.WORK_DONE], rel=1e-3)
    assert np.median(free.latency_s) < np.median(decode.latency_s) < np.median(both.latency_s)
    assert both.watts.max() < decode.watts.max() < free.watts.max()


def test_policies_share_what_the_row_is_supplied_with(row: RowModel) -> None:
    first, second = (row.under_policy(policy, HOURS) for policy in (FREE, polca(2, (1275, 1110), 1305)))
    assert first[2] is second[2]
    assert len(row.under_policy(FREE, 2 * HOURS)[2].other_watts) == 2 * HOURS


def test_a_stretch_that_was_kept_is_the_one_that_was_drawn() -> None:
    for rate in (0.3, 5.0):  # one by one, and those of a second as one
        load = ReferenceLoad(rate, Bursts(24, 0.1, 120, 20))
        drawn = stretch(load, 20, 0, 3, 3600, "exponential")
        kept = Packed(drawn)
        assert kept.nbytes < 12 * len(drawn.second)
        for name in ("second", "server", "isl", "osl", "count"):
            one, other = getattr(drawn, name), getattr(kept.day(), name)
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_requests_of_a_second_are_told_as_one_where_they_are_many(row: RowModel) -> None:
    draw = np.random.default_rng(0)
    arrival, isl, osl = (
        np.sort(draw.uniform(0, 1800, 90_000)),
        draw.integers(1, 3000, 90_000),
        draw.integers(1, 40, 90_000),
    )
    load = RecordedLoad(arrival, isl, osl, 4)
    seen = stretch(load, 6, 0, 3, 3600, "exponential")
    assert seen.square is not None
    assert len(seen.second) <= 1200 * 6
    parts = [part for block in load.requests(6, 0, 3, 5, 8, "exponential") for part in block]
    single = DayOfRequests.of(parts).within(3300, 4500, 3300)
    assert seen.count.sum() == len(single.second) > 50_000
    one_by_one, together = (row.requests(each, followed=False) for each in (single, seen))
    for name in ("work_s", "tokens"):
        sums = [
            np.bincount(each.step * 6 + each.server, getattr(each, name) * (each.merged if name == "tokens" else 1.0))
            for each in (one_by_one, together)
        ]
        np.testing.assert_allclose(*sums, rtol=1e-5)
    peaks = [simulate(row, FREE, 6, each, chance_of(0, 3), 1200).peak.max() for each in (one_by_one, together)]
    assert peaks[0] == pytest.approx(peaks[1], rel=1e-6)
    kept = Packed(seen).day()
    assert np.array_equal(row.requests(kept, followed=False).work_s, together.work_s)


def test_a_part_of_a_day_has_the_days_curve() -> None:
    load = ReferenceLoad(1.0, Bursts(24, 0.5, 300, 20))
    whole = load.intensity(0, 5, "heavy")
    for first in (0, 600, 43_200, 85_800):
        assert np.array_equal(load.intensity(0, 5, "heavy", (first, first + 600)), whole[first : first + 600])


@pytest.mark.parametrize("most", [0.0, 0.02, 0.7, 9.0, 12.0])
def test_requests_come_again_as_numpy_draws_it(most: float) -> None:
    ours, numpys, other = (np.random.default_rng(4) for _ in range(3))
    expected = other.uniform(-most / 2, most, 600).clip(0)  # nothing comes again in a third of the seconds
    second = np.sort(other.integers(0, 600, 20_000))
    again = come_again(expected, second, ours)
    more = numpys.poisson(expected[second])
    assert np.array_equal(np.bincount(again, minlength=len(second)), more)
    assert np.array_equal(again, np.sort(again))
    assert np.array_equal(ours.integers(0, 7, 100), numpys.integers(0, 7, 100))
