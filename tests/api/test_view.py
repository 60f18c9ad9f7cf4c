"""The human view: everything that matters is said, in 100 columns, plainly where it is piped."""

from __future__ import annotations

import io
import re

import pytest
from example_plan import about, disaggregated_plan, engine_group, example_plan, group_prediction, point
from rich.console import Console

from api.cli.console import page
from api.cli.views import plan as view
from api.cli.views import predictions, quantities
from api.cli.views.explain import places
from planner.contract.clusters import Pool
from planner.contract.engine import Rank, Replica
from planner.contract.quantities import SLOW_END, Interval
from planner.contract.workload.slo import Slo
from planner.contract.workload.workload import Workload, parse_workload
from planner.serving.document.plan import Alternatives, OperatingPoint, Plan

WIDTH = 100


def text_of(plan: Plan, *, explain: bool = False, width: int = WIDTH) -> str:
    out = io.StringIO()
    view.show(plan, Console(file=out, width=width, markup=False, emoji=False, highlight=False), explain=explain)
    return out.getvalue()


def flat(text: str) -> str:
    """One line, so that where it was wrapped does not matter."""
    return " ".join(text.split())


@pytest.fixture(scope="module")
def shown() -> str:
    return text_of(example_plan())


@pytest.fixture(scope="module")
def explained() -> str:
    return text_of(example_plan(), explain=True)


class TestWhatIsSaid:
    @pytest.mark.parametrize(
        "words",
        [
            "org/model",
            "32.8B parameters; bf16 weights, bf16 KV cache; vLLM",
            "10 × H200, 8 a node, ib-400g between nodes, $3.99 per GPU-hour",
            "4,000 tokens in, 500 out; as many requests as fit",
            "TTFT p90 ≤ 1 s; TPOT p99 ≤ 30 ms",
            "throughput: most requests per second",
        ],
    )
    def test_request_as_understood(self, shown: str, words: str) -> None:
        assert words in flat(shown)

    def test_layout_in_words(self, shown: str) -> None:
        assert "2 engines × TP4 on 8 of 10 H200, ≤ 8,192 tokens a step, ≤ 96 sequences" in flat(shown)
        assert "$31.92 per hour; 2 GPUs stay idle" in shown

    def test_slo_with_margin_and_confidence(self, shown: str) -> None:
        assert re.search(r"TTFT p90 ≤ 1 s +600 ms +540–660 ms +40 % +> 99 %", shown)
        assert re.search(r"TPOT p99 ≤ 30 ms +18\.0 ms +16\.2–19\.8 ms +40 %", shown)

    def test_latencies_with_interval_and_percentiles(self, shown: str) -> None:
        assert re.search(r"\(TTFT\) +350 ms +315–385 ms +280 ms +525 ms +700 ms +1\.05 s", shown)
        assert re.search(r"\(E2E\) +12\.0 s +10\.8–13\.2 s +9\.60 s +18\.0 s +24\.0 s +36\.0 s", shown)

    @pytest.mark.parametrize(
        "line",
        [
            r"requests/s carried within the SLO +10\.0 +9\.00–11\.0",
            r"output tokens/s +5,000 +4,500–5,500",
            r"output tokens/s of a GPU +625 ",
            r"output tokens/s of a user +50\.0 ",
            r"load ÷ what the SLO lets it carry +80 %",
            r"power of 8 GPUs +4\.80 kW +4\.32–5\.28 kW",
            r"J per output token +0\.960 ",
            r"\$ per million output tokens +1\.77 ",
        ],
    )
    def test_rates_power_and_cost(self, shown: str, line: str) -> None:
        assert re.search(line, shown)

    def test_the_decision_and_its_promises_come_first(self, shown: str) -> None:
        first = "\n".join(shown.splitlines()[:15])
        for words in ("org/model", "2 engines × TP4 on 8 of 10 H200", "TTFT p90 ≤ 1 s", "TPOT p99 ≤ 30 ms", "> 99 %"):
            assert words in first

    def test_memory_parts_add_up_and_empty_ones_are_left_out(self, shown: str, explained: str) -> None:
        assert "fullest GPU: H200, 140.0 GiB" in explained
        assert re.search(r"KV cache +105\.0 +75 % +█+", explained)
        assert "communication buffers" not in explained
        assert "fullest GPU" not in shown
        memory = example_plan().prediction.engines[0].memory
        assert sum(size for _, size in predictions.memory_parts(memory)) == pytest.approx(memory.total_bytes)
        assert "holds 1,720,000 tokens: 382 requests of 4,500 tokens; 64 decode at a time" in flat(shown)

    @pytest.mark.parametrize(
        "words",
        [
            "10.00 requests/s; no choice among the candidates is better than 10.00 requests/s (gap 0 %)",
            "limited by GPUs of pool H200",
            "28 layouts, 20 of them legal",
            "687 operating points (layout × batch limits × load), 445 within the SLO",
            "40 candidates, by HiGHS 1.14.0",
            "measured, or learned from measurements where not",
        ],
    )
    def test_why_it_won(self, shown: str, words: str) -> None:
        assert words in flat(shown)

    def test_at_most_five_alternatives_with_how_much_worse(self, shown: str) -> None:
        rows = [line for line in shown.splitlines() if "1 × TP8" in line]
        assert len(rows) == view.SHOWN_ALTERNATIVES
        assert all(row.rstrip().endswith("15 %") for row in rows)
        assert "TTFT p90" in shown
        assert "TPOT p99" in shown  # alternatives are given at the percentile that was asked for

    def test_launch_command_notes_and_provenance(self, shown: str) -> None:
        assert "vllm serve org/model --tensor-parallel-size 4 --max-num-seqs 96" in shown
        assert "own --port" in shown
        assert "standing in for vllm" in shown
        assert "silicon 1 (a729f0dc3253)" in shown
        assert "Apache-2.0" in shown


