"""CostModel: every operation of one GPU type and one framework, fitted once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from costmodels.estimates import COVERAGE, SIGMAS, Estimates
from costmodels.kernels.corrected_model import CorrectedModel, ErrorSpace
from costmodels.kernels.error_process import Priors, fitted_on, priors
from costmodels.kernels.forest import SETTINGS
from costmodels.kernels.kept import kept
from costmodels.kernels.kernel_models import (
    POORER,
    ROOFLINE_SPREAD,
    ROOFLINE_TOLD,
    STAND_IN_SPREAD,
    TWIN,
    Fitted,
    KernelModel,
    Relative,
    Rows,
    deduplicated,
    fit,
    hardware_of,
    load_rows,
)
from costmodels.kernels.on_disk import alone, cache_folder, kept_rows, read_fitted, write_fitted
from costmodels.kernels.overlay import Overlay, lay_over
from costmodels.kernels.row_sources import same_kernels, sources_of
from costmodels.operations.registry import families
from costmodels.operations.roofline import Columns, Hardware
from profiles.boxes import Box, unlike_boxes
from profiles.descriptions import catalogue_with
from profiles.exclusions import exclusions
from profiles.hardware import Catalogue, Gpu, Topology
from profiles.measurements import DTYPES
from profiles.shipped import shipped
from profiles.store import ProfileStore, shipped_pack

MODEL_VERSION = "6"
"""Raised whenever features, fitting, formulas or files change: cached forests of another version are not used."""

FOREIGN_VENDOR_SPREAD = 0.7
"""Added (log) where no GPU of the vendor was measured: a factor of two either way. The hold-outs behind
unseen_gpu.yaml are all of one vendor and say nothing of another's kernels; this figure is a judgement, not a
measurement."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Loaded:
    """One operation: the pack's model, the same with measured rows laid over it where there are any, and whose rows
    answer (by precision)."""

    shipped: KernelModel
    corrected: CorrectedModel | None
    space: ErrorSpace
    overlay: Overlay
    row_sources: dict[int, set[str]]
    ranks: frozenset[int]  # numbers of GPUs that the pack has rows of this type among


def cost_model_version(store: ProfileStore, measured: Sequence[ProfileStore] = ()) -> str:
    """Identifies predictions from ``store`` with ``measured`` laid over it: model version and the hashes of the
    measurements."""
    hashes = [store.manifest.content_hash, *(each.content_hash for each in measured)]
    return "+".join([MODEL_VERSION, *(each[:12] for each in hashes)])


