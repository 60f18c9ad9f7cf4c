"""What a decision does when the world is otherwise than assumed: which promise breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from planner.power.judge import Days, Judge, Verdict
from planner.power.policy import Policy
from planner.power.request import PowerRequest
from planner.power.simulator import RowModel

LOST_FEED = 0.75
"""What is left of every budget when a feed is lost, all the time that is simulated; a breaker's curve says how long it
holds the first of it."""

_DAYS = Days(screened=120, whole=1, first=2_000_000)


@dataclass(frozen=True)
class Stressed:
    case: str
    verdict: Verdict
    breaks: str | None
    advice: str


def stressed(
    row: RowModel,
    request: PowerRequest,
    policy: Policy,
    servers: int,
    progress: Callable[[str], None] | None = None,
) -> Iterator[Stressed]:
    """Each case, the policy and its thresholds as they are. Brakes are judged by their value: of so few days the bound
    says little."""
    usual = Judge(row, request, _DAYS, by_value=True, at_most=servers, every_slot=True)
    for case, changed, advice in cases(row):
        if progress is not None:
            progress(f"stress: {case}")
        judge = usual.like(changed)
        verdict = judge.verdict(policy, servers)
        # A brake is graver than how much longer requests take, most of which it makes.
        breaks = "brakes" if judge.too_often(verdict.brakes) else judge.misses(verdict)
        yield Stressed(case, verdict, breaks, advice if breaks else "nothing to do")


def cases(row: RowModel) -> Iterator[tuple[str, RowModel, str]]:
    """(what is otherwise, the row so, what to do where a promise breaks)."""

    def drifted(share: float) -> RowModel:
        return replace(row, kinds=[kind.drifted(share) for kind in row.kinds])

    yield (
        "power 5 % above prediction",
        drifted(0.05),
        "measure the servers and plan again; until then lower budget_watts",
    )
    yield (
        "power 10 % above prediction",
        drifted(0.10),
        "measure the servers and plan again; until then lower budget_watts",
    )
    longer = [replace(kind, prompt_s=tuple(1.5 * each for each in kind.prompt_s)) for kind in row.kinds]  # type: ignore[arg-type]
    yield "prompts that take half as long again", replace(row, kinds=longer), "record the new traffic and plan again"
    slow = replace(row.timing, delay_s=60.0, in_band_s=None)
    yield "a control delay of 60 s", replace(row, timing=slow), "mend the in-band way, or plan with in_band_s left out"
    dead = replace(row.timing, dead=(len(row.groups) - 1,))
    yield (
        f"no command reaches {row.groups[-1]}",
        replace(row, timing=dead),
        "alert on caps that are not taken, and drain servers until it is mended",
    )
    deaf = replace(row.timing, dead=tuple(range(len(row.groups))))
    yield (
        "telemetry lost: nothing is capped",
        replace(row, timing=deaf),
        "treat lost readings as the deepest level of caps",
    )
    blind = replace(row.timing, period_s=60.0)
    yield "a reading in a minute", replace(row, timing=blind), "treat missing readings as the highest level of caps"
    if len(row.groups) > 1:
        shares = np.full(len(row.groups), 0.1 / (len(row.groups) - 1))
        shares[0] = 0.9
        yield "nine in ten of high priority", replace(row, group_shares=shares), "plan again with today's shares"
    training = replace(row, other_watts=row.other_watts + 0.1 * row.budget_watts, other_dip=0.375, other_dip_s=10.0)
    yield "training that draws a tenth of the budget", training, "name the training jobs in the row, and plan again"
    tree = replace(row.tree, budgets=row.tree.budgets * LOST_FEED)
    yield (
        "a feed lost all day: three quarters of every budget",
        replace(row, tree=tree),
        "hold the deepest caps and drain servers",
    )
