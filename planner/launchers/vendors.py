"""How programs and platforms name the GPUs of a vendor (``vendors.yaml``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from profiles.errors import UnknownName
from profiles.hardware import Fact, find_gpu
from profiles.shipped import shipped

_FILE = Path(__file__).parent / "vendors.yaml"


class Vendor(Fact):
    """``visible_devices``: the variable that tells a process which GPUs of its node it sees, by their numbers;
    ``kubernetes_resource``: what a container asks for to be given GPUs."""

    visible_devices: str
    kubernetes_resource: str

    def seeing(self, gpus: Sequence[int]) -> dict[str, str]:
        """What shows a process these GPUs of its node, and no others."""
        return {self.visible_devices: ",".join(map(str, gpus))}


@cache
def vendors() -> dict[str, Vendor]:
    """All that have words of their own, by the names of the hardware catalogue."""
    return shipped(_FILE, lambda document: {name: Vendor(name=name, **each) for name, each in document.items()})


def find_vendor(name: str) -> Vendor:
    """A vendor as the hardware catalogue calls it; one that has no words of its own is told in NVIDIA's, which most
    other stacks understand."""
    return vendors().get(name, vendors()["nvidia"])


def vendor_of(gpu: str) -> str:
    """Who makes a GPU type; of a type that a request described itself nothing is known: ``other``."""
    try:
        return find_gpu(gpu).vendor
    except UnknownName:
        return "other"
