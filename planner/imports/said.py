"""What one command says of an engine, in our words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Role
from planner.imports.command_line import Arguments, Given, human_number
from profiles.errors import InputError
from profiles.values import shown


@dataclass(frozen=True)
class ExpertsSaid:
    """What a command says of how experts are reached and balanced, in its framework's words. ``slots``: experts and
    their copies together, where that is what it says."""

    backend: str = ""
    mode: str = ""
    redundant: int = 0
    slots: int | None = None
    overlap: Literal["none", "two_batch", "single_batch"] = "none"
    eplb: Literal["off", "static", "dynamic"] = "off"
    dispatch_tokens: int = 0


@dataclass(frozen=True)
class EngineSaid:
    """What one command says of an engine; None: nothing.

    Attributes:
        tp: of one attention replica, of which there are ``dp``. ``replicas_apart``: each replica of a model without
            experts is an engine of its own.
        copies: engines of their own that it starts behind one front.
        ep: degree; ``ep_all``: over all GPUs of a stage.
        secondary: whether it starts a further node, or ranks, of an engine that another command begins.
        role: None where the command cannot say it.
        limits_of_all: whether its batch limits are those of all attention replicas together.
    """

    framework: Framework
    model: str | None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    replicas_apart: bool = False
    copies: int = 1
    ep: int | None = None
    ep_all: bool = False
    moe_tp: int | None = None
    nodes: int | None = None
    secondary: bool = False
    max_sequences: int | None = None
    max_tokens_per_step: int | None = None
    max_model_len: int | None = None
    longest_that_fits: bool = False
    memory_fraction: float | None = None
    chunked_prefill: bool | None = None
    limits_of_all: bool = False
    quantize: str | None = None
    dtype: str | None = None
    kv: str | None = None
    role: Role | None = "aggregated"
    draft_tokens: int = 0
    experts: ExpertsSaid = field(default_factory=lambda: ExpertsSaid())
    notes: tuple[str, ...] = ()
    kept: tuple[tuple[str, str | None], ...] = ()


def memory_share(line: Arguments) -> float | None:
    """The share of memory that an option gives.

    Raises:
        InputError: it is none.
    """
    given = line.of("memory_fraction")
    if given is None or given.value is None:
        return None
    value = float(given.value)
    if not 0 < value <= 1:
        raise InputError(f"{given.written}: {shown(given.value)} is no share", "give a number above 0, at most 1")
    return value


def longest(given: Given | None) -> tuple[int | None, bool]:
    """(the longest sequence, whether it is as long as fits)."""
    if given is None or given.value is None:
        return None, False
    if given.value in ("auto", "-1"):
        return None, True
    value = human_number(given.value)
    if value is None or value < 1:
        raise InputError(f"{given.written}: {shown(given.value)} is no length", "give a whole number of tokens")
    return value, False
