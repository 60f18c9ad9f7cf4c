"""Policies: levels of caps with the readings that lead up and down; POLCA's as published, and others to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.power.arrays import Ladder
from planner.power.readings import next_level

NAMES = ("nameplate", "none", "static", "threshold", "polca", "ours", "oracle")

BRAKE_AT = 1.0
BRAKE_RELEASE = 0.84
"""Share of budget below which the brake is let go: POLCA's for its last caps; none is published for the brake."""

Clocks = tuple[int | None, ...]
"""MHz of each priority, or of each one's decode and then of each one's prefill; None where it is not capped."""


@dataclass(frozen=True)
class Level:
    """``up``: a reading above it leads here from any level below; ``step``: from the level before, once that is in
    effect (None: not); a reading below ``down`` leads to level ``back`` (0: no caps)."""

    clocks: Clocks
    up: float | None
    step: float | None
    down: float
    back: int


@dataclass(frozen=True)
class Policy:
    """Levels, deeper and deeper; before them ``always`` (level 0), after them the brake.

    Attributes:
        foresight_s: seconds ahead that prompts which wait in the engines' queues are added to a reading for; 0: not.
        brakes: whether there is a brake.
        in_band: whether caps go in band where the row has that way.
        immediate: whether readings are exact and caps act at once (an oracle).
        same_mhz: whether a clock is as many MHz on every type of GPU; else it is the commonest type's, and the same
            share of the highest on others.
    """

    name: str
    levels: tuple[Level, ...] = ()
    always: Clocks = ()
    brakes: bool = True
    in_band: bool = False
    immediate: bool = False
    same_mhz: bool = False
    foresight_s: float = 0.0

    @cached_property
    def clocks_mhz(self) -> list[int | None]:
        """Every clock that it sets, uncapped first."""
        said = {mhz for clocks in (self.always, *(each.clocks for each in self.levels)) for mhz in clocks if mhz}
        return [None, *sorted(said)]

    @cached_property
    def idle_below(self) -> float:
        """A row whose readings are all this at most runs as without control; −∞: it never does."""
        if any(self.always) or self.foresight_s:
            return -np.inf
        asked = [each for level in self.levels for each in (level.up, level.step) if each is not None]
        return min([*asked, BRAKE_AT if self.brakes else np.inf])

    def clocks_of(self, level: int, groups: int) -> Clocks | None:
        """Of a level; None is the brake's."""
        if level > len(self.levels):
            return None
        return self.levels[level - 1].clocks if level else self.always or (None,) * groups

    def ladder(self, groups: int, columns: int | None = None) -> Ladder:
        """For the kernel, whose last clock is the brake's. ``columns``: of clocks, as many as ``groups`` or twice as
        many; a policy that says one clock a priority means both of its columns."""
        columns = groups if columns is None else columns
        index = {mhz: i for i, mhz in enumerate(self.clocks_mhz)}
        brake = len(self.clocks_mhz)
        usual = self.always or (None,) * groups
        said = (usual, *(level.clocks for level in self.levels))
        clocks = [[index[mhz] for mhz in each * (columns // len(each))] for each in said]
        held = [i for i, level in enumerate(self.levels) if level.down >= BRAKE_RELEASE]
        after_brake = self.levels[held[0]].back if held else 0

        def thresholds(name: str, first: float, last: float) -> np.ndarray:
            values = [getattr(level, name) for level in self.levels]
            return np.array([first, *(np.inf if each is None else each for each in values), last])

        return Ladder(
            up=thresholds("up", -np.inf, BRAKE_AT if self.brakes else np.inf),
            step=thresholds("step", -np.inf, np.inf),
            down=thresholds("down", -np.inf, BRAKE_RELEASE),
            back=np.array([0, *(level.back for level in self.levels), after_brake], np.int64),
            clocks=np.array([*clocks, [brake] * columns], np.int64),
            foresight=self.foresight_s,
        )


def none() -> Policy:
    """Nothing but the brake."""
    return Policy("none")


def polca(groups: int, lp: tuple[int, int], hp: int) -> Policy:
    """POLCA's (arXiv 2308.12908): thresholds 80 % and 89 % of budget, hysteresis of 5 points; the highest priority is
    ``hp``, all others are ``lp``; of a row with one priority that is ``hp``."""

    def clocks(high: int | None, low: int) -> Clocks:
        return (high, *(low,) * (groups - 1))

    return Policy(
        "polca",
        levels=(
            Level(clocks(None, lp[0]), up=0.80, step=None, down=0.75, back=0),
            Level(clocks(None, lp[1]), up=0.89, step=None, down=0.84, back=1),
            Level(clocks(hp, lp[1]), up=None, step=0.89, down=0.84, back=1),
        ),
    )


POLCA_LP, POLCA_HP, POLCA_HIGHEST = (1275, 1110), 1305, 1410
"""MHz on A100, and its highest clock."""


def threshold(groups: int, clock: int) -> Policy:
    """One threshold, at POLCA's lower one: above 80 % of budget all but the highest priority are capped."""
    return Policy("threshold", levels=(Level((None, *(clock,) * (groups - 1)), up=0.80, step=None, down=0.75, back=0),))


def static(clocks: Clocks) -> Policy:
    """The same caps always."""
    return Policy("static", always=clocks)


@dataclass(frozen=True)
class CapCommand:
    """One line of ``--commands``: ``clock_mhz`` None where the priority is uncapped. ``role``: decode or prefill, where
    the policy tells them apart."""

    t_s: float
    priority: str
    clock_mhz: int | None
    role: str = ""


def driven(
    policy: Policy,
    series: Iterable[tuple[float, float]],
    priorities: tuple[str, ...],
    *,
    budget_watts: float,
    period_s: float,
    delay_s: float,
    brake_mhz: int,
) -> Iterator[CapCommand]:
    """What ``policy`` commands when the row draws ``series`` (seconds, watts), whatever it commands. A reading is taken
    of the first row, and of the first that is ``period_s`` or more after the last reading."""
    groups = len(priorities)
    columns = max((len(level.clocks) for level in policy.levels), default=groups)
    ladder = policy.ladder(groups, columns)
    names = [(name, role) for role in (("decode", "prefill") if columns > groups else ("",)) for name in priorities]
    level, since, due = 0, -np.inf, -np.inf
    held: Clocks | None = (None,) * groups
    for t, watts in series:
        if t < due - 1e-9:
            continue
        due = t + period_s
        new = int(next_level(level, watts / budget_watts, t - since >= delay_s - 1e-9, ladder))
        wanted = policy.clocks_of(new, groups)
        if new == level and wanted == held:  # caps that are always set are commanded with the first reading
            continue
        for i, (priority, role) in enumerate(names):
            before, after = (brake_mhz if each is None else each[i % len(each)] for each in (held, wanted))
            if before != after:
                yield CapCommand(t, priority, after, role)
        level, since, held = new, t, wanted
