"""What a user asks for, as read from a command line or a script, and how it becomes a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from costmodels.models.precision import choose_precision
from costmodels.models.registry import find_architecture
from planner.contract.clusters import Cluster
from planner.experts.balance import Objective as OverWindows
from planner.experts.document import Objective
from planner.experts.inputs import read_loads
from planner.experts.layer_time import Dispatch
from planner.experts.model import MoeModel, copy_bytes, moe_model
from planner.experts.outputs import read_current
from planner.experts.placement import Loads
from planner.experts.placing import PlacementJob
from planner.experts.ranks import Ranks, slots_of
from planner.experts.routes import loads_of_routes, read_routes
from planner.experts.synthetic import synthetic_loads
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.values import shown


@dataclass(frozen=True)
class Asked:
    """One request. Paths are of files; ``loads`` may be empty where ``routes`` or ``synthetic`` is given."""

    model: str
    cluster: Cluster
    loads: Sequence[Path] = ()
    routes: Path | None = None
    holdout: Sequence[Path] = ()
    synthetic: str | None = None
    slots_per_gpu: Sequence[int] | None = None
    redundant: int | None = None
    current: Path | None = None
    max_moves: int | None = None
    max_move_bytes: float | None = None
    lost_gpus: Sequence[int] = ()
    lost_nodes: Sequence[int] = ()
    objective: Objective = "balance"
    over_windows: OverWindows = "mean"
    groups: int | None = None
    balance_tolerance: float = 0.01
    dispatch: Dispatch = "home"
    tokens_per_gpu: Mapping[str, int] = field(default_factory=lambda: {"decode": 128, "prefill": 4096})
    precision: str | None = None
    framework: str = "vllm"
    seed: int = 0
    time_limit_s: float = 60.0


def prepared(asked: Asked) -> tuple[PlacementJob, Loads | None]:
    """The job, with every file read and checked, and the held-out loads.

    Raises:
        InputError, Unsupported: what the readers raise; options that contradict each other.
    """
    architecture = find_architecture(asked.model)
    model = moe_model(architecture)
    ranks = Ranks.of(asked.cluster)
    slots = slots_of(ranks, model.experts, asked.slots_per_gpu, asked.redundant)
    if not 0 <= asked.balance_tolerance <= 100:
        raise InputError(f"--balance-tolerance: {asked.balance_tolerance:g} is not 0 or more", "0.01 is 1 %")
    if asked.objective == "traffic" and asked.routes is None:
        raise InputError("--objective traffic needs token routes", "give --routes FILE")
    if asked.dispatch == "stay" and asked.routes is None:
        raise InputError("--dispatch stay needs token routes: the exchange is of what crosses", "give --routes FILE")
    for name, tokens in asked.tokens_per_gpu.items():
        if not 0 < tokens <= 10**6:
            raise InputError(
                f"--{name}-tokens: {tokens} is not between 1 and 1,000,000", "give tokens per GPU and step"
            )
    _check_change(asked)
    routes = None if asked.routes is None else read_routes(asked.routes, model)
    if asked.loads and asked.synthetic is not None:
        raise InputError("--loads and --synthetic are both given", "give one of them")
    if asked.synthetic is not None:
        loads = parse_synthetic(asked.synthetic, model, asked.seed)
    elif asked.loads or routes is None:
        loads = read_loads(asked.loads, model)
    else:
        assert asked.routes is not None
        loads = loads_of_routes(routes.all, asked.routes.stem)
    current = None
    if asked.current is not None:
        current = read_current(asked.current, model, ranks.topology(slots))
    precision = choose_precision(architecture, asked.precision)
    job = PlacementJob(
        architecture=architecture,
        model=model,
        precision=precision,
        framework=asked.framework,
        ranks=ranks,
        slots=slots,
        loads=loads,
        routes=routes,
        current=current,
        max_moves=_max_moves(asked, copy_bytes(architecture, precision)),
        lost_gpus=_lost(asked, ranks),
        objective=asked.objective,
        over_windows=asked.over_windows,
        groups=asked.groups,
        balance_tolerance=asked.balance_tolerance,
        dispatch=asked.dispatch,
        tokens_per_gpu=asked.tokens_per_gpu,
        seed=asked.seed,
        time_limit_s=asked.time_limit_s,
    )
    return job, read_loads(asked.holdout, model) if asked.holdout else None


def _check_change(asked: Asked) -> None:
    """Raises InputError or Unsupported for options of a change that do not go together."""
    given = {
        "--max-moves": asked.max_moves is not None,
        "--max-move-bytes": asked.max_move_bytes is not None,
        "--lost-gpus": bool(asked.lost_gpus),
        "--lost-nodes": bool(asked.lost_nodes),
    }
    if asked.current is None:
        for option, there in given.items():
            if there:
                raise InputError(f"{option} needs the placement that runs now", "give --current FILE")
        return
    if asked.max_moves is not None and asked.max_move_bytes is not None:
        raise InputError("--max-moves and --max-move-bytes are both given", "give one of them")
    if asked.groups is not None:
        raise Unsupported("--groups: a current placement is not changed by groups", "leave out --groups or --current")
    if asked.objective == "traffic" or asked.dispatch == "stay":
        raise Unsupported(
            "--current: a current placement is changed for balance only; crossings are shown, not searched for",
            "leave out --current for a new placement, or --objective traffic and --dispatch stay",
        )


def _max_moves(asked: Asked, copy_bytes: float) -> int | None:
    for option, value in (("--max-moves", asked.max_moves), ("--max-move-bytes", asked.max_move_bytes)):
        if value is not None and not 0 <= value < 1e18:
            raise InputError(f"{option}: {value:g} is not 0 or more", "leave it out for any number")
    return asked.max_moves if asked.max_move_bytes is None else int(asked.max_move_bytes // copy_bytes)


def _lost(asked: Asked, ranks: Ranks) -> tuple[int, ...]:
    """Ranks of the lost GPUs, and of all GPUs of lost nodes, in order."""
    nodes = int(ranks.node.max()) + 1
    for option, lost, count in (
        ("--lost-gpus", asked.lost_gpus, ranks.gpus),
        ("--lost-nodes", asked.lost_nodes, nodes),
    ):
        for number in lost:
            if not 0 <= number < count:
                raise InputError(f"{option}: {number} is not one of 0 to {count - 1}", "GPUs and nodes count from 0")
    gone = np.isin(ranks.node, list(asked.lost_nodes)) | np.isin(np.arange(ranks.gpus), list(asked.lost_gpus))
    return tuple(np.flatnonzero(gone).tolist())


_SYNTHETIC_HINT = "write sigma=0.7 (as DeepSeek-V3), or sigma=0.7,windows=3,drift=0.2"


def parse_synthetic(text: str, model: MoeModel, seed: int) -> Loads:
    """``sigma=0.7[,windows=3][,drift=0.2]``.

    Raises:
        InputError, UnknownName: naming the item that is not understood.
    """
    values: dict[str, float] = {"windows": 1, "drift": 0.0}
    for item in text.split(","):
        name, _, value = (piece.strip() for piece in item.partition("="))
        if name not in ("sigma", "windows", "drift"):
            raise UnknownName("--synthetic", name, ("sigma", "windows", "drift"))
        if re.fullmatch(r"[0-9]+" if name == "windows" else r"[0-9]*\.?[0-9]+", value, re.ASCII) is None:
            raise InputError(f"--synthetic: {name}={shown(value)} is not a number", _SYNTHETIC_HINT)
        values[name] = float(value)
    if "sigma" not in values or not 1 <= values["windows"] <= 1000:
        raise InputError(f"--synthetic: {shown(text)} is not understood", _SYNTHETIC_HINT)
    return synthetic_loads(model, values["sigma"], windows=int(values["windows"]), drift=values["drift"], seed=seed)