class CostModel:
    """Predicts kernels of one GPU type under one serving framework.

    Args:
        gpu: the GPU type.
        framework: name of the serving framework whose kernels run. One without rows is answered by stand-ins, and
            :attr:`notes` say so; that there is such a framework is for the caller to check.
        store: the measurements; default the pack that ships.
        progress: called with a line of text before each slow preparation (fitting a forest takes seconds,
            once).
        measured: stores that are laid over ``store``, the last on top: their rows of this GPU type answer exactly,
            and correct the forests around them (:mod:`costmodels.kernels.corrected_model`).
    """

    def __init__(
        self,
        gpu: Gpu,
        framework: str = "vllm",
        store: ProfileStore | None = None,
        progress: Progress | None = None,
        measured: Sequence[ProfileStore] = (),
    ) -> None:
        self.gpu = gpu
        self.framework = framework
        self.store = store or shipped_pack()
        self.measured = tuple(measured)
        self._progress = progress or (lambda _: None)
        self._kernels: dict[str, _Loaded] = {}
        self._asked: dict[str, set[int]] = {}  # operation -> precisions that were asked for
        self._siblings: dict[str, CostModel] = {}

    def under(self, framework: str) -> CostModel:
        """The same GPU type and measurements under another framework; kept."""
        if framework == self.framework:
            return self
        if framework not in self._siblings:
            self._siblings[framework] = CostModel(self.gpu, framework, self.store, self._progress, self.measured)
        return self._siblings[framework]

    @cached_property
    def catalogue(self) -> Catalogue:
        """What the stores know by name: the shipped hardware and the types that they describe."""
        return catalogue_with(store.path for store in (self.store, *self.measured))

    @cached_property
    def topology(self) -> Topology | None:
        """What joins the GPUs of a node of this type, None where nobody says."""
        return self.catalogue.topology(self.gpu)

    @cached_property
    def version(self) -> str:
        """Identifies the predictions: model version and the hashes of the measurements."""
        return cost_model_version(self.store, self.measured)

    def estimate(self, operation: str, q: Columns) -> Estimates:
        """Latencies in µs of the questions ``q``: coded shape columns (see :mod:`costmodels.operations.roofline`),
        shape [n] each.

        Equal questions are asked once.
        """
        unique, back = deduplicated(operation, q)
        self._asked.setdefault(operation, set()).update(np.unique(unique["dtype"]).tolist())
        answers = self.kernel(operation).estimate(unique)
        foreign = [dtype for dtype in self._loaded(operation).row_sources if not self._own(operation, dtype)]
        spread = np.where(np.isin(unique["dtype"], foreign), STAND_IN_SPREAD, 0.0)
        return answers.widened(spread).take(back)

    def kernel(self, operation: str) -> KernelModel | CorrectedModel:
        """What answers ``operation``."""
        loaded = self._loaded(operation)
        return loaded.corrected or loaded.shipped

    def errors(self, operation: str) -> tuple[ErrorSpace, Priors]:
        """Where the errors of the pack's own model of ``operation`` live, and what they look like before a row is
        measured."""
        loaded = self._loaded(operation)
        return loaded.space, self._priors(operation, loaded.shipped.has_forest)

    def overlay(self, operation: str) -> Overlay:
        """The rows of the measured stores that speak for this framework on this GPU type, and those that do not."""
        return self._loaded(operation).overlay

    def is_measured(self, operation: str) -> bool:
        """Whether any GPU has rows of ``operation`` that speak for the framework; else the roofline answers."""
        loaded = self._loaded(operation)
        return loaded.shipped.has_forest or loaded.corrected is not None

    def measured_ranks(self, operation: str) -> frozenset[int]:
        """Numbers of GPUs of this type among which the pack has rows of ``operation``."""
        return self._loaded(operation).ranks

    def _own(self, operation: str, dtype: int) -> set[str]:
        """Whose rows of the framework's own kernels answer."""
        names = self._loaded(operation).row_sources.get(dtype, set())
        return {name for name in names if same_kernels(self.framework, name, operation, DTYPES[dtype])}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the measurements used so far: operations that another framework's
        rows answer, operations for which this GPU has no rows at all, and those that measured stores correct."""
        lines = []
        for operation, asked in sorted(self._asked.items()):
            loaded = self._loaded(operation)
            learnt = {} if loaded.corrected is None else {each.dtype: each for each in loaded.corrected.learnt}
            for dtype in sorted(asked):
                row_sources = loaded.row_sources.get(dtype, set())
                what = f"{operation} in {DTYPES[dtype]}"
                if not self.is_measured(operation):
                    lines.append(f"{what}: measured on no GPU; {ROOFLINE_TOLD}")
                elif not row_sources:
                    lines.append(f"{what}: no measurements of {self.gpu.name}; predicted from other GPUs")
                elif others := sorted(row_sources - self._own(operation, dtype)):
                    lines.append(f"{what}: measured under {' and '.join(others)}, standing in for {self.framework}")
                if (each := learnt.get(DTYPES[dtype])) is not None:
                    rows = "1 measured row is" if each.rows == 1 else f"{each.rows:,} measured rows are"
                    lines.append(f"{what}: {rows} laid over the pack, {described_shift(each.shift)}")
            lines += self._excluded_notes(operation, asked)
            lines += [
                f"{operation} among {' and '.join(map(str, box.num_gpus))} {box.gpu}: rows of a box of another kind "
                f"({box.joined_by}) are left out"
                for box in self._left_out(operation)
                if box.gpu == self.gpu.name
            ]
        return tuple(lines)

    def _excluded_notes(self, operation: str, asked: set[int]) -> list[str]:
        """Whole precisions of this framework and GPU that are listed as wrong."""
        names = {DTYPES[dtype] for dtype in asked}
        return [
            f"{operation} in {dtype}: rows of {self.framework} on {self.gpu.name} are left out: {entry.because}"
            for entry in exclusions(self.store.manifest.name, operation)
            for rows in entry.rows
            if rows.may_have("framework", self.framework) and rows.may_have("gpu", self.gpu.name)
            if set(rows.where) == {"framework", "gpu", "dtype"} and not rows.splits
            for dtype in rows.where["dtype"]
            if dtype in names
        ]

    def _loaded(self, operation: str) -> _Loaded:
        if operation not in self._kernels:
            self._kernels[operation] = kept((operation, *self.made_from), lambda: self._load(operation))
        return self._kernels[operation]

    @cached_property
    def made_from(self) -> tuple[str, ...]:
        """All that an operation's models are made from."""
        stores = [(str(each.path), each.manifest.content_hash) for each in (self.store, *self.measured)]
        return self.framework, self.gpu.model_dump_json(), repr(self.catalogue), repr(stores)

    def _load(self, operation: str) -> _Loaded:
        hardware = hardware_of(self.store, operation, self.catalogue)
        own = Hardware.of([self.gpu])
        of_pack = self._made_from(operation, hardware)

        def load() -> Rows:
            return load_rows(self.store, operation, self.framework, own, self.gpu.name, self._left_out(operation))

        order = sources_of(self.framework)
        known = self.gpu.name in hardware.names
        rows = kept_rows(operation, f"{of_pack}:{self.gpu.name}:{order}", load) if known else load()
        overlay = lay_over(self.measured, operation, self.framework, self.gpu, rows)
        row_sources: dict[int, set[str]] = {}
        for part in (rows, overlay.rows):
            for dtype in np.unique(part.columns["dtype"]):
                origins = np.unique(part.origin[part.columns["dtype"] == dtype])
                row_sources.setdefault(int(dtype), set()).update(order[origin] for origin in origins)
        fitted = self._fitted(operation, hardware, of_pack) if hardware.names else None
        spread = unseen_spreads()[operation] + (FOREIGN_VENDOR_SPREAD if self._is_foreign(operation) else 0.0)
        relative = None if fitted is None or len(rows.gpu) else self._relative(operation, hardware)
        shipped = KernelModel(operation, fitted, rows, self.gpu, spread, relative)
        space = ErrorSpace(shipped, rows, self.framework)
        corrected = None
        if len(overlay):
            corrected = CorrectedModel(shipped, space, overlay, self._priors(operation, shipped.has_forest))
        ranks = frozenset(np.unique(rows.columns["num_gpus"]).tolist())
        return _Loaded(shipped, corrected, space, overlay, row_sources, ranks)

    def _relative(self, operation: str, measured: Hardware) -> Relative | None:
        """Of measured GPUs of the same generation its twin, else one with far more arithmetic for its bandwidth;
        None: there is neither."""
        if families().kernel(operation).spans_gpus:
            return None
        kin = [gpu for gpu in map(self.catalogue.find_gpu, measured.names) if gpu.generation == self.gpu.generation]
        near = min(kin, key=self._unlike, default=None)
        if near is None:
            return None
        twin = self._unlike(near) <= np.log(TWIN)
        if not twin:
            near = min(kin, key=_ridge)
            if _ridge(self.gpu) >= POORER * _ridge(near):
                return None
        return Relative(CostModel(near, self.framework, self.store, self._progress)._loaded(operation).shipped, twin)

    def _unlike(self, other: Gpu) -> float:
        """How far (log) the other's arithmetic in 16 bits or bandwidth is from this one's, the farther of the two."""
        return max(abs(float(np.log(mine / its))) for mine, its in zip(_speeds(self.gpu), _speeds(other), strict=True))

    def _left_out(self, operation: str) -> tuple[Box, ...]:
        """Where rows were measured that do not answer here: boxes unlike the usual ones."""
        return unlike_boxes(self.store.manifest.name, operation, self.catalogue)

    def _priors(self, operation: str, has_forest: bool) -> Priors:
        if not has_forest:
            return priors(operation).widened(ROOFLINE_SPREAD / SIGMAS)
        return priors(operation).widened(FOREIGN_VENDOR_SPREAD / SIGMAS if self._is_foreign(operation) else 0.0)

    def _is_foreign(self, operation: str) -> bool:
        """Whether no GPU of this vendor was measured."""
        vendors = {self.catalogue.find_gpu(name).vendor for name in self.store.values(operation, "gpu")}
        return self.gpu.vendor not in vendors

    def _made_from(self, operation: str, hardware: Hardware) -> str:
        """All that a forest of ``operation`` is learnt from, and how."""
        made_by = (MODEL_VERSION, version("scikit-learn"), SETTINGS, families().kernel(operation).leaf_rows, COVERAGE)
        # The forest has learnt ratios to these GPUs' rooflines: a corrected fact makes it another forest.
        facts = [array.tolist() for array in (hardware.peak_flops, hardware.bandwidth, hardware.link)]
        known = (hardware.names, hardware.trait_names, hardware.traits.tolist(), facts)
        left_out = [(box.gpu, box.num_gpus) for box in self._left_out(operation)]
        wrong = [each.rows for each in exclusions(self.store.manifest.name, operation)]
        rows = self.store.manifest.hashes.get(operation)
        return f"{made_by}:{known}:{rows}:{self.framework}:{left_out}:{wrong}"

    def _fitted(self, operation: str, hardware: Hardware, of_pack: str) -> Fitted | None:
        """The forest of ``operation``, from the cache or fitted; None without rows that speak for the
        framework."""
        folder = cache_folder() / "forests" / f"{operation}-{hashlib.sha256(of_pack.encode()).hexdigest()[:16]}"
        has_rows = self.gpu.name in hardware.names
        if (loaded := read_fitted(folder, self.gpu.name, has_rows=has_rows)) is not None:
            return loaded
        with alone(folder, lambda: self._progress(f"another process is learning {operation}; waiting for it")):
            if (loaded := read_fitted(folder, self.gpu.name, has_rows=has_rows)) is not None:
                return loaded
            self._progress(f"learning {operation} ({self.framework}) from the measurements; kept for next time")
            rows = load_rows(self.store, operation, self.framework, hardware, left_out=self._left_out(operation))
            if not len(rows.gpu):
                return None
            loaded = fit(operation, rows, hardware)
            write_fitted(folder, loaded)
        return loaded

    def prepare(self, operations: Sequence[str] | None = None) -> None:
        """Loads (and where needed fits) the models of ``operations`` (all) now rather than at the first
        question."""
        for operation in families().kernels if operations is None else operations:
            self.kernel(operation)


