"""What the reader of a plan should know of its measurements and assumptions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from costmodels.origins import HOW
from costmodels.serving.frameworks.caches import default_cache
from costmodels.serving.frameworks.framework import PREDICTED
from costmodels.serving.served_model import ServedModel
from costmodels.serving.simulator.capacity import LONG
from planner.contract.engine import NOTHING, Layout, carried
from planner.contract.quantities import SLOW_END
from planner.contract.workload.workload import Workload
from planner.serving.engines.groups import Group, LoadedFleet, Pair
from planner.serving.engines.latency import Checks
from planner.serving.engines.options import ServingOption
from planner.serving.engines.pairing import pairing_notes
from planner.serving.operating_points import FEW_PLACES
from planner.serving.request import PlanRequest
from planner.serving.wide_experts import kin_told

_FROM_HASHES = "is what hashes of the trace's prompts show for one cache that forgets nothing"
QUEUES = 0.8
"""Share of time that prefill is busy from which prompts wait twice as long as they take (M/D/1: ρ/(2(1 − ρ)))."""


def notes_of(request: PlanRequest, fleet: LoadedFleet, checks: Checks) -> list[str]:
    """The notes of a plan, each once. ``checks``: simulations of the groups."""
    best, groups, work = fleet.option, fleet.groups, request.workload
    served = [search.job.served for search in best.searches]
    notes = [
        *(note for each in served for note in each.cost.notes),
        *_framework_notes(request, best),
        *_cache_notes(request, best),
        _calibration_note(served[0]),
        *_clock_notes(groups),
        *_expert_notes(request, groups),
        *_simulation_notes(groups, checks),
        *_unbounded_notes(request, groups),
        *_unmeasured_notes(groups),
        *_few_places_notes(groups),
        *_hand_over_notes(fleet.pairs),
        *_share_notes(fleet),
    ]
    if any(pair.transfer is not None for pair in fleet.pairs):
        notes += pairing_notes(served[0], fleet.attention_backend, drafting=work.speculation is not None)
    notes += _workload_notes(work, groups)
    if request.goal == "throughput" and work.rate_rps is not None:
        notes.append(
            f"the objective is throughput: the plan is for as many requests as fit, not for the offered "
            f"{work.rate_rps:g} requests/s"
        )
    for group in groups:
        notes += [*_exchange_notes(group), *_topology_notes(group), *_host_notes(group)]
    notes += _model_notes(request, best, groups)
    for pool in (group.job.pool for group in groups if group.job.pool.price_source is not None):
        notes.append(f"price of {pool.gpu}: {pool.usd_per_gpu_hour} USD per GPU-hour, {pool.price_source}")
    return list(dict.fromkeys(notes))


def _framework_notes(request: PlanRequest, best: ServingOption) -> Iterator[str]:
    """Which release is planned for, and what it is not known to be."""
    searches = best.searches
    framework = searches[0].job.served.framework
    newest = "" if "@" in request.framework else ", the newest release known here"
    yield f"engines are taken to be {framework.full_name} {framework.release}{newest}"
    told = [framework.told(PREDICTED)]
    told += [framework.told_of_weights(best.precision, search.job.served.gpu) for search in searches]
    yield from filter(None, told)


def _unmeasured_notes(groups: Sequence[Group]) -> Iterator[str]:
    if any(not bool(group.engine.origin.inside[0]) for group in groups):
        yield (
            "some operations of the chosen layout lie outside what was measured (long prefixes, unseen shapes, traffic "
            "between nodes); their intervals are wide"
        )


def _few_places_notes(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        places = group.limits.max_sequences
        if places < FEW_PLACES:
            yield (
                f"the cache of an engine of {group.id} holds {places} request{'s' if places > 1 else ''} of "
                f"{group.engine.longest_tokens:,} tokens: no more are in flight at once, others wait"
            )


def _share_notes(fleet: LoadedFleet) -> Iterator[str]:
    """Where engines of a role are of several kinds: what is carried by a router that knows no shares."""
    for role in dict.fromkeys(group.role for group in fleet.groups):
        engines = [group for group in fleet.groups if group.role == role for _ in range(group.engines)]
        rates = [float(group.capacity_rps.value[0]) for group in engines]
        shares = carried([group.share / group.engines for group in engines], rates)
        if shares is None or shares[1] >= fleet.served_rps:
            continue
        kinds = "engines" if role == "aggregated" else f"{role} engines"
        yield (
            f"the {kinds} are of several kinds with shares of their own: a router that takes no weights, as "
            f"vllm-router and SGLang's, carries {shares[1]:.3g} of these {fleet.served_rps:.3g} requests/s; "
            "`plan export --to gateway` writes one that does"
        )


def _exchange_notes(group: Group) -> Iterator[str]:
    """Of exchanges that nothing measured is like: how much of a step they are."""
    step = group.engine.steps[0][0]
    if HOW[int(group.engine.origin.how[0])] != "roofline" or group.job.served.unmeasured:
        return
    sent = step.parts["communication"] + step.parts["dispatch"] + step.parts["combine"] + step.parts["overlap"]
    share = float(max(sent[0], 0.0) / step.latency.value[0])
    topology = group.job.served.network.topology
    over_pcie = group.layout.pp == 1 and topology is not None and topology.bus_share is not None
    which = "over PCIe" if over_pcie else "between pipeline stages and nodes"
    yield (
        f"exchanges {which} are estimated from link rates, nothing like them was measured; "
        f"all communication is {share:.0%} of a step of {group.id}"
    )


def _host_notes(group: Group) -> Iterator[str]:
    served, domain = group.job.served, group.job.served.network.gpus_per_node
    host = served.cost.catalogue.gpus_per_host(served.gpu, domain)
    if host < min(domain, group.layout.gpus):
        yield (
            f"{group.id} is larger than a host of {group.job.pool.gpu} ({host} GPUs share one operating "
            "system in the rack): its commands are of hosts in one rack; nodes in this plan are NVLink domains"
        )


def _model_notes(request: PlanRequest, best: ServingOption, groups: Sequence[Group]) -> Iterator[str]:
    """How its experts are used, what its weights are run in, and what of it is not modelled."""
    model, precision = best.searches[0].job.served.model, best.precision
    if model.is_moe:
        yield (
            f"tokens are spread over experts as {request.workload.routing}; give routing=… in the workload to change it"
        )
    for name, gpu in {group.job.pool.gpu: group.job.served.cost.gpu for group in groups}.items():
        if precision.weights == "bf16" and "bf16" not in gpu.peak_flops:
            yield f"{name} has no bf16: start the engines in fp16, which is predicted to take the same time"
    if precision.converted:
        yield f"weights are run in {precision.weights}, not as published ({model.weight_precision}); check accuracy"
    for note in model.notes:
        yield f"{model.name}: {note}"
    if model.excluded:
        yield f"not modelled: {', '.join(model.excluded)}"


def _calibration_note(served: ServedModel) -> str:
    """What the framework's overheads were learned from: own runs where a store has some, else public ones."""
    framework = served.framework
    own, public = served.own_calibration, framework.fitted
    if own is not None:
        worse = " and ".join(name.upper() for name in own.doubtful)
        doubted = f"; of runs left out, {worse} is predicted worse with them than before" if worse else ""
        return (
            f"{framework.full_name}'s overheads are learned from {own.fitted_on} ({own.date}), beginning with those of "
            f"{public.rows:,} public runs; TTFT is measured as in those runs" + doubted
        )
    return (
        f"{framework.full_name}'s overheads are fitted to {public.rows:,} public end-to-end runs; of models and "
        f"GPU types held out, 80 % lie within {math.exp(public.tpot.low):.2f}–"
        f"{math.exp(public.tpot.high):.2f} × the predicted TPOT, and intervals are at least that wide; "
        "TTFT includes HTTP and tokenisation as in those runs, not the network to the user"
    )


