"""A row of a table of configurations, understood: each cell in its words and within its bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from costmodels.models.architecture import Architecture
from costmodels.models.precision import choose_precision
from costmodels.operations.layouts import DEGREES
from costmodels.power.response import clock_response
from costmodels.power.state import OperatingState
from costmodels.serving.closed_loop.protocol import GENERATIONS
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.recipe import Recipe
from costmodels.serving.served_model import PromptImages
from planner.contract.engine import Layout
from planner.contract.words import folded
from planner.contract.workload.grammar import tokens
from planner.contract.workload.images import parse_images
from planner.contract.workload.workload import DATA_SET, WORKLOAD_HELP, Workload, workload_of
from planner.serving.asked_release import release_asked, with_release
from planner.serving.campaigns import COLD, CampaignEngine, as_started
from planner.serving.containers import with_container
from planner.serving.dates import day_or_as_it_is
from planner.serving.gpu_words import gpu_named, with_count
from planner.serving.harness_words import ENGINES_APART, THOUSANDS, WAY_APART, in_our_terms
from planner.serving.images import counted, prompt_images
from planner.serving.laboratories import laboratories
from planner.serving.layouts import completed, degrees_of, with_replicas
from planner.serving.wide_experts import ROLES, EngineMachines, WideAsked, kin_told, wide_asked, with_experts
from profiles.errors import InputError, Unsupported
from profiles.hardware import Catalogue, find_fabric
from profiles.values import number, shown, whole

if TYPE_CHECKING:
    from planner.experts.placement import Loads

LOAD = ("isl", "osl", "spread", DATA_SET, "concurrency", "rate", "requests", "prefix_hit")
"""Short forms of what ``workload`` says; a column that is filled in goes before it."""

BESIDE = "\0"
"""Between a model's name and that of the head that it drafts with."""

FindModel = Callable[[str, str], Architecture]
"""What the columns ``model`` and ``draft_model`` name; "" for no head of its own."""

FindWorkload = Callable[[str], Workload]
FindLoads = Callable[[Architecture], "Loads"]

Group = tuple[
    str, str, str, str | None, str | None, PromptImages | None, bool, bool, OperatingState | None, bool | None
]
"""What rows that are predicted together share."""

TOTAL = "total_gpus"
"""Column of all GPUs that ran, beside those of an engine."""

FEWEST_REQUESTS = 100
RUN = ("osl_length_biased", "mode", "spec", COLD)
"""Columns of measured runs: how long the outputs of running requests are (E[L²] ÷ E[L], tokens), how requests are sent
(``burst…``: all at once, and no more), whether the model drafts for itself, and how many requests were sent before."""

_BURSTS, _LOOPS = ("burst", "offline"), ("", "closed", "open")
USUAL = -1
_DRAFTED = re.compile(r"(?:(?:mtp|nextn)[-_ =]?|eagle3?:)([1-9])", re.ASCII)
_DRAFTS = ("mtp", "nextn", "eagle", "eagle3", "eagle-3", "yes", "true", "on")
_NO_DRAFTS = ("none", "off", "no", "false", "0")

LARGEST = 10**8  # of any count: beyond it arithmetic would overflow, and nobody means it

FRAMEWORK = "vllm"
"""Where a cell is blank: the default of the option."""

APART = (
    *("disagg", "disaggregated", "is_disagg", "disaggregation", "pd_disagg", "pd_disaggregation"),
    *("disaggregated_serving", "serving_mode", "deployment", "deployment_mode", "deployment_type"),
)
"""Columns of InferenceX's results and of others: whether prefill and decode have engines of their own."""

_APART_WORDS = ("disagg", "disaggregated", "disaggregation", "pd", "pd disaggregation", "pd-disaggregation")
_PAIR = re.compile(r"\d+\s*[PD]\s*\d+\s*[PD]", re.ASCII | re.IGNORECASE)