def _speeds(gpu: Gpu) -> tuple[float, float]:
    """FLOP/s in 16 bits, bytes/s of memory."""
    return gpu.peak_flops.get("bf16", gpu.peak_flops.get("fp16", 1.0)), gpu.memory_bandwidth_bytes_per_s


def _ridge(gpu: Gpu) -> float:
    """FLOPs in 16 bits for a byte of memory."""
    flops, bandwidth = _speeds(gpu)
    return flops / bandwidth


def stale_priors() -> str | None:
    """What is to be said where the figures of :func:`costmodels.kernels.error_process.priors` describe the errors of
    other forests than these; None where they do not."""
    fitted = fitted_on()
    if fitted["model_version"] == MODEL_VERSION and fitted["pack_hash"] == shipped_pack().manifest.content_hash:
        return None
    return (
        f"how errors of near shapes go together was fitted with cost model {fitted['model_version']} on pack "
        f"{fitted['pack_hash'][:12]}, and this is {cost_model_version(shipped_pack())}: whether intervals between "
        "measured rows still hold is what `plan profile validate` shows"
    )


def described_shift(shift: float) -> str:
    """How a machine compares with what was said of it; ``shift``: measured ÷ predicted − 1."""
    if abs(shift) < 0.005:
        return "which are as fast in the median as predicted without them"
    return f"{abs(shift):.0%} {'slower' if shift > 0 else 'faster'} in the median than predicted without them"


def unseen_spreads() -> dict[str, float]:
    """Half-width (log) of the 80 % interval of each operation on a GPU without any rows, from the
    leave-one-GPU-out benchmark."""
    return shipped(
        Path(__file__).parent / "unseen_gpu.yaml",
        lambda document: {
            operation: float(document["half_width"][kernel.figures_in(document["half_width"])])
            for operation, kernel in families().kernels.items()
        },
    )
