"""What the grid knows of the program beside its command line: the one file to edit when code moves.

Everything to reach is read from the program's own registries, so that what is added tomorrow is missed until a request
reaches it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args

from api.cli.main import application, main
from costmodels.kernels.cost_model import CostModel
from costmodels.models.architecture import Attention, FeedForward
from costmodels.models.reading import READERS
from costmodels.models.registry import find_architecture, registered
from costmodels.operations.registry import families
from costmodels.serving.frameworks.names import framework_names
from costmodels.training.frameworks import framework_names as training_frameworks
from costmodels.training.layouts import ATTENTION, PRECISIONS, RECOMPUTED, SCHEDULES
from costmodels.training.setting import MODES, OPTIMIZERS
from planner.contract.engine import KvPrecisionName, PrecisionName, Role
from planner.contract.workload.slo import Metric
from planner.contract.workload.workload import RoutingName
from planner.experts import document as experts
from planner.serving import request as requests
from planner.solving.solvers import Answer, Highs
from planner.training.request import TrainingObjective
from profiles.errors import ShardwrightError, UnknownName
from profiles.store import ProfileStore, shipped_pack

NOT_ASKED = {
    "serve": "does not return",
    "profile": "reads and measures machines",
    "keys": "keeps secrets",
    "db": "keeps a service's documents",
    "prices": "dates what it reads",
    "calibrate": "dates what it learns, and its runs are predictions",
}
"""Commands that the grid leaves out, and why."""


def run(arguments: Sequence[str]) -> int:
    """The command line in this process: its exit code."""
    return main(arguments)


def to_reach() -> dict[str, frozenset[str]]:
    """What requests must reach, by dimension."""
    return {
        "operation family": frozenset(families().kernels),
        "layer kind": frozenset(_layer_kinds()),
        "model reader": frozenset(reader.__name__.strip("_") for reader in READERS.values()),
        "framework": frozenset(framework_names()),
        "role": frozenset(get_args(Role)),
        "objective": frozenset(get_args(requests.Objective)),
        "experts objective": frozenset(get_args(experts.Objective)),
        "weights precision": frozenset(get_args(PrecisionName)),
        "kv precision": frozenset(get_args(KvPrecisionName)),
        "disaggregation": frozenset(get_args(requests.Disaggregation)),
        "routing": frozenset(get_args(RoutingName)),
        "metric": frozenset(get_args(Metric)),
        "training framework": frozenset(training_frameworks()),
        "training objective": frozenset(get_args(TrainingObjective)),
        "training precision": frozenset(PRECISIONS),
        "training mode": frozenset(MODES),
        "training optimizer": frozenset(OPTIMIZERS),
        "training schedule": frozenset(SCHEDULES),
        "training attention": frozenset(ATTENTION),
        "recomputed": frozenset(RECOMPUTED),
        "command": commands() - set(NOT_ASKED),
        "exit code": frozenset({"0", *_exit_codes(ShardwrightError)}),
    }


@cache
def commands() -> frozenset[str]:
    """``plan``, ``predict``, ``train``, ``train predict``, …; of the groups in :data:`NOT_ASKED` the group alone."""
    app = application()
    names = {"plan", *(str(each.name) for each in app.registered_commands)}
    for group in app.registered_groups:
        names.add(str(group.name))
        if group.name not in NOT_ASKED and group.typer_instance is not None:
            names |= {f"{group.name} {each.name}" for each in group.typer_instance.registered_commands}
    return frozenset(names)


def _exit_codes(kind: type[ShardwrightError]) -> set[str]:
    """Of the kinds of errors that the tree has; its root is never raised, and a room's own kinds do not leave it."""
    below = [each for each in kind.__subclasses__() if each.__module__ == ShardwrightError.__module__]
    return {code for each in below for code in (str(each.exit_code), *_exit_codes(each))}


def _layer_kinds() -> set[str]:
    """Every class of attention and feed-forward, and every trait of them that a bundled model has."""
    bundled = (find_architecture(each.name) for each in registered())
    return {each.__name__ for each in (*get_args(Attention), *get_args(FeedForward))}.union(*map(_parts, bundled))


def _parts(architecture: Any) -> set[str]:
    """``GroupedQueryAttention``, ``GroupedQueryAttention.sinks``, …: the classes of its layers, and their fields that
    are not at their defaults."""
    kinds = set()
    for group in architecture.layer_groups:
        for part in (group.attention, group.feed_forward):
            name = type(part).__name__
            traits = [f for f in dataclasses.fields(part) if f.default is not dataclasses.MISSING]
            kinds |= {name} | {f"{name}.{f.name}" for f in traits if getattr(part, f.name) != f.default}
    return kinds


def made_of(model: str, folder: Path) -> tuple[set[str], set[str]]:
    """(layer kinds, reader) of a bundled model, or of one whose config.json lies in ``folder``; empty for others."""
    try:
        architecture = find_architecture(str(folder / model) if (folder / model).exists() else model)
    except UnknownName:
        return set(), set()
    return _parts(architecture), {READERS[architecture.model_type].__name__.strip("_")}


@contextmanager
def operations_asked() -> Iterator[set[str]]:
    """The operation families whose times the cost model is asked meanwhile."""
    asked: set[str] = set()
    estimate = CostModel.estimate

    def traced(self: CostModel, operation: str, *arguments: Any, **named: Any) -> Any:
        asked.add(operation)
        return estimate(self, operation, *arguments, **named)

    with _replaced(CostModel, "estimate", traced):
        yield asked


@contextmanager
def solver_out_of_time() -> Iterator[None]:
    """Meanwhile the solver finds nothing before its time is up; a short ``--time-limit`` would be a race."""
    with _replaced(Highs, "_answer", lambda *_: Answer("time_limit")):
        yield


@contextmanager
def _replaced(owner: type, name: str, by: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)


def make_store(folder: Path) -> None:
    """A profile store to lay over the pack: rows of its own H200, half as slow again."""
    store = ProfileStore.create(folder, name="slower", version="1", attribution="made up")
    rows = shipped_pack().query("gemm", gpu="H200", framework="vllm")
    rows = rows[rows["dtype"] == "bf16"].iloc[::200]
    store.add("gemm", rows.assign(latency_us=rows["latency_us"] * 1.5, framework="torch"))
