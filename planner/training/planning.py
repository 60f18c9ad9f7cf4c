"""``plan train``: from a request to a training plan, or to what binds and the smallest cluster that would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from costmodels.training.frameworks import find_training_framework
from costmodels.training.memory import training_memory
from costmodels.training.setting import OPTIMIZERS, Setting
from planner.contract.published import validated
from planner.training.closest import closest
from planner.training.document import TrainingPlan, parse_training_plan
from planner.training.lines import StagePool
from planner.training.machines import Machines, Progress
from planner.training.places import check_precision
from planner.training.report import assemble
from planner.training.request import TrainingRequest, model_of
from planner.training.search import Found, Search, search, search_pools
from planner.training.space import candidates
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, InputError, LimitReached, UnknownName
from profiles.store import ProfileStore
from profiles.values import one_of

RESTRICTABLE = {name: name for name in ("tp", "pp", "vpp", "dp", "cp", "ep", "micro_batch")} | {"moe_tp": "etp"}
"""Fields of a request that leave degrees to choose from, and what a layout calls them."""


def plan_training(
    request: TrainingRequest,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
) -> TrainingPlan:
    """The best layout for ``request``, in one of its pools or in a pipeline across several of them.

    Raises:
        InputError, UnknownName, Unsupported: the request contradicts itself, or cannot be modelled.
        Infeasible: nothing fits, or the rules leave no layout; names what binds and what would do.
        LimitReached: the time limit came before any layout.
    """
    catalogue = catalogue_with(store.path for store in measured)
    setting = setting_of(request)
    _check(setting, request)
    machines = Machines(measured, progress)
    pools = []
    for pool in request.cluster.pools:
        gpu = catalogue.find_gpu(pool.gpu)
        try:
            check_precision(gpu, request.precision)
        except InputError as error:
            others = f", or plan without {gpu.name}" if len(request.cluster.pools) > 1 else ""
            raise InputError(error.message, f"{error.hint}{others}") from error
        links = machines.links(gpu, pool.gpus_per_node, catalogue.find_fabric(pool.fabric))
        pools.append(StagePool(links, gpu, pool.gpus, float(gpu.memory_bytes)))
    found = _search(setting, request, tuple(pools))
    if not found.best:
        raise _nothing(setting, request, tuple(pools), found)
    return validated(assemble(setting, request, pools, found), parse_training_plan)


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
    facts, wanted = setting.framework, request.sharding
    if wanted and request.pp and min(request.pp) > 1 and not set(wanted) & set(facts.sharding_with_pp):
        raise InputError(
            f"sharding: {facts.full_name} refuses {one_of(map(str, wanted))} with pp {one_of(map(str, request.pp))}",
            f"with pipeline stages it has {', '.join(map(str, facts.sharding_with_pp))}",
        )
    if request.vpp and min(request.vpp) > 1:
        if "interleaved" not in facts.schedules:
            raise InputError(f"vpp: {facts.full_name} has no virtual stages", "leave vpp out")
        if request.pp and max(request.pp) == 1:
            raise InputError(
                f"vpp: {one_of(map(str, request.vpp))} virtual stages without pipeline stages", "allow pp 2, or vpp 1"
            )
    for name in ("ep", "moe_tp"):
        degrees: tuple[int, ...] = getattr(request, name) or ()
        if model.experts is None and any(degree > 1 for degree in degrees):
            raise InputError(
                f"{name}: {one_of(map(str, degrees))}, but {model.name} has no experts", f"leave {name} out"
            )


def _search(setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...]) -> Search:
    """By time on all GPUs; on the fewest GPUs on which anything fits; or in the least memory."""
    gpus = sum(pool.gpus for pool in pools)
    if request.objective == "time":
        return search_pools(setting, request, pools, gpus)
    if request.objective == "gpus":
        return _fewest(setting, request, pools)
    # The least memory is what the most splitting and recomputing leaves: the capacity is lowered to where nothing fits.
    low, high = 0.0, max(pool.capacity for pool in pools)
    best = search_pools(setting, request, pools, gpus)
    for _ in range(12):
        if not best.best:
            break
        high = min(high, _used(setting, best.best[0]))
        middle = (low + high) / 2
        less = tuple(replace(pool, capacity=min(pool.capacity, middle)) for pool in pools)
        tried = search_pools(setting, request, less, gpus)
        if tried.best:
            best = tried
        elif tried.out_of_time:  # whether anything fits there nobody knows
            best.out_of_time = True
            break
        else:
            low = middle
        if high - low < 0.01 * high:
            break
    best.bound_us = low
    return best


def _used(setting: Setting, found: Found) -> float:
    return float(training_memory(setting, found.layout).used().max())


def _fewest(setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...]) -> Search:
    """The fastest layout on the fewest GPUs on which any fits; its bound is the fewest on which any may fit."""
    per_node = [pool.links.network.gpus_per_node for pool in pools]
    clusters = [*((pool.gpus, each) for pool, each in zip(pools, per_node, strict=True))]
    clusters += [(sum(pool.gpus for pool in pools), min(per_node))] if len(pools) > 1 else []
    found = [candidates(setting, request, *each)[0].gpus for each in clusters]
    sizes = np.unique(np.concatenate(found)).tolist()
    low, high = 0, len(sizes)  # a layout on fewer GPUs is a layout on more: those that fit are the later ones
    best, unknown, too_few = Search(), False, 0  # on the first ``too_few`` of the sizes nothing fits
    while low < high:
        middle = (low + high) // 2
        tried = search_pools(setting, request, pools, int(sizes[middle]))
        if tried.best:
            best, high = tried, middle
        else:
            low = middle + 1
            unknown, too_few = (True, too_few) if tried.out_of_time else (unknown, low)
            if not best.best:
                best = tried
    best.out_of_time = best.out_of_time or unknown
    best.bound_us = float(sizes[too_few]) if best.best else best.bound_us
    return best


def _nothing(setting: Setting, request: TrainingRequest, pools: tuple[StagePool, ...], found: Search) -> Exception:
    """Why there is no plan, and what would do."""
    if found.out_of_time:
        return LimitReached(
            f"time_limit_s: {request.time_limit_s:g} s ran out before any layout was found", "give more time"
        )
    if not found.legal:
        ways = _looser(setting, request, pools[0])
        reasons = sorted(found.refused.counts, key=lambda reason: -found.refused.counts[reason])
        if not ways or (reasons and "batch" in reasons[0]):
            ways.append(f"choose another global batch{_nearest_batches(request)}")
        return Infeasible(
            f"no layout is legal: {'; '.join(reasons[:3]) or 'the restrictions leave none'}",
            ", or ".join(ways),
        )
    each = max(pools, key=lambda pool: pool.capacity * pool.gpus)  # the pool that is nearest to holding it
    gpus = each.gpus
    more = next((gpus * 2**power for power in range(1, 11) if _fits(setting, request, each, gpus * 2**power)), None)
    smallest = _smallest(setting, request, each, gpus, more) if more else None
    near = closest(setting, request, gpus, each.links.network.gpus_per_node)
    of = f"the leanest layout on {gpus:,} × {each.gpu.name}" if len(pools) > 1 else "the leanest layout"
    binding = "no layout is legal there"
    if near is not None:
        binding = f"stage {near.stage} of {of} ({near.label}) takes {near.bytes / 2**30:.0f} GiB of "
        binding += f"{each.gpu.memory_bytes / 2**30:.0f}, most of it {near.part}"
    way = (
        f"have {smallest:,} × {each.gpu.name}"
        if smallest
        else "allow more: recomputation, sharding 3, longer pipelines"
    )
    looser: dict[str, dict[str, object]] = {
        "recomputation": {"recompute": True},
        "sharding 3": {"sharding": (3,)},
        "pipelines across pools": {"pp_across_pools": True},
    }
    for said, changed in looser.items():
        other = request.model_copy(update=changed)
        if (
            other != request
            and (len(pools) > 1 or "pp_across_pools" not in changed)
            and search_pools(setting, other, pools, sum(pool.gpus for pool in pools)).best
        ):
            way += f", or allow {said}"
    have = " + ".join(f"{pool.gpus:,} × {pool.gpu.name}" for pool in pools)
    return Infeasible(
        f"cluster: {setting.model.name} does not fit on {have}: {binding}",
        way,
        binding=binding,
        smallest_gpus=smallest,
    )


def _fits(setting: Setting, request: TrainingRequest, pool: StagePool, gpus: int) -> bool:
    return bool(search(setting, request, pool.links, pool.gpu, gpus).best)


def _smallest(setting: Setting, request: TrainingRequest, pool: StagePool, low: int, high: int) -> int:
    """Fewest GPUs between ``low``, on which nothing fits, and ``high``, in whole nodes above one."""
    per_node = pool.links.network.gpus_per_node
    step = per_node if high > per_node else 1
    a, b = low // step, -(-high // step)
    while b - a > 1:
        middle = (a + b) // 2
        if _fits(setting, request, pool, middle * step):
            b = middle
        else:
            a = middle
    return b * step


def _looser(setting: Setting, request: TrainingRequest, pool: StagePool) -> list[str]:
    """What each restriction would have to allow for there to be a layout, the others as they are."""
    ways = []
    for name, of_layout in RESTRICTABLE.items():
        if getattr(request, name) is not None:
            free = request.model_copy(update={name: None})
            found = getattr(candidates(setting, free, pool.gpus, pool.links.network.gpus_per_node)[0], of_layout)
            if len(found):
                values = np.unique(found)
                away = np.abs(np.log(values[:, None] / np.array(getattr(request, name)))).min(axis=1)
                some = [f"{value:,}" for value in np.sort(values[np.argsort(away, kind="stable")[:6]])]
                ways.append(f"allow {name} {one_of(some)}")
    return ways


def _nearest_batches(request: TrainingRequest) -> str:
    """Batches near the one asked for that degrees and micro-batches which alone are allowed divide."""
    if not request.dp and not request.micro_batch:
        return ""
    each = min(request.dp or (1,)) * min(request.micro_batch or (1,))
    below, above = request.global_batch // each * each, -(-request.global_batch // each) * each
    return f", the nearest being {below:,} and {above:,}" if below not in (0, above) else f": {above:,}"
