"""Workloads in files: a trace, of which lengths, rate and prefix hits are taken; or the pairs of the short form as a
mapping. Only the command line reads files; a request holds the workload that was made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from costmodels.estimates import Ints
from planner.contract.documents import checked
from planner.contract.files import mapping_of, read_text
from planner.contract.workload.grammar import NUMBER, items, tokens
from planner.contract.workload.lengths import Recorded, standing_for
from planner.contract.workload.workload import DATA_SET, WORDS, WORKLOAD_HELP, Workload, workload_of
from profiles.errors import InputError
from profiles.values import shown

if TYPE_CHECKING:
    from planner.contract.workload.traces import Recording

MINUTE_S = 60.0

TRACE = "trace"
"""Key of a mapping that names a trace, relative to the mapping's file."""

_QUANTILE = re.compile(r"p(?P<percentile>[0-9]{1,3}(?:\.[0-9]{1,6})?)", re.ASCII)
_RATES = "rate=peak (the fullest minute), rate=mean, rate=p95 (of the minutes) or a number of requests per second"
_SUFFIXES = (".csv", ".jsonl", ".ndjson", ".yaml", ".yml", ".json")


def workload_at(text: str, folder: Path = Path(), *, skip_failed: bool = False) -> Workload | None:
    """The workload that ``text`` names a file of, with the pairs that follow it: ``requests.csv,max_len=16k,rate=p95``;
    None where it names no file.

    Args:
        folder: what the file is relative to.
        skip_failed: leave out rows of a trace without output.

    Raises:
        InputError: what the readers raise, and what is not understood.
    """
    head, _, rest = text.partition(",")
    if "=" in head or head.strip() in WORDS or not head.strip().casefold().endswith(_SUFFIXES):
        return None
    path = folder / head.strip()
    pairs = dict(items(rest, "workload", WORKLOAD_HELP)) if rest.strip() else {}
    if path.suffix.casefold() in (".yaml", ".yml", ".json"):
        hint = f"give a mapping of {', '.join(WORDS)}, or {TRACE} with a file"
        given = mapping_of(read_text(path, "workload"), f"workload {path}", hint)
        return _of_mapping(path, {**given, **pairs}, skip_failed)
    return _of_trace(path, pairs, skip_failed)


def _refuse_results(path: Path, given: Mapping[str, Any]) -> None:
    """What a load generator measured is no workload: it says how long requests were on average, not each of them."""
    if not {"total_input_tokens", "total_output_tokens", "completed"} <= set(given):
        return
    names = ("total_input_tokens", "total_output_tokens", "completed", "duration")
    told = [given.get(name) for name in names]
    prompts, answers, requests, seconds = (
        float(x) if isinstance(x, int | float) and abs(x) < 1e15 else 0.0 for x in told
    )
    pairs = [
        f"{name}={round(total / requests)}" for name, total in (("isl", prompts), ("osl", answers)) if requests > 0
    ]
    pairs += [f"rate={requests / seconds:.4g}"] if requests > 0 and seconds > 0 else []
    raise InputError(
        f"workload {path}: is what a load generator measured, not its requests",
        f"write what it sent{', on average ' + ','.join(pairs) if pairs else ''}; `plan predict {path} --measured` "
        "compares it with the prediction",
    )


def _of_mapping(path: Path, given: Mapping[str, Any], skip_failed: bool) -> Workload:
    _refuse_results(path, given)
    if not set(given) <= {*WORDS, TRACE}:
        return checked(Workload, given, f"workload {path}")  # as documents have it
    pairs = {}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f"workload {path}: {name} {shown(value)} is not a number or a text", WORKLOAD_HELP)
        pairs[name] = str(value)
    trace = pairs.pop(TRACE, None)
    return workload_of(pairs.items()) if trace is None else _of_trace(path.parent / trace, pairs, skip_failed)


