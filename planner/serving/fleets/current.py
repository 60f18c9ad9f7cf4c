"""The fleet that runs now, in the kinds of engine that a new one is chosen from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.serving.document.plan import Plan
from planner.serving.fleets.engines import EngineKind
from planner.serving.fleets.variants import Chosen
from profiles.errors import InputError
from profiles.values import shown


def last_step(plan: Plan) -> dict[str, int]:
    """How many engines of each group run in the last step of a plan."""
    if plan.decision.schedule:
        return dict(plan.decision.schedule[-1].engines)
    return {group.id: len(group.replicas) for group in plan.decision.engines}


def running_now(
    chosen: Chosen, engines: Mapping[str, Sequence[EngineKind]], pools: Sequence[str], current: Plan
) -> tuple[int, ...]:
    """How many of each variant a running fleet has in its last step. Engines of it that are no candidates any more are
    left out: they leave. ``engines``: by service, the kinds of the ``chosen`` variants; ``pools``: of the cluster.

    Raises:
        InputError: it names pools or services that are not asked for.
    """
    names, last = list(engines), last_step(current)
    counts = [0] * len(chosen.variants)
    for group in current.decision.engines:
        if group.pool not in pools:
            raise InputError(
                f"current: {group.id} is on pool {shown(group.pool)}, which is none of the cluster "
                f"({', '.join(pools)})",
                "name the pools as the running fleet does",
            )
        name = group.service or names[0]
        if name not in names:
            raise InputError(
                f"current: {group.id} serves {shown(name)}, which is none of the services ({', '.join(names)})",
                "name the services as the running fleet does",
            )
        for v, variant in enumerate(chosen.variants):
            offer = chosen.offers[variant.offer]
            same = (offer.pool.name, offer.supply, names[variant.service]) == (group.pool, group.supply, name)
            if same and engines[names[variant.service]][variant.engine].is_like(group):
                counts[v] += last.get(group.id, 0)
                break
    return tuple(counts)
