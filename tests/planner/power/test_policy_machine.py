"""POLCA's preset as an exact state machine: against a second writing of its rules, and by hand."""

from __future__ import annotations

import random

import pytest

from planner.power.policy import CapCommand, Level, Policy, driven, none, polca, static
from planner.power.series import commands_csv

ROW = ("hp", "lp")


def commands(
    shares: list[float], *, period: float = 2.0, delay: float = 40.0, budget: float = 1000.0
) -> list[CapCommand]:
    series = [(period * i, share * budget) for i, share in enumerate(shares)]
    policy = polca(2, (1275, 1110), 1305)
    return list(driven(policy, series, ROW, budget_watts=budget, period_s=period, delay_s=delay, brake_mhz=288))


def twin(shares: list[float], *, period: float = 2.0, delay: float = 40.0) -> list[CapCommand]:
    """The rules as the paper's prose has them, one after the other."""
    hp: int | None = None
    lp: int | None = None
    braked, deep_since, out = False, 0.0, []
    for i, r in enumerate(shares):
        t, before = period * i, (hp, lp)
        if r > 1.0 and not braked:
            hp, lp, braked = 288, 288, True
        elif not braked and r > 0.89 and lp != 1110:
            lp, deep_since = 1110, t
        elif not braked and r > 0.89 and hp is None and t >= deep_since + delay:
            hp = 1305
        elif not braked and r > 0.80 and lp is None:
            lp = 1275
        elif r < 0.84:
            if braked or hp is not None or lp == 1110:
                hp, lp, braked = None, 1275, False
            if r < 0.75:
                lp = None
        for name, was, now in zip(ROW, before, (hp, lp), strict=True):
            if was != now:
                out.append(CapCommand(t, name, now))
    return out


def test_the_published_levels_one_after_the_other() -> None:
    shares = [0.5, 0.81, 0.85, 0.90, *[0.90] * 20, 0.90, 0.86, 0.83, 0.76, 0.74, 1.01, 1.01, 0.9, 0.83]
    assert commands(shares) == [
        CapCommand(2.0, "lp", 1275),
        CapCommand(6.0, "lp", 1110),
        CapCommand(46.0, "hp", 1305),
        CapCommand(52.0, "hp", None),
        CapCommand(52.0, "lp", 1275),
        CapCommand(56.0, "lp", None),
        CapCommand(58.0, "hp", 288),
        CapCommand(58.0, "lp", 288),
        CapCommand(64.0, "hp", None),
        CapCommand(64.0, "lp", 1275),
    ]


@pytest.mark.parametrize("edge", [0.80, 0.89, 1.0])
def test_a_reading_at_a_threshold_is_not_above_it(edge: float) -> None:
    assert commands([edge]) == commands([edge - 1e-9])
    assert commands([edge + 1e-6]) != commands([edge])


@pytest.mark.parametrize("seed", range(40))
def test_any_series_is_answered_as_the_rules_say(seed: int) -> None:
    draw = random.Random(seed)
    r, shares = 0.8, []
    for _ in range(400):
        r = min(max(r + draw.gauss(0, 0.03), 0.6), 1.05)
        shares.append(round(r, 3))
    delay = draw.choice([0.0, 5.0, 40.0, 60.0])
    assert commands(shares, delay=delay) == twin(shares, delay=delay)


def test_readings_come_once_in_a_period() -> None:
    series = [(float(t), 950.0 if t == 1 else 500.0) for t in range(6)]
    policy = polca(2, (1275, 1110), 1305)
    said = list(driven(policy, series, ROW, budget_watts=1000, period_s=2, delay_s=40, brake_mhz=288))
    assert said == []


def test_no_control_still_brakes() -> None:
    said = list(
        driven(none(), [(0.0, 1001.0), (2.0, 830.0)], ROW, budget_watts=1000, period_s=2, delay_s=40, brake_mhz=288)
    )
    assert said == [
        CapCommand(0.0, "hp", 288),
        CapCommand(0.0, "lp", 288),
        CapCommand(2.0, "hp", None),
        CapCommand(2.0, "lp", None),
    ]


def test_commands_of_roles_say_which() -> None:
    wide = Policy("ours", levels=(Level((None, 900, None, 1200), up=0.8, step=None, down=0.75, back=0),))
    found = list(
        driven(
            wide,
            [(0.0, 50.0), (2.0, 85.0), (4.0, 110.0), (1_764_150_000.0, 50.0)],
            ("hp", "lp"),
            budget_watts=100.0,
            period_s=2.0,
            delay_s=1.0,
            brake_mhz=288,
        )
    )
    assert [(each.priority, each.role, each.clock_mhz) for each in found[:2]] == [
        ("lp", "decode", 900),
        ("lp", "prefill", 1200),
    ]
    assert [each.clock_mhz for each in found[2:6]] == [288] * 4
    text = commands_csv(found)
    assert text.startswith("t_s,priority,clock_mhz,role\n2,lp,900,decode\n2,lp,1200,prefill\n4,hp,288,decode\n")
    assert "1764150000,hp,,decode" in text


def test_caps_that_are_always_set_are_commanded_with_the_first_reading() -> None:
    said = driven(
        static((None, 1110)),
        [(0.0, 500.0), (2.0, 500.0)],
        ROW,
        budget_watts=1000,
        period_s=2,
        delay_s=40,
        brake_mhz=288,
    )
    assert list(said) == [CapCommand(0.0, "lp", 1110)]
