"""What a plan counts on that files alone do not see to, in words for the heads of files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.exports.fleet import StartedFleet

_LOSSES = 4
"""Of those that need another routing, named."""


def minded(fleet: StartedFleet) -> Iterator[str]:
    yield from _racks(fleet)
    yield from _nodes(fleet)
    yield from _after_losses(fleet)


def _racks(fleet: StartedFleet) -> Iterator[str]:
    """Of engines whose hosts the plan takes to be in one NVLink domain."""
    wide = dict.fromkeys(engine.group.id for engine in fleet.engines if fleet.in_rack(engine))
    for name in wide:
        yield f"{name}: its hosts must be of one NVLink rack, with NVIDIA's IMEX running (Kubernetes: a ComputeDomain)"


def _nodes(fleet: StartedFleet) -> Iterator[str]:
    """How engines stand where nodes may be lost."""
    lost = fleet.plan.request.survive.nodes
    if not lost:
        return
    any_of = "the loss of any node" if lost == 1 else f"the loss of any {lost} nodes"
    if fleet.racks:
        yield f"to survive {any_of} (racks, in the plan) engines must stand on racks as the plan says: see to it"
        return
    groups = fleet.plan.decision.engines
    for pool in dict.fromkeys(group.pool for group in groups):
        most = fleet.most_on_a_node([group for group in groups if group.pool == pool])
        one = "one engine" if most == 1 else f"{most} engines"
        yield f"to survive {any_of}, no node of {pool} holds more than {one}"


def _after_losses(fleet: StartedFleet) -> Iterator[str]:
    """What the plan asks of a gateway while engines are lost, and no router that files start does."""
    losses = [each for step in fleet.plan.decision.schedule for each in step.after_losses]
    gone = dict.fromkeys(" and ".join(f"{n} of {name}" for name, n in each.lost.items()) for each in losses)
    if gone:
        some = "; ".join(list(gone)[:_LOSSES]) + ("; …" if len(gone) > _LOSSES else "")
        yield (
            f"while engines are lost ({some}) the plan's shares are others (after_losses of its schedule), and the "
            "router here keeps those of what is left: set them by hand then"
        )