def _cache_notes(request: PlanRequest, option: ServingOption) -> list[str]:
    """What decided the precision of the cache, where nobody said it."""
    if request.kv_precision is not None:
        return []
    served = [search.job.served for search in option.searches]
    taken = [default_cache(each.framework, each.model, each.gpu, option.precision) for each in served]
    return [each.told for each in dict.fromkeys(taken) if each.why and each.precision == option.precision.kv]


def _clock_notes(groups: list[Group]) -> list[str]:
    """Where times and watts at the clock of a group are not that GPU's own."""
    return [
        f"times and watts against the clock were not measured on {group.job.served.gpu.name}: carried over from other "
        "GPUs with wider ends (plan profile collect --clocks measures them)"
        for group in groups
        if group.job.served.state is not None and not group.job.served.response.measured
    ]


def _expert_notes(request: PlanRequest, groups: list[Group]) -> list[str]:
    """How experts are reached where an all-to-all does it, and what nobody measured of that."""
    wide = [group for group in groups if group.layout.exchange != NOTHING]
    if not wide:
        said = {name: getattr(request, name) for name in Layout.SELDOM}
        asked = [f"{name}={value}" for name, value in said.items() if value not in (None, NOTHING)]
        if not asked or request.exchange == NOTHING:
            return []
        was = "were" if asked[1:] else "was"
        return [f"{', '.join(asked)} {was} asked for; no engine that was chosen exchanges tokens, theirs gather them"]
    notes = [
        f"{group.id} sends each token to the GPUs of its experts ({group.layout.exchange}, "
        f"{group.layout.redundant} copies, overlap {group.layout.overlap}, eplb {group.layout.eplb}); "
        "what that takes is a law of its library and fabric"
        for group in wide
    ]
    ways = {group.layout.exchange for group in groups}
    if request.exchange is not None and len(ways) > 1:
        taken = ", ".join(f"{group.id} ({group.role}) {group.layout.exchange}" for group in groups)
        notes.append(f"exchange={request.exchange} was asked for, and not every engine runs it: {taken}")
    notes += [note for name in sorted(ways) for note in kin_told(name)]
    if any(group.role == "aggregated" for group in wide):
        notes.append(
            "engines that do prompts and answers run one exchange for all their steps, without what low latency saves "
            "of the answers' and overlap of the prompts'; apart each runs its own (--disaggregation)"
        )
    if any(group.role != "aggregated" for group in wide):
        notes.append(
            "prefill and decode engines apart run each the exchange of its work; one that did both would run one of "
            "them for all its steps"
        )
    return notes


