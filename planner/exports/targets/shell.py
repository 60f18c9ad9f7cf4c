"""Scripts, one folder a node, and one on top that starts them all over ssh."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from planner.exports import mpi
from planner.exports.fleet import PlacedEngine
from planner.exports.scripts import (
    HERE,
    PROLOGUE,
    Process,
    environment_file,
    ready_script,
    start_script,
    stop_script,
)
from planner.exports.serving import ServingTarget
from planner.exports.text import comments
from planner.launchers.front import NodeStart
from planner.launchers.words import for_shell, variable
from profiles.errors import InputError

FILES = f"{variable(HERE)}/"


class Shell(ServingTarget):
    name: ClassVar[str] = "shell"
    writes: ClassVar[str] = "one folder a node (start.sh, stop.sh, ready.sh, environment), start-all.sh over ssh"
    release: ClassVar[str] = "POSIX sh, OpenSSH"
    rung: ClassVar[int] = 3

    def own_needs(self) -> tuple[str, ...]:
        return ("nodes",)

    def cannot_span(self, engine: PlacedEngine) -> str | None:
        return mpi.unlike(engine) if self.fleet.is_world(engine) else None

    def url(self) -> str:
        return f"http://{self.fleet.addresses[self._entry]}:{self.fleet.first_port}"

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (f"start: {folder}/start-all.sh", f"measure: {folder}/bench.sh")

    @property
    def _entry(self) -> int:
        """The node that clients reach."""
        return 0 if self.fleet.has_front else self.fleet.engines[0].shares[0].node

    def platform_files(self) -> dict[str, str]:
        fleet = self.fleet
        files: dict[str, str] = {}
        folders = []
        told = (*fleet.told, mpi.NOTE) if any(map(fleet.is_world, fleet.engines)) else fleet.told
        for node, machine in enumerate(fleet.machines):
            folder = f"node-{node}"
            folders.append((folder, fleet.addresses[node]))
            title = f"node {machine.number} of pool {machine.pool} ({machine.gpu}), {fleet.addresses[node]}"
            processes = self._processes(node, files, folder)
            files |= self._node(folder, title, processes, told)
        if fleet.has_front:
            leaders = {engine.id: fleet.addresses[engine.shares[0].node] for engine in fleet.engines}
            front = fleet.front(leaders, FILES)
            process = Process("front", front.start, None, fleet.first_port)
            files |= {f"front/{name}": text for name, text in front.start.files.items()}
            told = fleet.told_of(front)
            files |= self._node("front", f"{front.program}, on {fleet.addresses[0]}", [process], told)
            folders.append(("front", fleet.addresses[0]))
        return {**files, **self._top(folders)}

    def _processes(self, node: int, files: dict[str, str], folder: str) -> list[Process]:
        """What runs on a node, with the files that it needs put into ``files``."""
        fleet, out = self.fleet, []
        for engine in fleet.engines:
            for rank, share in enumerate(engine.shares):
                if share.node != node:
                    continue
                prefix = f"{FILES}{engine.id}/"
                place = fleet.placed(engine, rank, fleet.addresses, prefix)
                start = fleet.start(engine, place)
                if not fleet.is_world(engine):
                    out.append(Process(engine.id, start, share.gpus, place.ports.http, engine.spec.vendor))
                elif rank == 0:
                    out.append(Process(engine.id, self._world(engine, start), None, place.ports.http))
                else:
                    continue
                files |= {f"{folder}/{engine.id}/{name}": text for name, text in start.files.items()}
        return out

    def _world(self, engine: PlacedEngine, start: NodeStart) -> NodeStart:
        hosts = [self.fleet.addresses[share.node] for share in engine.shares]
        if colon := next((host for host in hosts if ":" in host), None):
            raise InputError(f"values: nodes: mpirun takes no address with colons, and {colon} has some", "give names")
        user = f"-l {self.values.ssh_user}" if self.values.ssh_user else ""
        return mpi.world(self.fleet.launcher.one_world, start, engine, hosts, more=user)

    def _node(self, folder: str, title: str, processes: list[Process], told: tuple[str, ...]) -> dict[str, str]:
        return {
            f"{folder}/start.sh": start_script(processes, told, f"starts {title}"),
            f"{folder}/stop.sh": stop_script(processes, f"stops {title}"),
            f"{folder}/ready.sh": ready_script(processes, f"waits for {title}"),
            f"{folder}/environment": environment_file(told, {}),
        }

    def _top(self, folders: list[tuple[str, str]]) -> dict[str, str]:
        """Copies each folder to its node, starts it there, and waits; the front comes last."""
        user = f"{self.values.ssh_user}@" if self.values.ssh_user else ""
        told = comments(["starts everything over ssh: a folder a node, the front last", *self.fleet.told])
        where = for_shell(f"plan-{(self.plan.digest or 'edited')[:12]}")
        pairs = [(for_shell(folder), for_shell(user + address)) for folder, address in folders]

        def each(script: str) -> str:
            return "".join(f'ssh -n -- {host} "$where"/{folder}/{script}\n' for folder, host in pairs)

        copies = "".join(
            f'ssh -n -- {host} mkdir -p "$where"\nscp -q -r -- "$HERE"/{folder} {host}:"$where"/\n'
            for folder, host in pairs
        )
        engines = [(folder, host) for folder, host in pairs if folder != "front"]
        started = "".join(f'ssh -n -- {host} "$where"/{folder}/start.sh\n' for folder, host in engines)
        ready = "".join(f'ssh -n -- {host} "$where"/{folder}/ready.sh\n' for folder, host in engines)
        front = "".join(
            f'ssh -n -- {host} "$where"/{folder}/start.sh\nssh -n -- {host} "$where"/{folder}/ready.sh\n'
            for folder, host in pairs
            if folder == "front"
        )
        head = f"#!/bin/sh\n{told}"
        return {
            "start-all.sh": f"{head}{PROLOGUE}where={where}\n{copies}{started}{ready}{front}"
            f"echo {for_shell('serving at ' + self.url())}\n",
            "stop-all.sh": f"#!/bin/sh\n{comments(['stops everything over ssh'])}set -eu\n"
            f"where={where}\n{each('stop.sh')}",
        }
