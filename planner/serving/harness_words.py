"""What load generators write of a run in other terms than ours: a rate without end, totals in place of lengths, experts
spread by a switch."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Container, Iterator, Mapping
from typing import TYPE_CHECKING

from planner.contract.words import folded, weights_word, words
from planner.contract.workload.workload import DATA_SET
from planner.serving.campaigns import as_drawn, as_sent, chosen
from planner.serving.data_set_words import conversations, named, of_data_set, sent_alike
from planner.serving.gpu_words import gpus_counted
from planner.serving.silicon_samples import as_sampled, users_sampled
from profiles.errors import InputError, Unsupported
from profiles.values import number, shown

if TYPE_CHECKING:
    import pandas as pd

TOTALS = {"isl": "total_input_tokens", "osl": "total_output_tokens"}
"""Length → the column that holds it times the requests that were answered."""

ANSWERED = "completed"

RATIO = "random_range_ratio"
SHORTEST = 0.01
"""Share of a length where a generator draws from a single token on."""

SWITCH = "enable_expert_parallel"
OF_MEANS = "0.5-1.5"
"""Lengths of a data set of which only the means are told: in public ones (ML.ENERGY's runs) outputs deviate by 0.5 to
1.5 of their mean, where they are not cut off; those of AccelMark's, which are, by 0.3."""

ROLES = ("tp", "ep", "dp_attention")
"""What InferenceX says of prefill and decode engines, of one engine twice the same."""

INFERENCEX = ("hw", "conc")
"""Columns by which InferenceX's own results are known: their latencies are in seconds and say no unit, and its
clients draw lengths as :func:`planner.serving.campaigns.as_drawn` says."""

LENGTHS = (
    "isl/osl",
    "isl_osl",
    "isl,osl",
    "isl,_osl",
    "isl_/_osl",
    "input/output",
    "sequence_length_(isl/osl)",
    "seq_len",
)
"""Columns that hold both lengths, as tables on web pages have them."""

PARALLELISM = (
    *("parallelism", "parallel", "parallelization", "parallel_config", "parallelism_config"),
    *("parallel_strategy", "parallelism_strategy", "mapping", "sharding"),
)
DEGREES = ("tp", "pp", "dp", "ep")

_FROM_NOTHING = re.compile(r"\s*0(?:\.0*)?(?=\s*-)", re.ASCII)
"""The low end of a spread of lengths from a single token on."""

_TWO = re.compile(r"\s*([0-9][0-9,.]*[kK]?)\s*[/,:|x]\s*([0-9][0-9,.]*[kK]?)\s*", re.ASCII)
_DEGREE = re.compile(r"(TEP|DEP|TP|PP|DP|EP)[\s_=:-]*([1-9][0-9]{0,3})", re.ASCII | re.IGNORECASE)
_SPELLED = re.compile(
    r"-{0,2}\b([tpde])(?:ensor|ipeline|ata|xpert)(?:[\s_-]model)?[\s_-]?parallel(?:ism)?(?:[\s_-](?:size|degree))?\b",
    re.ASCII | re.IGNORECASE,
)
_WAYS = re.compile(r"\b([1-9][0-9]{0,3})[\s-]?way[\s-]+(TEP|DEP|TP|PP|DP|EP)\b", re.ASCII | re.IGNORECASE)
_NOT_SAID = re.compile(r"(?:TEP|DEP|TP|PP|DP|EP)\s*[=:-]\s*(?=$|[,;/+&|\s])", re.ASCII | re.IGNORECASE)
"""A degree without its number (``EP=``), which says nothing."""
_SINGLE = re.compile(r"none|no|single([\s_-]?gpu)?|1([\s-]?gpu)?", re.ASCII | re.IGNORECASE)
_APART = re.compile(
    r"(?<![a-z0-9])\d+\s*[PD]\s*\d+\s*[PD](?![a-z])|prefill|decode|disagg|\b[PD]\s*[:=]", re.ASCII | re.IGNORECASE
)
"""Prefill and decode engines (``2P4D``, ``P:TP8, D:TP16``)."""

ENGINES_APART = "prefill and decode engines apart are no one configuration"
WAY_APART = "predict them with --engines prefill=…,decode=…, or leave the column out for the engine alone"

_BETWEEN = re.compile(r"[\s,;/+&_|-]*", re.ASCII)
THOUSANDS = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+", re.ASCII)
"""A whole number with a comma before every three digits."""
_DEGREES_OF = {**{name: (name,) for name in DEGREES}, "tep": ("tp", "ep"), "dep": ("dp", "ep")}
"""TEP and DEP: attention tensor or data parallel, experts shared out over as many."""

LIMIT = "max_concurrency"
"""Column of load generators for the most requests at once; beside it ``concurrency`` is the mean that was measured."""

BATCH = "batch_size"
"""Column of AIConfigurator's samples and of tables made by hand: requests at once in each attention replica."""

ACHIEVED = ("request_throughput", "achieved_qps", "requests_per_second")
KEPT_UP = 0.9
"""Share of the rate that was answered, below which the bound on requests at once is what limited them."""

LLMPERF_FORMAT, LLMPERF_VERSION = "results_ttft_s_mean", "2023-08-31"
"""A column by which LLMPerf's summaries are known, and what their ``version`` says: of their format."""

DTYPES = ("dtype", "torch_dtype", "model_dtype", "data_type")
"""Columns that hold how tensors are computed in or how weights are stored."""

SIGNS = (BATCH, RATIO, ANSWERED, *TOTALS.values(), *ACHIEVED)
"""Columns that are read by these names alone, in any spelling."""

AGREES = 0.05
"""Share by which mean lengths may differ from those that a range ratio makes."""

ENDLESS = ("inf", "infinity")
ON, OFF = ("true", "yes", "1"), ("false", "no", "0")


def is_inferencex(columns: Collection[str]) -> bool:
    """Whether ``columns`` are those of InferenceX's results, or of its interface (``hardware``, ``conc``, and a user's
    tokens a second as ``mean_intvty``)."""
    return set(INFERENCEX) <= set(columns) or ({"hardware", "conc", "mean_intvty"} <= set(columns))


def of_inferencex(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with what InferenceX's own results leave unsaid where no column of it does: whose they are."""
    return table if {"source", "campaign"} & set(table.columns) else table.assign(campaign="InferenceX")


def load_told(columns: Container[str]) -> bool:
    """Whether ``columns`` say how many requests came, or were there at once."""
    return any(name in columns for name in ("workload", "concurrency", "rate", LIMIT, BATCH))


def lengths_told(columns: Collection[str]) -> bool:
    """Whether ``columns`` say how long requests are, as totals or plainly."""
    plain = all(name in columns for name in TOTALS) or any(folded(str(name)) in LENGTHS for name in columns)
    return plain or (ANSWERED in columns and all(n in columns or total in columns for n, total in TOTALS.items()))


def in_one_cell(record: Mapping[str, str]) -> dict[str, str]:
    """``record`` with lengths and degrees that stand in one cell (``1024/8192``, ``TP4EP4``, ``DEP8``), where no other
    says them, and without the names of degrees in their own (``TP8``).

    Raises:
        InputError: degrees contradict each other, or something else stands beside them (``2xTP4``).
    """
    out = dict(record)
    for column, text in record.items():
        if folded(column) in LENGTHS and (both := _TWO.fullmatch(text)):
            if "," not in column and THOUSANDS.fullmatch(text):
                continue  # 1,024 is one length
            out |= {name: both[i] for i, name in enumerate(TOTALS, 1) if not out.get(name)}
        elif column in DEGREES and (own := _DEGREE.fullmatch(text)) and own[1].casefold() == column:
            out[column] = own[2]
        elif column == "tp" and len(_DEGREE.findall(text)) > 1:  # TP8EP8
            found = _degrees(column, text, None)
            _agree(column, text, {**record, "tp": ""})
            out |= {"tp": "", **found}
        elif text and folded(column) in PARALLELISM:
            told = any(record.get(name) for name in DEGREES)
            out |= {} if told else _degrees(column, text, record.get("num_gpus") or gpus_counted(record.get("gpu", "")))
            if told:
                _agree(column, text, record)
    return out


def _agree(column: str, text: str, record: Mapping[str, str]) -> None:
    """Raises InputError where degrees in one cell are others than those in their own columns."""
    for word, count in _DEGREE.findall(_in_short(text)):
        for name in _DEGREES_OF[word.casefold()]:
            own = number(record.get(name, ""))
            if own not in (None, 0, int(count)):
                raise InputError(
                    f"{column}, {name}: {shown(text)} and {shown(record[name])} contradict each other",
                    "keep the one that holds",
                )


def _in_short(text: str) -> str:
    """``tensor_parallel_size=4`` and ``4-way TP`` as ``TP=4`` and ``TP4``."""
    return re.sub(_WAYS, r"\2\1", re.sub(_SPELLED, r"\1P", text))


def _degrees(column: str, text: str, gpus: str | int | None) -> dict[str, str]:
    """The degrees that a cell tells: short (``TP4EP4``), in words (``tensor_parallel_size=4``, ``8-way TP``), or which
    one it is that all ``gpus`` share (``TP``, ``DEP``, ``TP+EP``).

    Raises:
        InputError: it tells none, two of one kind, or something else beside them.
    """
    out: dict[str, str] = {}
    if _APART.search(text):
        raise Unsupported(f"{column}: {shown(text)}: {ENGINES_APART}", WAY_APART)
    said = _in_short(text)
    for word, count in _DEGREE.findall(said):
        for name in _DEGREES_OF[word.casefold()]:
            if out.setdefault(name, count) != count:
                raise InputError(f"{column}: {shown(text)} says two degrees of {name}", "give those of one engine")
    way = "write those of one engine alone, as TP4 EP4 or DEP8"
    if not out and _SINGLE.fullmatch(text):
        return {"tp": "1"}
    if not out and gpus:
        parts = [part for part in re.split(r"[\s,;/+&|_=:-]+", said.casefold()) if part]
        if not any(part in _DEGREES_OF for part in parts):
            return {}
        if all(part in _DEGREES_OF for part in parts):
            out = {name: str(gpus) for part in parts for name in _DEGREES_OF[part]}
        if len({"tp", "pp", "dp"} & out.keys()) == 1:  # of two nobody says how they share the GPUs
            return out
        out = {}
    if not out:
        raise InputError(f"{column}: {shown(text)} tells no degree", way)
    if not _BETWEEN.fullmatch(re.sub(_NOT_SAID, "", re.sub(_DEGREE, "", said))):
        raise InputError(f"{column}: {shown(text)} has more than degrees", way)
    return out


def is_told(name: str, table: pd.DataFrame) -> bool:
    """Whether columns that are called otherwise say what was sent: ``isl``, ``osl``, or how many came (``concurrency``,
    ``rate``)."""
    if name in ("isl", "osl"):
        return lengths_told(table.columns)
    same = [column for column in table.columns if words().columns.get(folded(column)) == name]
    return name in ("concurrency", "rate") and any((table[column] != "").any() for column in same)


def in_our_terms(record: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """``record`` with what a load generator wrote in our terms; adds to ``notes`` what was taken for what.

    Raises:
        InputError: totals of no request; a switch that is neither on nor off.
    """
    if record.get(LLMPERF_FORMAT) and record.get("version") == LLMPERF_VERSION:
        record = {**record, "version": ""}
    record = _in_dtype(record)
    out = _users_of_replicas(as_sampled(in_one_cell(_one_engine(_limited(record))), notes))
    _one_load(out, notes)
    if out.get("rate", "").casefold() in ENDLESS:
        out["rate"] = ""
        if not out.get("concurrency") and out.get("requests"):
            out |= {"concurrency": out["requests"], "mode": "burst"}
            notes.append(f"rate is without end: all {out['requests']} requests are sent at once")
    _at_most_sent(out, notes)
    out = of_data_set(out, notes)
    if low := _FROM_NOTHING.match(out.get("spread", "")):
        out["spread"] = f"{SHORTEST:g}{out['spread'][low.end() :]}"
        notes.append(f"spread: the shortest are taken to be {SHORTEST:g} of a length")
    means = _means(out)
    ratio = "" if out.get("spread") else out.get(RATIO, "")
    if ratio and means is not None and not _made_by(ratio, means, out):
        ratio, out = "", out | dict.fromkeys(TOTALS, "")
    if ratio:
        out["spread"] = _spread(ratio, out.get("framework", ""), notes)
    from_totals = means is not None and not ratio
    for name, mean in (means or {}).items():
        if not out.get(name):
            out[name] = str(round(mean))
            notes.append(f"{name} is {TOTALS[name]} \u00f7 {ANSWERED}: {out[name]}")
    out = as_sent(as_drawn(out, notes), notes)
    if not ratio:
        notes += _unlike(out, means or {})
    told = any(out.get(name) for name in ("spread", "osl_length_biased", DATA_SET))
    if (record.get("mode") or from_totals) and not (told or sent_alike(record)):
        lengths = [number((out if from_totals else record).get(name, "")) for name in TOTALS]
        if not all(each is None or chosen(each) for each in lengths):
            out["spread"] = OF_MEANS
            notes.append("isl, osl: no round numbers, so means of a data set: lengths are 0.5 to 1.5 of them")
    if not (told or out.get("spread")) and (own := conversations(record)):
        out["spread"] = OF_MEANS
        notes.append(f"isl, osl: means of {own}: lengths are taken to be 0.5 to 1.5 of them")
    return _experts(out, notes)


def _unlike(record: Mapping[str, str], means: Mapping[str, float]) -> Iterator[str]:
    """What a reader should know of lengths that are not those of the requests that were answered."""
    low, _, high = record.get("spread", "").partition("-")
    share = ((number(low) or 1.0) + (number(high) or 1.0)) / 2
    for name, mean in means.items():
        asked = number(record[name])
        if asked is not None and asked > 0 and abs(mean / (asked * share) - 1) > AGREES:
            yield f"{name}: {record[name]} is read, and not {TOTALS[name]} \u00f7 {ANSWERED}, which is {mean:.0f}"


def _at_most_sent(out: dict[str, str], notes: list[str]) -> None:
    """More users than requests that were sent in all never were there: each request came at once, and no more."""
    users, sent = (number(out.get(name, "")) for name in ("concurrency", "requests"))
    if users is None or sent is None or not 1 <= sent < users or sent != int(sent):
        return
    notes.append(f"concurrency: no more than the {sent:g} requests that were sent were there at once, of {users:g}")
    out |= {"concurrency": f"{sent:g}", "mode": "burst"}


def _limited(record: Mapping[str, str]) -> Mapping[str, str]:
    """``record`` of a load generator that bounds the requests at once and says how many there were in the mean."""
    if LIMIT not in record or not record.get(ANSWERED) or not record.get("concurrency"):
        return record
    rated = bool(record.get("rate"))
    return {**record, "concurrency": record[LIMIT] or ("" if rated else record["concurrency"])}


def _one_engine(record: Mapping[str, str]) -> Mapping[str, str]:
    """``record`` of InferenceX's interface, which says the degrees of an engine as those of its two roles."""
    roles = {name: (record.get(f"prefill_{name}", ""), record.get(f"decode_{name}", "")) for name in ROLES}
    if record.get("tp") or not all(roles["tp"]):
        return record
    for name, (prefill, decode) in roles.items():
        if prefill != decode:
            raise Unsupported(
                f"prefill_{name}, decode_{name}: {shown(prefill)}, {shown(decode)}: {ENGINES_APART}", WAY_APART
            )
    return {**record, **{name: decode for name, (_, decode) in roles.items() if decode}}


def _means(record: Mapping[str, str]) -> dict[str, float] | None:
    """Mean lengths where ``record`` says how many tokens its answered requests had.

    Raises:
        InputError: they are no lengths.
    """
    if not record.get(ANSWERED) or not any(record.get(total) for total in TOTALS.values()):
        return None
    out: dict[str, float] = {}
    for name, total in TOTALS.items():
        if not record.get(total):
            continue
        tokens, count = number(record[total]), number(record[ANSWERED])
        if tokens is None or count is None or not count > 0 or not 1 <= tokens / count < math.inf:
            raise InputError(
                f"{total}, {ANSWERED}: {shown(record[total])} of {shown(record[ANSWERED])} are no lengths",
                f"give {name}, or the tokens of all requests and how many were answered",
            )
        out[name] = tokens / count
    return out


def _made_by(ratio: str, means: Mapping[str, float], record: Mapping[str, str]) -> bool:
    """Whether mean lengths are those that a range ratio makes of the record's; not of data sets, beside which SGLang's
    results have the defaults of its random lengths."""
    data = named(record) or "random"
    ends = _ends(ratio, record.get("framework", ""))
    asked = {name: number(record.get(name, "")) for name in TOTALS}
    return folded(data).startswith("random") and all(
        (length := asked[name]) is not None and abs(mean / (length * sum(ends) / 2) - 1) <= AGREES
        for name, mean in means.items()
    )


def _in_dtype(record: Mapping[str, str]) -> Mapping[str, str]:
    """``record`` with the precision that a ``dtype`` tells, where nothing else does: one of 16 bits is that of what is
    computed, and leaves the weights as published."""
    said = next((text for name, text in record.items() if folded(name) in DTYPES and text), "")
    if not said or record.get("precision"):
        return record
    word = weights_word(said)
    if folded(said) not in words().precisions and any(
        folded(name) == "data_type" and text == said for name, text in record.items()
    ):
        return record  # synthetic, text: of the requests
    return record if word in ("auto", "bf16", "fp16", "fp32", "float32") else {**record, "precision": word}


def _users_of_replicas(record: dict[str, str]) -> dict[str, str]:
    """``record`` with the users at once of all attention replicas, where it says those of one."""
    batch, replicas = number(record.get(BATCH, "")), number(record.get("dp", "")) or 1
    if batch is None or record.get("concurrency") or record.get("rate") or record.get("workload"):
        return record
    told = users_sampled(record)
    return {**record, "concurrency": f"{batch * replicas if told is None else min(batch * replicas, told):g}"}


def _one_load(out: dict[str, str], notes: list[str]) -> None:
    """Where a row has a rate and requests at once, what it was that limited them: a mean of the latter was measured, a
    bound did where the rate was not reached."""
    rate, users = number(out.get("rate", "")), number(out.get("concurrency", ""))
    if rate is None or not 0 < rate < math.inf or users is None or out.get("rate", "").casefold() in ENDLESS:
        return
    answered = next((value for name in ACHIEVED if (value := number(out.get(name, ""))) is not None), None)
    if answered is None and users == int(users):
        return
    bound = answered is not None and answered < KEPT_UP * rate and users == int(users)
    dropped, kept = ("rate", "concurrency") if bound else ("concurrency", "rate")
    why = "the rate was not reached" if bound else "requests at once were measured, or bound nothing"
    notes.append(f"{dropped} is not read beside {kept}: {why}")
    out[dropped] = ""


def _spread(ratio: str, framework: str, notes: list[str]) -> str:
    low, high = _ends(ratio, framework)
    if low == high:
        return ""
    notes.append(f"{RATIO} {ratio}: lengths between {low:g} and {high:g} of isl and osl")
    return f"{low:g}-{high:g}"


def _ends(ratio: str, framework: str) -> tuple[float, float]:
    """What generators call a range ratio: SGLang draws from that share of the length on, vLLM on both sides of it.

    Raises:
        InputError: it is no share, or the framework is neither.
    """
    value = number(ratio)
    if value is None or not 0 <= value <= 1:
        raise InputError(f"{RATIO}: {shown(ratio)} is no share", "give one between 0 and 1, or a spread, as 0.8-1")
    whose = folded(framework)
    if whose.startswith(("sgl", "dynamo_sgl")):
        return max(value, SHORTEST), 1.0
    if whose.startswith("vllm"):
        return max(1 - value, SHORTEST), 1 + value
    raise InputError(
        f"{RATIO}: SGLang and vLLM mean different things by it, and the framework is {framework}",
        "give spread in its place: 0.8-1 for lengths from 80 % on",
    )


def _experts(record: dict[str, str], notes: list[str]) -> dict[str, str]:
    """vLLM spreads experts over all GPUs of a stage, or over none: a switch, be it in the place of ``ep``."""
    switch = next((name for name in record if folded(name) == SWITCH and record[name]), "ep")
    word = record.get(switch, "").casefold()
    if switch == "ep" and word not in (*ON[:-1], *OFF[:-1]):
        return record
    if word not in (*ON, *OFF):
        raise InputError(
            f"{switch}: {shown(record[switch])} is neither true nor false", "write true or false, or give ep"
        )
    if switch == "ep":
        record["ep"] = ""
    if word in ON and not record.get("ep"):
        degrees = [number(record.get(name, "")) or 1 for name in ("tp", "dp")]
        over = math.prod(int(each) for each in degrees if math.isfinite(each))  # what is no degree is refused as such
        record["ep"] = str(over)
        notes.append(f"{switch} is {word}: experts are spread over all {over} GPUs of a stage")
    return record
