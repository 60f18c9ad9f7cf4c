"""Tables of configurations → tables of predictions. What cannot be predicted says why, and the rest still is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Architecture
from costmodels.models.registry import find_architecture
from costmodels.operations.layouts import DEGREES, Layouts
from costmodels.operations.registry import families
from costmodels.serving.calibration_fit.asked import AskedLoops, asked_at_rate
from costmodels.serving.closed_loop.client import Answers, closed_loop_answers
from costmodels.serving.closed_loop.drawn_client import drawn_answers
from costmodels.serving.closed_loop.open_client import DrawnRequests, OpenLoad, TooFast, open_loop
from costmodels.serving.frameworks.framework import PREDICTED, find_framework
from costmodels.serving.served_model import ServedModel
from costmodels.step.communication import Network
from planner.contract.engine import NOTHING
from planner.contract.models import drafting_with, read_draft
from planner.contract.progress import Step
from planner.contract.words import cell, precision_on
from planner.contract.workload.workload import DATA_SET, Speculation, Workload, parse_workload
from planner.serving.asked_engines import AskedEngine, Room, load_of
from planner.serving.asked_rows import (
    BESIDE,
    LOAD,
    RUN,
    AskedRow,
    FindLoads,
    FindModel,
    FindWorkload,
    Group,
    asked_row,
)
from planner.serving.configuration import RECIPE_FIELDS
from planner.serving.containers import CONTAINER, with_framework_told
from planner.serving.harness_words import is_inferencex, lengths_told, load_told, of_inferencex
from planner.serving.laboratories import laboratories
from planner.serving.layouts import refused_on_nodes
from planner.serving.prediction_cells import write, write_role
from planner.serving.role_answers import answered
from planner.serving.same_columns import agreed, columns_read, with_drafts
from planner.serving.wide_experts import WIDE_FIELDS
from profiles.descriptions import catalogue_with
from profiles.errors import InputError, ShardwrightError
from profiles.hardware import Catalogue, Gpu, find_fabric
from profiles.store import ProfileStore
from profiles.values import shown

REQUIRED = ("model", "gpu", "framework")
OPTIONAL = (
    *("version", "date", "precision", "kv_precision", "clock", "power_cap", *DEGREES, "num_gpus"),
    *("draft_model", "workload", *LOAD, *RUN, "images", "image", *RECIPE_FIELDS, "sampling"),
    *WIDE_FIELDS,
)
LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms")
ENERGY = ("watts_per_gpu", "joules_per_input_token", "joules_per_output_token")
ENDS = ("low", "high")
ADDED = (
    *(f"{name}_{part}" for name in LATENCIES for part in ("mean", "p50", "p99", *ENDS, "p50_low", "p50_high")),
    *(f"{name}{end}" for name in ("itl_ms_p50", "itl_ms_p90") for end in ("", "_low", "_high")),
    *(f"output_tokens_per_s_per_gpu{end}" for end in ("", "_low", "_high")),
    *(f"input_tokens_per_s_per_gpu{end}" for end in ("", "_low", "_high")),
    *(f"{name}{end}" for name in ENERGY for end in ("", "_low", "_high")),
    "memory_bytes_per_gpu",
    "kv_tokens",
    "step_ms_by_part",
    "tpot_ms_by_part",
    "ttft_ms_by_part",
    "how",
    "release",
    "note",
    "error",
)

FRAMEWORK_TOLD = frozenset(("version", CONTAINER))
"""Columns that may tell the framework, too."""

PREDICTED_PREFIX, PREDICTED_SUFFIX = "predicted_", "_predicted"
EXPERT_WIDTH = "expert width"
"""What the reason begins with for which a layout does not cut experts."""

TOGETHER = 512  # configurations predicted in one call: enough to spread its cost, few enough for the caches

Progress = Callable[[str], None]


def model_at(name: str, head: str) -> Architecture:
    """A bundled model, or the file of one, and the file of the head that it drafts with, if any."""
    model = find_architecture(name)
    return drafting_with(model, read_draft(head)) if head else model


def predict(
    table: pd.DataFrame,
    *,
    measured: Sequence[ProfileStore] = (),
    progress: Progress | None = None,
    find_model: FindModel = model_at,
    find_workload: FindWorkload = parse_workload,
    beside_measured: bool = False,
    loops: list[AskedLoops] | None = None,
    expert_loads: FindLoads | None = None,
) -> pd.DataFrame:
    """``table`` (text columns) with the columns :data:`ADDED`, called as :func:`added_columns` says.

    Args:
        table: columns :data:`REQUIRED`; isl, osl and one or both of concurrency and rate, or workload; any of
            :data:`OPTIONAL`, and others, which are kept as they are.
        measured: profile stores laid over the shipped pack.
        find_model: the architecture of what the columns ``model`` and ``draft_model`` hold.
        find_workload: the workload of what the column ``workload`` holds.
        loops: takes up what the table asks for, in place of the answers.
        beside_measured: whether ``table`` holds what was measured under the names of predictions.
        expert_loads: what each expert of a model received, by which engines that share experts out are as uneven.

    Raises:
        InputError: the table is empty, lacks a column, or has one twice.
    """
    meant, beside = columns_read(table, (*REQUIRED, *OPTIONAL))
    given = with_framework_told(with_drafts(table.rename(columns=meant), meant), table.columns)
    _check_columns(given)
    given = of_inferencex(given) if beside_measured and is_inferencex(table.columns) else given
    catalogue = catalogue_with(store.path for store in measured)
    out = {name: np.full(len(table), "", dtype=object) for name in ADDED}
    groups: dict[Group, list[AskedRow]] = {}
    records = given.to_dict("records")
    columns = added_columns(table.columns, beside_measured=beside_measured)
    own = [f"columns read: {', '.join(f'{name} as {ours}' for name, ours in meant.items())}"] if meant else []
    aside = [f"{name} as {column}" for name, column in columns.items() if name != column and not beside_measured]
    said = "; ".join([*own, *([f"columns written: {', '.join(aside)}"] if aside else [])])
    for index, record in enumerate(records):
        try:
            text = {str(name): _said(str(name), str(value)) for name, value in record.items()}
            notes: list[str] = []
            text = agreed(text, beside, table.columns, notes)
            row = asked_row(index, text, find_model, find_workload, catalogue, notes)
            groups.setdefault(row.group, []).append(row)
        except ShardwrightError as error:
            out["error"][index] = error.line
    desk = _Desk(catalogue, measured, progress, out, loops, expert_loads, beside_measured)
    done = 0
    for group, rows in groups.items():
        for part in (rows[i : i + TOGETHER] for i in range(0, len(rows), TOGETHER)):
            if progress is not None and done:
                progress(Step(f"predicting: {done:,} of {len(table):,} configurations are done", done, len(table)))
            done += len(part)
            try:
                name, _, head = group[0].partition(BESIDE)
                _predict_group(desk, find_model(name, head), group, part)
            except ShardwrightError as error:
                for row in part:
                    out["error"][row.index] = error.line
    out["note"] = np.array(["; ".join(filter(None, (said, note))) for note in out["note"]], dtype=object)
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(out).rename(columns=columns)], axis=1)


def column_meant(name: str, table: pd.DataFrame, where: str) -> str:
    """The column of ``table`` that is called ``name``, or that is read as what we call so (``framework``: its
    ``backend``).

    Raises:
        InputError: there is none; ``where`` it was asked for.
    """
    if name in table.columns:
        return name
    meant, _ = columns_read(table, (*REQUIRED, *OPTIONAL))
    for column, ours in meant.items():
        if ours == name:
            return column
    raise InputError(
        f"{where}: there is no column {name}", f"name some of {', '.join(map(str, table.columns[:12]))}, commas between"
    )


SAY_NOTHING = ("exchange", "overlap", "moe_a2a_backend", "all2all_backend")
"""Columns in which ``none`` is a word."""


def _said(name: str, text: str) -> str:
    """A cell; ``none`` is a way to exchange tokens, and to overlap nothing."""
    return NOTHING if name in SAY_NOTHING and text.strip() == NOTHING else cell(text)


def added_columns(columns: Iterable[str], *, beside_measured: bool = False) -> dict[str, str]:
    """Each of :data:`ADDED` → the column that it is written to beside ``columns``: one of that name is the user's own
    and is kept, and ours is ``predicted_NAME``, or beside measured values ``NAME_predicted``."""
    given = set(columns)
    out = {}
    for name in ADDED:
        column = name
        while column in given:
            column = f"{column}{PREDICTED_SUFFIX}" if beside_measured else f"{PREDICTED_PREFIX}{column}"
        out[name] = column
    return out


def _check_columns(table: pd.DataFrame) -> None:
    """``table``: ``given`` with its columns in our words."""
    told = {"workload", DATA_SET} & set(table.columns) or lengths_told(table.columns)
    lengths = () if told else ("isl", "osl")
    needed = [name for name in REQUIRED if name != "framework" or not FRAMEWORK_TOLD & set(table.columns)]
    missing = [name for name in (*needed, *lengths) if name not in table.columns]
    if missing:
        raise InputError(
            f"columns: {', '.join(missing)} missing",
            f"give {', '.join(REQUIRED)}, isl, osl, and concurrency or rate, in a header; or workload for the lengths "
            "(what all rows of a file of runs share, beside --measured, as options, too: --gpu H100)",
        )
    if not load_told(table.columns):
        raise InputError(
            "columns: neither concurrency nor rate is there",
            "give concurrency (requests in flight, of the whole engine) or rate (requests per second)",
        )
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(f"columns: {shown(repeated[0])} is there twice", "give each column once")
    if not len(table):
        raise InputError("rows: there are none", "give at least one configuration below the header")


def _lengths_told(work: Workload) -> str | None:
    """What a reader must know of lengths that vary, and of requests that are refused."""
    if not work.varies:
        return None
    refused = f", {work.refused_share:.2%} of them longer than max_len and refused" if work.refused_share else ""
    return f"{work.told()}{refused}"


def _alike_told(row: AskedRow, ran: bool) -> str | None:
    """What a reader must know of measured requests whose lengths nobody says to differ: those at once come together."""
    work = row.workload
    told = not ran or work.varies or row.outputs is not None or (work.concurrency or 0) < 2
    return None if told else "isl, osl: every request is taken to be as long, no spread is given"


def _stranger_told(row: AskedRow) -> str | None:
    """What a reader must know of the intervals of somebody's figures whose engines and clients nobody here saw."""
    if not row.stranger or row.wide.role != "aggregated":
        return None
    by = laboratories().others
    return (
        f"source: no constant knows runs of {shown(row.stranger)}: intervals count on errors of up to "
        f"× {math.exp(by.ttft):.1f} in TTFT and × {math.exp(by.tpot):.1f} in TPOT beside their own"
    )


