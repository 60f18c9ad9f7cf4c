"""Recorded token routes: which experts each token used in each layer, read as a stream.

* ``.jsonl``: one token in one layer a line, ``{"layer": 3, "token_idx": 17, "experts": [5, 0], ...}``; any of
  ``dataset``, ``problem_id``, ``request_id``, ``sequence_id`` tells sequences apart; lines in any order.
* ``.npy``: integers of shape [tokens, layers, top_k], read piece by piece; layers are all hidden layers (dense ones
  hold −1) or the MoE layers alone.

What stays in memory is the counts and the tokens whose next layer has not come yet, not the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from planner.experts.arrays import LARGEST, read_array
from planner.experts.model import MoeModel
from planner.experts.placement import Floats, Ints, Loads, Routes
from profiles.errors import InputError
from profiles.files import Source
from profiles.markup import Malformed, strict_json
from profiles.values import named, shown

SEQUENCE_KEYS = ("dataset", "problem_id", "request_id", "sequence_id")

LARGEST_STREAM = 2**50  # bytes: read line by line, never as a whole

_BATCH = 50_000  # tokens counted at once
_LINE_HINT = 'a line is {"layer": 3, "token_idx": 17, "experts": [5, 0]}; cut a damaged file off before this line'


@dataclass(frozen=True, eq=False)
class RecordedRoutes:
    """``halves``: the routes of every other token, first those of even order, then those of odd: to fit on one and
    score on the other. ``unpaired``: records whose neighbouring layer is missing; they count in the coactivation but
    in no transition."""

    halves: tuple[Routes, Routes]
    unpaired: int

    @property
    def all(self) -> Routes:
        a, b = self.halves
        return Routes(
            a.transitions + b.transitions,
            a.coactivation + b.coactivation,
            a.layer_index,
            a.tokens + b.tokens,
            a.top_k,
        )


def loads_of_routes(routes: Routes, name: str) -> Loads:
    """The loads that the routes imply: one window, the tokens of each expert."""
    counts = np.diagonal(routes.coactivation, axis1=1, axis2=2).copy()
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    if len(empty):
        raise InputError(
            f"routes {name}: layer {routes.layer_index[empty[0]]} has no token at all",
            "record longer, or give --loads as well",
        )
    return Loads(counts[None], routes.layer_index, (name,), np.ones(1))


def read_routes(path: Path, model: MoeModel) -> RecordedRoutes:
    """The routes in ``path``.

    Raises:
        InputError: unreadable or truncated (the line is named), experts or layers that the model does not have.
    """
    readers = {".jsonl": _jsonl, ".npy": _array}
    reader = readers.get(path.suffix.casefold())
    if reader is None:
        raise InputError(
            f"routes {named(path)}: {shown(path.suffix)} is not a kind of file that is read",
            f"give one of {', '.join(readers)}",
        )
    counter = _Counter(model)
    unpaired = reader(path, model, counter)
    if not counter.tokens.any():
        raise InputError(f"routes {named(path)}: holds no routes", "record some tokens")
    return RecordedRoutes(counter.routes(), unpaired)


def count_routes(routes: np.ndarray, where: str, model: MoeModel) -> RecordedRoutes:
    """The routes in an array of integers [tokens, layers, top_k]; layers are all hidden layers (dense ones hold −1) or
    the MoE layers alone. Raises InputError, naming ``where``, as :func:`read_routes`."""
    counter = _Counter(model)
    _count_array(routes, where, model, counter)
    return RecordedRoutes(counter.routes(), 0)


class _Counter:
    """Adds up transitions and coactivation of both halves."""

    def __init__(self, model: MoeModel) -> None:
        layers, experts = len(model.moe_layers), model.experts
        self.model = model
        self.transitions = np.zeros((2, layers - 1, experts, experts))
        self.coactivation = np.zeros((2, layers, experts, experts))
        self.tokens = np.zeros(2, np.int64)

    def pairs(self, into: Floats, half: Ints, row: Ints, first: Ints, second: Ints) -> None:
        """Every pair of the experts ``first`` and ``second``, shape [n, top_k] each, in rows ``row`` of ``into``."""
        _, rows, experts, _ = into.shape
        left = ((half * rows + row)[:, None] * experts + first) * experts
        np.add.at(
            into.reshape(-1), (left[:, :, None] + second[:, None, :]).reshape(-1), 1.0
        )  # flat: numpy has a fast path

    def routes(self) -> tuple[Routes, Routes]:
        first, second = (
            Routes(
                self.transitions[half],
                self.coactivation[half],
                self.model.layer_index,
                int(self.tokens[half]),
                self.model.top_k,
            )
            for half in (0, 1)
        )
        return first, second


# ------------------------------------------------------------------ arrays


def _array(path: Path, model: MoeModel, counter: _Counter) -> int:
    source = Source(path, "routes", "write it with numpy.save", LARGEST)
    _count_array(read_array(source), source.where, model, counter)
    return 0


def _count_array(routes: np.ndarray, where: str, model: MoeModel, counter: _Counter) -> None:
    rows, k = len(model.moe_layers), model.top_k
    whole = routes.ndim == 3 and routes.shape[1] == model.layers
    if routes.ndim != 3 or not (whole or routes.shape[1] == rows) or routes.shape[2] != k:
        raise InputError(
            f"{where}: has shape {list(routes.shape)}",
            f"{model.words} and {k} experts a token: give [tokens, {model.layers} or {rows}, {k}]",
        )
    if routes.dtype.kind not in "iu":
        raise InputError(f"{where}: holds {routes.dtype}, not integers", "expert numbers are integers")
    size = max(1, _BATCH // rows)
    for start in range(0, len(routes), size):
        part = np.asarray(routes[start : start + size], dtype=np.int64)
        _count_part(part[:, list(model.moe_layers)] if whole else part, start, where, counter)


def _count_part(part: Ints, start: int, where: str, counter: _Counter) -> None:
    tokens, rows, _ = part.shape
    ordered = np.sort(part, axis=2)
    wrong = (part < 0).any(axis=2) | (part >= counter.model.experts).any(axis=2)
    wrong |= (ordered[:, :, 1:] == ordered[:, :, :-1]).any(axis=2)
    if wrong.any():
        token, row = (int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"{where}: token {start + token}, layer {counter.model.moe_layers[row]}: experts "
            f"{part[token, row].tolist()} repeat or do not exist",
            f"{counter.model.words}, numbered from 0",
        )
    half = (start + np.arange(tokens)) % 2
    counter.tokens += np.bincount(half, minlength=2)
    for row in range(rows):
        at = np.full(tokens, row)
        counter.pairs(counter.coactivation, half, at, part[:, row], part[:, row])
        if row + 1 < rows:
            counter.pairs(counter.transitions, half, at, part[:, row], part[:, row + 1])


# ------------------------------------------------------------------ JSON lines

Token = tuple[Any, ...]


@dataclass
class _Open:
    """A token of which layers are still to come. ``experts``: by row; a row leaves once both neighbours were seen."""

    half: int
    experts: dict[int, list[int]]
    seen: set[int]


def _jsonl(path: Path, model: MoeModel, counter: _Counter) -> int:
    row_of = {layer: row for row, layer in enumerate(model.moe_layers)}
    last = len(row_of) - 1
    tokens: dict[Token, _Open] = {}
    order = 0
    used = _Batch(counter, counter.coactivation)
    moved = _Batch(counter, counter.transitions)
    for line, layer, token, experts in _records(path, model):
        row = row_of.get(layer)
        if row is None:
            raise InputError(f"routes {named(path)}: line {line}: layer {layer} has no experts", f"{model.words}")
        open_ = tokens.get(token)
        if open_ is None:
            open_ = tokens[token] = _Open(order % 2, {}, set())
            counter.tokens[order % 2] += 1
            order += 1
        if row in open_.seen:
            raise InputError(
                f"routes {named(path)}: line {line}: layer {layer} of token {token[-1]} is given twice",
                f"tell sequences apart by one of {', '.join(SEQUENCE_KEYS)}",
            )
        open_.seen.add(row)
        open_.experts[row] = experts
        used.add(open_.half, row, experts, experts)
        for before in (row - 1, row):
            if before in open_.experts and before + 1 in open_.experts:
                moved.add(open_.half, before, open_.experts[before], open_.experts[before + 1])
        for done in (row - 1, row, row + 1):
            if done in open_.experts and {max(done - 1, 0), min(done + 1, last)} <= open_.seen:
                del open_.experts[done]
        if len(open_.seen) == last + 1:
            del tokens[token]
    used.flush()
    moved.flush()
    return sum(len(open_.experts) for open_ in tokens.values())


class _Batch:
    """Pairs waiting to be counted together."""

    def __init__(self, counter: _Counter, into: Floats) -> None:
        self._counter, self._into = counter, into
        self._rows: list[tuple[int, int, list[int], list[int]]] = []

    def add(self, half: int, row: int, first: list[int], second: list[int]) -> None:
        self._rows.append((half, row, first, second))
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            half, row, first, second = (np.array(column, np.int64) for column in zip(*self._rows, strict=True))
            self._counter.pairs(self._into, half, row, first, second)
            self._rows.clear()


def _records(path: Path, model: MoeModel) -> Iterator[tuple[int, int, Token, list[int]]]:
    """(line number, layer, token, experts) of each line."""
    source = Source(path, "routes", _LINE_HINT, LARGEST_STREAM)
    for line, text in source.lines():
        if text.strip():
            yield _record(text, line, source.where, model)


def _record(text: bytes, line: int, of: str, model: MoeModel) -> tuple[int, int, Token, list[int]]:
    where = f"{of}: line {line}"
    try:
        record = strict_json(text)
        layer, experts = record["layer"], record["experts"]
        token = (*(record.get(key) for key in SEQUENCE_KEYS), record["token_idx"])
        hash(token)
    except Malformed as error:
        raise InputError(f"{where} is not whole JSON ({error})", _LINE_HINT) from error
    except KeyError as error:
        raise InputError(f"{where}: key {error} is missing", _LINE_HINT) from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{where} is not a record of one token", _LINE_HINT) from error
    if type(layer) is not int or type(token[-1]) is not int or not isinstance(experts, list):
        raise InputError(f"{where}: layer and token_idx are integers, experts a list", _LINE_HINT)
    strange = [e for e in experts if type(e) is not int or not 0 <= e < model.experts]
    if strange:
        raise InputError(f"{where}: expert {shown(strange[0])} does not exist", f"{model.words}, from 0")
    listed = ", ".join(map(str, experts[:16])) + (", …" if len(experts) > 16 else "")
    if len(experts) != model.top_k or len(set(experts)) != len(experts):
        raise InputError(
            f"{where}: experts [{listed}] are not {model.top_k} different ones",
            f"{model.name} sends each token to {model.top_k} experts a layer",
        )
    return line, layer, token, experts