_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class AskedRow:
    """One configuration, understood."""

    index: int
    model: str
    gpu: str
    framework: str
    precision: str | None
    kv_precision: str | None
    layout: tuple[int, ...]
    workload: Workload  # its images counted
    images: PromptImages | None
    recipe: Recipe
    sampling: str
    outputs: float | None = None  # tokens of a running request's output, where they are told
    burst: bool = False
    drafts: int = 0  # tokens a step, by its own module; USUAL: as many as the framework's recipes
    cold: bool = False  # just started, and nothing was sent to warm it up
    notes: tuple[str, ...] = ()
    wide: WideAsked = field(default_factory=WideAsked)
    state: OperatingState | None = None
    stranger: str = ""  # the laboratory that measured it, where no constant knows its runs

    def drafted(self, usual: int) -> int:
        """Tokens that its own module drafts a step, where recipes draft ``usual``."""
        return usual if self.drafts == USUAL else self.drafts

    @property
    def group(self) -> Group:
        engine = self.model, self.gpu, self.framework, self.precision, self.kv_precision
        loaded = self.images, self.greedy, self.workload.speculation is not None
        return (*engine, *loaded, self.state, self._cut)

    @property
    def _cut(self) -> bool | None:
        """Whether prompts are cut: as said, or as the longest request that was said has it; None: as of the model."""
        said, longest = self.recipe.chunked_prefill, self.recipe.max_model_len
        if said is None and longest is not None and longest <= find_framework(self.framework).scheduler.mixes_from:
            return False
        return said

    @property
    def greedy(self) -> bool:
        """Whether tokens are chosen without sampling: as said, else where lengths are spread as the public harnesses
        send them, which decode greedily."""
        by_harness = self.workload.spread is not None or self.workload.of_data_set
        return self.sampling == "greedy" or (not self.sampling and by_harness)

    @property
    def in_lock_step(self) -> bool:
        """Whether users at once ask, and are played beside those of other rows."""
        return self.workload.concurrency is not None and self.wide.role == "aggregated" and not self.plays_alone

    @property
    def plays_alone(self) -> bool:
        """Whether users at once ask an engine for requests of recorded lengths, which are played one by one; where the
        model drafts as in calibrated runs, lengths are spread evenly (:attr:`Workload.shares`)."""
        users = self.workload.concurrency is not None and self.wide.role == "aggregated"
        return users and self.workload.recorded is not None and not self.drafts


