"""What a job's script does on nodes that it only knows when it runs: addresses in variables, engines in steps."""

from __future__ import annotations

from planner.exports import mpi
from planner.exports.fleet import PlacedEngine, StartedFleet
from planner.exports.scripts import Process
from planner.launchers.front import Front
from planner.launchers.words import variable

HERE = f"{variable('HERE')}/"


def node_variables(fleet: StartedFleet) -> list[str]:
    """Variables that hold the nodes' addresses, in the plan's order."""
    return [variable(f"NODE_{number}") for number in range(len(fleet.machines))]


def processes(
    fleet: StartedFleet, files: dict[str, str], *, by_ssh: bool = False
) -> list[tuple[PlacedEngine, int, Process]]:
    """(engine, which of its nodes, what runs there) of every engine; their files are put into ``files``. ``by_ssh``:
    whether an engine that is one MPI world is started on its other nodes over ssh, from the first."""
    out = []
    for engine in fleet.engines:
        if by_ssh and fleet.is_world(engine):
            out.append((engine, engine.shares[0].node, _world(fleet, engine, files)))
            continue
        for rank, share in enumerate(engine.shares):
            place = fleet.placed(engine, rank, node_variables(fleet), f"{HERE}{engine.id}/")
            start = fleet.start(engine, place)
            files |= {f"{engine.id}/{name}": text for name, text in start.files.items()}
            name = engine.id if len(engine.shares) == 1 else f"{engine.id}-node-{rank}"
            out.append((engine, share.node, Process(name, start, share.gpus, place.ports.http, engine.spec.vendor)))
    return out


def _world(fleet: StartedFleet, engine: PlacedEngine, files: dict[str, str]) -> Process:
    nodes = node_variables(fleet)
    place = fleet.placed(engine, 0, nodes, f"{HERE}{engine.id}/")
    start = fleet.start(engine, place)
    files |= {f"{engine.id}/{name}": text for name, text in start.files.items()}
    hosts = [nodes[share.node] for share in engine.shares]
    return Process(engine.id, mpi.world(fleet.launcher.one_world, start, engine, hosts), None, place.ports.http)


def front(fleet: StartedFleet, files: dict[str, str]) -> tuple[Front, Process] | None:
    """What stands before the engines, on the first node; None: there is one engine."""
    if not fleet.has_front:
        return None
    nodes = node_variables(fleet)
    made = fleet.front({engine.id: nodes[engine.shares[0].node] for engine in fleet.engines}, f"{HERE}front/")
    files |= {f"front/{name}": text for name, text in made.start.files.items()}
    return made, Process("front", made.start, None, fleet.first_port)