def _of_trace(path: Path, pairs: Mapping[str, str], skip_failed: bool) -> Workload:
    """The workload of a trace; what the ``pairs`` say goes before what it tells."""
    taken = [name for name in ("isl", "osl", "spread", DATA_SET, "requests") if name in pairs]
    if taken:
        raise InputError(
            f"workload: {taken[0]} has no effect beside the trace {path.name}, which says how long requests are",
            "leave it out, or the trace",
        )
    from planner.contract.workload.traces import recorded  # deferred: most workloads are no trace, and pandas is slow

    trace, rest = recorded(path, skip_failed=skip_failed), dict(pairs)
    rate = rest.pop("rate", None) or rest.pop("rps", None) or "peak"
    most = tokens(rest["max_len"]) if "max_len" in rest else None
    fits = np.arange(len(trace.isl)) if most is None else np.flatnonzero(trace.isl + trace.osl <= most)
    if not len(fits):
        raise InputError(
            f"workload: max_len={rest['max_len']} is less than every request of {path.name} has",
            f"give at least {int((trace.isl + trace.osl).max())} to serve them all",
        )
    fields = _told(trace, fits)
    if "concurrency" not in rest:
        fields["rate_rps"], rate_of = _rate(trace, fits, rate)
        fields["recorded"] = fields["recorded"].model_copy(update={"rate_of": rate_of})
    return workload_of(rest.items(), fields)


def _told(trace: Recording, fits: Ints) -> dict[str, Any]:
    """Lengths and prefix hits of the requests ``fits`` (m,) of a trace."""
    isl, osl = trace.isl[fits], trace.osl[fits]
    some = tuple(column.tolist() for column in standing_for(isl, osl))
    fields: dict[str, Any] = {"isl": max(round(float(isl.mean())), 1), "osl": max(round(float(osl.mean())), 1)}
    if trace.seen_before is not None:
        fields["prefix_hit"] = round(float(trace.seen_before[fits].sum() / isl.sum()), 4)
    fields["recorded"] = Recorded(
        name=trace.name,
        requests=len(trace.isl),
        skipped=trace.skipped,
        seconds=float(trace.seconds[-1]),
        rate_of="none of it",
        fullest_second=int(np.bincount(trace.seconds[fits].astype(np.int64)).max()),
        refused_share=1 - len(fits) / len(trace.isl),
        prefix=None if trace.seen_before is None else "hashes" if trace.hashed else "recorded",
        isl=some[0],
        osl=some[1],
    )
    return fields


def _rate(trace: Recording, fits: Ints, asked: str) -> tuple[float, str]:
    """(requests per second, of what part of the trace) that ``asked`` means, of the requests ``fits``."""
    if re.fullmatch(rf"-?{NUMBER}\s*(?:rps|/s)?", asked, re.IGNORECASE | re.ASCII):
        return float(asked.lower().removesuffix("rps").removesuffix("/s")), "none of it"
    quantile = _QUANTILE.fullmatch(asked)
    if asked not in ("peak", "mean") and (quantile is None or float(quantile["percentile"]) > 100):
        raise InputError(f"workload: rate={shown(asked)} is not a rate of a trace", f"write {_RATES}")
    seconds = trace.seconds[fits]
    span = float(trace.seconds[-1])
    if span <= 0:
        raise InputError(
            f"workload: {trace.name} has {len(seconds)} requests of one moment, which tells no rate",
            "give one: rate=20",
        )
    if asked == "mean" or span < MINUTE_S:
        return len(seconds) / span, "all of it" if asked == "mean" else "all of it, less than a minute"
    whole = int(span // MINUTE_S)
    minutes = np.bincount((seconds // MINUTE_S).astype(np.int64), minlength=whole)
    if quantile is None:
        at = int(minutes.argmax())
        return float(minutes[at]) / MINUTE_S, f"its fullest minute, {at + 1} of {len(minutes)}"
    percentile = float(quantile["percentile"])
    count = float(np.quantile(minutes[:whole], percentile / 100))  # the last, broken off, would count as a quiet one
    if count <= 0:
        raise InputError(
            f"workload: in the p{percentile:g} minute of {trace.name} nothing comes", "ask for a higher one: rate=p95"
        )
    return count / MINUTE_S, f"the p{percentile:g} of its {whole} minutes"
