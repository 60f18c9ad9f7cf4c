"""What a driver tells of the PCIe link of a device, as a fact of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def pcie_fact(told: Mapping[str, Any]) -> tuple[float, str]:
    """Bytes/s in one direction of the PCIe link that a driver reports: 2.0 GB/s a lane for PCIe 4, doubling with each
    generation, as the catalogue's figures."""
    rate = 2.0e9 * 2.0 ** (told["pcie_generation"] - 4) * told["pcie_lanes"]
    return rate, f"reported by the driver: PCIe {told['pcie_generation']:.0f} x{told['pcie_lanes']:.0f}"
