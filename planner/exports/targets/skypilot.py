"""A SkyPilot task: as many nodes as the plan has, each starting its own engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from planner.exports import job, mpi
from planner.exports.fleet import PlacedEngine
from planner.exports.gpu_names import gpu_name
from planner.exports.scripts import background
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text


class Skypilot(ServingTarget):
    name: ClassVar[str] = "skypilot"
    writes: ClassVar[str] = "task.yaml"
    release: ClassVar[str] = "SkyPilot 0.14"
    rung: ClassVar[int] = 2

    def cannot(self) -> str | None:
        pools = {machine.pool for machine in self.fleet.machines}
        if len(pools) > 1:
            return f"all nodes of a task are alike, and the plan is on pools {', '.join(sorted(pools))}"
        return super().cannot()

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        return mpi.unlike(engine) if self.fleet.is_world(engine) else None

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: cd {folder} && sky launch task.yaml",)

    def platform_files(self) -> dict[str, str]:
        fleet = self.fleet
        files: dict[str, str] = {}
        by_node: dict[int, list[str]] = {}
        for _, node, process in job.processes(fleet, files, by_ssh=True):
            by_node.setdefault(node, []).append(background(process))
        told = fleet.told
        if (before := job.front(fleet, files)) is not None:
            by_node.setdefault(0, []).append(background(before[1]))
            told = fleet.told_of(before[0])
        if any(map(fleet.is_world, fleet.engines)):
            told = (*told, mpi.NOTE)
        lines = ["set -eu\n", "HERE=$PWD\nexport HERE\nmkdir -p logs\n"]
        for node in range(len(fleet.machines)):
            lines.append(f'NODE_{node}=$(echo "$SKYPILOT_NODE_IPS" | sed -n {node + 1}p)\nexport NODE_{node}\n')
        lines.append('case "$SKYPILOT_NODE_RANK" in\n')
        lines += [f"{node})\n{''.join(each)};;\n" for node, each in sorted(by_node.items())]
        lines.append("esac\nwait\n")
        pool = next(p for p in self.plan.request.cluster.pools if p.name == fleet.machines[0].pool)
        resources: dict[str, Any] = {"accelerators": {gpu_name(pool.gpu, "skypilot"): fleet.gpus_of(pool.name)}}
        if self.values.image:
            resources["image_id"] = f"docker:{self.values.image}"
        resources["ports"] = [fleet.first_port]
        task: dict[str, Any] = {"name": fleet.name, "resources": resources, "num_nodes": len(fleet.machines)}
        task["workdir"] = "."
        if self.values.hf_secret:
            task["secrets"] = {"HF_TOKEN": None}
        return {"task.yaml": yaml_text({**task, "run": "".join(lines)}, header=told), **files}