def asked_row(
    index: int,
    record: Mapping[str, str],
    find_model: FindModel,
    find_workload: FindWorkload,
    catalogue: Catalogue,
    notes: list[str],
) -> AskedRow:
    """``record``: a row's cells by our columns; ``notes``: what was taken for what before."""
    for name in ("model", "gpu"):
        if not record[name]:
            raise InputError(f"{name}: is blank", f"name a {name}")
    record = with_container(record, notes)
    if not record.get("framework"):
        record = {**record, "framework": FRAMEWORK}
        notes.append(f"framework is blank: {FRAMEWORK} is taken")
    _check_one_engine(record)
    record = in_our_terms(with_release(record, notes), notes)
    framework = find_framework(release_asked(record))
    record = framework.in_our_words({name: value for name, value in record.items() if value})
    record = with_replicas(framework.with_switches(_of_its_role(record)), framework, notes)
    head = record.get("draft_model", "")
    named = f"{record['model']}{BESIDE}{head}" if head else record["model"]
    model = find_model(record["model"], head)
    called = gpu_named(record["gpu"], catalogue)  # GB200 NVL72: the degrees say how many of them
    gpu, record = called.gpu, with_count(record, called, notes)
    wide, node = wide_asked(record), catalogue.default_node(gpu)
    on = EngineMachines(framework, gpu, node.gpus, find_fabric(node.default_fabric))
    state = OperatingState.asked(record.get("clock", ""), record.get("power_cap", ""), gpu)
    if state is not None and not clock_response(gpu.name).measured:
        notes.append(f"times and watts against the clock were not measured on {gpu.name}: carried over with wider ends")
    layout, taken = with_experts(_layout(record, model, notes), wide, model, on)
    notes += [f"not given, so: {', '.join(taken)}"] if taken else []
    notes += kin_told(layout.exchange)
    work = _workload(record, find_workload, notes)
    if record.get("images") or record.get("image"):
        asked = parse_images(record.get("images", ""), record.get("image", ""), "images")
        work = work.model_copy(update={"images": asked})
    if head and work.speculation is None:
        raise InputError(
            "draft_model: has no effect where nothing is drafted",
            "write draft=4,acceptance=0.7 in the workload, with the share that you see accepted",
        )
    if work.images is not None and work.spread is not None and work.concurrency is not None:
        raise InputError(
            "images: are as long in every prompt, and those of the users at once differ in length",
            "leave out the spread, or give a rate in place of the concurrency",
        )
    work = counted(work, model)
    notes += _told_of(record, model, work)
    tp, _, dp = degrees_of(layout)[:3]
    drafts = drafts_of(record.get("spec", "")) if work.speculation is None else 0
    if (users := work.concurrency) is not None:
        weights = record.get("precision", "") or choose_precision(model).weights
        engine = CampaignEngine(
            *(framework.name, model.name, gpu.name, weights, tp, dp),
            *(work.isl, users, drafts != 0, framework.release, work.osl),
        )
        record = as_started({**record, "date": day_or_as_it_is(record.get("date", ""))}, engine, notes)
        framework = find_framework(release_asked(record))
        drafts = drafts_of(record.get("spec", "")) if drafts else 0
    return AskedRow(
        index,
        named,
        gpu.name,
        framework.spec,
        record.get("precision") or None,
        record.get("kv_precision") or None,
        degrees_of(layout),
        work,
        prompt_images(work, model),
        _recipe(record),
        _sampling(record.get("sampling", "")),
        _positive("osl_length_biased", biased) if (biased := record.get("osl_length_biased")) else None,
        record.get("mode", "").casefold().startswith(_BURSTS),
        drafts,
        _cold(record.get(COLD, "")),
        tuple(notes),
        wide,
        state,
        laboratories().stranger(record),
    )


def _told_of(record: Mapping[str, str], model: Architecture, work: Workload) -> list[str]:
    """What a reader should know of words that are taken for others, and of what the model does not do by itself."""
    notes, mode = [], record.get("mode", "").casefold()
    if mode not in _LOOPS and not mode.startswith((*_BURSTS, "closed", "open")):
        notes.append(f"mode: {shown(mode)} is not known, so requests come as concurrency or rate say")
    if drafts_of(spec := record.get("spec", "")) and model.draft is None:
        if spec.casefold().startswith(("mtp", "nextn")) and not model.drafts_by_itself:
            raise InputError(
                f"spec: {shown(spec)}, and {model.name} has no layers that draft (MTP)",
                "write eagle where it drafts with a head of its own (eagle:3: 3 tokens a step), else none",
            )
        notes.append(f"spec: nothing says what {model.name} drafts with: a head of the size of a layer is taken")
    longest, most = work.isl + work.osl, model.max_context_tokens
    if longest > most:
        notes.append(f"requests of {longest:,} tokens are longer than the {most:,} of the model's config.json")
    return notes


