"""What the targets of serving plans share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from planner.exports.bench import bench_script
from planner.exports.fleet import PlacedEngine, StartedFleet, released
from planner.exports.target import Asked, Target
from planner.serving.document.placing import placed
from planner.serving.document.plan import Plan
from profiles.errors import Unsupported


class ServingTarget(Target):
    """A platform that runs the engines of a serving plan. ``refuses``: frameworks that it cannot carry, with the
    reason."""

    kinds: ClassVar[frozenset[str]] = frozenset({"serving"})
    refuses: ClassVar[Mapping[str, str]] = {}

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        assert isinstance(asked.document, Plan)
        self.plan = placed(asked.document)

    @cached_property
    def fleet(self) -> StartedFleet:
        return StartedFleet(
            self.plan,
            self.values,
            released(self.plan, self.asked.framework, assume=self.asked.assume_version),
            edited=self.asked.document.was_edited,
        )

    @property
    def framework(self) -> str:
        return self.fleet.framework.spec

    @property
    def told(self) -> tuple[str, ...]:
        return self.fleet.told

    def said(self, files: Mapping[str, str]) -> tuple[str, ...]:
        return (*self.told, *(each for each in self.fleet.equal_shares if any(each in text for text in files.values())))

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.own_needs(), *self.fleet.needs())

    def own_needs(self) -> tuple[str, ...]:
        """Keys of the values that the platform needs, beside those of the engines."""
        return ()

    @property
    def needs_of_pools(self) -> tuple[str, ...]:
        """Keys by which pods find the nodes of their pool."""
        return ("node_selectors",) if len({machine.pool for machine in self.fleet.machines}) > 1 else ()

    def cannot(self) -> str | None:
        fleet = self.fleet
        if fleet.framework.name in self.refuses:
            return self.refuses[fleet.framework.name]
        for engine in fleet.engines:
            reason = fleet.launcher.cannot_place(engine.spec, engine.gpus_by_node)
            if reason is None and len(engine.shares) > 1:
                reason = self.cannot_span(engine)
            if reason is not None:
                return f"{engine.id} ({engine.group.layout.label}): {reason}"
        return None

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        """Why the platform cannot run an engine of several nodes, or None where it can."""
        return None

    def files(self) -> dict[str, str]:
        try:
            written = self.platform_files()
        except Unsupported as error:
            raise Unsupported(f"--to {self.name}: {error.message}", error.hint) from error
        return {**written, "bench.sh": bench_script(self.fleet, self.url())}

    def url(self) -> str:
        """Where clients reach the deployment, as far as it is known."""
        return f"http://127.0.0.1:{self.fleet.first_port}"

    def platform_files(self) -> dict[str, str]:
        raise NotImplementedError
