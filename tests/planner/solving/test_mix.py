"""Mixes of engines: the optimum of small questions against all fleets, and what must hold of any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from mix_twin import MOST, carried, cheapest, in_zones, kinds_of, on_nodes, random_question

from planner.solving.mix.apart import Apart
from planner.solving.mix.clock import Deadline
from planner.solving.mix.fewer import fewer
from planner.solving.mix.losses import losses, lowered, node_losses, remaining
from planner.solving.mix.losses import on_nodes as nodes_of
from planner.solving.mix.master import fits
from planner.solving.mix.question import Block, Kinds, MixQuestion, Places, Survive
from planner.solving.mix.rounds import Rounds
from planner.solving.mix.solve import MixAnswer, mended_mix, solve_mix
from planner.solving.mix.windows import Windows

HOUR = np.array([3600.0])
RATES = 30 * np.array([[0.2, 0.1], [0.5, 0.2]])
A10G, A100 = np.array([[2, 1], [5, 2]]), np.array([[20, 20], [40, 20]])


def question(*, both: bool) -> MixQuestion:
    """Mélange's example (arXiv:2404.14527), routed by prompt and output, or by prompt alone."""
    work = [RATES / A10G, RATES / A100]
    cells = np.stack([each.ravel() if both else each.sum(axis=1) for each in work], axis=1)
    return MixQuestion(kinds_of(np.array([1.01, 3.67])), [cells], HOUR)


@pytest.mark.parametrize(("both", "cost"), [(True, 4.68), (False, 5.69)])
def test_the_published_example(both: bool, cost: float) -> None:
    found = solve_mix(question(both=both))
    assert found.status == "optimal"
    assert found.objective == pytest.approx(cost)


Changed = Callable[[np.random.Generator, MixQuestion], MixQuestion]


def answered(seeds: range, changed: Changed, *, seconds: float) -> Iterator[tuple[int, MixQuestion, MixAnswer, float]]:
    """(seed, question, answer, what trying every fleet finds) of questions whose fleets can all be tried."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        asked = changed(rng, random_question(rng))
        found = solve_mix(asked, seconds=seconds)
        if found.engines is None or found.engines.max() <= MOST[len(asked.kinds)]:
            yield seed, asked, found, cheapest(asked)


def agree(seeds: range, *, changed: Changed = lambda _, asked: asked) -> None:
    tried = 0
    for seed, _, found, expected in answered(seeds, changed, seconds=20):
        tried += 1
        if np.isinf(expected):
            assert found.status == "infeasible", seed
        else:
            assert found.objective == pytest.approx(expected, rel=1e-7), seed
    assert tried > 0.8 * len(seeds)


def test_the_optimum_of_small_questions_is_that_of_all_fleets() -> None:
    agree(range(12))


def test_so_it_is_where_zones_may_be_lost() -> None:
    agree(range(10), changed=in_zones)


def stand(seeds: range, lost: int = 1) -> tuple[int, int]:
    """(questions answered, optima) where ``lost`` nodes may be: no way to place engines is cheaper than the bound, and
    what is answered stands on its nodes."""
    tried, optimal = 0, 0
    for seed, asked, found, expected in answered(seeds, partial(on_nodes, lost=lost), seconds=10):
        if found.engines is None or found.objective is None or found.bound is None:
            assert found.status == "time_limit" or np.isinf(expected), seed
            continue
        tried += 1
        optimal += found.objective == pytest.approx(expected, rel=1e-7)
        assert found.bound <= expected * (1 + 1e-7), seed
        assert found.objective >= expected * (1 - 1e-7), seed
        assert asked.places is not None
        for loss in node_losses(asked, found.engines[0], lost):
            assert carried(asked.work[0], remaining(found.engines[0], loss), asked.survive.share), seed
        for supply, held in nodes_of(asked, found.engines[0]).items():
            at = np.flatnonzero(asked.places.supply == supply)[0]
            if np.isfinite(asked.places.gpus[at]):
                sizes = {pack: sum(int(asked.kinds.gpus[v]) * count for v, count in pack) for pack in held}
                assert sum(-(-sizes[pack] // 4) * held[pack] for pack in held) <= asked.places.gpus[at] / 4
                assert all(sizes[pack] <= 4 or len(pack) == 1 for pack in held)
    return tried, optimal


def test_engines_stand_so_that_any_node_may_be_lost() -> None:
    tried, optimal = stand(range(4))
    assert optimal == tried > 2


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 12), marks=pytest.mark.slow)])
def test_engines_stand_so_that_any_two_nodes_may_be_lost(seeds: range) -> None:
    tried, optimal = stand(seeds, lost=2)
    assert optimal == tried > len(seeds) / 2


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 2])
def test_so_they_do_in_many_questions(lost: int) -> None:
    tried, optimal = stand(range(4, 160), lost)
    assert optimal > 0.98 * tried > 100


@pytest.mark.parametrize("seed", range(5))
def test_what_is_mended_takes_no_more_than_supplies_have(seed: int) -> None:
    asked = random_question(np.random.default_rng(seed))
    kinds, gpus = np.arange(len(asked.kinds)), asked.kinds.gpus.astype(float)
    one = replace(asked, work=asked.work[:1], seconds=asked.seconds[:1], cyclic=False)
    tight = replace(one, survive=Survive(), blocks=[Block("all", kinds, gpus, float(2 * gpus.max()))])
    search = Rounds(tight, Deadline(5.0), 1e-6)
    search.try_mended(np.full((1, len(kinds)), 3.0))
    assert all(fits(tight, engines[0]).all() for engines in search.carrying.values())


def test_what_is_mended_has_no_engine_that_it_does_without() -> None:
    """A day of ServeGen's was answered with twice the engines that it needs where time ended early."""
    kinds = Kinds(
        np.array([8.0, 1.0]), np.array([8, 1]), np.array([8, 8]), np.zeros(2, int), np.full(2, -1), np.zeros(2, int),
        np.zeros(2), np.zeros(2),
    )  # fmt: skip
    day = MixQuestion(kinds, [np.array([[0.4, 2.5]]), np.array([[0.9, 6.5]])], np.full(2, 3600.0))
    search = Rounds(day, Deadline(20), 1e-6)
    search.begin(())
    search.try_mended(np.array([[3.0, 5.0], [2.0, 9.0]]))
    assert search.best is not None
    assert search.best.tolist() == [[0, 3], [0, 7]]