def _workload(record: Mapping[str, str], find_workload: FindWorkload, notes: list[str]) -> Workload:
    """What the row says of its load: the columns :data:`LOAD` go before ``workload``. Adds to ``notes``."""
    given = {name: plain_number(name, text) for name in LOAD if (text := record.get(name, ""))}
    if "concurrency" in given:
        given["concurrency"] = _users(given["concurrency"], notes)
    for name in ("isl", "osl"):
        if (mean := number(given.get(name, ""))) is not None and mean != int(mean) and 1 <= mean <= LARGEST:
            given[name] = str(round(mean))
            notes.append(f"{name} is a mean of {record[name]} tokens, predicted as {given[name]}")
    if {"concurrency", "rate"} <= set(given):
        raise InputError("concurrency, rate: both given", "give one of them in each row")
    sent = given.get("requests", "")
    if "rate" in given and sent.isdecimal() and int(sent) < FEWEST_REQUESTS:
        notes.append(f"requests: {given.pop('requests')} at a rate settle nothing: what a long run sees is predicted")
    beside = dict(find_workload(record["workload"])) if record.get("workload") else {}
    if {"concurrency", "rate"} & set(given):
        beside |= {"concurrency": None, "rate_rps": None}
    told = given.keys() | beside.keys() | ({"isl", "osl"} if DATA_SET in given else set())
    if missing := [name for name in ("isl", "osl") if name not in told]:
        raise InputError(f"{missing[0]}: is blank", f"give the tokens of a request, or a workload; {WORKLOAD_HELP}")
    work = workload_of(given.items(), beside)
    if work.rate_rps is None and work.concurrency is None:
        raise InputError("concurrency, rate: both blank", "give one of them in each row")
    if work.concurrency is not None and (work.requests or 0) > GENERATIONS * work.concurrency:
        notes.append(f"requests: {GENERATIONS} a user are played, fewer than {work.requests}: more settle little")
    fewest = work.concurrency or FEWEST_REQUESTS
    if work.requests is not None and work.requests < fewest:
        least = "the requests in flight" if work.concurrency else "what a rate shows itself in"
        raise InputError(
            f"requests: {work.requests} are too few",
            f"give {fewest} at least, {least}, or leave it out",
        )
    return work


def _check_one_engine(record: Mapping[str, str]) -> None:
    """Raises Unsupported where a row says that prefill and decode engines served its requests together."""
    for name, text in record.items():
        apart = text.casefold() in _APART_WORDS or _PAIR.fullmatch(text) is not None
        if (apart and folded(name) in ("mode", *APART)) or (folded(name) in APART and text.casefold() in _YES):
            raise Unsupported(f"{name}: {shown(text)}: {ENGINES_APART}", WAY_APART)


def _of_its_role(record: Mapping[str, str]) -> dict[str, str]:
    """``record`` with the degrees that it says of its role (``decode_tp`` of a decode engine) where it says no others.

    Raises:
        InputError: it says others.
    """
    out, role = dict(record), ROLES.get(record.get("role", "").casefold(), "aggregated")
    for name in DEGREES if role != "aggregated" else ():
        said, own = record.get(f"{role}_{name}", ""), record.get(name, "")
        if said and own and number(said) != number(own):
            raise InputError(f"{role}_{name}: {shown(said)} contradicts {name} {shown(own)}", "keep one of them")
        if said:
            out[name] = said
    return out


def plain_number(name: str, text: str) -> str:
    """A whole number as spreadsheets and data frames write it (``1,000``, ``1e3``, ``8.0``) in plain digits; other
    texts as they are."""
    if name not in ("isl", "osl", "concurrency", "requests"):
        return text
    text = re.sub(r"\s*tokens?$", "", text)
    bare = text.replace(",", "") if THOUSANDS.fullmatch(text) else text
    value = number(bare) if bare != text or not bare.isdecimal() else None
    return str(int(value)) if value is not None and value == int(value) and abs(value) <= LARGEST else text


def _recipe(record: Mapping[str, str]) -> Recipe:
    """What the row says of how the engine is started."""

    def count(name: str) -> int | None:
        return _count(name, record[name]) if record.get(name) else None

    share = record.get("gpu_memory_utilization", "")
    if share.endswith("%") and (percent := number(share[:-1])) is not None:
        share = f"{percent / 100:g}"
    if share and not _positive("gpu_memory_utilization", share) <= 1:
        raise InputError(f"gpu_memory_utilization: {shown(share)} is no share", "give a number above 0, at most 1")
    return Recipe(
        max_num_seqs=count("max_num_seqs"),
        max_num_batched_tokens=count("max_num_batched_tokens"),
        gpu_memory_utilization=float(share) if share else None,
        max_model_len=count("max_model_len"),
        chunked_prefill=_flag("chunked_prefill", record.get("chunked_prefill", "")),
        polling_interval=count("polling_interval"),
    )