class TestExplain:
    def test_adds_sections_and_loses_none(self, shown: str, explained: str) -> None:
        headings = ["Rejected", "A decode step: 12.5 ms", "Speed of a user against throughput", "Placement"]
        assert all(heading in explained and heading not in shown for heading in headings)
        assert set(shown.splitlines()) <= set(explained.splitlines())

    def test_rejections_with_count_and_example(self, explained: str) -> None:
        assert re.search(r"64 attention heads do not divide by tp +3 +TP3", explained)

    def test_step_parts_largest_first_without_empty_ones(self, explained: str) -> None:
        parts = re.findall(r"^  (gemm|attention|communication|moe) ", explained, re.MULTILINE)
        assert parts == ["gemm", "attention", "communication"]

    def test_frontier_says_what_misses_the_slo(self, explained: str) -> None:
        assert re.search(r"TP8 .* 25\.5 ms +met", explained)
        assert re.search(r"TP8 .* 85\.0 ms +missed", explained)

    def test_placement_of_ranks(self, explained: str) -> None:
        assert re.search(r"engine-0-1 +50 % +node 0: GPU 4–7", explained)

    def test_places_keep_the_order_of_ranks(self) -> None:
        where = [(0, 6), (0, 7), (1, 0), (1, 2)]
        ranks = tuple(Rank(rank=i, node=node, gpu=gpu) for i, (node, gpu) in enumerate(where))
        replica = Replica(id="r", weight=1.0, ranks=ranks)
        assert places(engine_group(), replica) == "node 0: GPU 6–7; node 1: GPU 0, 2"
        assert places(engine_group(pool="east"), replica).startswith("east, node 0")


