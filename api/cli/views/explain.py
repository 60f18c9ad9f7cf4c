"""What ``plan --explain`` adds: what was rejected and why, where a step's time goes, frontier, placement."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from api.cli.console import facts, heading, indented, table
from api.cli.views import predictions
from api.cli.views.predictions import BAR, sequences
from api.cli.views.quantities import milliseconds, number, percent
from api.cli.views.words import percentile_of, state_words
from planner.contract.engine import EngineGroup, Replica
from planner.serving.document.plan import Plan


def show(plan: Plan, console: Console) -> None:
    """Prints the additions in the order of the decision."""
    predictions.memory(plan, console)
    _rejected(plan, console)
    _step(plan, console)
    _limits(plan, console)
    _pareto(plan, console)
    if plan.alternatives.energy:
        _energy(plan, console)
    _placement(plan, console)


def _rejected(plan: Plan, console: Console) -> None:
    heading(console, "Rejected")
    if not plan.proof.rejected:
        indented(console, Text("nothing was"))
        return
    rows = table("why", "count", "for example")
    rows.columns[2].justify = "left"
    for rejection in plan.proof.rejected:
        rows.add_row(rejection.reason, f"{rejection.count:,}", rejection.example)
    indented(console, rows)


def _step(plan: Plan, console: Console) -> None:
    roles = {group.id: group.role for group in plan.decision.engines}
    for group in plan.prediction.engines:
        of = f" of {group.engine}" if len(plan.prediction.engines) > 1 else ""
        total = sum(group.step_ms_by_part.values())
        prefill = roles[group.engine] == "prefill"
        kind = "A full prefill step" if prefill else "A decode step"
        held = "" if prefill else f" with {sequences(group.concurrency)} sequences"
        heading(console, f"{kind}{of}: {milliseconds(total)}{held}")
        rows = table("part", "time", "share", "")
        rows.columns[3].justify = "left"
        for part, ms in sorted(group.step_ms_by_part.items(), key=lambda item: -item[1]):
            if not ms:
                continue
            share = ms / total
            rows.add_row(part.replace("_", " "), milliseconds(ms), percent(share), "█" * round(share * BAR))
        indented(console, rows)
        if roles[group.engine] != "decode":
            indented(console, Text(f"Prefill is busy {percent(group.prefill_busy)} of the time."))


def _limits(plan: Plan, console: Console) -> None:
    """How long a request and how many at once memory allows, and why this token budget."""
    for group in plan.prediction.engines:
        if group.largest is None:
            continue
        name = group.engine if len(plan.prediction.engines) > 1 else "an engine"
        heading(console, f"What the memory of {name} allows, in each attention replica")
        facts(
            console,
            [
                ("longest", f"a request of {group.largest.context_tokens:,} tokens alone, prompt and output"),
                ("most", f"{group.largest.concurrency:,} requests of the workload's mean length at once"),
            ],
        )
        budgets = [each for each in plan.alternatives.token_budgets if each.engine == group.engine]
        if not budgets:
            continue
        heading(console, f"Tokens in one step of {name}: what it carries, by the formulas")
        rows = table("tokens/step", "requests/s", "TTFT p90", "TPOT p90", "")
        rows.columns[-1].justify = "left"
        for each in budgets:
            rows.add_row(
                f"{each.max_tokens_per_step:,}",
                "–" if each.engine_rate_rps is None else number(each.engine_rate_rps),
                "–" if each.ttft_p90_ms is None else milliseconds(each.ttft_p90_ms),
                "–" if each.tpot_p90_ms is None else milliseconds(each.tpot_p90_ms),
                f"misses {each.missed}" if each.missed else "chosen" if each.chosen else "",
            )
        indented(console, rows)


def _pareto(plan: Plan, console: Console) -> None:
    heading(console, "Speed of a user against throughput of a GPU (nothing is better in both)")
    ttft, tpot = (f"{metric} p{percentile_of(plan, metric):g}" for metric in ("TTFT", "TPOT"))
    rows = table("layout", "tokens/step", "decoding", "tok/s/user", "tok/s/GPU", ttft, tpot, "SLO")
    several = len(plan.request.cluster.pools) > 1
    for point in plan.alternatives.pareto:
        rows.add_row(
            point.layout.label + (f" ({point.pool})" if several else "") + state_words(point),
            f"{point.max_tokens_per_step:,}",
            sequences(point.concurrency),
            "–" if point.output_tokens_per_s_per_user is None else number(point.output_tokens_per_s_per_user),
            number(point.output_tokens_per_s_per_gpu),
            milliseconds(point.ttft_ms),
            "–" if point.tpot_ms is None else milliseconds(point.tpot_ms),
            "met" if point.meets_slo else "missed",
        )
    indented(console, rows)


def _energy(plan: Plan, console: Console) -> None:
    heading(console, "Speed of a user against energy (nothing is better in both)")
    ttft = f"TTFT p{percentile_of(plan, 'TTFT'):g}"
    rows = table("layout", "decoding", "tok/s/user", "J/token", "tok/s/GPU", ttft, "SLO")
    several = len(plan.request.cluster.pools) > 1
    for point in plan.alternatives.energy:
        rows.add_row(
            point.layout.label + (f" ({point.pool})" if several else "") + state_words(point),
            sequences(point.concurrency),
            "–" if point.output_tokens_per_s_per_user is None else number(point.output_tokens_per_s_per_user),
            number(point.joules_per_output_token or 0.0),
            number(point.output_tokens_per_s_per_gpu),
            milliseconds(point.ttft_ms),
            "met" if point.meets_slo else "missed",
        )
    indented(console, rows)


def _placement(plan: Plan, console: Console) -> None:
    heading(console, "Placement (ranks in order)")
    rows = table("engine", "share of requests", "GPUs")
    rows.columns[2].justify = "left"
    rows.columns[2].no_wrap = False
    for group in plan.decision.engines:
        for replica in group.replicas:
            rows.add_row(replica.id, percent(replica.weight), places(group, replica))
    indented(console, rows)


def places(group: EngineGroup, replica: Replica) -> str:
    """``node 0: GPU 0–3; node 1: GPU 0, 2``, in the order of the ranks."""
    nodes: list[tuple[int, list[int]]] = []
    for rank in sorted(replica.ranks, key=lambda rank: rank.rank):
        if not nodes or nodes[-1][0] != rank.node:
            nodes.append((rank.node, []))
        nodes[-1][1].append(rank.gpu)
    words = "; ".join(f"node {node}: GPU {_runs(gpus)}" for node, gpus in nodes)
    return words if group.pool == group.gpu else f"{group.pool}, {words}"


def _runs(gpus: list[int]) -> str:
    """0–3, 6: consecutive numbers are drawn together."""
    runs: list[list[int]] = []
    for gpu in gpus:
        if runs and gpu == runs[-1][-1] + 1:
            runs[-1].append(gpu)
        else:
            runs.append([gpu])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