@dataclass
class _Desk:
    """What rows are answered with, and where: ``out`` by column, or ``loops`` in their place."""

    catalogue: Catalogue
    measured: Sequence[ProfileStore]
    progress: Progress | None
    out: dict[str, np.ndarray]
    loops: list[AskedLoops] | None
    expert_loads: FindLoads | None
    ran: bool  # engines were measured, so that they can run
    costs: dict[tuple[str, str], CostModel] = field(default_factory=dict)

    def cost(self, gpu: Gpu, framework: str) -> CostModel:
        if (gpu.name, framework) not in self.costs:
            made = CostModel(gpu, framework, progress=self.progress, measured=self.measured)
            self.costs[gpu.name, framework] = made
        return self.costs[gpu.name, framework]


def _predict_group(desk: _Desk, model: Architecture, group: Group, rows: list[AskedRow]) -> None:
    out, catalogue = desk.out, desk.catalogue
    _, gpu_name, framework_at, weights, kv, images, greedy, speculative, state, cut = group
    gpu, framework = catalogue.find_gpu(gpu_name), find_framework(framework_at)
    if not cut:
        framework = framework.serving(model.max_context_tokens, latent=model.is_latent, whole=cut is False)
    families().require_measured_widths(model)
    precision, kept = precision_on(framework, gpu, model, weights, kv, ran=desk.ran)
    framework.check_runs(precision, gpu)
    for row in rows:
        out["release"][row.index] = framework.release.version
        weights = framework.told_of_weights(precision, gpu)
        told = (framework.told(PREDICTED), weights, kept, _lengths_told(row.workload), _alike_told(row, desk.ran))
        out["note"][row.index] = "; ".join(filter(None, told))
    node = catalogue.default_node(gpu)
    layouts = Layouts.of([row.layout for row in rows])
    refused = refused_on_nodes(model, precision, framework, layouts, node.gpus)
    if desk.ran:
        rows = [_as_it_ran(row, why, out["note"]) for row, why in zip(rows, refused, strict=True)]
        layouts = Layouts.of([row.layout for row in rows])
        refused = refused_on_nodes(model, precision, framework, layouts, node.gpus)
    for row, why in zip(rows, refused, strict=True):
        if why is not None:
            degrees = ", ".join(f"{name} {n}" for name, n in zip(DEGREES, row.layout, strict=False) if n > 1)
            way = "choose other degrees (plan lists the legal ones)"
            stage, node_gpus = row.layout[0] * row.layout[2], node.gpus
            if "straddles" in why and stage > node_gpus:
                whole = stage // node_gpus * node_gpus
                way = f"give tp × dp = {whole} or {whole + node_gpus}, whole nodes"
            out["error"][row.index] = f"layout: {why} ({degrees}); {way}"
    rows = [row for row, why in zip(rows, refused, strict=True) if why is None]
    if not rows:
        return
    cost = desk.cost(gpu, framework.name)
    network = Network(node.gpus, find_fabric(node.default_fabric))
    busier = None
    if desk.expert_loads is not None:
        from planner.serving.expert_placement import busier_with  # deferred: few predictions place experts

        busier = busier_with(model, desk.expert_loads(model))
    drafting = speculative and model.draft is not None  # whose weights and cache are there, too
    served = ServedModel(
        model, precision, framework, cost, network, images, drafting, greedy=greedy, state=state, busier=busier
    )
    own = served.own_calibration
    if own is not None:  # whoever measured these runs taught what is predicted by
        rows = [replace(row, stranger="") for row in rows]
    engines = []
    for row in rows:
        learned = None if own is None else f"overheads are learned from {own.fitted_on} ({own.date})"
        told = (out["note"][row.index], *served.notes, _stranger_told(row), learned)
        out["note"][row.index] = "; ".join(filter(None, told))
        try:
            engines.append(AskedEngine.of(row, served))
        except ShardwrightError as error:
            out["error"][row.index] = error.line
    if engines:
        _answer(desk, served, engines)


