"""What operators apply, through the real tools: shellcheck, bash with a stand-in for nvidia-smi, promtool, YAML."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from planner.kinds import example
from planner.power.document import ClassClock, KindClock, PowerPlan, parse_power_plan
from planner.power.exports import ANNOTATION, files
from planner.power.request import SupplyNode
from profiles.errors import Unsupported

STAND_IN = """#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
*uuid,index,power.limit*) printf 'GPU-a, 0, 400.00, 1200, 1410\\nGPU-b, 1, 400.00, 1200, 1410\\n' ;;
*clocks.current.sm*) printf '0, %s\\n1, %s\\n' "${MHZ:-1110}" "${MHZ:-1110}" ;;
esac
"""


@pytest.fixture
def folder(plan: PowerPlan, tmp_path: Path) -> Path:
    for name, text in files(plan, "nvidia-smi").items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(STAND_IN)
    (tmp_path / "bin" / "id").write_text("#!/usr/bin/env bash\necho ${AS:-0}\n")
    for name in ("nvidia-smi", "id"):
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def run(folder: Path, *words: str, shell: str = "bash", **env: str) -> tuple[int, str, list[str]]:
    """(exit code, what was said, what nvidia-smi was asked)."""
    calls = folder / "calls"
    calls.write_text("")
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls), **env}
    done = subprocess.run(
        [shell, str(folder / words[0]), *words[1:]], capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()


def sets(calls: list[str]) -> list[str]:
    """Those of nvidia-smi's calls that set something."""
    return [call for call in calls if "query" not in call]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_are_clean(folder: Path) -> None:
    done = subprocess.run(
        ["shellcheck", *map(str, sorted(folder.glob("*.sh")))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("words", [("apply.sh", "2", "lp"), ("rollback.sh",), ("check.sh",)])
def test_any_shell_goes_on_with_bash(folder: Path, words: tuple[str, ...]) -> None:
    assert run(folder, *words, shell="sh") == run(folder, *words)


def test_nothing_is_set_unless_asked(folder: Path) -> None:
    for words in (("apply.sh", "2", "lp"), ("apply.sh", "0", "hp"), ("rollback.sh",)):
        code, said, calls = run(folder, *words)
        assert code == 0
        assert "nothing was set" in said
        assert not sets(calls)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has the real one")
def test_a_dry_run_needs_no_gpus(folder: Path) -> None:
    (folder / "bin" / "nvidia-smi").unlink()
    for words in (("apply.sh", "2", "lp"), ("rollback.sh",)):
        code, said, _ = run(folder, *words)
        assert code == 0
        assert "nothing was set" in said


def test_a_level_is_applied(folder: Path) -> None:
    assert sets(run(folder, "apply.sh", "2", "lp", "--apply")[2]) == ["--lock-gpu-clocks=210,810"]
    assert sets(run(folder, "apply.sh", "1", "hp", "--apply")[2]) == ["--reset-gpu-clocks"]
    assert sets(run(folder, "apply.sh", "2", "lp", "--power-limit", "300", "--apply")[2]) == [
        "--lock-gpu-clocks=210,810",
        "--power-limit=300",
    ]


@pytest.mark.parametrize(
    "words", [("3", "lp"), ("1", "mp"), ("1", "lp", "--power-limit", "50"), ("1", "lp", "--power-limit", "x"), ("1",)]
)
def test_what_is_not_in_the_plan_is_refused(folder: Path, words: tuple[str, ...]) -> None:
    code, said, calls = run(folder, "apply.sh", *words, "--apply")
    assert code == 2
    assert said
    assert not calls


def test_setting_needs_root(folder: Path) -> None:
    code, said, calls = run(folder, "apply.sh", "1", "lp", "--apply", AS="1000")
    assert (code, calls) == (1, [])
    assert "needs root" in said


def test_a_forgotten_cap_is_found(folder: Path) -> None:
    assert run(folder, "check.sh", "1", "lp")[0] == 0
    code, said, _ = run(folder, "check.sh", "1", "lp", MHZ="1410")
    assert code == 1
    assert "apply the level again" in said


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_rules_and_alerts_fire(plan: PowerPlan, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(files(plan, "prometheus")["rules.yaml"])
    checked = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    row = plan.request.supply.name
    servers = plan.decision.servers
    watts = (0.91 * plan.request.supply.budget_watts - servers * plan.request.servers[0].other_watts) / (servers * 8)
    series = [
        {"series": f'DCGM_FI_DEV_POWER_USAGE{{row="{row}",priority="lp",gpu="{i}"}}', "values": f"{watts}x60"}
        for i in range(servers * 8)
    ]
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "2s",
        "tests": [
            {
                "interval": "2s",
                "input_series": series,
                "alert_rule_test": [
                    {"eval_time": "1m", "alertname": "RowPowerAboveBudget", "exp_alerts": []},
                    {"eval_time": "1m", "alertname": "RowPowerLevel2", "exp_alerts": []},
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count(ALERTS{alertname="RowPowerLevel1",alertstate="firing"})',
                        "eval_time": "1m",
                        "exp_samples": [{"value": 1}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def stepped(plan: PowerPlan) -> PowerPlan:
    """As POLCA's preset: the last level is called for once the one before is in effect."""
    first, last = plan.decision.levels
    levels = (first, last.model_copy(update={"above": None, "step_above": 0.89}))
    return plan.model_copy(update={"decision": plan.decision.model_copy(update={"levels": levels})})


def test_a_level_that_waits_for_the_one_before_is_exported(stepped: PowerPlan) -> None:
    rules = yaml.safe_load(files(stepped, "prometheus")["rules.yaml"])["groups"][0]["rules"]
    alerts = {each["alert"]: each for each in rules if "alert" in each}
    assert alerts["RowPowerLevel2"]["expr"].endswith("> 0.89")
    assert alerts["RowPowerLevel2"]["for"] == f"{round(stepped.decision.delay_s)}s"
    assert "for" not in alerts["RowPowerLevel1"]
    assert alerts["RowCapNotTaken"]["expr"].endswith("> 0.89")
    assert files(stepped, "nvidia-smi")
    assert files(stepped, "dynamo-power")


def test_annotations_are_watts_that_can_be_set(plan: PowerPlan) -> None:
    can = plan.decision.settable[0]
    written = files(plan, "dynamo-power")
    assert set(written) == {f"level-{level}-{name}.yaml" for level in range(3) for name in ("hp", "lp")}
    for text in written.values():
        watts = yaml.safe_load(text)["spec"]["template"]["metadata"]["annotations"][ANNOTATION]
        assert isinstance(watts, str)
        assert can.least_watts <= int(watts) <= can.most_watts


def test_a_plan_without_levels_is_not_exported() -> None:
    made = parse_power_plan(json.dumps(example("power")))
    bare = made.model_copy(update={"decision": made.decision.model_copy(update={"levels": ()})})
    for target in ("nvidia-smi", "dynamo-power"):
        with pytest.raises(Unsupported, match="no levels of caps"):
            files(bare, target)
    rules = yaml.safe_load(files(bare, "prometheus")["rules.yaml"])["groups"][0]["rules"]
    assert {each["alert"] for each in rules if "alert" in each} == {"RowPowerAboveBudget", "RowPowerReadingsLost"}


def test_rules_go_by_the_node_that_is_nearest_to_its_budget(plan: PowerPlan) -> None:
    racks = tuple(SupplyNode(name=name, budget_watts=120_000, servers=20) for name in ("rack.a", "rack b"))
    supply = plan.request.supply.model_copy(update={"children": racks, "servers": None})
    treed = plan.model_copy(update={"request": plan.request.model_copy(update={"supply": supply})})
    rules = yaml.safe_load(files(treed, "prometheus")["rules.yaml"])["groups"][0]["rules"]
    shares = {
        each["labels"]["node"]: each["expr"] for each in rules if each.get("record", "").endswith(":node_power_share")
    }
    assert list(shares) == ["rack.a", "rack b", supply.name]
    assert all(each.endswith(" / 120000") for name, each in shares.items() if name != supply.name)
    (share,) = (each["expr"] for each in rules if each.get("record", "").endswith(":power_share"))
    assert share.startswith("max(")


def test_caps_that_are_always_set_are_no_threshold(plan: PowerPlan) -> None:
    level = plan.decision.levels[0].model_copy(update={"above": 0.0, "below": 0.0, "back_to": 1})
    always = plan.model_copy(update={"decision": plan.decision.model_copy(update={"levels": (level,)})})
    rules = yaml.safe_load(files(always, "prometheus")["rules.yaml"])["groups"][0]["rules"]
    (alert,) = (each for each in rules if each.get("alert") == "RowPowerLevel1")
    assert alert["annotations"]["description"] == "Always set, whatever the row draws."


def test_decode_alone_is_capped_on_the_gpus_that_are_named(plan: PowerPlan, folder: Path) -> None:
    (level, *_) = plan.decision.levels
    roles = tuple(level.clocks[1].model_copy(update={"role": role}) for role in ("decode", "prefill"))
    decision = plan.decision.model_copy(update={"levels": (level.model_copy(update={"clocks": roles}),)})
    for name, text in files(plan.model_copy(update={"decision": decision}), "nvidia-smi").items():
        (folder / name).write_text(text)
    code, said, _ = run(folder, "apply.sh", "1", "lp-decode", "--apply")
    assert code == 2
    assert "say which, --gpus 0,1" in said
    code, _, calls = run(folder, "apply.sh", "1", "lp-decode", "--gpus", "0,1", "--apply")
    assert code == 0
    assert sets(calls) == ["--id=0,1 --lock-gpu-clocks=210,1110"]


@pytest.fixture
def mixed(plan: PowerPlan) -> PowerPlan:
    """A row of A100s and of H100s beside them."""

    def clock(each: ClassClock) -> ClassClock:
        if each.clock_mhz is None:
            return each
        own = KindClock(kind="dgx", clock_mhz=each.clock_mhz, gpu_watts=each.gpu_watts or 0)
        other = KindClock(kind="h 100", clock_mhz=each.clock_mhz + 465, gpu_watts=600.0)
        return each.model_copy(update={"by_kind": (own, other)})

    levels = tuple(
        level.model_copy(update={"clocks": tuple(map(clock, level.clocks))}) for level in plan.decision.levels
    )
    (can,) = plan.decision.settable
    hot = {"gpu": "H100-SXM", "kinds": ("h 100",), "most_mhz": 1980, "most_watts": 700.0}
    settable = (can.model_copy(update={"kinds": ("dgx",)}), can.model_copy(update=hot))
    return plan.model_copy(
        update={"decision": plan.decision.model_copy(update={"levels": levels, "settable": settable})}
    )


def test_each_type_of_gpu_has_scripts_of_its_own(mixed: PowerPlan, folder: Path) -> None:
    written = files(mixed, "nvidia-smi")
    other = next(name for name in written if name.endswith("/apply.sh") and not name.startswith("dgx/"))
    assert {"dgx/apply.sh", "dgx/rollback.sh", "dgx/check.sh", "plan.json"} < set(written)
    for name in ("dgx/apply.sh", other):
        (folder / name).parent.mkdir()
        (folder / name).write_text(written[name])
    assert sets(run(folder, "dgx/apply.sh", "2", "lp", "--apply")[2]) == ["--lock-gpu-clocks=210,810"]
    assert sets(run(folder, other, "2", "lp", "--apply")[2]) == ["--lock-gpu-clocks=210,1275"]
    assert sets(run(folder, other, "1", "hp", "--apply")[2]) == ["--reset-gpu-clocks"]


def test_each_type_of_gpu_has_alerts_and_annotations_of_its_own(mixed: PowerPlan) -> None:
    rules = yaml.safe_load(files(mixed, "prometheus")["rules.yaml"])["groups"][0]["rules"]
    alerts = [each for each in rules if each.get("alert") == "RowCapNotTaken" and each["labels"]["priority"] == "lp"]
    assert [each["labels"]["kind"] for each in alerts] == ["dgx", "h 100"]
    step = mixed.decision.settable[0].step_mhz
    for each, mhz in zip(alerts, (810, 1275), strict=True):
        assert f'kind="{each["labels"]["kind"]}"}}) > {mhz + step} and' in each["expr"]
    patches = files(mixed, "dynamo-power")
    (name,) = (each for each in patches if each.endswith("/level-2-lp.yaml") and not each.startswith("dgx/"))
    assert yaml.safe_load(patches[name])["spec"]["template"]["metadata"]["annotations"][ANNOTATION] == "600"


def test_a_plan_that_does_not_say_what_its_gpus_can_be_set_to_is_refused(plan: PowerPlan) -> None:
    older = plan.model_copy(update={"decision": plan.decision.model_copy(update={"settable": ()})})
    for target in ("nvidia-smi", "dynamo-power"):
        with pytest.raises(Unsupported, match="older release"):
            files(older, target)
