"""The view of ``plan check``: at most fifteen lines."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator

from rich.console import Console

from api.cli.views.compare import amount
from api.cli.views.quantities import gib, milliseconds, milliseconds_range, probability
from api.cli.views.words import default_words
from costmodels.serving.frameworks.framework import find_framework
from planner.compare.check_document import Better, CheckDocument
from planner.compare.document import EngineStarts, Side

MOST_LINES = 15
WIDTH = 100
ANSWERS = {
    "keeps": "YES: starts and keeps its promises",
    "starts": "YES: starts",
    "breaks": "NO: breaks a promise",
    "does_not_start": "NO: does not start",
}


def show(made: CheckDocument, out: Console) -> None:
    """Prints the answer; what does not fit into fifteen lines is in the document."""
    lines = [line for entry in _lines(made) for line in _wrapped(entry)]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{'':9} … (--json has the rest)"]
    for line in lines:
        out.print(line, soft_wrap=True)


def _wrapped(entry: str) -> list[str]:
    return textwrap.wrap(entry, WIDTH, subsequent_indent=" " * 10, break_on_hyphens=False) or [""]


def _lines(made: CheckDocument) -> Iterator[str]:
    yield ANSWERS[made.verdict]
    for reason in made.reasons[:2]:
        yield f"  {reason}"
    asked = None if made.comparison is None else made.comparison.sides[0]
    document = made.deployment
    if document is not None:
        yield _said("engines", _engines(made))
    elif asked is not None:
        yield _said("engines", f"{', '.join(asked.engines)}, {asked.framework}")
    for group in made.memory[:2]:
        yield _said("cache", _cache(group, several=len(made.memory) > 1))
    if not made.starts:
        for failing in made.memory:
            if not failing.starts:
                ways = [way for way in failing.ways_out if way.startswith(("it would start", "no single option"))]
                yield from (_said("way out", way) for way in ways)
    if asked is not None and asked.carries_rps is not None:
        yield from _predicted(asked, made)
    if made.better is not None:
        yield from _better(made.better, made)
    elif made.no_better is not None:
        yield _said("better", made.no_better)
    if document is not None and document.assumed:
        framework = find_framework(document.framework)
        told = [default_words(each, framework) for each in document.assumed]
        each = ", ".join(dict.fromkeys(told))
        yield _said("default", each)
    if document is not None:
        yield from (_said("note", note) for note in document.provenance.notes[:1])


def _said(name: str, text: str) -> str:
    return f"{name:9} {text}"


def _engines(made: CheckDocument) -> str:
    document = made.deployment
    assert document is not None
    groups = [
        f"{len(group.replicas)} x {group.layout.label} on {group.gpu}"
        + ("" if group.role == "aggregated" else f" ({group.role})")
        for group in document.engines
    ]
    first = document.engines[0]
    return f"{', '.join(groups)}, {document.framework}, {first.weights_precision} weights, {first.kv_precision} KV"


def _cache(each: EngineStarts, *, several: bool) -> str:
    name = f"{each.engine}: " if several else ""
    if each.kv_cache_bytes <= 0:
        return f"{name}none: {gib(-each.kv_cache_bytes)} GiB are lacking on each GPU"
    return (
        f"{name}{gib(each.kv_cache_bytes)} GiB on each GPU: {each.kv_cache_tokens:,} tokens, "
        f"{each.longest_at_once:,.1f} of the longest requests at once"
    )


def _predicted(asked: Side, made: CheckDocument) -> Iterator[str]:
    assert made.comparison is not None
    load = made.comparison.load
    yield _said("carries", f"{amount(asked.carries_rps)} requests/s within the promises; asked: {load}")
    for seen in asked.promises[:4]:
        if seen.seen_ms is None:
            continue
        sure = "" if seen.confidence is None else f" ({probability(seen.confidence)} sure that it holds)"
        yield _said(
            f"{seen.metric} p{seen.percentile:g}",
            f"{milliseconds(seen.seen_ms.value)} ({milliseconds_range(seen.seen_ms)}), promised "
            f"{milliseconds(seen.limit_ms)}: {'holds' if seen.holds else 'BREAKS'}{sure}",
        )
    costs = []
    if asked.usd_per_million_output_tokens is not None:
        costs.append(f"{amount(asked.usd_per_million_output_tokens)} USD per million output tokens at what it carries")
    if asked.joules_per_output_token is not None:
        costs.append(f"{asked.joules_per_output_token.value:.3g} J an output token at the load asked")
    if costs:
        yield _said("costs", ", ".join(costs))


def _better(better: Better, made: CheckDocument) -> Iterator[str]:
    more = "it carries what this does not" if better.by is None else f"carries {better.by:.0%} more"
    kept = "keeps the promises" if better.keeps_promises else "breaks promises at this load, too"
    yield _said("better", f"{', '.join(better.engines)}: {more} ({probability(better.confidence)} sure), {kept}")
    for command in better.commands[:1]:
        yield _said("  with", shlex.join(command))