def _as_it_ran(row: AskedRow, why: str | None, notes: np.ndarray) -> AskedRow:
    """A measured row whose experts cannot be cut as it says has them whole on each GPU of a stage: engines refuse to
    start otherwise."""
    tp, pp, dp, ep = row.layout[:4]
    if why is None or not why.startswith(EXPERT_WIDTH) or ep != 1:
        return row
    said = f"ep: experts cannot be cut in {tp * dp} ({why}), so they were spread over {tp * dp} GPUs"
    notes[row.index] = "; ".join(filter(None, (notes[row.index], said)))
    return replace(row, layout=(tp, pp, dp, tp * dp, 1, *row.layout[5:]))


def _answer(desk: _Desk, served: ServedModel, engines: list[AskedEngine]) -> None:
    """Engines of one served model, each in a layout that it runs in."""
    out = desk.out
    room = Room.of(served, engines)
    for i, engine in enumerate(engines):
        row = engine.row
        if room.sequences[i] < 1:
            out["error"][row.index] = room.refusal(i, engine, served)
            continue
        of_state = room.told_of_state(i, engine, served)
        told = (out["note"][row.index], *engine.told(served, float(room.taken[i]), int(room.running[i])), of_state)
        out["note"][row.index] = "; ".join(filter(None, told))
    fits = np.flatnonzero(room.sequences >= 1)
    if not len(fits):
        return
    kept = [engines[i] for i in fits]
    layouts, kv_tokens, used, running = (
        room.layouts.take(fits),
        room.kv_tokens[fits],
        room.used_bytes[fits],
        room.running[fits],
    )
    usual = served.framework.defaults.draft_tokens
    loops: dict[tuple[str, Speculation | None, int], list[int]] = {}
    for i, engine in enumerate(kept):
        work = engine.row.workload
        if engine.row.in_lock_step or (desk.loops is not None and engine.row.plays_alone):
            loops.setdefault((work.routing, work.speculation, engine.row.drafted(usual)), []).append(i)
    for (routing, _, _), indices in loops.items():
        chosen = np.array(indices)
        picked = [kept[i] for i in indices]
        load = load_of(picked, running[chosen], usual)
        drafting = picked[0].row.workload.shape.drafting
        if desk.loops is not None:
            index = np.array([engine.row.index for engine in picked])
            desk.loops.append(AskedLoops(served, layouts.take(chosen), load, routing, index))
            continue
        answer = closed_loop_answers(served, layouts.take(chosen), load, routing, drafting)
        write(out, [engine.row for engine in picked], layouts.take(chosen), answer, used[chosen], kv_tokens[chosen])
    for i, engine in enumerate(kept):
        row = engine.row
        if row.in_lock_step or (desk.loops is not None and row.plays_alone):
            continue
        try:
            layout = layouts.take(np.array([i]))
            if row.plays_alone:
                one = _of_drawn(served, engine, layout, int(running[i]), int(kv_tokens[i]))
                write(out, [row], layout, one, used[i : i + 1], kv_tokens[i : i + 1])
                continue
            if desk.loops is not None:
                if row.wide.role != "aggregated":
                    raise InputError("role: only whole engines calibrate", "leave the row out")
                sent, kv = _open_load(row.workload), int(kv_tokens[i])
                desk.loops.append(asked_at_rate(served, layout, sent, kv, engine.started, row.index))
                continue
            if row.wide.role != "aggregated":
                write_role(out, row, answered(engine, served, layout, int(running[i])), used[i], kv_tokens[i])
                continue
            one = open_loop(served, layout, _open_load(row.workload, desk.ran), int(kv_tokens[i]), engine.started)
            write(out, [row], layout, one, used[i : i + 1], kv_tokens[i : i + 1])
        except TooFast as error:
            if not desk.ran:
                out["error"][row.index] = error.line
                continue
            _write_saturated(desk, served, engine, layout, (int(running[i]), used[i], int(kv_tokens[i])), error)
        except ShardwrightError as error:
            out["error"][row.index] = error.line


