"""Random plans of small clusters over all bundled models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from costmodels.serving.frameworks.framework import find_framework
from planner.contract.engine import Layout, Limits, Role
from planner.serving.document.plan import Plan
from planner.serving.layouts import Restrictions, layout_at, legal_layouts
from profiles.errors import ShardwrightError
from tests.planner.exports.made import planned

PRECISIONS = ("bf16", "bf16", "bf16", "fp8")


@cache
def _layouts(framework: str, name: str, drafting: bool) -> list[Layout]:
    """Layouts that the planner's rules allow, up to two nodes."""
    model = find_architecture(name)
    allowed = Restrictions(16, 8, drafting=drafting)
    legal, _, _ = legal_layouts(model, choose_precision(model), find_framework(framework), allowed)
    found = [layout_at(legal, row) for row in range(len(legal))]
    return [each for each in found if each.gpus <= 16]


def random_plans(framework: str, models: list[str], count: int, seed: int = 0) -> Iterator[tuple[str, Plan]]:
    """(model, plan), ``count`` of them; one that the planner's own rules refuse is drawn again."""
    draw, made = random.Random(f"{framework}/{seed}"), 0
    while made < count:
        name = models[(made * 7 + draw.randrange(len(models))) % len(models)]
        model = find_architecture(name)
        drafting = draw.random() < 0.2
        layouts = _layouts(framework, name, drafting)
        if not layouts:
            continue
        first, second = draw.choice(layouts), draw.choice(layouts)
        roles: list[tuple[Role, Layout, int]] = [("aggregated", first, draw.choice((1, 2, 3)))]
        if draw.random() < 0.4:
            second = first if draw.random() < 0.7 else second
            roles = [("prefill", first, draw.choice((1, 2))), ("decode", second, draw.choice((1, 2)))]
        limits = Limits(
            max_sequences=draw.choice((7, 64, 256)),
            max_tokens_per_step=draw.choice((2048, 8192)),
            max_model_len=draw.choice((1024, 2048)),
            memory_fraction=draw.choice((0.85, 0.9)),
        )
        published_in_16 = model.weight_precision in ("bf16", "fp16", "fp32")
        kept = find_framework(framework).capabilities.caches.get(model.model_type, ("bf16", "bf16", "fp8"))
        try:
            plan = planned(
                framework.partition("@")[0],
                name,
                roles,
                drafting=drafting,
                precision=draw.choice(PRECISIONS) if published_in_16 else "bf16",
                kv=draw.choice(kept),
                release=find_framework(framework).release.version,
                limits=limits,
            )
        except ShardwrightError:
            continue
        made += 1
        yield name, plan
