"""The grid that shows which answers a change moves: what it asks, what it finds reached, and how it compares."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from example_plan import example_plan

from api.cli.main import application
from tests.benchmarks.diff_plans import comparing, reach, seams
from tests.benchmarks.diff_plans.asking import GRID, Answer, Request, answers, ask, chains, read_grid, with_needed
from tests.benchmarks.diff_plans.comparing import ABSENT, Change, Kept, changes, differing, record, write_expected
from tests.benchmarks.diff_plans.figures import canonical, figures, rounded, steady
from tests.benchmarks.diff_plans.inputs import lay_out


def asked(name: str, words: str = "--model m") -> Request:
    return Request(name, tuple(words.split()))


def planned(**changes: Any) -> Answer:
    """An answer with the plan made by hand."""
    document = {**json.loads(example_plan().to_json()), **changes}
    return Answer(asked("one"), 0, document, "the view\n", frozenset({"gemm"}))


def figure(key: str, old: object, new: object) -> list[tuple[str, object, object]]:
    """The changes between two records of one request that differ in a figure."""
    before, after = ({"r": {"exit": 0, "figures": {key: value}}} for value in (old, new))
    return [(change.key, change.old, change.new) for change in changes(before, after)]


class TestGrid:
    def test_names_are_given_once_and_are_those_that_are_expected(self) -> None:
        lines = GRID.read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
        assert [request.name for request in read_grid()] == names
        assert list(comparing.read_expected()[1]) == names

    def test_a_request_comes_after_what_it_reads(self) -> None:
        grid = read_grid()
        for place, request in enumerate(grid):
            names = [each.name for each in grid]
            assert request.needs(names) <= set(names[:place])

    def test_only_some_are_asked_with_what_they_read(self) -> None:
        grid = [asked("a"), asked("b"), asked("c", "simulate a.json"), asked("d", "simulate c.json")]
        assert [request.name for request in with_needed(grid, ["d"])] == ["a", "c", "d"]

    def test_chains_can_run_apart(self) -> None:
        grid = [asked("a"), asked("b"), asked("c", "simulate a.json"), asked("d", "simulate b.json")]
        assert [[request.name for request in chain] for chain in chains(grid)] == [["a", "c"], ["b", "d"]]

    def test_a_command_is_named_with_its_group(self) -> None:
        said = ["--model m", "predict x.csv", "schema plan", "train --model m", "train predict x.csv"]
        assert [asked("a", words).command for words in said] == ["plan", "predict", "schema", "train", "train predict"]

    def test_files_are_the_same_at_every_call(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            lay_out(tmp_path / name)
        first = {path.name: path for path in (tmp_path / "one").rglob("*") if path.is_file()}
        for name, path in first.items():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), name


class TestAsking:
    def test_an_error_is_its_code_and_its_lines(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        answer = ask(asked("a", "--model Qwen/Qwen3-33B --cluster 1xH200 --workload isl=10,osl=10"))
        assert (answer.exit_code, answer.document) == (2, None)
        assert record(answer)["says"] == "error: model: 'Qwen/Qwen3-33B' is not known"

    def test_a_catalogue_is_a_document_without_figures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        line = record(ask(asked("a", "gpus --json")))
        assert line["exit"] == 0
        assert set(line["sha256"]) == {"document", "text"}
        assert "figures" not in line

    def test_a_traceback_is_an_answer_too(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def broken(_: object) -> int:
            raise ZeroDivisionError("by zero")

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(seams, "run", broken)
        assert ask(asked("a")).exit_code == "ZeroDivisionError: by zero"

    def test_a_document_that_fails_where_the_view_did_not_is_seen(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(seams, "run", lambda arguments: 2 if "--json" in arguments else 0)
        answer = ask(asked("a", "predict configs.csv"))
        assert (answer.exit_code, answer.document) == ("2 with --json", None)

    def test_operations_are_seen_where_the_cost_model_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seams.CostModel, "estimate", lambda *_: "answered")
        with seams.operations_asked() as operations:
            assert seams.CostModel.estimate(None, "gemm", {}) == "answered"
        seams.CostModel.estimate(None, "moe", {})
        assert operations == {"gemm"}

    def test_the_solver_is_out_of_time_only_meanwhile(self) -> None:
        before = seams.Highs._answer
        with seams.solver_out_of_time():
            assert seams.Highs()._answer(None, 1.0).status == "time_limit"
        assert seams.Highs._answer is before

    def test_requests_that_read_each_other_share_a_folder(self) -> None:
        codes = [answer.exit_code for answer in answers([asked("a", "schema plan"), asked("b", "simulate x.json")])]
        assert codes == [0, 2]


class TestReach:
    def test_everything_to_reach_comes_from_the_program(self) -> None:
        wanted = seams.to_reach()
        assert all(wanted.values())
        assert wanted["exit code"] == {"0", "2", "3", "4"}
        assert {"GatedDeltaNet", "LatentAttention.indexer"} <= wanted["layer kind"]
        assert not wanted["command"] & set(seams.NOT_ASKED)

    def test_what_is_left_out_is_there(self) -> None:
        app = application()
        groups = {each.name for each in (*app.registered_commands, *app.registered_groups)}
        assert set(seams.NOT_ASKED) <= groups

    def test_a_family_without_a_request_is_missed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(seams, "families", lambda: SimpleNamespace(kernels={"gemm", "toy"}))
        found = reach.reached([planned()])
        assert "toy" in reach.missing(seams.to_reach(), found)["operation family"]
        assert "gemm" not in reach.missing(seams.to_reach(), found)["operation family"]

    def test_a_plan_shows_what_it_is_made_of(self) -> None:
        request = {**planned().document["request"], "model": "Qwen/Qwen3-8B"}
        found = reach.reached([planned(request=request)])
        assert found["role"] == {"aggregated"}
        assert found["framework"] == {"vllm"}
        assert found["command"] == {"plan"}
        assert "GroupedQueryAttention.qk_norm" in found["layer kind"]
        assert found["model reader"] == {"qwen3"}

    def test_a_refusal_shows_its_exit_code_and_nothing_that_was_not_answered(self) -> None:
        refused = Answer(asked("one"), 3, None, "error: no\nhint: yes\n", frozenset())
        assert reach.reached([refused]) == {"exit code": {"3"}}

    def test_rows_that_were_refused_reach_nothing(self) -> None:
        rows = [
            {"model": "Qwen/Qwen3-8B", "framework": "vllm", "error": ""},
            {"model": "openai/gpt-oss-20b", "framework": "sglang", "error": "does not fit"},
        ]
        found = reach.reached([Answer(asked("one", "predict x.csv"), 0, rows, "", frozenset())])
        assert (found["framework"], found["model reader"]) == ({"vllm"}, {"qwen3"})

    def test_precisions_of_rows_count_as_asked(self) -> None:
        row = {"model": "Qwen/Qwen3-8B", "framework": "vllm", "error": ""}
        rows = [{**row, "precision": "int8", "kv_precision": None}, {**row, "precision": None, "kv_precision": "fp8"}]
        found = reach.reached([Answer(asked("one", "predict x.csv"), 0, {"rows": rows}, "", frozenset())])
        assert (found["weights precision"], found["kv precision"]) == ({"int8"}, {"fp8"})

    def test_a_model_of_the_grids_own_files_reaches_its_reader(self) -> None:
        rows = [{"model": "step", "framework": "vllm", "error": ""}]
        found = reach.reached([Answer(asked("one", "predict x.csv"), 0, rows, "", frozenset())])
        assert found["model reader"] == {"step"}

    def test_training_layouts_reach_what_they_name(self) -> None:
        row = {"framework": "megatron@0.14", "schedule": "1f1b", "recompute": "selective:mlp+moe", "error": ""}
        rows = [row, {**row, "schedule": "gpipe", "error": "no"}, {**row, "schedule": None, "recompute": "full"}]
        found = reach.reached([Answer(asked("one", "train predict x.csv"), 0, {"rows": rows}, "", frozenset())])
        assert (found["training framework"], found["training schedule"]) == ({"megatron"}, {"1f1b"})
        assert found["recomputed"] == {"mlp", "moe"}

    def test_help_reaches_no_command(self) -> None:
        assert reach.reached([Answer(asked("h", "experts --help"), 0, None, "", frozenset())]) == {"exit code": {"0"}}


class TestFigures:
    def test_versions_and_days_are_taken_out_and_nothing_else(self) -> None:
        text = "shardwright 0.1.0, cost model 3+e25e76aa436a, HiGHS 1.14.0, vLLM 0.20 (2026-11-21), 1.5 ms, 10.0.0.1"
        assert steady(text) == "shardwright ·, cost model ·, HiGHS ·, vLLM 0.20 (·), 1.5 ms, 10.0.0.1"
        assert steady({"a": [{"schema_version": "1.2", "b": 1}]}) == {"a": [{"b": 1}]}

    def test_a_version_alone_moves_nothing(self) -> None:
        other = {"schema_version": "9.9", "provenance": {**planned().document["provenance"], "package_version": "9"}}
        assert record(planned(**other)) == record(planned())

    def test_the_order_of_keys_is_part_of_a_document(self) -> None:
        assert canonical({"a": 1, "b": 2}) != canonical({"b": 2, "a": 1})

    def test_six_digits(self) -> None:
        assert rounded({"a": [1234567.8, 0.00012345678, 12345678]}) == {"a": [1234570.0, 0.000123457, 12345678]}

    def test_a_plan_has_its_engines_rate_latencies_bound_and_memory(self) -> None:
        found = figures(planned().document)
        assert found["engines"] == ["2 aggregated tp4 moe_tp4 of 4 H200, bf16/bf16, 96 × 8192"]
        assert {"rate_rps", "ttft_ms", "tpot_ms", "e2e_ms", "bound", "memory_bytes"} <= set(found)

    def test_rows_are_read_alone_or_inside_a_document(self) -> None:
        names = [f"{m}_ms_{p}" for m in ("ttft", "tpot", "e2e") for p in ("mean", "low", "high", "p99")]
        names += ["output_tokens_per_s_per_gpu", "memory_bytes_per_gpu", "kv_tokens"]
        rows = [{**dict.fromkeys(names, "1.5"), "error": ""}, {**dict.fromkeys(names, ""), "error": "no; hint"}]
        found = figures(rows)
        assert found == figures({"kind": "predictions", "rows": rows})
        assert (found["ttft_ms_mean"], found["refused"]) == ([1.5, None], ["no"])

    def test_rows_of_training_have_their_own_columns(self) -> None:
        found = figures([{"iteration_s": 2.0, "mfu": None, "error": ""}])
        assert found == {"iteration_s": [2.0], "mfu": [None]}

    def test_memory_of_an_engine_has_its_parts_and_whether_it_starts(self) -> None:
        document = {"kind": "memory", "starts": False, "memory": {"weights_bytes": 7}, "largest": None}
        assert figures(document) == {"starts": False, "weights_bytes": 7}


class TestComparing:
    def test_the_same_moves_nothing(self) -> None:
        new = {"one": record(planned())}
        assert changes(json.loads(json.dumps(new)), new) == []

    def test_a_figure_that_moved_is_named_with_both_values(self) -> None:
        assert figure("rate_rps", 4.1, 4.2) == [("figures.rate_rps", 4.1, 4.2)]
        assert figure("ttft_ms", [1.0, 2.0], [1.0, 3.0]) == [("figures.ttft_ms.1", 2.0, 3.0)]

    def test_a_figure_that_comes_or_goes_is_no_null(self) -> None:
        assert figure("a", [1.0], [1.0, None]) == [("figures.a.1", ABSENT, None)]
        assert figure("a", [], [1.0]) == [("figures.a.0", ABSENT, 1.0), ("figures.a", [], ABSENT)]

    def test_requests_that_come_and_go(self) -> None:
        assert changes({"old": {"exit": 0}}, {"new": {"exit": 0}}) == [
            Change("new", "request", ABSENT, "asked"),
            Change("old", "request", "asked", ABSENT),
        ]

    def test_another_view_of_the_same_document_is_seen(self) -> None:
        one = planned()
        other = Answer(one.request, 0, one.document, "another view\n", one.operations)
        (change,) = changes({"one": record(one)}, {"one": record(other)})
        assert change.key == "sha256.text"

    def test_paths_of_a_document_that_differ(self) -> None:
        old, new = canonical({"a": [{"b": 1}, {"b": 2}]}), canonical({"a": [{"b": 1}, {"b": 3}], "c": None})
        assert differing(old, new, document=True) == ["a.1.b: 2 → 3", "c: – → null"]

    def test_a_document_in_another_order_says_so(self) -> None:
        old, new = canonical({"a": 1, "b": 2}), canonical({"b": 2, "a": 1})
        assert differing(old, new, document=True) == ["the same values, in another order"]

    def test_many_differences_are_counted(self) -> None:
        old, new = (canonical({str(n): n + more for n in range(1000)}) for more in (0, 1))
        lines = differing(old, new, document=True)
        assert lines[-1] == f"… and {1000 - comparing.PLACES} more"

    def test_lines_of_a_view_that_differ(self) -> None:
        lines = differing("a\nb\nc\n", "a\nx\nc\n", document=False)
        assert {"-b", "+x"} <= set(lines)

    def test_old_texts_are_found_by_their_hash(self, tmp_path: Path) -> None:
        kept = Kept(tmp_path / "kept")
        kept.keep("one")
        assert kept.find(comparing.digest("one")) == "one"
        assert kept.find(comparing.digest("two")) is None

    def test_what_is_written_is_read_and_has_a_line_a_request(self, tmp_path: Path) -> None:
        file, records = tmp_path / "expected.json", {"one": record(planned()), "two": {"exit": 2}}
        write_expected(records, file)
        assert comparing.read_expected(file) == (comparing.made_with(), records)
        assert len(file.read_text(encoding="utf-8").splitlines()) == 2 + len(records) + 1
