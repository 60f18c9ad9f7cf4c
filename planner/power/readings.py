"""What a reading of the row's power leads to: a level of caps, the wear of a breaker. Plain Python, which the kernel
compiles."""

from __future__ import annotations

import numpy as np

from planner.power.arrays import Array, Ladder


def next_level(level: int, reading: float, in_effect: bool, ladder: Ladder) -> int:
    """The level that one reading leads to: up by thresholds, else down by hysteresis."""
    brake = len(ladder.up) - 1
    if level < brake and reading > ladder.up[brake]:
        return brake
    new = level
    for each in range(level + 1, brake):
        if reading > ladder.up[each] or (each == level + 1 and in_effect and reading > ladder.step[each]):
            new = each
    if new != level:
        return new
    while new > 0 and reading < ladder.down[new]:
        new = ladder.back[new]
    return new


def worn(wear: float, load: float, loads: Array, holds: Array) -> float:
    """The wear of a breaker after a second at ``load`` (share of its budget): each second takes 1 ÷ the seconds that it
    holds the load, straight between the logarithms of its curve and on beyond its end; below its first load it cools as
    fast as it heats there."""
    points = len(loads)
    x = np.log(max(load, 1e-9))
    if x < loads[0]:
        return max(wear - float(np.exp(-holds[0])), 0.0)
    at = 0
    while at < points - 2 and x > loads[at + 1]:
        at += 1
    # Heat goes with the square of the current.
    slope = -2.0 if points == 1 else (holds[at + 1] - holds[at]) / (loads[at + 1] - loads[at])
    return min(wear + float(np.exp(-(holds[at] + slope * (x - loads[at])))), 1.0)