def _unbounded_notes(request: PlanRequest, groups: list[Group]) -> list[str]:
    """Where nothing keeps prompts from queueing."""
    if any(bound.metric in ("ttft", "e2e") for bound in request.slo.bounds):
        return []
    return [
        f"no bound on TTFT: prefill of {group.id} runs at {group.engine.prefill_busy:.0%}, and prompts queue for it; "
        "give ttft=… in the SLO to keep them from it"
        for group in groups
        if group.engine.prefill_busy > QUEUES
    ]


def _simulation_notes(groups: list[Group], checks: Checks) -> list[str]:
    varies = groups[0].job.workload.varies
    assumed = f"arrivals are taken as Poisson and lengths as {'the workload says' if varies else 'equal'}"
    if not checks:
        mean = " of requests of mean length" if varies else ""
        return [
            f"{assumed}; percentiles come from queueing formulas{mean}, not a simulation, and the ends of their "
            "intervals are the steps' own: that slower steps fill an engine, and make its queue grow, is not in them"
        ]
    requests = " and ".join(f"{n:,}" for n in sorted({check.requests for check in checks.values()}))
    of = " of requests of mean length" if varies else ""
    confidence = groups[0].job.confidence
    sure = "" if confidence == 0.5 else f" with probability {confidence:g}"
    notes = [
        f"{assumed}; the search predicts percentiles by queueing formulas{of}, and each kind of engine in the plan was "
        f"then simulated with {requests} requests at its load, where every bound holds{sure}; other layouts were not"
    ]
    for group in groups:
        if group.job.lenient:
            notes.append(
                f"the formulas do not count on {group.id} at this load; nothing that they count on carries as much, "
                "and the simulation, which has the last word, says that it holds"
            )
        if not checks[group.id].keeps_up("high"):
            notes.append(
                f"{SLOW_END}, {group.id} does not keep up with its load: the upper "
                f"ends of its TTFT and E2E are what {LONG:,} requests to all engines would see, and grow with more"
            )
        formula = checks[group.id].formula_rps
        if formula is not None:
            notes.append(
                f"by the formulas an engine of {group.id} carries {formula:.4g} requests/s within the SLO; simulated "
                f"it carries {group.capacity_rps.value[0]:.4g}, which the plan counts on"
            )
    return notes