class TestOtherPlans:
    def test_without_slo(self) -> None:
        base = example_plan()
        plan = base.model_copy(
            update={
                "request": base.request.model_copy(update={"slo": Slo()}),
                "prediction": base.prediction.model_copy(update={"slo": ()}),
            }
        )
        text = text_of(plan)
        assert "none: any latency will do" in text
        assert "sure that it holds" not in text
        assert "requests/s carried " in text
        assert "within the SLO" not in text

    def test_rate_given_and_no_price(self) -> None:
        base = example_plan()
        request = base.request.model_copy(
            update={"workload": Workload(isl=10, osl=10, rate_rps=3.5), "objective": "gpus"}
        )
        plan = base.model_copy(
            update={
                "request": request,
                "decision": base.decision.model_copy(update={"usd_per_hour": None, "gpus_idle": 0}),
                "prediction": base.prediction.model_copy(update={"usd_per_million_output_tokens": None}),
            }
        )
        text = text_of(plan)
        assert "10 tokens in, 10 out; 3.5 requests/s" in text
        assert "requests/s offered and served" in text
        assert "$ per million" not in text
        assert "per hour" not in text

    def test_two_groups_in_two_pools(self) -> None:
        base = example_plan()
        pool = base.request.cluster.pools[0]
        other = Pool(name="old", gpu="H200", gpus=8, gpus_per_node=8, fabric="ib-400g")
        plan = base.model_copy(
            update={
                "request": base.request.model_copy(
                    update={"cluster": base.request.cluster.model_copy(update={"pools": (pool, other)})}
                ),
                "decision": base.decision.model_copy(
                    update={"engines": (engine_group(), engine_group("engine-1", "old", 1))}
                ),
                "prediction": base.prediction.model_copy(
                    update={"engines": (group_prediction(), group_prediction("engine-1"))}
                ),
            }
        )
        text = text_of(plan, explain=True)
        assert "old: 8 × H200, 8 a node, no price known" in text
        assert "1 engine × TP4 on 4 of 8 H200 in pool old" in text
        assert "latency: of the slowest engines" not in text  # of all requests
        assert re.search(r"engine-1 +4\.00 +80 % +64 ", text)
        assert "Start each engine of engine-1 with" in text
        assert "Memory of the fullest GPU of engine-0" in text
        assert "(H200)" in text

    def test_no_alternative(self) -> None:
        text = text_of(example_plan(alternatives=Alternatives(ranked=(), pareto=())), explain=True)
        assert "No other layout of these GPUs meets the SLO." in text

    def test_time_limit_is_not_called_optimal(self) -> None:
        proof = example_plan().proof.model_copy(update={"status": "time_limit", "bound": 12.0, "gap": 0.2})
        text = flat(text_of(example_plan(proof=proof)))
        assert "the time limit ended the search: at best 12.00 requests/s (gap 20 %)" in text
        assert "no choice among" not in text

    def test_roofline_and_outside_the_range_are_admitted(self) -> None:
        base = example_plan()
        guess = group_prediction().model_copy(update={"how": "roofline", "inside_measured_range": False})
        plan = base.model_copy(update={"prediction": base.prediction.model_copy(update={"engines": (guess,)})})
        text = flat(text_of(plan))
        assert "partly estimated from peak rates alone" in text
        assert "some lie outside the measured range" in text

    def test_slo_that_will_hardly_hold_is_said(self) -> None:
        base = example_plan()
        check = base.prediction.slo[0].model_copy(update={"margin": -0.021, "confidence": 0.31})
        plan = base.model_copy(update={"prediction": base.prediction.model_copy(update={"slo": (check,)})})
        assert re.search(r"−2\.1 % +31 %", text_of(plan))

    def test_a_load_that_slow_engines_do_not_keep_up_with_is_said(self) -> None:
        plan = example_plan()
        check = plan.prediction.slo[0]
        check = check.model_copy(update={"predicted": Interval(value=600, low=540, high=1.5e6)})
        prediction = plan.prediction.model_copy(update={"slo": (check, *plan.prediction.slo[1:])})
        notes = (*plan.provenance.notes, f"{SLOW_END}, engine-0 does not keep up with its load")
        provenance = plan.provenance.model_copy(update={"notes": notes})
        shown = text_of(plan.model_copy(update={"prediction": prediction, "provenance": provenance}))
        assert "540 ms–falls behind" in shown
        assert "the queue grows for as long as the load" in shown

    def test_restrictions_are_repeated(self) -> None:
        base = example_plan()
        request = base.request.model_copy(update={"max_tp": 4, "tp_across_nodes": True})
        assert "tp ≤ 4, tensor parallel may span nodes" in text_of(base.model_copy(update={"request": request}))