@pytest.mark.slow
def test_so_it_is_where_fleets_are_rounded_up_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in questions of many kinds: what is rounded up may be more than supplies have."""
    monkeypatch.setattr("planner.solving.mix.solve.SMALL", 0)
    agree(range(30, 60))


@pytest.mark.slow
def test_the_optimum_of_many_small_questions_is_that_of_all_fleets() -> None:
    agree(range(1000, 1500))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_asked_beside_never_makes_it_cheaper(seed: int) -> None:
    asked = replace(random_question(np.random.default_rng(seed)), blocks=(), survive=Survive())
    free = solve_mix(asked).objective
    assert free is not None
    more = solve_mix(replace(asked, work=[1.3 * work for work in asked.work])).objective
    lost = solve_mix(replace(asked, survive=Survive(engines=1))).objective
    assert more is not None
    assert lost is not None
    assert more >= free - 1e-9
    assert lost >= free - 1e-9
    kinds = np.arange(len(asked.kinds))
    limits = [Block("all", kinds, np.ones(len(kinds)), most) for most in (6.0, 9.0)]
    tight, wide = (solve_mix(replace(asked, blocks=[limit])).objective or np.inf for limit in limits)
    assert tight >= wide - 1e-9 >= free - 2e-9


def test_a_day_of_equal_hours_is_the_hour() -> None:
    hour = question(both=True)
    day = replace(hour, work=hour.work * 24, seconds=np.full(24, 3600.0), cyclic=True)
    found, one = solve_mix(day), solve_mix(hour)
    assert found.objective == pytest.approx(one.objective)
    assert found.engines is not None
    assert (found.engines == found.engines[0]).all()


def test_shares_are_of_whole_groups_and_load_no_kind_above_its_engines() -> None:
    asked = question(both=True)
    found = solve_mix(asked)
    assert found.engines is not None
    np.testing.assert_allclose(found.shares[0].sum(axis=1), 1)
    assert ((found.shares[0] * asked.work[0]).sum(axis=0) <= found.engines[0] + 1e-6).all()


def test_instances_are_bought_whole() -> None:
    asked = question(both=True)
    whole = Block("eight", np.array([1]), np.ones(1), np.inf, 8, 8 * 3.67)
    kinds = replace(asked.kinds, cost=np.array([1.01, 0.0]))
    found = solve_mix(replace(asked, kinds=kinds, blocks=[whole]))
    assert found.objective == pytest.approx(12 * 1.01)  # A10G alone, cheaper than an instance of eight


def test_engines_are_spread_over_the_nodes_of_their_supply() -> None:
    kinds = replace(kinds_of(np.ones(3)), gpus=np.array([2, 4, 16]), pool=np.zeros(3, np.int64))
    asked = MixQuestion(kinds, [np.ones((1, 3))], HOUR, survive=Survive(nodes=1))
    one_each = {(), ((0, 1),), ((1, 1),), ((2, 1),)}
    assert set(losses(asked, np.array([9, 9, 1]))) == one_each
    places = Places(np.zeros(3, np.int64), np.full(3, 32.0), np.zeros(3, np.bool_))
    of_four = replace(asked, places=places)
    assert set(losses(of_four, np.array([0, 3, 0]))) == {(), ((1, 1),)}
    assert set(losses(of_four, np.array([2, 3, 0]))) == {(), ((1, 1),), ((0, 2),)}
    assert set(losses(of_four, np.array([1, 3, 1]))) == {(), ((1, 2),), ((0, 1), (1, 1)), ((2, 1),)}
    bought = replace(of_four, places=replace(places, bought=np.ones(3, np.bool_)))
    assert set(losses(bought, np.array([2, 3, 0]))) == {(), ((1, 2),), ((0, 2), (1, 1))}
    two = replace(of_four, survive=Survive(nodes=2))
    assert set(losses(two, np.array([2, 3, 0]))) == {(), ((1, 2),), ((0, 2), (1, 1))}


def test_where_sizes_find_no_place_any_pack_may_be_lost() -> None:
    kinds = replace(kinds_of(np.ones(2)), gpus=np.array([2, 3]), node=np.full(2, 6), pool=np.zeros(2, np.int64))
    places = Places(np.zeros(2, np.int64), np.full(2, 12.0), np.zeros(2, np.bool_))
    asked = MixQuestion(kinds, [np.ones((1, 2))], HOUR, survive=Survive(nodes=1), places=places)
    assert set(losses(asked, np.array([3, 2]))) == {(), ((0, 3),), ((0, 1), (1, 1)), ((1, 2),)}


def test_a_change_makes_before_it_breaks() -> None:
    kinds = kinds_of(np.array([1.0, 1.0]))
    works = [np.array([[1.0, np.inf]]), np.array([[np.inf, 1.0]])]
    one = Block("one GPU", np.arange(2), np.ones(2), 1.0)
    asked = MixQuestion(kinds, works, np.full(2, 3600.0), [one])
    assert solve_mix(asked).status == "infeasible"
    assert solve_mix(replace(asked, blocks=[replace(one, most=2.0)])).objective == pytest.approx(1.0)


def test_changes_and_the_least_time_up_are_kept() -> None:
    kinds = kinds_of(np.array([1.0]))
    works = [np.array([[load]]) for load in (1.0, 6.0, 1.0, 1.0)]
    asked = MixQuestion(kinds, works, np.full(4, 3600.0))
    free = solve_mix(asked).engines
    assert free is not None
    assert free[:, 0].tolist() == [1, 6, 1, 1]
    few = solve_mix(replace(asked, most_changes=2)).engines
    assert few is not None
    assert np.abs(np.diff(few[:, 0])).max() <= 2
    stays = solve_mix(replace(asked, kinds=replace(kinds, min_up_s=np.array([7200.0])))).engines
    assert stays is not None
    assert stays[:, 0].tolist() == [5, 6, 1, 1]  # cheaper than to start five for two hours at the second


@pytest.mark.parametrize("changes", [None, 3])
@pytest.mark.parametrize("min_up_s", [0.0, 7200.0])
def test_what_is_mended_keeps_to_supplies_changes_and_least_time_up(changes: int | None, min_up_s: float) -> None:
    found = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        capacity = rng.uniform(2, 6, (3, 3))
        works = [rng.uniform(3, 12, (3, 1)) * (1 + t % 3 / 2) / capacity for t in range(6)]
        kinds = replace(kinds_of(np.array([1.0, 1.7, 2.9])), min_up_s=np.full(3, min_up_s))
        supply = Block("quota", np.array([0, 1]), np.ones(2), 6.0)
        asked = MixQuestion(kinds, works, np.full(6, 3600.0), [supply], cyclic=True, most_changes=changes)
        few = solve_mix(replace(asked, work=[0.7 * work for work in works]), seconds=5)
        assert few.engines is not None
        more = mended_mix(asked, few.engines, few.prices, seconds=5)
        if more.engines is None:
            continue
        found += 1
        engines = more.engines
        before = np.roll(engines, 1, axis=0)
        starts = np.maximum(engines - before, 0)
        assert all(carried(work, row.astype(float), 1.0) for work, row in zip(works, engines, strict=True))
        assert ((before + starts)[:, :2].sum(axis=1) <= 6).all()  # replacements start beside what they replace
        assert changes is None or np.abs(engines - before).sum(axis=1).max() <= changes
        if min_up_s:  # what started in this step or the one before runs
            assert (starts + np.roll(starts, 1, axis=0) <= engines).all()
        assert more.bound is not None
        assert more.objective is not None
        assert more.bound <= more.objective + 1e-9
    assert found >= 4


def test_what_is_mended_has_no_more_than_it_must_of_what_is_shunned() -> None:
    works = [np.array([[load, load]]) for load in (2.0, 3.0)]
    shunned = np.array([10.0, 0.0])
    asked = MixQuestion(kinds_of(np.array([1.0, 2.0])), works, np.full(2, 3600.0), shunned=shunned)
    more = mended_mix(asked, np.array([[0, 1], [0, 2]]), (), seconds=5)
    assert more.engines is not None
    assert more.engines.tolist() == [[0, 2], [0, 3]]
    assert more.objective == pytest.approx(5.0)


def test_a_budget_of_a_day_counts_what_engines_cost() -> None:
    rng = np.random.default_rng(4)
    capacity = rng.uniform(2, 6, (3, 3))
    works = [rng.uniform(3, 20, (3, 1)) * (1 + t % 3) / capacity for t in range(6)]
    asked = MixQuestion(kinds_of(np.array([1.0, 1.7, 2.9])), works, np.full(6, 3600.0), cyclic=True)
    free = solve_mix(asked)
    assert free.engines is not None
    most = float((free.engines @ asked.kinds.cost).max())
    within = solve_mix(replace(asked, budget=most))
    assert within.objective == pytest.approx(free.objective)
    tight = solve_mix(replace(asked, budget=0.9 * most), seconds=5)
    assert tight.engines is None or (tight.engines @ asked.kinds.cost <= 0.9 * most + 1e-9).all()


def test_schedules_that_are_put_together_keep_the_budget_too() -> None:
    """The two kinds together are cheapest in the busy half hour, and more than that hour may cost."""
    work = np.array([[0.1, 0.054], [0.058, 0.0216], [0.2255, 0.224]])
    kinds = replace(kinds_of(np.array([3.47, 8.51])), startup_s=np.array([1800.0, 600.0]))
    works, seconds = [work * each for each in (1, 0.786, 9.4, 1.343, 1.988)], np.array([2.0, 2, 0.5, 2, 0.5]) * 3600
    free = solve_mix(MixQuestion(kinds, works, seconds, cyclic=True))
    assert free.engines is not None
    assert max(free.engines @ kinds.cost) == pytest.approx(2 * 3.47 + 8.51)
    tight = solve_mix(MixQuestion(kinds, works, seconds, cyclic=True, budget=15.0))
    assert tight.engines is not None
    assert tight.engines.tolist() == [[1, 0], [1, 0], [4, 0], [1, 0], [1, 0]]
    assert tight.status == "optimal"


@pytest.mark.parametrize("seed", range(4))
def test_what_is_shunned_is_used_less_and_costs_what_it_costs(seed: int) -> None:
    asked = replace(random_question(np.random.default_rng(seed)), survive=Survive())
    free, shunned = solve_mix(asked), np.where(np.arange(len(asked.kinds)) == 0, 100.0, 0.0)
    kept = solve_mix(replace(asked, shunned=shunned))
    assert free.status == kept.status
    if free.engines is None or kept.engines is None or kept.objective is None or free.objective is None:
        return
    assert kept.engines[:, 0].sum() <= free.engines[:, 0].sum()
    assert kept.objective >= free.objective - 1e-9
    assert (kept.engines @ asked.kinds.cost).mean() <= kept.objective + 1e-9


def with_needless(rng: np.random.Generator, asked: MixQuestion) -> MixQuestion:
    """``asked`` with a copy of each kind, mostly dearer, slower or larger, on supplies and in zones of its own."""
    n, kinds = len(asked.kinds), asked.kinds
    times, factor = rng.integers(1, 4, n), rng.uniform(0.7, 1.1, n)
    pool, zone = rng.integers(0, 2, 2 * n), rng.integers(-1, 2, 2 * n)
    both = {name: np.tile(getattr(kinds, name), 2) for name in ("node", "startup_s", "min_up_s")}
    gpus = np.concatenate([kinds.gpus, kinds.gpus * rng.choice([times, np.ones(n, np.int64)])])
    cost = np.concatenate([kinds.cost, kinds.cost * times * rng.uniform(0.9, 1.5, n)])
    spot = np.concatenate([kinds.spot, rng.integers(0, 2, n)])
    made = Kinds(cost=cost, gpus=gpus, pool=pool, zone=zone, spot=spot, **both)
    works = [np.hstack([work, work / (times * factor)]) for work in asked.work]
    blocks = [*asked.blocks, Block("some", np.arange(n, 2 * n), gpus[n:].astype(float), float(rng.integers(3, 9)))]
    survive = [Survive(), Survive(engines=1), Survive(nodes=1), Survive(spot_pools=1), Survive(zones=1)]
    before = rng.integers(0, 2, 2 * n) if rng.random() < 0.3 else None
    changes = int(rng.integers(3, 8)) if rng.random() < 0.3 else None
    which = survive[int(rng.integers(len(survive)))]
    return replace(asked, kinds=made, work=works, blocks=blocks, survive=which, before=before, most_changes=changes)


def same_without_needless(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        asked = with_needless(rng, random_question(rng))
        some = fewer(asked)
        left_out += 0 if some is None else len(asked.kinds) - len(some.kept)
        found = solve_mix(asked, seconds=20)
        with monkeypatch.context() as patched:
            patched.setattr("planner.solving.mix.solve.fewer", lambda _: None)
            every = solve_mix(asked, seconds=20)
        if "feasible" in (found.status, every.status):  # the clock ended one of them
            continue
        assert found.status == every.status, seed
        assert found.objective == (every.objective and pytest.approx(every.objective, rel=1e-7)), seed
        if some is not None and found.engines is not None:
            assert not found.engines[:, np.setdiff1d(np.arange(len(asked.kinds)), some.kept)].any()
    assert left_out > len(seeds) / 2


def test_kinds_that_others_make_needless_are_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    same_without_needless(range(25), monkeypatch)


@pytest.mark.slow
def test_they_are_missed_by_nobody_in_many_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    same_without_needless(range(1000, 1400), monkeypatch)


def test_lowered_prices_hold_of_every_fleet_that_a_loss_leaves_enough_of() -> None:
    rng = np.random.default_rng(4)
    for _ in range(2000):
        n, lost = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        prices, engines = rng.choice([0.0, 0.1, 0.3, 1.0], n) * rng.uniform(0.5, 1, n), rng.integers(0, 5, n)
        worth = np.sort(np.repeat(prices, engines))[::-1]
        least = float(worth[lost:].sum())  # what is left after the worst loss of so many
        if least > 0:
            assert lowered(prices, least, np.full(n, float(lost))) @ engines >= least * (1 - 1e-12)


def test_what_is_mended_comes_and_goes_where_engines_have_a_least_time_up() -> None:
    """One busy hour of eight: a fleet that never changes would have its engines all day."""
    works = [np.array([[load, 1.3 * load]]) for load in (1.5, 1.4, 1.6, 9.0, 1.5, 1.4, 1.5, 1.4)]
    kinds = replace(kinds_of(np.array([1.0, 1.1])), min_up_s=np.full(2, 7200.0))
    asked = MixQuestion(kinds, works, np.full(8, 3600.0), cyclic=True)
    few = solve_mix(asked)
    assert few.engines is not None
    more = mended_mix(replace(asked, work=[1.1 * work for work in works]), few.engines + 2, few.prices, seconds=5)
    best = solve_mix(replace(asked, work=[1.1 * work for work in works]))
    assert more.objective is not None
    assert best.objective is not None
    assert best.objective <= more.objective < 1.1 * best.objective


@pytest.mark.parametrize("seed", range(4))
def test_no_window_of_a_day_proves_more_than_the_day_costs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = replace(kinds_of(np.array([1.0, 2.3, 3.1])), startup_s=np.full(3, 1800.0))
    work = [np.outer(rng.uniform(0.3, 1.5, 2), [1.1, 0.45, 0.35]) * rng.uniform(0.8, 1.2, (2, 3)) for _ in range(16)]
    blocks = [Block("third", np.array([2]), np.ones(1), 2.0)] if seed % 2 else []
    if seed == 3:  # bought two at a time
        blocks = [Block("pair", np.array([1]), np.ones(1), np.inf, 2, 4.4)]
        kinds = replace(kinds, cost=np.array([1.0, 0.0, 3.1]))
    survive = Survive(engines=int(seed == 2))
    asked = MixQuestion(kinds, work, np.full(16, 3600.0), blocks, survive, cyclic=seed != 2)
    best = solve_mix(asked, seconds=20)
    assert best.objective is not None
    day = Rounds(asked, Deadline(20), 1e-6)
    day.begin(())
    day.relax(5)
    apart = Apart(day)
    apart.search(Deadline(5))
    before = day.bound
    Windows(day, apart.cuts).search(Deadline(10))
    assert before * (1 - 1e-9) <= day.bound <= best.objective * (1 + 1e-7)
    assert seed > 1 or day.bound > before * 1.005
