"""What operators of a row apply: caps by level and priority, of a power plan (:mod:`planner.power.exports`)."""

from __future__ import annotations

from pathlib import Path

from planner.exports.target import Target
from planner.power.alerts import prometheus
from planner.power.document import PowerPlan
from planner.power.exports import dynamo_power, first_folder, first_patch, first_words, nvidia_smi
from planner.power.parts import cannot


class _OfPower(Target):
    kinds = frozenset({"power"})

    @property
    def plan(self) -> PowerPlan:
        assert isinstance(self.asked.document, PowerPlan)
        return self.asked.document

    def cannot(self) -> str | None:
        return cannot(self.plan)

    @property
    def otherwise(self) -> str:
        if self.plan.decision.levels:
            return "plan the row again (`plan power`), and export that"
        return "nothing has to be set: no policy with caps holds more servers under these promises"


class NvidiaSmi(_OfPower):
    name = "nvidia-smi"
    writes = "scripts that cap clocks and power, roll back, and check"
    release = "580"
    rung = 2

    def files(self) -> dict[str, str]:
        return nvidia_smi(self.plan)

    def steps(self, folder: Path) -> tuple[str, ...]:
        own = folder / first_folder(self.plan)
        return (f"{own / 'apply.sh'} {first_words(self.plan)}", f"{own / 'rollback.sh'}")


class PrometheusRules(_OfPower):
    name = "prometheus"
    writes = "recording and alert rules on the metrics of dcgm-exporter"
    release = "2"
    rung = 2

    def cannot(self) -> str | None:
        """A row without caps is watched all the same."""
        return None

    def files(self) -> dict[str, str]:
        return prometheus(self.plan)

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"promtool check rules {folder / 'rules.yaml'}",)


class DynamoPower(_OfPower):
    name = "dynamo-power"
    writes = "patches with the annotation that Dynamo's power agent reads"
    release = "1.0"
    rung = 1

    def files(self) -> dict[str, str]:
        return dynamo_power(self.plan)

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"kubectl patch deployment NAME --patch-file {folder / first_patch(self.plan)}",)
