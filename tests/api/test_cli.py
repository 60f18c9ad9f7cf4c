"""Planning from the command line: answers on stdout, errors as two lines on stderr, an exit code by kind."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ASKED, Ran, Runner, Stub, asking, complaint
from example_plan import example_plan

from api.cli import main as cli
from api.cli.output import write_atomically
from planner.serving.document.plan import parse_plan
from planner.serving.request import PlanRequest
from profiles.errors import DataError, Infeasible, InputError, LimitReached


class TestPlan:
    def test_human_view_on_stdout_and_nothing_on_stderr(self, run: Runner, planner: Stub) -> None:
        ran = run(*asking())
        assert (ran.code, ran.err) == (0, "")
        assert "2 engines × TP4" in ran.out
        assert "Placement" not in ran.out

    def test_explain_adds(self, run: Runner, planner: Stub) -> None:
        assert "Placement" in run(*asking(), "--explain").out

    def test_json_is_the_document_byte_for_byte(self, run: Runner, planner: Stub) -> None:
        ran = run(*asking(), "--json")
        assert ran.out == example_plan().to_json()
        assert ran.err == ""

    def test_options_arrive_in_the_request(self, run: Runner, planner: Stub) -> None:
        ran = run(
            *asking(
                slo="ttft=1s,itl_p99=30ms",
                workload="isl=4000,osl=500,rate=20",
                objective="gpus",
                framework="sglang",
                precision="fp8",
                kv_precision="bf16,fp8",
                disaggregation="never",
                max_tp="4",
                max_pp="2",
                max_engine_gpus="8",
                time_limit="7.5",
            ),
            "--tp-across-nodes",
        )
        assert ran.code == 0
        asked = planner.requests[0]
        assert [bound.label for bound in asked.slo.bounds] == ["ttft_p90", "tpot_p99"]
        assert (asked.workload.rate_rps, asked.objective, asked.framework) == (20.0, "gpus", "sglang")
        assert (asked.precision, asked.kv_precision) == (("fp8",), ("bf16", "fp8"))
        assert (asked.disaggregation, asked.tp_across_nodes) == ("never", True)
        assert (asked.max_tp, asked.max_pp, asked.max_engine_gpus, asked.time_limit_s) == (4, 2, 8, 7.5)

    def test_defaults_are_those_of_the_request(self, run: Runner, planner: Stub) -> None:
        run(*asking())
        plain = {"model": ASKED["--model"], "cluster": "16xH200", "workload": "isl=4000,osl=500"}
        assert planner.requests[0].model_dump() == PlanRequest.model_validate(plain).model_dump()

    def test_cluster_may_be_a_file(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("pools: [{gpu: H200, nodes: 3}]")
        assert run(*asking(cluster=str(file))).code == 0
        assert planner.requests[0].cluster.pools[0].gpus == 24

    def test_profiles_are_laid_over_the_pack_in_order(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        from profiles.store import ProfileStore

        for name in ("first", "second"):
            ProfileStore.create(tmp_path / name, name=name, version="1", attribution="us")
        assert run(*asking(profiles=str(tmp_path / "first")), "--profiles", str(tmp_path / "second")).code == 0
        assert [store.manifest.name for store in planner.measured] == ["first", "second"]

    def test_progress_is_a_plain_line_an_event_where_stderr_is_no_terminal(self, run: Runner, planner: Stub) -> None:
        planner.events = ["learning gemm", "learning [moe]"]
        ran = run(*asking(), "--json")
        assert ran.err == "learning gemm\nlearning [moe]\n"
        assert ran.out == example_plan().to_json()


class TestOutput:
    def test_writes_the_document_and_still_shows_the_view(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        file = tmp_path / "plan.json"
        ran = run(*asking(output=str(file)))
        assert file.read_text(encoding="utf-8") == example_plan().to_json()
        assert parse_plan(file.read_text(encoding="utf-8")) == example_plan()
        assert "2 engines × TP4" in ran.out
        assert list(tmp_path.iterdir()) == [file]

    def test_with_json_both_are_the_document(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        file = tmp_path / "plan.json"
        assert run(*asking(output=str(file)), "--json").out == file.read_text(encoding="utf-8")

    def test_replaces_a_file_and_keeps_its_permissions(self, tmp_path: Path) -> None:
        file = tmp_path / "plan.json"
        file.write_text("old")
        file.chmod(0o640)
        write_atomically(file, "new")
        assert file.read_text() == "new"
        assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def test_replaces_what_a_link_points_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_text("old")
        (tmp_path / "link").symlink_to("real")
        write_atomically(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real").read_text() == "new"

    def test_a_failed_write_leaves_the_old_file_and_no_litter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        file = tmp_path / "plan.json"
        file.write_text("old")
        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space left"):
            write_atomically(file, "new")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_directory_is_refused_before_planning(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        error, _ = complaint(run(*asking(output=str(tmp_path))))
        assert error == f"--output: {tmp_path} is a directory"
        assert not planner.requests

    def test_missing_parent_is_refused_before_planning(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        error, hint = complaint(run(*asking(output=str(tmp_path / "no" / "plan.json"))))
        assert error.endswith("does not exist")
        assert "mkdir -p" in hint
        assert not planner.requests

    def test_parent_that_is_a_file_is_refused(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        error, _ = complaint(run(*asking(output=str(tmp_path / "file" / "plan.json"))))
        assert "is not a directory" in error

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_parent_without_permission_is_refused(self, run: Runner, planner: Stub, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        error, _ = complaint(run(*asking(output=str(tmp_path / "plan.json"))))
        assert "no permission" in error


# ------------------------------------------------------------------ errors


class TestBadInput:
    """None of these reaches the planner."""

    @pytest.fixture(autouse=True)
    def _untouched(self, planner: Stub) -> Iterator[None]:
        yield
        assert not planner.requests

    @pytest.mark.parametrize("missing", ["model", "cluster", "workload"])
    def test_missing_option_shows_an_example(self, run: Runner, missing: str) -> None:
        error, hint = complaint(run(*asking(**{missing: None})))
        assert error == f"--{missing} is missing"
        assert "plan --model Qwen/Qwen3-32B" in hint

    def test_nothing_at_all(self, run: Runner) -> None:
        complaint(run())

    @pytest.mark.parametrize(
        ("option", "value", "says", "hints"),
        [
            ("model", "Qwen/Qwen3-33B", "model: 'Qwen/Qwen3-33B'", "Qwen/Qwen3-32B"),
            ("model", "", "model", ""),
            ("cluster", "16xH2000", "H2000", "H200"),
            ("cluster", "16H200", "16H200", "16xH200"),
            ("cluster", "0xH200", "gpus", ""),
            ("cluster", "no/such.yaml", "no/such.yaml", ""),
            ("framework", "vlm", "framework: 'vlm'", "vllm"),
            ("objective", "fastest", "objective: 'fastest'", "throughput"),
            ("objective", "cost", "cost needs a rate", "rate="),
            ("precision", "fp9", "precision: 'fp9'", "fp8"),
            ("kv_precision", "int8", "kv_precision: 'int8'", "fp8"),
            ("slo", "ttft=1", "ttft", "ms"),
            ("slo", "ttft=fast", "fast", "ms"),
            ("slo", "latency=1s", "latency", "ttft"),
            ("slo", "ttft=1s,ttft=2s", "twice", ""),
            ("slo", "ttft=0s", "0", ""),
            ("slo", "ttft=-1s", "-1s", ""),
            ("workload", "isl=4000", "osl", ""),
            ("workload", "isl=4g,osl=500", "4g", "isl=4000"),
            ("workload", "isl=0,osl=500", "isl", ""),
            ("workload", "isl=-5,osl=500", "isl", ""),
            ("workload", "isl=4000,osl=500,rate=0", "rate", ""),
            ("workload", "isl=4000,osl=500,burst=3", "burst", "rate"),
            ("max_tp", "0", "max_tp", ""),
            ("max_pp", "-1", "max_pp", ""),
            ("max_engine_gpus", "0", "max_engine_gpus", ""),
            ("time_limit", "0", "time_limit_s", ""),
            ("time_limit", "nan", "--time-limit", ""),
            ("profiles", "/no/such/store", "/no/such/store", ""),
        ],
    )
    def test_value(self, run: Runner, option: str, value: str, says: str, hints: str) -> None:
        error, hint = complaint(run(*asking(**{option: value})))
        assert says in error
        assert hints in hint

    @pytest.mark.parametrize("option", ["--max-tp", "--max-pp", "--max-engine-gpus", "--time-limit"])
    def test_not_a_number(self, run: Runner, option: str) -> None:
        error, hint = complaint(run(*asking(), option, "many"))
        assert f"{option}: 'many' is not a" in error
        assert "a number" in hint or "a whole number" in hint

    def test_unknown_option(self, run: Runner) -> None:
        error, _ = complaint(run(*asking(), "--modle", "x"))
        assert "--modle" in error

    def test_option_without_its_value(self, run: Runner) -> None:
        error, _ = complaint(run("--model"))
        assert "--model" in error

    def test_unknown_command(self, run: Runner) -> None:
        error, _ = complaint(run("frobnicate"))
        assert "frobnicate" in error

    def test_planning_options_before_a_command_are_not_ignored(self, run: Runner) -> None:
        error, hint = complaint(run("--json", "models"))
        assert error.startswith("--json: has no effect before the command 'models'")
        assert "plan models --help" in hint

    def test_usage_error_of_a_command_points_to_its_help(self, run: Runner) -> None:
        _, hint = complaint(run("gpus", "--bogus"))
        assert hint == "see `plan gpus --help`"


class TestErrorsOfThePlanner:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (InputError("too\nlong", "cut\nit"), 2),
            (DataError("pack is corrupt", "reinstall"), 2),
            (Infeasible("slo: tpot binds", "relax it to 40 ms"), 3),
            (LimitReached("no plan in 1 s", "raise --time-limit"), 4),
        ],
    )
    def test_each_kind_has_its_exit_code(
        self, run: Runner, planner: Stub, error: Exception, code: int, tmp_path: Path
    ) -> None:
        planner.raises = error
        file = tmp_path / "plan.json"
        complaint(run(*asking(output=str(file))), code)
        assert not file.exists()

    @pytest.mark.parametrize("flag", ["--json", "--explain"])
    def test_the_form_of_the_answer_does_not_change_that_of_the_error(
        self, run: Runner, planner: Stub, flag: str
    ) -> None:
        planner.raises = Infeasible("nothing fits", "take 4 GPUs")
        assert complaint(run(*asking(), flag), 3) == ("nothing fits", "take 4 GPUs")

    def test_interrupt_is_130_and_silent(self, run: Runner, planner: Stub) -> None:
        planner.raises = KeyboardInterrupt()
        assert run(*asking()) == Ran(130, "", "")

    def test_a_defect_is_not_dressed_up_as_bad_input(self, planner: Stub) -> None:
        planner.raises = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            cli.main(asking())