class TestForm:
    @pytest.mark.parametrize("explain", [False, True])
    def test_no_line_is_wider_than_100_columns(self, explain: bool) -> None:
        long = "a-name-that-goes-on " * 12
        base = example_plan()
        plan = base.model_copy(
            update={
                "provenance": base.provenance.model_copy(update={"notes": (long,)}),
                "alternatives": Alternatives(
                    ranked=base.alternatives.ranked,
                    pareto=tuple(OperatingPoint(**point(pool="H200")) for _ in range(16)),
                ),
            }
        )
        assert max(map(len, text_of(plan, explain=explain).splitlines())) <= WIDTH

    def test_large_numbers_still_fit(self) -> None:
        base = example_plan()
        huge = base.prediction.model_copy(
            update={"output_tokens_per_s": about(123_456_789.0), "power_watts": about(98_765_432.0)}
        )
        text = text_of(base.model_copy(update={"prediction": huge}))
        assert max(map(len, text.splitlines())) <= WIDTH
        assert "98.8 MW" in text

    def test_names_are_not_markup(self) -> None:
        base = example_plan()
        request = base.request.model_copy(update={"model": "[bold]/x[/bold]:smile:"})
        assert "[bold]/x[/bold]:smile:" in text_of(base.model_copy(update={"request": request}))

    def test_no_escape_codes_and_no_trailing_blanks_where_it_is_piped(self, capsys: pytest.CaptureFixture[str]) -> None:
        with page() as out:
            view.show(example_plan(), out, explain=True)
        text = capsys.readouterr().out
        assert "\x1b" not in text
        assert all(line == line.rstrip() for line in text.splitlines())

    def test_command_breaks_between_arguments_and_is_one_shell_command(self) -> None:
        command = ("vllm", "serve", "/my models/x", "--a-flag", "1", "--switch", "--addr", "$HEAD_ADDRESS")
        lines = view.command_lines(command, 30)
        assert all(len(line) <= 34 for line in lines)
        assert all(line.endswith(" \\") for line in lines[:-1])
        joined = " ".join(line.removesuffix("\\").strip() for line in lines)
        assert joined == "vllm serve '/my models/x' --a-flag 1 --switch --addr \"$HEAD_ADDRESS\""


class TestQuantities:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"),
            (0.01234, "0.0123"),
            (9.996, "10.0"),
            (24.84, "24.8"),
            (999.6, "1,000"),
            (9403.7, "9,400"),
        ],
    )
    def test_number(self, value: float, text: str) -> None:
        assert quantities.number(value) == text

    @pytest.mark.parametrize(
        ("ms", "text"),
        [
            (0.4, "400 µs"),
            (27.28, "27.3 ms"),
            (1061.5, "1.06 s"),
            (59.94e3, "59.9 s"),
            (321e3, "5 min 21 s"),
            (600e3, "10 min"),
            (7500e3, "2 h 5 min"),
            (3599.9e3, "1 h"),
            (-90e3, "−1 min 30 s"),
        ],
    )
    def test_milliseconds(self, ms: float, text: str) -> None:
        assert quantities.milliseconds(ms) == text

    @pytest.mark.parametrize(
        ("value", "low", "high", "text"),
        [
            (937, 736, 1330, "736–1,330 ms"),
            (585, 460, 832, "460–832 ms"),
            (1061, 0.193e3, 321e3, "193 ms–5 min 21 s"),
            (20, 15, 25e3, "15.0 ms–25.0 s"),
            (321e3, 61e3, 400e3, "1 min 1 s–6 min 40 s"),
        ],
    )
    def test_a_range_of_durations(self, value: float, low: float, high: float, text: str) -> None:
        assert quantities.milliseconds_range(Interval(value=value, low=low, high=high)) == text

    def test_minutes_of_a_growing_queue_are_said_in_words(self) -> None:
        grown, notes = Interval(value=388, low=250, high=1.5e6), [f"{SLOW_END}, engine-0 does not keep up"]
        assert quantities.growing_range(grown, notes) == "250 ms–falls behind"
        assert quantities.growing_range(grown, ["prices are known"]) == "250 ms–25 min"
        assert quantities.growing_range(Interval(value=20, low=15, high=30), notes) == "15.0–30.0 ms"

    def test_what_is_certain_has_no_range(self) -> None:
        assert quantities.plain_range(Interval(value=4.0, low=4.0, high=4.0)) == ""
        assert quantities.plain_range(about(10.0)) == "9.00–11.0"

    @pytest.mark.parametrize(("share", "text"), [(1.0, "> 99 %"), (0.0, "< 1 %"), (0.635, "64 %")])
    def test_probability_is_never_certain(self, share: float, text: str) -> None:
        assert quantities.probability(share) == text

    @pytest.mark.parametrize(
        ("share", "text"),
        [(0, "0 %"), (0.0999, "10 %"), (-0.014, "−1.4 %"), (1e-5, "< 0.1 %")],
    )
    def test_percent(self, share: float, text: str) -> None:
        assert quantities.percent(share) == text

    @pytest.mark.parametrize(
        ("limit", "text"), [(1000, "1 s"), (30, "30 ms"), (1250, "1.25 s"), (90e3, "1 min 30 s"), (61.5e3, "61.5 s")]
    )
    def test_promised_limits_are_not_rounded(self, limit: float, text: str) -> None:
        assert quantities.milliseconds_exact(limit) == text


