"""What columns of strangers' files call the data set that requests were drawn from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from planner.contract.words import folded
from planner.contract.workload.data_sets import data_set_meant, data_sets
from planner.contract.workload.workload import DATA_SET

DATA_SETS = ("dataset_name", DATA_SET, "data_set", "datasets", "dataset_path", "prompt_dataset", "lengths")
"""Columns of whose requests were sent; range ratios are of those whose name begins with ``random``."""

_MAY_NAME = (*DATA_SETS, "spread", "workload", "workload_name", "corpus", "trace", "traffic", "scenario", "case")
"""Columns whose cell may be a data set's name, and is read as one where it is nothing else."""

_ALIKE = re.compile(r"(?!random_ids_.)(random|sonnet|synthetic|prefix_repetition|generated_shared_prefix)", re.ASCII)
"""Sets that clients make of equal requests, where no range ratio says otherwise."""

_CONVERSATIONS = re.compile(r"share_?gpt|lmsys|wildchat", re.ASCII | re.IGNORECASE)
"""Data sets whose lengths differ as those of which only means are told."""

_OF_SGLANG = ("sharegpt_output_len", "random_range_ratio")
"""Columns of SGLang's client, which leaves out hardly any conversation of ShareGPT."""


def named(record: Mapping[str, str]) -> str:
    """The data set that requests were drawn from, as the record calls it; "": it names none."""
    return next((text for name, text in record.items() if folded(name) in DATA_SETS and text), "")


def of_data_set(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` with its data set in the column ``dataset`` where its lengths are known, and no name of one elsewhere;
    adds to ``notes``. A spread goes before it, and so does what outputs are in the mean; it goes before other columns
    that may name one."""
    out = dict(record)
    cells = [(name, text) for name, text in record.items() if text and folded(name) in _MAY_NAME]
    cells.sort(key=lambda cell: _MAY_NAME.index(folded(cell[0])))
    found = next(((name, text, meant) for name, text in cells if (meant := data_set_meant(text))), None)
    if DATA_SET in out:
        out[DATA_SET] = ""
    if found is None:
        if record.get(DATA_SET) and not (sent_alike(record) or conversations(record)):
            notes.append(f"{DATA_SET} {record[DATA_SET]}: how long its requests are is not known here, and not read")
        return out
    name, text, meant = found
    for cell in ("spread", "workload"):
        if out.get(cell) and data_set_meant(out[cell]):
            out[cell] = ""
    if before := next((told for told in ("spread", "osl_length_biased", _OF_SGLANG[0]) if out.get(told)), ""):
        notes.append(f"{name} {text}: lengths are as {before} says")
        return out
    if meant == "sharegpt" and any(column in record for column in _OF_SGLANG):
        meant = "sharegpt_whole"
    out[DATA_SET] = meant
    means = [each for each in ("isl", "osl") if out.get(each)]
    scaled = f", scaled to {' and '.join(means)}" if means else ""
    notes.append(f"{name} {text}: lengths are those of {data_sets()[meant].title}{scaled}")
    return out


def sent_alike(record: Mapping[str, str]) -> bool:
    """Whether a client made requests of one length, of which the means are told."""
    return not record.get(_OF_SGLANG[1]) and _ALIKE.match(folded(named(record))) is not None


def conversations(record: Mapping[str, str]) -> str:
    """The data set of conversations that requests were drawn from, of whose lengths no more is known than that they
    differ; "": none is named."""
    return next(
        (text for name, text in record.items() if folded(name) in DATA_SETS and _CONVERSATIONS.search(text)), ""
    )
