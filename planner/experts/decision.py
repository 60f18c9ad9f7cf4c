"""From a request to the document: its statistics are read and checked, the experts placed, and all that is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from planner.contract.models import architecture_of
from planner.contract.published import validated
from planner.contract.words import precision_of
from planner.experts.document import PlacementDocument, parse_placement
from planner.experts.formats import RawCounts
from planner.experts.inputs import loads_from, read_loads
from planner.experts.model import MoeModel, copy_bytes, moe_model
from planner.experts.outputs import check_slots, placement_of, read_current
from planner.experts.placement import Ints, Loads, Placement, Topology
from planner.experts.placing import Placed, PlacementJob, place
from planner.experts.ranks import Ranks, slots_of
from planner.experts.report import Said, assemble
from planner.experts.request import ExpertCounts, PlacementRequest
from planner.experts.routes import RecordedRoutes, count_routes, loads_of_routes, read_routes
from planner.experts.synthetic import synthetic_loads
from profiles.descriptions import catalogue_with
from profiles.errors import InputError, UnknownName, Unsupported
from profiles.hardware import SHIPPED, Catalogue
from profiles.store import ProfileStore
from profiles.values import shown


@dataclass(frozen=True)
class Files:
    """Statistics in files, in the place of those in the request; none by default."""

    loads: Sequence[Path] = ()
    routes: Path | None = None
    holdout: Sequence[Path] = ()
    current: Path | None = None
    edited: bool = False  # take a current placement that was edited since it was made, too


NO_FILES = Files()


def place_experts(
    request: PlacementRequest,
    *,
    files: Files = NO_FILES,
    form: str = "shardwright",
    store: ProfileStore | None = None,
    measured: Sequence[ProfileStore] = (),
    progress: Callable[[str], None] | None = None,
) -> tuple[Placed, PlacementDocument]:
    """The placement that ``request`` asks for, and the document of it.

    Args:
        files: statistics beside the request.
        form: what it will be written as (:data:`planner.experts.outputs.FORMATS`); refused early where that cannot be.
        store: measurements to predict from; default the pack that ships.
        measured: stores laid over ``store``, the last on top.
        progress: called with a line of text before each slow step.

    Raises:
        InputError, UnknownName, Unsupported: the request or its statistics cannot be understood or modelled.
        Infeasible: what :func:`planner.experts.placing.place` raises.
    """
    catalogue = catalogue_with(each.path for each in (*([store] if store else ()), *measured))
    job, said = prepared(request, files, catalogue)
    check_slots(job.slots, form)
    placed = place(job, store=store, measured=measured, progress=progress)
    return placed, validated(assemble(placed, request.cluster, said), parse_placement)


def prepared(
    request: PlacementRequest, files: Files = NO_FILES, catalogue: Catalogue = SHIPPED
) -> tuple[PlacementJob, Said]:
    """The job, with all statistics read and checked, and what the document says beside what is found; GPUs are looked
    up in ``catalogue``.

    Raises:
        InputError, Unsupported: what the readers raise; fields that contradict each other.
    """
    architecture = architecture_of(request.model)
    model = moe_model(architecture)
    ranks = Ranks.of(request.cluster, catalogue)
    slots = slots_of(ranks, model.experts, request.slots_per_gpu, request.redundant)
    routed = files.routes is not None or request.routes is not None
    if request.objective == "traffic" and not routed:
        raise InputError("objective: traffic needs token routes", "give routes (--routes FILE)")
    if request.dispatch == "stay" and not routed:
        raise InputError(
            "dispatch: stay needs token routes: the exchange is of what crosses", "give routes (--routes FILE)"
        )
    _check_change(request, files)
    routes, routes_name = _routes(request, files, model)
    current, current_name = _current(request, files, model, ranks.topology(slots))
    precision = precision_of(architecture, request.precision)
    job = PlacementJob(
        architecture=architecture,
        model=model,
        precision=precision,
        framework=request.framework,
        ranks=ranks,
        slots=slots,
        loads=_loads(request, files, model, routes, routes_name or ""),
        routes=routes,
        current=current,
        max_moves=_max_moves(request, copy_bytes(architecture, precision)),
        lost_gpus=_lost(request, ranks),
        objective=request.objective,
        over_windows=request.over_windows,
        groups=request.groups,
        balance_tolerance=request.balance_tolerance,
        dispatch=request.dispatch,
        tokens_per_gpu={"decode": request.decode_tokens, "prefill": request.prefill_tokens},
        seed=request.seed,
        time_limit_s=request.time_limit_s,
    )
    notes = ("the counts are made up (--synthetic)",) if request.synthetic is not None else ()
    return job, Said(_holdout(request, files, model), routes_name, current_name, notes)


# ------------------------------------------------------------------ statistics


def _loads(
    request: PlacementRequest, files: Files, model: MoeModel, routes: RecordedRoutes | None, routes_name: str
) -> Loads:
    if (files.loads or request.loads) and request.synthetic is not None:
        raise InputError("loads and synthetic are both given", "give one of them")
    if request.synthetic is not None:
        return parse_synthetic(request.synthetic, model, request.seed)
    if files.loads:
        return read_loads(files.loads, model)
    if request.loads:
        return loads_from(_raw(request.loads, "loads"), model)
    if routes is None:
        raise InputError("loads: no file is given", "give a file of expert counts, or --synthetic sigma=0.7")
    return loads_of_routes(routes.all, routes_name if files.routes is None else files.routes.stem)


def _holdout(request: PlacementRequest, files: Files, model: MoeModel) -> Loads | None:
    if files.holdout:
        return read_loads(files.holdout, model)
    return loads_from(_raw(request.holdout, "holdout"), model) if request.holdout else None


def _raw(recorded: Sequence[ExpertCounts], field: str) -> list[tuple[str, RawCounts]]:
    out = []
    for index, each in enumerate(recorded):
        where = f"{field}.{index} {shown(each.name)}"
        table = _table(each.counts, where)
        out.append((each.name, RawCounts(where, table[None].astype(np.float64))))
    return out


def _routes(request: PlacementRequest, files: Files, model: MoeModel) -> tuple[RecordedRoutes | None, str | None]:
    if files.routes is not None:
        return read_routes(files.routes, model), str(files.routes)
    if request.routes is None:
        return None, None
    where = f"routes {shown(request.routes.name)}"
    return count_routes(_table(request.routes.experts, where), where, model), request.routes.name


def _current(
    request: PlacementRequest, files: Files, model: MoeModel, topology: Topology
) -> tuple[Placement | None, str | None]:
    if files.current is not None:
        return read_current(files.current, model, topology, edited=files.edited), str(files.current)
    if request.current is None:
        return None, None
    where = f"current {shown(request.current.name)}"
    rows: Ints = _table(request.current.physical_to_logical_map, where).astype(np.int64)
    return placement_of(rows, where, model, topology), request.current.name


def _table(rows: Sequence[object], where: str) -> np.ndarray:
    """``rows`` as an array; raises InputError where they are not equally long."""
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise InputError(f"{where}: has rows of different lengths", "give as many numbers in each row") from error


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
            raise UnknownName("synthetic", name, ("sigma", "windows", "drift"))
        if re.fullmatch(r"[0-9]+" if name == "windows" else r"[0-9]*\.?[0-9]+", value, re.ASCII) is None:
            raise InputError(f"synthetic: {name}={shown(value)} is not a number", _SYNTHETIC_HINT)
        values[name] = float(value)
    if "sigma" not in values or not 1 <= values["windows"] <= 1000:
        raise InputError(f"synthetic: {shown(text)} is not understood", _SYNTHETIC_HINT)
    return synthetic_loads(model, values["sigma"], windows=int(values["windows"]), drift=values["drift"], seed=seed)


# ------------------------------------------------------------------ a change of what runs


def _check_change(request: PlacementRequest, files: Files) -> None:
    """Raises InputError or Unsupported for fields of a change that do not go together."""
    given = {
        "max_moves": request.max_moves is not None,
        "max_move_bytes": request.max_move_bytes is not None,
        "lost_gpus": bool(request.lost_gpus),
        "lost_nodes": bool(request.lost_nodes),
    }
    if files.current is None and request.current is None:
        for field, there in given.items():
            if there:
                raise InputError(
                    f"{field} needs the placement that runs now", "give current (--current FILE)", field=field
                )
        return
    if request.max_moves is not None and request.max_move_bytes is not None:
        raise InputError("max_moves and max_move_bytes are both given", "give one of them")
    if request.groups is not None:
        raise Unsupported("groups: a current placement is not changed by groups", "leave out groups or current")
    if request.objective == "traffic" or request.dispatch == "stay":
        raise Unsupported(
            "current: a current placement is changed for balance only; crossings are shown, not searched for",
            "leave out current for a new placement, or the objective traffic and dispatch stay",
        )


def _max_moves(request: PlacementRequest, copy_bytes: float) -> int | None:
    return request.max_moves if request.max_move_bytes is None else int(request.max_move_bytes // copy_bytes)


def _lost(request: PlacementRequest, ranks: Ranks) -> tuple[int, ...]:
    """Ranks of the lost GPUs, and of all GPUs of lost nodes, in order."""
    nodes = int(ranks.node.max()) + 1
    for field, lost, count in (("lost_gpus", request.lost_gpus, ranks.gpus), ("lost_nodes", request.lost_nodes, nodes)):
        for number in lost:
            if not 0 <= number < count:
                raise InputError(f"{field}: {number} is not one of 0 to {count - 1}", "GPUs and nodes count from 0")
    gone = np.isin(ranks.node, list(request.lost_nodes)) | np.isin(np.arange(ranks.gpus), list(request.lost_gpus))
    return tuple(np.flatnonzero(gone).tolist())