def _of_drawn(served: ServedModel, engine: AskedEngine, layout: Layouts, running: int, kv_tokens: int) -> Answers:
    """Users at once whose requests are of recorded lengths."""
    load = load_of([engine], np.array([running]), served.framework.defaults.draft_tokens)
    return drawn_answers(served, layout, load, _sent(engine.row.workload), kv_tokens, engine.started)


def _write_saturated(
    desk: _Desk, served: ServedModel, engine: AskedEngine, layout: Layouts, room: tuple[int, float, int], why: TooFast
) -> None:
    """An engine that ran at a rate beyond what it serves: as full as it may be, with a queue that grew while it ran, so
    that nothing is said of the times that hold the queue. ``room``: running requests, bytes used, tokens of cache."""
    running, used, kv_tokens = room
    users = max(running * int(layout.dp[0]), 1)
    work = engine.row.workload.model_copy(update={"rate_rps": None, "requests": None, "concurrency": users})
    full = AskedEngine.of(replace(engine.row, workload=work), served)
    if full.row.plays_alone:
        answer = _of_drawn(served, full, layout, running, kv_tokens)
    else:
        load = load_of([full], np.array([running]), served.framework.defaults.draft_tokens)
        answer = closed_loop_answers(served, layout, load, work.routing, work.shape.drafting)
    write(desk.out, [full.row], layout, answer, np.array([used]), np.array([kv_tokens]))
    for name in (each for each in desk.out if each.startswith(("ttft_ms", "e2e_ms"))):
        desk.out[name][full.row.index] = ""
    note = f"{why.message}: predicted as full, {users:,} requests at once; TTFT and E2E are left out, the queue grows"
    desk.out["note"][full.row.index] = "; ".join(filter(None, (desk.out["note"][full.row.index], note)))


def _sent(work: Workload) -> DrawnRequests:
    return DrawnRequests(work.shape, work.drawn, work.longest_tokens)


def _open_load(work: Workload, ran: bool = False) -> OpenLoad:
    assert work.rate_rps is not None
    return OpenLoad(work.shape, work.drawn, work.longest_tokens, work.rate_rps, work.requests, ran)
