"""What a plan counts on that files alone do not see to, in words for the heads of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from planner.serving.document.plan import Plan

_LOSSES = 4
"""Of those that need another routing, named."""


def minded(plan: Plan, wide: Iterable[str], most: Mapping[str, int] | None) -> Iterator[str]:
    """``wide``: groups whose hosts the plan takes to be in one NVLink domain; ``most``: engines on a node of each pool,
    None: nodes of the plan are racks."""
    for name in dict.fromkeys(wide):
        yield f"{name}: its hosts must be of one NVLink rack, with NVIDIA's IMEX running (Kubernetes: a ComputeDomain)"
    if lost := plan.request.survive.nodes:
        yield from _nodes("the loss of any node" if lost == 1 else f"the loss of any {lost} nodes", most)
    yield from _after_losses(plan)


def _nodes(loss: str, most: Mapping[str, int] | None) -> Iterator[str]:
    """How engines stand where nodes may be lost."""
    if most is None:
        yield f"to survive {loss} (racks, in the plan) engines must stand on racks as the plan says: see to it"
        return
    for pool, count in most.items():
        one = "one engine" if count == 1 else f"{count} engines"
        yield f"to survive {loss}, no node of {pool} holds more than {one}"


def _after_losses(plan: Plan) -> Iterator[str]:
    """What the plan asks of a gateway while engines are lost, and no router that files start does."""
    losses = [each for step in plan.decision.schedule for each in step.after_losses]
    gone = dict.fromkeys(" and ".join(f"{n} of {name}" for name, n in each.lost.items()) for each in losses)
    if gone:
        some = "; ".join(list(gone)[:_LOSSES]) + ("; …" if len(gone) > _LOSSES else "")
        yield (
            f"while engines are lost ({some}) the plan's shares are others (after_losses of its schedule), and the "
            "router here keeps those of what is left: set them by hand then"
        )
