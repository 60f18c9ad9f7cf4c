"""The cost models of GPU types, and what their ranks exchange over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from costmodels.kernels.cost_model import CostModel
from costmodels.step.communication import Network
from costmodels.training.calibration import TrainingCalibration, own_training_calibration
from costmodels.training.exchanges import Links
from costmodels.training.own_kernels import OwnKernels
from profiles.hardware import Fabric, Gpu
from profiles.store import ProfileStore

KERNELS = "trtllm"
"""Whose rows of the pack stand for training's kernels: its products are cuBLAS's, as in Megatron-Core, torch and
Transformer Engine; vLLM's 8-bit products are CUTLASS kernels of its own."""

Progress = Callable[[str], None]


@dataclass
class Machines:
    """Cost models of GPU types, made once."""

    measured: Sequence[ProfileStore] = ()
    progress: Progress | None = None
    known: TrainingCalibration | None = None  # the constants; None: those of the stores, or what ships
    calibration: TrainingCalibration = field(init=False)
    _costs: dict[str, CostModel] = field(default_factory=dict)
    _links: dict[tuple[str, int, str], Links] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calibration = self.known or own_training_calibration(store.path for store in self.measured)

    def calibrated(self, calibration: TrainingCalibration) -> Machines:
        """The same cost models under other constants."""
        same = calibration.constants.fabric == self.calibration.constants.fabric
        links = {key: replace(each, calibration=calibration) for key, each in self._links.items()} if same else {}
        return replace(self, known=calibration, _links=links)

    def cost(self, gpu: Gpu) -> CostModel:
        if gpu.name not in self._costs:
            self._costs[gpu.name] = CostModel(gpu, KERNELS, progress=self.progress, measured=self.measured)
        return self._costs[gpu.name]

    def links(self, gpu: Gpu, gpus_per_node: int, fabric: Fabric) -> Links:
        """What ranks on ``gpu`` exchange over; the fabric at the share of its rate that collectives reach."""
        key = (gpu.name, gpus_per_node, fabric.name)
        if key not in self._links:
            reached = fabric.bytes_per_s_per_gpu * self.calibration.constants.fabric
            network = Network(gpus_per_node, fabric.model_copy(update={"bytes_per_s_per_gpu": reached}))
            self._links[key] = Links(self.cost(gpu), network, self.calibration)
        return self._links[key]


def own_kernels_of(cost: CostModel) -> OwnKernels:
    """What the measured stores of ``cost``, whosever kernels it predicts, say of training's."""
    calibration = own_training_calibration(store.path for store in cost.measured)
    return OwnKernels(cost.under(KERNELS), calibration.constants)
