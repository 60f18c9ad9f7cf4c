"""Collectives over ranks that we launch: NCCL on GPUs, gloo on CPUs.

A repeat's time is that of its slowest rank. On GPUs, runs are captured into a CUDA graph where NCCL lets them
(kernel ``nccl_graph``; ``nccl`` otherwise); on CPUs, several runs between two readings of the clock outweigh the
barrier before them. Buffers stay what earlier runs made of them, as in NVIDIA's nccl-tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from profiles.collect.operations.grids import collective_shapes, points
from profiles.collect.operations.tensors import require
from profiles.collect.operations.work import ELEMENT_BYTES, work
from profiles.collect.points import Point, Prepared, Settings, Timing
from profiles.collect.ranks import Answer, Backend, RankGroup
from profiles.collect.timing import repeat
from profiles.errors import Unsupported

if TYPE_CHECKING:
    from profiles.collect.devices import Device

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
DTYPES = ("bf16", "fp16", "fp32", "int8")
SETUP_S = 120.0
BLOCK_S = 60.0
_CHECKED_ELEMENTS = 64  # of a rank's chunk, when the collective is tried on known numbers
_SAMPLE_US = 2000.0  # a repeat takes about so long: a barrier's unevenness is some tens of µs
_MOST_RUNS = 50


class Collective:
    """One rank group for each number of ranks is started when first needed and kept till :meth:`close`."""

    operation = "collective"

    def __init__(self) -> None:
        self._groups: dict[int, RankGroup] = {}
        self._versions: dict[int, str] = {}
        self._found: dict[tuple[int, str, str], str | None] = {}

    def unsupported(self, device: Device, point: Point) -> str | None:
        kind, message, ranks = point.shape["kind"], int(point.shape["message_bytes"]), point.num_gpus
        if kind not in KINDS:
            return f"collective {kind!r} is not among {', '.join(KINDS)}"
        if point.dtype not in DTYPES:
            return f"collectives are measured in {', '.join(DTYPES)}, not in {point.dtype}"
        if not 2 <= ranks <= device.count:
            return f"a collective of {ranks} needs {max(ranks, 2)} devices; {device.count} may take part"
        if kind == "send_recv" and ranks != 2:
            return f"send_recv is between 2 ranks, not {ranks}"
        unit = ranks * ELEMENT_BYTES[point.dtype]
        if message % unit:
            return (
                f"message_bytes={message} is no multiple of {unit}, which {ranks} ranks can share out in {point.dtype}"
            )
        return None

    def prepare(self, device: Device, point: Point) -> Prepared:
        """Raises RankDied where a rank ends or hangs; the next point starts new ones."""
        message = int(point.shape["message_bytes"])
        shared = point.num_gpus if device.kind == "cpu" else 1  # ranks in one memory
        require(device, 2 * message * shared, f"{point.shape['kind']} of {message:,} bytes on {point.num_gpus} ranks")
        backend: Backend = "nccl" if device.kind == "cuda" else "gloo"
        group = self._group(device, backend, point.num_gpus)
        self._check(group, point)
        command = {**point.shape, "dtype": point.dtype}
        graphs = _ask(group, {"do": "setup", **command}, SETUP_S)[0].get("graphs", False)
        flops, moved_bytes = work(point)
        return Prepared(
            run=lambda: _ask(group, {"do": "run"}, BLOCK_S),
            kernel=f"{backend}_graph" if graphs else backend,
            framework=backend,
            framework_version=self._versions[point.num_gpus],
            flops=flops,
            moved_bytes=moved_bytes,
            capturable=False,
            rotate=False,
            timed=lambda settings: _timed(group, settings, _method(device, graphs)),
            close=lambda: _drop(group),
        )

    def _group(self, device: Device, backend: Backend, ranks: int) -> RankGroup:
        group = self._groups.get(ranks)
        if group is None:
            devices = device.indices[:ranks] if device.kind == "cuda" else ()
            group = self._groups[ranks] = RankGroup(ranks, backend, devices=devices)
        if not group.running:
            self._versions[ranks] = str(group.start()[0]["version"])
        return group

    def _check(self, group: RankGroup, point: Point) -> None:
        """Once for each kind and precision: the collective is there, and its result is right."""
        kind, dtype = str(point.shape["kind"]), point.dtype
        key = (group.size, kind, dtype)
        if key not in self._found:
            message = group.size * _CHECKED_ELEMENTS * ELEMENT_BYTES[dtype]
            try:
                answers = _ask(group, {"do": "check", "kind": kind, "dtype": dtype, "message_bytes": message}, SETUP_S)
            except Unsupported as error:
                self._found[key] = error.message
            else:
                right = all(answer["right"] for answer in answers)
                self._found[key] = None if right else f"{group.backend}: {kind} in {dtype} gave a wrong result"
        found = self._found[key]
        if found is not None:
            raise Unsupported(found, "another version of torch may have it")

    def grid(self, device: Device, precisions: tuple[str, ...]) -> Iterator[Point]:
        """All numbers of ranks from 2 that are powers of two, and all there are. One precision is enough, since
        bytes are what counts: the first of ``precisions`` that collectives have."""
        dtype = next((name for name in precisions if name in DTYPES), None)
        if dtype is None:
            return
        powers = [2**power for power in range(1, 11) if 2**power <= device.count]
        for ranks in dict.fromkeys([*powers, *([device.count] if device.count >= 2 else [])]):
            kinds = [kind for kind in KINDS if kind != "send_recv" or ranks == 2]
            shapes = collective_shapes(kinds, ranks, ELEMENT_BYTES[dtype])
            yield from points(device, self.operation, shapes, [dtype], num_gpus=ranks)

    def close(self) -> None:
        """Ends all ranks."""
        for group in self._groups.values():
            group.close()
        self._groups.clear()


def _method(device: Device, graphs: bool) -> str:
    return "host_clock" if device.kind == "cpu" else "cuda_graph" if graphs else "cuda_events"


def _ask(group: RankGroup, command: Answer, timeout_s: float) -> list[Answer]:
    """The ranks' answers.

    Raises:
        Unsupported: they say that they cannot.
        RankDied: as :meth:`RankGroup.call`.
    """
    answers = group.call(command, timeout_s)
    for answer in answers:
        if "error" in answer:
            what = command.get("kind", command["do"])
            raise Unsupported(f"{group.backend}: {what}: {answer['error']}", "another version of torch may have it")
    return answers


def _slowest(group: RankGroup, repeats: int, runs: int) -> list[float]:
    answers = _ask(group, {"do": "time", "repeats": repeats, "runs": runs}, BLOCK_S)
    return [max(times) for times in zip(*(answer["us"] for answer in answers), strict=True)]


def _timed(group: RankGroup, settings: Settings, method: str) -> Timing:
    ends = time.monotonic() + settings.cap_s
    _slowest(group, 1, 1)  # warm
    single_us = min(_slowest(group, 2, 1))
    runs = max(1, min(_MOST_RUNS, round(_SAMPLE_US / single_us)))
    size = max(1, min(20, round(settings.cap_s * 1e6 / 10 / (runs * single_us))))
    return repeat(lambda count: _slowest(group, count, runs), method, settings, ends, size)


def _drop(group: RankGroup) -> None:
    """Frees the ranks' buffers; ranks that have died have none."""
    if group.running:
        group.call({"do": "drop"}, BLOCK_S)