def _topology_notes(group: Group) -> list[str]:
    topology = group.job.served.network.topology
    if topology is None or not topology.spread or group.layout.gpus == 1:
        return []
    if len(group.job.served.cost.overlay("collective")):
        return []  # the user's own box was measured
    return [
        f"GPUs of a node of pool {group.job.pool.name} are taken to be joined by {topology.name}: {topology.meaning}; "
        "such boxes differ, so measure yours: plan profile collect --ops collective"
    ]


def _hand_over_notes(pairs: list[Pair]) -> list[str]:
    transfer = pairs[0].transfer
    if transfer is None:
        return []
    overlap = {
        "layer": "each layer's cache is sent while the next is computed",
        "chunk": "each prefill chunk's cache is sent while the next is computed",
        "none": "the cache is sent when the prompt is prefilled, none of it before",
    }[transfer.joint.kv_connector.overlap]
    first = {
        "transfer": "the first token comes from the prefill engine, and reaches the user after the transfer",
        "decode_step": "the decode engine computes the first token: TTFT holds one decode step",
    }[transfer.joint.kv_connector.first_token]
    pools = {group.job.pool.name: group.job.pool for pair in pairs for group in (pair.prefill, pair.decode)}
    notes = [
        "the KV cache goes from prefill to decode engines at the link's full rate, which nothing here measured; "
        f"{overlap}; {first}"
    ]
    if len(pools) > 1 or any(pool.nodes > 1 for pool in pools.values()):
        notes.append("every prefill engine may send to every decode engine, so transfers are taken to cross nodes")
    return notes


def _workload_notes(work: Workload, groups: list[Group]) -> list[str]:
    notes = []
    if work.recorded is not None:
        trace = work.recorded
        skipped = f", {trace.skipped:,} without output left out" if trace.skipped else ""
        came = f"the rate is of {trace.rate_of}, within which" if trace.timed else "at the rate given"
        notes.append(
            f"lengths are those of {trace.requests:,} requests of {trace.name}{skipped}; {came} requests come at random"
        )
        at_random = (work.rate_rps or 0.0) + 4 * math.sqrt(work.rate_rps or 0.0) + 1
        if trace.fullest_second > at_random:
            notes.append(
                f"{trace.name} comes in bursts, {trace.fullest_second} requests within one second, where at random "
                f"there would hardly be {math.ceil(at_random)}: promises are of random arrivals, so replay it before "
                "you rely on them (`plan simulate PLAN --trace`), and plan for more if they break (--headroom)"
            )
    notes.append(
        f"engines admit requests of {work.longest_tokens:,} tokens, prompt and output (--max-model-len)"
        + ("" if work.max_len else ": the longest of the workload, as no max_len was given")
    )
    if work.refused_share:
        notes.append(
            f"{work.refused_share:.2%} of the requests are longer than max_len, {work.longest_tokens:,} tokens, and "
            "are refused: lengths, rate and promises are of the others"
        )
    if work.prefix_hit:
        of = {None: "is taken as given", "recorded": "is taken as the trace tells it", "hashes": _FROM_HASHES}
        source = of[None if work.recorded is None else work.recorded.prefix]
        notes.append(
            f"a prefix hit rate of {work.prefix_hit:g} {source}, for every request; whether the gateway sends "
            "requests to the engine that holds their prefix decides it"
        )
    drafting = groups[0].job.shape.drafting
    if drafting is not None:
        cost = "one layer of the model a token" if drafting.draft_cost is None else f"{drafting.draft_cost:g} of a step"
        own = groups[0].job.served.drafting
        held = "are in the memory" if own else "are not counted: the model has no draft module of its own"
        notes.append(
            f"an acceptance of {drafting.acceptance:g} is taken as given and the same for every token; drafting is "
            f"taken to cost {cost}; the drafter's weights and cache {held}"
        )
    return notes
