"""Where an engine runs: its nodes, their addresses, and the ports that it has there."""

from __future__ import annotations

from dataclasses import dataclass

from planner.launchers.words import variable

SIDE = 1000
"""How far from the ports that clients use the others begin."""

ROOM = 24
"""Ports after an engine's master port that its framework takes without being told: SGLang counts on from it."""

LAST = 65535


@dataclass(frozen=True)
class Ports:
    """One engine's ports on each of its nodes. ``side_channel``: the first of as many as it has attention replicas."""

    http: int
    rpc: int
    bootstrap: int
    side_channel: int
    master: int

    @classmethod
    def of_slot(cls, first: int, slot: int, replicas: int) -> Ports:
        """Those of the ``slot``-th engine of a node; ``replicas``: attention replicas of the largest engine there is.
        No two slots share one."""
        width = 3 + replicas + ROOM + 2 * replicas
        side = first + SIDE + slot * width
        return cls(first + slot, side, side + 1, side + 2, side + 2 + replicas)

    @property
    def last(self) -> int:
        return self.master + ROOM


@dataclass(frozen=True)
class Place:
    """One node's part of an engine.

    Attributes:
        node_rank: of the node among the engine's, a number or a variable. ``leads``: whether it is node 0.
        gpus_by_node: how many of the engine's GPUs each of its nodes has, in order.
        head, own: addresses of node 0 and of this node.
        files: the folder that files beside the command are in.
        alike: whether all nodes but the first are told the same, so that nothing depends on the rank but ``node_rank``.
    """

    node_rank: str
    leads: bool
    gpus_by_node: tuple[int, ...]
    head: str
    own: str
    ports: Ports
    files: str
    alike: bool = False

    @property
    def nodes(self) -> int:
        return len(self.gpus_by_node)

    @property
    def even(self) -> bool:
        return len(set(self.gpus_by_node)) == 1

    @property
    def gpus_before(self) -> int:
        """GPUs of the engine on the nodes before this one."""
        return sum(self.gpus_by_node[: int(self.node_rank)])


NODE_RANK, HEAD_ADDRESS = variable("NODE_RANK"), variable("HEAD_ADDRESS")
