"""``plan simulate`` from the command line; the plan is made over the roofline alone, so nothing is learnt."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import Runner, complaint

from api.cli.views.simulation import mean_of_windows
from planner.replay.document import SimulationReport
from planner.serving.planning import plan
from profiles.store import ProfileStore

sys.path.append(str(Path(__file__).parents[1] / "costmodels"))

import synthetic

TRACE = "arrival_s,isl,osl\n" + "".join(f"{i / 10},{500 + i},{20 + i % 7}\n" for i in range(60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile store without rows, a plan made from it, and a trace."""
    where = tmp_path_factory.mktemp("simulate")
    synthetic.empty_store(where / "store")
    request = {
        "model": "Qwen/Qwen3-8B",
        "cluster": "2xH200",
        "slo": "ttft=1s,tpot=25ms",
        "workload": "isl=2000,osl=200",
    }
    made = plan(request, store=ProfileStore(where / "store"))
    (where / "plan.json").write_text(made.to_json(), encoding="utf-8")
    (where / "trace.csv").write_text(TRACE, encoding="utf-8")
    return where


@pytest.fixture(autouse=True)
def _without_the_pack(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("costmodels.kernels.cost_model.shipped_pack", lambda: ProfileStore(folder / "store"))


def arguments(folder: Path, *more: str) -> tuple[str, ...]:
    return ("simulate", str(folder / "plan.json"), *more)


def test_measured_stores_lie_over_the_pack(run: Runner, folder: Path) -> None:
    options = ("--rate", "2", "--requests", "100", "--profiles", str(folder / "store"))
    code, out, err = run(*arguments(folder, *options))
    assert code == 0, err
    assert "this is" in out, "the plan was made without that store, and the report says so"


def test_watts_are_written_in_windows_on_the_clock_of_the_arrivals(run: Runner, folder: Path, tmp_path: Path) -> None:
    later = TRACE.splitlines()
    rows = [later[0], *(f"{float(line.split(',')[0]) + 100},{line.split(',', 1)[1]}" for line in later[1:])]
    (tmp_path / "later.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = ("--trace", str(tmp_path / "later.csv"), "--timeline", str(tmp_path / "watts.csv"), "--json")
    code, out, err = run(*arguments(folder, *options))
    assert code == 0, err
    header, *lines = (tmp_path / "watts.csv").read_text("utf-8").splitlines()
    assert header == "t_s,power_watts"
    at, watts = zip(*((float(cell) for cell in line.split(",")) for line in lines), strict=True)
    assert at[:3] == (100.0, 100.25, 100.5)
    report = SimulationReport.model_validate_json(out)
    assert report.power_watts is not None
    assert sum(watts) / len(watts) == pytest.approx(report.power_watts, rel=0.03)
    assert max(watts) > 1.2 * min(watts)
    assert "--timeline: " in err
    assert "on average, in windows of 250 ms" in err
    code, _, err = run(*arguments(folder, "--rate", "2", "--timeline", str(tmp_path / "none" / "watts.csv")))
    assert code == 2
    assert "--timeline" in err


def test_a_rate_is_replayed_and_shown(run: Runner, folder: Path) -> None:
    code, out, err = run(*arguments(folder, "--rate", "2", "--requests", "200"))
    assert code == 0, err
    assert "Poisson arrivals" in out
    assert "200 of 200 requests" in out
    for word in ("SLO", "TTFT p90 ≤ 1 s", "Latency", "p99", "Engines", "Timeline", "waiting", "To keep in mind"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_plan_alone_is_replayed_under_its_own_load(run: Runner, folder: Path) -> None:
    ran = run(*arguments(folder, "--requests", "1000"))
    assert ran.code == 0, ran.err
    assert "Poisson arrivals, as the plan is for" in ran.out


def test_json_and_output_agree_and_are_the_report(run: Runner, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    options = ("--trace", str(folder / "trace.csv"), "--speed", "2", "--json", "--output", str(file))
    code, out, err = run(*arguments(folder, *options))
    assert code == 0, err
    assert file.read_text(encoding="utf-8") == out
    report = SimulationReport.model_validate_json(out)
    assert report.load.source == "trace.csv at 2 times its speed"
    assert report.load.rate_rps == pytest.approx(20)
    assert report.served == 60
    assert run(*arguments(folder, *options)).out == out


def test_bursty_arrivals_wait_longer(run: Runner, folder: Path) -> None:
    means = []
    for kind in ("poisson", "gamma:4"):
        out = run(*arguments(folder, "--rate", "6", "--requests", "600", "--arrivals", kind, "--json")).out
        means.append(json.loads(out)["ttft_ms"]["mean"]["value"])
    assert means[1] > means[0]


def test_a_plan_that_falls_behind_says_so(run: Runner, folder: Path) -> None:
    _, out, _ = run(*arguments(folder, "--rate", "500", "--requests", "3000"))
    assert "falls behind" in out
    assert "it carries about" in out


def test_too_many_requests_are_told_how_many_may_be(run: Runner, folder: Path) -> None:
    code, _, err = run(*arguments(folder, "--rate", "2", "--requests", "100000000000"))
    assert code == 2
    assert "from 1 to 10,000,000" in err


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_the_timeline_is_drawn(run: Runner, folder: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"timeline.{kind}"
    code, _, err = run(*arguments(folder, "--rate", "2", "--requests", "50", "--plot", str(file)))
    assert code == 0, err
    content = file.read_bytes()
    start = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}[kind]
    assert content.startswith(start)
    if kind == "html":
        assert b"<svg" in content
        assert b"src=" not in content  # nothing is fetched from elsewhere
        again = tmp_path / "again.html"
        run(*arguments(folder, "--rate", "2", "--requests", "50", "--plot", str(again)))
        assert again.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--trace", ""), "--trace: is empty"),
        (("--trace", "/"), "it is a directory"),
        (("--rate", "1", "--trace", "x.csv"), "both are given"),
        (("--rate", "0"), "rate: 0.0 should be greater than 0"),
        (("--rate", "nan"), "--rate: 'nan'"),
        (("--rate", "1", "--requests", "0"), "requests: 0 is not at least 1"),
        (("--rate", "1", "--arrivals", "uniform"), "arrivals: 'uniform' is not known"),
        (("--rate", "1", "--arrivals", "gamma:0"), "arrivals: 'gamma:0'"),
        (("--rate", "1", "--speed", "2"), "speed: has no effect"),
        (("--trace", "x.csv", "--arrivals", "poisson"), "arrivals: has no effect"),
        (("--trace", "nowhere.csv"), "cannot be read"),
        (("--rate", "1", "--plot", "a.gif"), "--plot: a.gif is not one of"),
        (("--rate", "1", "--plot", "/nowhere/a.png"), "--plot: the directory /nowhere does not exist"),
        (("--rate", "1", "--output", "/nowhere/a.json"), "--output: the directory /nowhere does not exist"),
    ],
)
def test_bad_options_are_refused(run: Runner, folder: Path, options: tuple[str, ...], named: str) -> None:
    error, _ = complaint(run(*arguments(folder, *options)))
    assert named in error


def test_a_plan_that_is_none_is_refused(run: Runner, folder: Path, tmp_path: Path) -> None:
    error, _ = complaint(run("simulate", str(tmp_path / "none.json"), "--rate", "1"))
    assert "cannot be read" in error
    broken = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    broken["decision"]["engines"][0]["replicas"][0]["weight"] = 0.25
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(broken), encoding="utf-8")
    error, hint = complaint(run("simulate", str(file), "--rate", "1", "--edited"))
    assert "weights" in error
    assert "plan again" in hint


def test_engines_that_do_not_fit_are_told_where_to_look(run: Runner) -> None:
    engines = ("--model", "Qwen/Qwen3-32B", "--gpu", "L40S", "--engines", "1xTP1")
    failed = run("simulate", *engines, "--workload", "isl=4000,osl=500,rate=1")
    assert "does not fit into the memory of L40S" in failed.err
    assert "`plan memory`" in failed.err
    assert "plan --output" not in failed.err


def test_an_edited_plan_is_replayed_only_where_that_is_meant(run: Runner, folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    said = document["prediction"]["ttft_ms"]["p90"]["value"]
    document["prediction"]["ttft_ms"]["p90"]["value"] = 1.25
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    error, hint = complaint(run("simulate", str(file), "--rate", "1"))
    assert "plan: edited since it was made" in error
    assert "--edited" in hint
    options = ("--rate", "1", "--requests", "50")
    _, out, _ = run("simulate", str(file), *options, "--edited")
    assert "edited since it was made" in out
    assert "1.25 ms" in out, "what the plan says stands beside what is simulated"
    report = SimulationReport.model_validate_json(run("simulate", str(file), *options, "--edited", "--json").out)
    assert report.edited
    untouched = SimulationReport.model_validate_json(run(*arguments(folder, *options, "--json")).out)
    assert not untouched.edited
    assert untouched.ttft_ms is not None
    assert untouched.ttft_ms.planned is not None
    assert untouched.ttft_ms.planned.p90 == said


def test_without_matplotlib_the_way_out_is_named(run: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error, hint = complaint(run(*arguments(folder, "--rate", "1", "--plot", "a.png")))
    assert "matplotlib is not installed" in error
    assert "shardwright[plot]" in hint


def test_two_means_of_watts_are_told_apart() -> None:
    """The series' mean was 4.54 kW beside a report that said 4.32."""
    assert mean_of_windows(2158.8, 2150.0) == "--timeline: 2.16 kW on average, in windows of 250 ms"
    assert mean_of_windows(2158.8, None) == mean_of_windows(2158.8, 2150.0)
    assert "4.54 kW on average, in windows of 250 ms; 4.32 kW in the report" in mean_of_windows(4541.6, 4320.0)