def _flag(name: str, text: str) -> bool | None:
    """None where it is blank."""
    if text and text.casefold() not in (*_YES, *_NO):
        raise InputError(f"{name}: {shown(text)} is neither true nor false", "write true or false, or leave it blank")
    return text.casefold() in _YES if text else None


def _users(text: str, notes: list[str]) -> str:
    """A mean number of requests in flight (``7.998``) as the whole number next to it."""
    value = number(text)
    if value is None or value == int(value) or not 0 < value <= LARGEST:
        return text
    if value < 0.5:
        raise InputError(
            f"concurrency: {shown(text)} is a mean below half a request in flight", "give the rate of the requests"
        )
    notes.append(f"concurrency {text} is predicted as {max(round(value), 1)}")
    return str(max(round(value), 1))


def drafts_of(text: str) -> int:
    """Tokens that are drafted a step: as ``mtp3`` or ``eagle:3`` says, or :data:`USUAL`."""
    word = text.casefold()
    if told := _DRAFTED.fullmatch(word):
        return int(told[1])
    if word and word not in (*_DRAFTS, *_NO_DRAFTS):
        raise InputError(
            f"spec: {shown(text)} is not known",
            "give mtp where the model drafts for itself (mtp3: 3 tokens a step), eagle with a head (eagle:3), else "
            "none; or draft and acceptance in the workload",
        )
    return USUAL if word in _DRAFTS else 0


def _cold(text: str) -> bool:
    """Whether nothing warmed the engine up; where nobody says, something did."""
    before = whole(text)
    if text and (before is None or before < 0):
        raise InputError(
            f"{COLD}: {shown(text)} is no number", "give how many requests were sent before, or leave it blank"
        )
    return before == 0


def _sampling(text: str) -> str:
    if text.casefold() not in ("", "greedy", "random"):
        raise InputError(f"sampling: {shown(text)} is not known", "give greedy or random, or leave it blank")
    return text.casefold()


def _count(name: str, text: str) -> int:
    found = tokens(text) if name in ("max_model_len", "max_num_batched_tokens") else None  # 16k, as vLLM reads it
    value = _positive(name, text if found is None else str(found))
    if value != int(value):
        raise InputError(f"{name}: {shown(text)} is not a whole number", f"give a whole {name}, 1 or more")
    return int(value)


def _positive(name: str, text: str) -> float:
    value = number(text)
    if value is None or not 0 < value <= LARGEST:
        raise InputError(
            f"{name}: {shown(text)} is not a number above 0", f"give {name} as a number, at most {LARGEST:,}"
        )
    return value


def _layout(record: Mapping[str, str], model: Architecture, notes: list[str]) -> Layout:
    unused = ("", "0")  # samples write 0 where there are no replicas and no experts
    given = {
        name: _count(name, text) if (text := record.get(name, "")) not in unused or (text and name == "tp") else None
        for name in (*DEGREES, "num_gpus")
    }
    gpus = given["num_gpus"]
    if gpus is None and not any(given[name] for name in DEGREES):
        notes.append("tp, num_gpus: nothing says how many GPUs the engine has, one is taken")
    if gpus is not None and gpus > 1 and not any(given[name] for name in ("tp", "pp", "dp")):
        given["tp"] = gpus
        notes.append(f"tp is not given: {gpus}, all GPUs that the row tells of")
    tp, pp, dp = (given[name] or 1 for name in ("tp", "pp", "dp"))
    if gpus is not None and gpus != tp * pp * dp:
        raise InputError(
            f"num_gpus: {gpus} is not tp × pp × dp = {tp} × {pp} × {dp} = {tp * pp * dp}",
            "correct the degrees or leave num_gpus blank",
        )
    total = next((text for name, text in record.items() if folded(name) == TOTAL), "")
    if total and _count(TOTAL, total) != tp * pp * dp:
        raise InputError(
            f"{TOTAL}: {total} are not the {tp * pp * dp} of the engine, and nothing says whose users are counted",
            f"leave {TOTAL} out and give the users of one engine",
        )
    return completed(model, given)
