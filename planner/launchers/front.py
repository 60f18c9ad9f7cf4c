"""What starts on a node, and what stands before several engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.contract.engine import Role
from planner.launchers.places import Ports


@dataclass(frozen=True)
class NodeStart:
    """What starts an engine's part on one node, or what stands before engines.

    Attributes:
        command: words, in which there may be variables.
        environment: likewise. ``files``: name → text, in the folder that the place names.
        ready: path that answers with 200 once it serves; "": no server listens there.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    ready: str = ""


@dataclass(frozen=True)
class Behind:
    """An engine as its front knows it."""

    role: Role
    address: str
    ports: Ports
    weight: float

    @property
    def host(self) -> str:
        return f"{self.address}:{self.ports.http}"


@dataclass(frozen=True)
class Front:
    """What takes requests in for several engines.

    Attributes:
        program: what runs, for people; ``image_key``: which value names its image where it is not the engines'.
        weighted: whether it keeps the plan's weights; if not, it gives every engine the same.
    """

    program: str
    start: NodeStart
    weighted: bool
    image_key: str = ""
