"""One Slurm job for the plan: a step an engine's node, addresses worked out in the job."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import ClassVar

from planner.exports import job, mpi
from planner.exports.fleet import Machine, PlacedEngine
from planner.exports.scripts import Process
from planner.exports.serving import ServingTarget
from planner.exports.text import comments
from planner.launchers.words import for_shell, shell_lines


class Slurm(ServingTarget):
    name: ClassVar[str] = "slurm"
    writes: ClassVar[str] = "job.sbatch: one job, heterogeneous where there are several pools, a step an engine's node"
    release: ClassVar[str] = "Slurm 20.11 and later"
    rung: ClassVar[int] = 2

    def own_needs(self) -> tuple[str, ...]:
        return ("partitions",) if len(self._pools) > 1 else ()

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        return mpi.unlike(engine) if self.fleet.is_world(engine) else None

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: cd {folder} && sbatch job.sbatch", f"measure: {folder}/bench.sh http://NODE:PORT")

    @property
    def _pools(self) -> list[tuple[str, list[Machine]]]:
        return [(pool, list(each)) for pool, each in groupby(self.fleet.machines, lambda machine: machine.pool)]

    def platform_files(self) -> dict[str, str]:
        fleet = self.fleet
        files: dict[str, str] = {}
        steps: list[str] = []
        worlds: dict[str, list[int]] = {}
        for engine, node, process in job.processes(fleet, files):
            if fleet.is_world(engine):
                worlds.setdefault(engine.id, []).append(node)
                if len(worlds[engine.id]) == 1:
                    steps.append(self._world(process, [share.node for share in engine.shares]))
                continue
            steps.append(self._step(process, [node], "--ntasks=1"))
        told = fleet.told
        if (before := job.front(fleet, files)) is not None:
            steps.append(self._step(before[1], [0], "--ntasks=1"))
            told = fleet.told_of(before[0])
        script = "".join(
            [
                "#!/bin/sh\n",
                self._options(),
                comments(told),
                "set -eu\n",
                'HERE=${SLURM_SUBMIT_DIR:-.}\nexport HERE\nmkdir -p "$HERE"/logs\n',
                self._addresses(),
                *(f"\n{step}" for step in steps),
                f'\necho "serving at http://$NODE_0:{fleet.first_port}"\nwait\n',
            ]
        )
        return {"job.sbatch": script, **files}

    def _options(self) -> str:
        values, lines = self.values, []
        for place, (pool, machines) in enumerate(self._pools):
            options = {
                "job-name": self.fleet.name if place == 0 else None,
                "output": "logs/job.log" if place == 0 else None,
                "nodes": str(len(machines)),
                "ntasks-per-node": "1",
                "gpus-per-node": str(self.fleet.gpus_of(pool)),
                "exclusive": "",
                "partition": values.partitions.get(pool) or values.partition,
                "account": values.account if place == 0 else None,
                "time": values.time_limit,
            }
            lines += ["#SBATCH hetjob\n"] if place else []
            lines += [
                f"#SBATCH --{key}{f'={value}' if value else ''}\n"
                for key, value in options.items()
                if value is not None
            ]
        return "".join(lines)

    def _addresses(self) -> str:
        """HOST_n: names as Slurm has them; NODE_n: their addresses, which engines bind to."""
        several, lines, number = len(self._pools) > 1, [], 0
        for place, (_, machines) in enumerate(self._pools):
            variable = f"SLURM_JOB_NODELIST_HET_GROUP_{place}" if several else "SLURM_JOB_NODELIST"
            for of_pool in range(len(machines)):
                lines.append(
                    f'HOST_{number}=$(scontrol show hostnames "${variable}" | sed -n {of_pool + 1}p)\n'
                    f"NODE_{number}=$(getent ahostsv4 \"$HOST_{number}\" | awk 'NR == 1 {{ print $1 }}')\n"
                    f"export NODE_{number}\n"
                )
                number += 1
        return "".join(lines)

    def _het(self, node: int) -> str:
        if len(self._pools) == 1:
            return ""
        pool = self.fleet.machines[node].pool
        return f" --het-group={[name for name, _ in self._pools].index(pool)}"

    def _step(self, process: Process, nodes: list[int], tasks: str, program: str = "") -> str:
        hosts = ",".join(f"$HOST_{node}" for node in nodes)
        environment = "".join(f"{key}={for_shell(value)} " for key, value in process.environment().items())
        inner = f"{program}{shell_lines(process.start.command, '  ')}"
        return (
            f"# {process.name}\n"
            f'srun{self._het(nodes[0])} --nodes={len(nodes)} {tasks} --nodelist="{hosts}" --overlap \\\n'
            f"  env {environment}\\\n  {inner} \\\n"
            f'  >"$HERE"/logs/{for_shell(process.name)}.log 2>&1 &\n'
        )

    def _world(self, process: Process, nodes: list[int]) -> str:
        """One MPI world over the nodes of an engine."""
        each = len(process.gpus or ())
        tasks = f"--ntasks={each * len(nodes)} --ntasks-per-node={each} --mpi=pmix"
        return self._step(process, nodes, tasks, f"{self.fleet.launcher.one_world} ")