@pytest.fixture(scope="module")
def said() -> str:
    return flat(text_of(disaggregated_plan(), explain=True))


class TestServingApart:
    """A plan with prefill and decode engines reads well aloud."""

    @pytest.mark.parametrize(
        "words",
        [
            "Prefill and decode apart: 8 GPUs prefill, 4 decode; 2 prefill engines for each decode engine",
            "2 prefill engines × TP4 on 8 of 10 H200",
            "1 decode engine × TP4 on 4 of 10 H200",
            "engine-0: 100 % of the prompts",
            "engine-1: 100 % of the answers",
            "1.05 GB a request over ib-400g, 21.3 ms, 5.30 ms after the prefill; links at most 6.0 % busy",
            "Mean TTFT: queue 120 ms + prefill 200 ms + KV transfer 21.3 ms",
            "Half is cached; without them TTFT 700 ms, TPOT 20.0 ms (means, as many decoding).",
            "2.77 tokens a step; without it TPOT 31.0 ms (means, as many decoding).",
            "disaggregated is 20 % better: 10.00 against 8.000 requests/s aggregated",
            "no published figure on record for fp8 weights",
            "nvfp4 weights, bf16 KV cache, aggregated: H200 has no fp4 tensor cores",
            "A full prefill step of engine-0",
            "A decode step of engine-1: 12.5 ms with 64 sequences",
            "Best layouts of aggregated engines",
            "Start each prefill engine of engine-0 with",
        ],
    )
    def test_roles_ratio_transfer_and_verdict(self, said: str, words: str) -> None:
        assert words in said

    def test_it_fits_the_page(self) -> None:
        assert max(map(len, text_of(disaggregated_plan(), explain=True).splitlines())) <= WIDTH

    def test_a_note_that_groups_share_is_printed_once(self, said: str) -> None:
        assert said.count("Give every engine of a node its own --port.") == 1

    def test_facts_of_the_workload_are_repeated(self) -> None:
        plan = example_plan()
        work = parse_workload("isl=4000,osl=500,prefix_hit=0.5,draft=4,acceptance=0.7")
        text = text_of(plan.model_copy(update={"request": plan.request.model_copy(update={"workload": work})}))
        assert "50 % of a prompt is in the prefix cache; 4 tokens drafted a step, acceptance 0.7" in flat(text)

    def test_a_request_of_one_token_has_no_time_per_token(self) -> None:
        plan = example_plan()
        none = {"tpot_ms": None, "output_tokens_per_s_per_user": None}
        text = text_of(plan.model_copy(update={"prediction": plan.prediction.model_copy(update=none)}))
        assert "(TPOT)" not in text
        assert "tokens/s of a user" not in text
