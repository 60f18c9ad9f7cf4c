"""The whole job: request → operating points → fleet → plan document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from costmodels.estimates import Floats
from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.precision import (
    CHOICES,
    KV_CHOICES,
    Precision,
)
from costmodels.operations.layouts import Layouts
from costmodels.operations.registry import families
from costmodels.power.state import OperatingState
from costmodels.serving.frameworks.framework import Framework, find_framework
from planner.contract.clusters import Pool
from planner.contract.models import architecture_of
from planner.contract.progress import Step, Tell, in_words, part, silent
from planner.contract.published import validated
from planner.contract.words import kv_precision, precision_of, precision_on
from planner.serving.cluster_choice import planned_on_open_cluster
from planner.serving.confirmation.confirmation import confirmed
from planner.serving.document.plan import Plan, parse_plan
from planner.serving.engines.options import ServingOption, aggregated, disaggregated
from planner.serving.fleet.infeasible import nearest
from planner.serving.images import counted
from planner.serving.infeasible import no_plan
from planner.serving.layouts import Rejected, restrictions
from planner.serving.operating_points import Job, search, served_on
from planner.serving.report.report import assemble
from planner.serving.request import PlanRequest, parse_request
from planner.serving.searched import KnownSearches, SearchedLayouts
from planner.serving.users import planned_for_users
from planner.serving.ways_out import with_tried_hint
from planner.serving.wide_layouts import check_asked
from profiles.descriptions import catalogue_with
from profiles.errors import Infeasible, InputError, LimitReached, ShardwrightError, Unsupported
from profiles.hardware import Catalogue, Gpu
from profiles.store import ProfileStore
from profiles.values import shown

if TYPE_CHECKING:
    from planner.experts.placement import Loads

CostOf = Callable[[Pool], CostModel]
Busier = Callable[[Layouts], Floats]

SEARCHED, CONFIRMED = 55.0, 90.0
"""Percent of a plan's work that is done when its layouts are searched, and when its engines are simulated: shares of
CPU time of five plans in a warm process, 0.4 to 2.4 s each."""

EACH_ROUND = 0.1
"""Share of what is left that one of the rates tried for users at once is, of which nobody knows how many there are."""


def plan(
    request: PlanRequest | Mapping[str, Any],
    *,
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
    expert_loads: Loads | None = None,
) -> Plan:
    """The best deployment for ``request``, with its prediction and proof.

    Args:
        request: a :class:`PlanRequest`, or a mapping that :func:`planner.serving.request.parse_request` accepts.
        store: measurements to predict from; default the pack that ships.
        measured: stores laid over ``store``, the last on top: their rows answer exactly and correct the forests.
        progress: called with a line of text before each slow step.
        expert_loads: tokens that each expert received: places the experts of engines with expert parallelism.

    Raises:
        InputError, UnknownName, Unsupported: the request cannot be understood or modelled.
        Infeasible: nothing satisfies it; names what binds and the nearest thing that works.
        LimitReached: the solver's time limit passed without any plan.
        DataError: the measurements cannot be read.
    """
    catalogue = catalogue_with(each.path for each in (*([store] if store else ()), *measured))
    if not isinstance(request, PlanRequest):
        request = parse_request(request, catalogue)
    model = architecture_of(request.model)
    request = request.model_copy(update={"workload": counted(request.workload, model)})
    _check_length(request, model)
    families().require_measured_widths(model)
    if expert_loads is not None:
        from planner.serving.expert_placement import check_expert_loads  # deferred: few plans place experts

        check_expert_loads(expert_loads, model)
    tell = progress or silent
    cost_of, searched = cost_models(request, catalogue, store, measured, tell), KnownSearches()

    def planned_anywhere(asked: PlanRequest, tell: Tell) -> Plan:
        if asked.cluster.is_open:
            inside = in_words(tell)
            return planned_on_open_cluster(
                asked, lambda closed: _plan(closed, model, cost_of, inside, expert_loads, searched), tell
            )
        return _plan(asked, model, cost_of, tell, expert_loads, searched)

    def planned_as_asked(asked: PlanRequest, tell: Tell) -> Plan:
        asked = asked.with_headroom
        if asked.workload.concurrency is None:
            return planned_anywhere(asked, tell)
        turns = count()

        def planned(for_rate: PlanRequest) -> Plan:
            done = 100 * (1 - (1 - EACH_ROUND) ** next(turns))
            tell(Step(f"trying {for_rate.workload.rate_rps:.4g} requests/s", done, passing=True))
            return planned_anywhere(for_rate, in_words(tell))

        return planned_for_users(asked, planned)

    def tries(changed: PlanRequest) -> ShardwrightError | Mapping[str, int]:
        tell(Step("trying what would work instead", None, passing=True))
        try:
            found = planned_as_asked(changed, silent)
        except ShardwrightError as error:
            return error
        taken: Counter[str] = Counter()
        for group in found.decision.engines:
            taken[group.pool] += group.gpus_per_engine * len(group.replicas)
        return taken

    try:
        return planned_as_asked(request, tell)
    except Infeasible as error:
        # Only what is said in the end is tried, by what was asked: not every refusal on the way there.
        raise with_tried_hint(request, error, tries) from None


def _plan(
    request: PlanRequest,
    model: Architecture,
    cost_of: CostOf,
    tell: Tell,
    expert_loads: Loads | None,
    searched: KnownSearches,
) -> Plan:
    """The plan on a cluster of which the request says all. Raises as :func:`plan`."""
    _check_framework(request, cost_of)
    busier = None
    if expert_loads is not None:
        from planner.serving.expert_placement import busier_with  # deferred: few plans place experts

        busier = busier_with(model, expert_loads)
    precisions = precisions_of(request, model, [cost_of(pool).gpu for pool in request.cluster.pools])
    options = []
    for done, precision in enumerate(precisions):
        of_all = part(tell, SEARCHED * done / len(precisions), SEARCHED * (done + 1) / len(precisions))
        make = partial(_searched, request, model, precision, cost_of, of_all, busier)
        options += _options(request, precision, searched.of(request, precision, make))
    found = confirmed(request, options, part(tell, SEARCHED, CONFIRMED))
    if found.best is None:
        raise _none(request, model, found.options)
    tell(Step("writing the plan", CONFIRMED, passing=True))
    return validated(assemble(request, found, found.best, expert_loads), parse_plan)


def _check_framework(request: PlanRequest, cost_of: CostOf) -> None:
    """Raises Unsupported where the framework runs on no pool at all."""
    framework = find_framework(request.framework)
    missing = [framework.missing(cost_of(pool).gpu) for pool in request.cluster.pools]
    if all(missing):
        raise Unsupported(f"framework: {missing[0]}", "choose another --framework or another GPU type")


def precisions_of(request: PlanRequest, model: Architecture, gpus: Sequence[Gpu]) -> list[Precision]:
    """The precisions to choose from: those asked for, or for ``any`` all that the checkpoint is published in or can be
    made into and the framework runs; of caches that nobody named, what the framework takes on ``gpus``."""
    framework = find_framework(request.framework)
    runs = framework.capabilities.precisions
    asked: list[str | None] = list(request.precision or (None,))
    if "any" in asked:
        published = precision_of(model).weights
        asked = [name for name in dict.fromkeys((published, *CHOICES)) if name in runs]
    found = []
    for name in asked:
        try:
            if request.kv_precision is None:
                found += [precision_on(framework, gpu, model, name)[0] for gpu in gpus]
            else:
                found += [precision_of(model, name, cache) for cache in caches_of(request, model, request.kv_precision)]
        except InputError as error:  # a conversion that is not done; of a cache that is not modelled, it has to be told
            if isinstance(error, Unsupported) or "any" not in (request.precision or ()):
                raise
    return list(dict.fromkeys(found))


def caches_of(request: PlanRequest, model: Architecture, asked: Sequence[str]) -> Sequence[str]:
    """The precisions of the KV cache to choose from, of those asked for.

    Raises:
        InputError: one that the framework does not keep of such a model.
    """
    framework = find_framework(request.framework)
    kept = framework.capabilities.caches.get(model.model_type, KV_CHOICES)
    if "any" in asked:
        return kept
    for word in asked:
        if kv_precision(word) not in kept:
            raise InputError(
                f"kv_precision: {framework.full_name} keeps no {shown(word)} cache of {model.name}",
                f"it keeps {', '.join(kept)}: leave --kv-precision out, or choose another framework",
            )
    return asked


def _searched(
    request: PlanRequest,
    model: Architecture,
    precision: Precision,
    cost_of: CostOf,
    tell: Tell,
    busier: Busier | None,
) -> SearchedLayouts:
    """The layouts of each pool in one precision."""
    jobs, refused = jobs_of(request, model, precision, cost_of)
    if busier is not None:
        jobs = [replace(job, served=replace(job.served, busier=busier)) for job in jobs]
    several = len(request.precision or ()) + len(request.kv_precision or ()) > 1
    searching = f"searching layouts in {precision.weights} with {precision.kv} KV cache"
    tell(Step(searching, 0, passing=not several))
    fastest = request.goal == "latency"
    searches = []
    for done, job in enumerate(jobs, 1):
        searches.append(search(job, restrictions(request, job.pool), fastest=fastest))
        tell(Step(f"{job.pool.name}: layouts searched", done, len(jobs) + 1, passing=True))
    return SearchedLayouts(request, searches, refused)


def _options(request: PlanRequest, precision: Precision, found: SearchedLayouts) -> list[ServingOption]:
    """The ways to serve in one precision."""
    searches, refused = found.searches, found.refused
    if not searches:
        return [ServingOption("aggregated", precision, [], refused, reason=refused[0].reason)]
    check_asked(request, searches[0].job.served, max((one.wide for one in searches), key=lambda wide: len(wide.decode)))
    options = [aggregated(request, precision, searches, refused)]
    if request.disaggregation != "never" and request.workload.osl > 1:
        options.append(disaggregated(request, precision, searches, found.offers, refused))
    return options


def _none(request: PlanRequest, model: Architecture, options: list[ServingOption]) -> ShardwrightError:
    """Why no option has a plan: nothing meets the SLO, or what does cannot carry the rate, or time was up."""
    allowed = [option for option in options if option.allowed(request)]
    late = [o.error for o in allowed if isinstance(o.error, LimitReached)]
    if late:
        return late[0]
    errors = [o.error for o in allowed if o.error is not None]
    if errors:
        return nearest(errors, request.budget_watts, request.workload.rate_rps)
    searched = {o.precision: o.searches for o in options if o.searches}
    if not searched:
        return Unsupported(
            f"precision: {options[0].refused[0].reason}",
            "choose another --precision (bf16 asks least of the hardware) or another GPU type",
        )
    return no_plan(request, model, searched)


def _check_length(request: PlanRequest, model: Architecture) -> None:
    work, context, admitted = request.workload, model.max_context_tokens, request.max_model_len
    if admitted is not None and not work.longest_tokens <= admitted <= context:
        raise InputError(
            f"max_model_len: {admitted} is not between the {work.longest_tokens} tokens of a request and the "
            f"{context} that {model.name} reads",
            "give a length in between, or leave it out",
        )
    if work.longest_tokens <= context:
        return
    seen = f" + {work.image_tokens} of images" if work.image_tokens else ""
    longest = f"isl {work.isl}{seen} + osl {work.osl} = {work.longest_tokens} tokens"
    if work.max_len is not None:
        longest = f"max_len, {work.max_len} tokens,"
    elif work.varies:
        longest = f"the longest request, {work.longest_tokens} tokens,"
    serve = f", or serve the shorter requests alone with max_len={context}" if work.varies else ""
    raise InputError(
        f"workload: {longest} is longer than the context of {model.name}, {context} tokens",
        f"shorten the workload{serve}, or name a model (or a config.json) with a longer context",
    )


def cost_models(
    request: PlanRequest,
    catalogue: Catalogue,
    store: ProfileStore | None,
    measured: Sequence[ProfileStore],
    progress: Tell,
) -> CostOf:
    """The cost model of each GPU type, loaded once for all precisions."""
    made: dict[str, CostModel] = {}
    framework = find_framework(request.framework).name

    def cost_of(pool: Pool) -> CostModel:
        if pool.gpu not in made:
            made[pool.gpu] = CostModel(catalogue.find_gpu(pool.gpu), framework, store, progress, measured)
        return made[pool.gpu]

    return cost_of


def _started_as_asked(request: PlanRequest) -> Framework:
    """The framework with what the request says of how engines are started in place of what plans start them with.

    Raises:
        InputError: prompts that are not cut and do not fit into a step.
        Unsupported: what the framework has no option for.
    """
    framework = find_framework(request.framework)
    budget = request.max_num_batched_tokens
    asked: dict[str, Any] = {
        "max_sequences": request.max_num_seqs,
        "token_budgets": budget and (budget,),
        "memory_fraction": request.gpu_memory_utilization,
        "max_model_len": request.max_model_len,
    }
    if request.chunked_prefill is False:
        longest = request.workload.longest_isl
        if budget is not None and budget < longest:
            raise InputError(
                f"chunked_prefill: without it a prompt of {longest:,} tokens does not fit into a step of {budget:,}",
                "raise max_num_batched_tokens, or leave chunked_prefill out",
            )
        fitting = [tokens for tokens in framework.limits.token_budgets if tokens >= longest]
        asked["token_budgets"] = asked["token_budgets"] or tuple(fitting) or (-(-longest // 256) * 256,)
    said = {name: value for name, value in asked.items() if value is not None}
    if said:
        framework = framework.model_copy(update={"limits": framework.limits.model_copy(update=said)})
    return framework.with_prompts(request.chunked_prefill, request.polling_interval)


def jobs_of(
    request: PlanRequest, model: Architecture, precision: Precision, cost_of: CostOf
) -> tuple[list[Job], list[Rejected]]:
    """One job per pool that can run the precision and state of its GPUs; the other pools as rejections."""
    framework = _started_as_asked(request)
    jobs, refused = [], []
    for index, pool in enumerate(request.cluster.pools):
        why = framework.missing_hardware(precision, cost_of(pool).gpu)
        if why is not None:
            refused.append(Rejected(why, 1, f"pool {pool.name}"))
            continue
        served = served_on(pool, model, precision, framework, cost_of(pool), request.workload)
        jobs += [
            Job(index, pool, replace(served, state=state), request.workload, request.slo, request.confidence)
            for state in OperatingState.choices(request.clock or (), request.power_cap or (), served.gpu)
        ]
    return jobs, refused
