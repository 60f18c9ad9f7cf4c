"""``plan train``: from a request to a training plan, or to what binds and the smallest cluster that would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodels.training.exchanges import Links
from costmodels.training.frameworks import find_training_framework
from costmodels.training.memory import training_memory
from costmodels.training.setting import OPTIMIZERS, Setting
from planner.contract.clusters import Pool
from planner.contract.published import validated
from planner.training.closest import closest
from planner.training.configuration import check_precision
from planner.training.document import TrainingPlan, parse_training_plan
from planner.training.machines import Machines, Progress
from planner.training.report import assemble
from planner.training.request import TrainingRequest, model_of
from planner.training.search import Found, Search, search
from planner.training.space import candidates
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, InputError, LimitReached, UnknownName
from profiles.hardware import Gpu
from profiles.store import ProfileStore
from profiles.values import one_of

RESTRICTABLE = {name: name for name in ("tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch")} | {"moe_tp": "etp"}
"""Fields of a request that leave degrees to choose from, and what a layout calls them."""


@dataclass(frozen=True)
class PlannedTraining:
    """A search on one pool."""

    pool: Pool
    gpu: Gpu
    links: Links
    found: Search


def plan_training(
    request: TrainingRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
) -> TrainingPlan:
    """The best layout for ``request``. With several pools each is planned alone, and the best of them is taken.

    Raises:
        InputError, UnknownName, Unsupported: the request contradicts itself, or cannot be modelled.
        Infeasible: nothing fits, or the rules leave no layout; names what binds and what would do.
        LimitReached: the time limit came before any layout.
    """
    catalogue = catalogue_with(store.path for store in measured)
    setting = setting_of(request)
    _check(setting, request)
    machines = Machines(measured, progress)
    planned = []
    for pool in request.cluster.pools:
        gpu = catalogue.find_gpu(pool.gpu)
        check_precision(gpu, request.precision)
        links = machines.links(gpu, pool.gpus_per_node, catalogue.find_fabric(pool.fabric))
        planned.append(PlannedTraining(pool, gpu, links, _search(setting, request, links, gpu, pool.gpus)))
    fitting = [each for each in planned if each.found.best]
    if not fitting:
        raise _nothing(setting, request, planned)
    best = min(fitting, key=lambda each: _worth(request, each.found.best[0], each.gpu))
    made = assemble(setting, request, best.pool, best.gpu, best.links, best.found)
    return validated(made, parse_training_plan)


def setting_of(request: TrainingRequest) -> Setting:
    """What all layouts of a request share."""
    if request.optimizer not in OPTIMIZERS:
        raise UnknownName("optimizer", request.optimizer, OPTIMIZERS)
    model = model_of(request.model)
    framework = find_training_framework(request.framework)
    return Setting(model, framework, request.seq_len, request.precision, request.mode, request.optimizer, request.mtp)


def _check(setting: Setting, request: TrainingRequest) -> None:
    model = setting.model
    if request.mtp > model.mtp_layers:
        raise InputError(
            f"mtp: {request.mtp} multi-token-prediction layers; {model.name} has {model.mtp_layers}", "leave mtp out"
        )
    longest = model.longest_sequence(enforced=setting.framework.enforces_positions)
    if request.seq_len > longest:
        raise InputError(
            f"seq_len: {request.seq_len} is beyond the {longest} positions of {model.name}", "choose a shorter sequence"
        )
    if model.experts is None and any(degree > 1 for degree in request.ep or ()):
        raise InputError(f"ep: {one_of(map(str, request.ep or ()))}, but {model.name} has no experts", "leave ep out")


def _search(setting: Setting, request: TrainingRequest, links: Links, gpu: Gpu, gpus: int) -> Search:
    """By time on all GPUs; on the fewest GPUs on which anything fits; or in the least memory."""
    if request.objective == "time":
        return search(setting, request, links, gpu, gpus)
    if request.objective == "gpus":
        return _fewest(setting, request, links, gpu, gpus)
    # The least memory is what the most splitting and recomputing leaves: the capacity is lowered to where nothing fits.
    low, high = 0.0, float(gpu.memory_bytes)
    best = search(setting, request, links, gpu, gpus)
    for _ in range(12):
        if not best.best:
            break
        high = min(high, _used(setting, best.best[0]))
        middle = (low + high) / 2
        tried = search(setting, request, links, gpu, gpus, capacity=middle)
        if tried.best:
            best = tried
        else:
            low = middle
        if high - low < 0.01 * high:
            break
    best.bound_us = low
    return best


def _used(setting: Setting, found: Found) -> float:
    return float(training_memory(setting, found.layout).used().max())


def _fewest(setting: Setting, request: TrainingRequest, links: Links, gpu: Gpu, gpus: int) -> Search:
    """The fastest layout on the fewest GPUs on which any fits."""
    found, _, _ = candidates(setting, request, gpus, links.network.gpus_per_node)
    sizes = np.unique(found.gpus).tolist()
    low, high = 0, len(sizes)  # a layout on fewer GPUs is a layout on more: those that fit are the later ones
    best = Search()
    while low < high:
        middle = (low + high) // 2
        tried = search(setting, request, links, gpu, int(sizes[middle]))
        if tried.best:
            best, high = tried, middle
        else:
            low = middle + 1
            if not best.best:
                best = tried
    return best


def _worth(request: TrainingRequest, found: Found, gpu: Gpu) -> float:
    """Less is better."""
    if request.objective == "gpus":
        return float(found.layout.gpus[0])
    return found.total_us


def _nothing(setting: Setting, request: TrainingRequest, planned: list[PlannedTraining]) -> Exception:
    """Why there is no plan, and what would do."""
    if any(each.found.out_of_time for each in planned):
        return LimitReached(
            f"time_limit_s: {request.time_limit_s:g} s ran out before any layout was found", "give more time"
        )
    if not any(each.found.legal for each in planned):
        reasons = {reason for each in planned for reason in each.found.refused.counts}
        ways = _looser(setting, request, planned[0].pool)
        if not ways or any("batch" in reason for reason in reasons):
            ways.append(f"choose another global batch{_nearest_batches(request)}")
        return Infeasible(
            f"no layout is legal: {'; '.join(sorted(reasons)) or 'the restrictions leave none'}", ", or ".join(ways)
        )
    each = planned[0]
    gpus = each.pool.gpus
    more = next((gpus * 2**power for power in range(1, 11) if _fits(setting, request, each, gpus * 2**power)), None)
    smallest = _smallest(setting, request, each, gpus, more) if more else None
    near = closest(setting, request, gpus, each.pool.gpus_per_node)
    assert near is not None  # some layout is legal
    binding = f"stage {near.stage} of the leanest layout ({near.label}) takes {near.bytes / 2**30:.0f} GiB of "
    binding += f"{each.gpu.memory_bytes / 2**30:.0f}, most of it {near.part}"
    way = (
        f"have {smallest:,} × {each.gpu.name}"
        if smallest
        else "allow more: recomputation, sharding 3, longer pipelines"
    )
    looser: dict[str, dict[str, object]] = {"recomputation": {"recompute": True}, "sharding 3": {"sharding": (3,)}}
    for said, changed in looser.items():
        other = request.model_copy(update=changed)
        if other != request and _fits(setting, other, each, gpus):
            way += f", or allow {said}"
    return Infeasible(
        f"cluster: {setting.model.name} does not fit on {gpus:,} × {each.gpu.name}: {binding}",
        way,
        binding=binding,
        smallest_gpus=smallest,
    )


def _fits(setting: Setting, request: TrainingRequest, planned: PlannedTraining, gpus: int) -> bool:
    return bool(search(setting, request, planned.links, planned.gpu, gpus).best)


def _smallest(setting: Setting, request: TrainingRequest, planned: PlannedTraining, low: int, high: int) -> int:
    """Fewest GPUs between ``low``, on which nothing fits, and ``high``, in whole nodes above one."""
    step = planned.pool.gpus_per_node if high > planned.pool.gpus_per_node else 1
    a, b = low // step, -(-high // step)
    while b - a > 1:
        middle = (a + b) // 2
        if _fits(setting, request, planned, middle * step):
            b = middle
        else:
            a = middle
    return b * step


def _looser(setting: Setting, request: TrainingRequest, pool: Pool) -> list[str]:
    """What each restriction would have to allow for there to be a layout, the others as they are."""
    ways = []
    for name, of_layout in RESTRICTABLE.items():
        if getattr(request, name) is not None:
            free = request.model_copy(update={name: None})
            found = getattr(candidates(setting, free, pool.gpus, pool.gpus_per_node)[0], of_layout)
            if len(found):
                some = [f"{value:,}" for value in np.unique(found)[:6]]
                ways.append(f"allow {name} {one_of(some)}")
    return ways


def _nearest_batches(request: TrainingRequest) -> str:
    """Batches near the one asked for that degrees and micro-batches which alone are allowed divide."""
    if not request.dp and not request.micro_batch:
        return ""
    each = min(request.dp or (1,)) * min(request.micro_batch or (1,))
    below, above = request.global_batch // each * each, -(-request.global_batch // each) * each
    return f", the nearest being {below:,} and {above:,}" if below not in (0, above) else f": {above:,}"
