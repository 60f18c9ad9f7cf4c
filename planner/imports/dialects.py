"""A framework's arguments → what they say of an engine, in our words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from packaging.version import Version

from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Role
from planner.imports.command_line import Arguments, Given, human_number
from planner.imports.options import meanings
from planner.imports.options_file import options_file
from profiles.errors import InputError, Unsupported
from profiles.values import shown

WITHOUT_EXPERT_PARALLEL = ("ascend_tp",)
"""Choices of SGLang's --moe-a2a-backend that leave --ep-size as it is (arg_groups/overrides.py of 0.5.23,
_A2A_EP_SPANNING_BACKENDS)."""

OFFLOADING = ("LMCache", "Offload", "SharedStorage", "HF3FS", "MooncakeStore", "MultiConnector", "ExampleConnector")
"""Words of the names of vLLM's connectors that keep caches elsewhere, and hand none to another engine."""


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
        tp: as the framework counts it. ``attention_dp``: whether attention is data parallel over ``dp``.
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
    attention_dp: bool = False
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


def said_by(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
    """What the arguments ``line`` of a command of ``framework`` say.

    Args:
        files: name → text, of the files that the command may read.

    Raises:
        InputError, Unsupported: what contradicts itself, or is not modelled.
    """
    found = _READERS[framework.name](framework, line, files)
    _refuse(line)
    table = meanings(framework.name)
    effects = []
    for name, given in line.given.items():
        for flag in (given.written, name):
            if flag in table.effects:
                effects.append(f"{given.written}: {table.effects[flag]}")
                break
    kept = tuple((each.written, each.value) for name, each in line.given.items() if name not in line.used)
    return replace(found, notes=(*line.notes, *found.notes, *effects), kept=kept)


DISPATCH_TOKENS = {"vllm": "VLLM_MOE_DP_CHUNK_SIZE", "sglang": "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"}
"""Variables that say how many tokens the buffers of an exchange hold."""
EXCHANGE = {"vllm": ("VLLM_ALL2ALL_BACKEND", "0.16"), "trtllm": ("TRTLLM_FORCE_COMM_METHOD", None)}
"""Variables that name the exchange, whatever the command says, and the first release that reads them no more
(vllm#33535)."""


def with_variables(said: EngineSaid, environment: Mapping[str, str]) -> EngineSaid:
    """``said`` with what variables say of it."""
    framework, notes = said.framework, []
    tokens = environment.get(DISPATCH_TOKENS.get(framework.name, ""), "")
    experts = replace(said.experts, dispatch_tokens=int(tokens) if tokens.isascii() and tokens.isdigit() else 0)
    name, gone = EXCHANGE.get(framework.name, ("", None))
    if environment.get(name):
        if gone is None or Version(framework.release.version) < Version(gone):
            experts = replace(experts, backend=environment[name])
        else:
            notes.append(f"{name}: {framework.title} does not read it (from {gone} on): write --all2all-backend")
    known = {way.backend for way in framework.parallelism.exchanges.values()}
    if experts.backend and experts.backend not in known and experts.backend not in meanings(framework.name).gathers:
        notes.append(
            f"{experts.backend}: this exchange of tokens is not modelled; predicted as if all ranks gathered all"
        )
    if not experts.backend and (experts.redundant or experts.slots or experts.eplb != "off"):
        notes.append("experts are balanced, and no exchange is named: predicted without copies and moves of experts")
    return replace(said, experts=experts, notes=(*said.notes, *notes))


def _refuse(line: Arguments) -> None:
    """Raises Unsupported for a flag that changes what the engine does and is not modelled."""
    for flag, refused in line.options.meanings.refused.items():
        option = line.options.named(flag)
        given = None if option is None else line.given.get(option.flag)
        if given is not None and given.value != refused.unless:
            raise Unsupported(
                f"{given.written} {shown(given.value or '')}: {refused.why}",
                f"leave {given.written} out to see the engine without it",
            )


def _share(line: Arguments) -> float | None:
    given = line.of("memory_fraction")
    if given is None or given.value is None:
        return None
    value = float(given.value)
    if not 0 < value <= 1:
        raise InputError(f"{given.written}: {shown(given.value)} is no share", "give a number above 0, at most 1")
    return value


def _length(given: Given | None) -> tuple[int | None, bool]:
    """(the longest sequence, whether it is as long as fits)."""
    if given is None or given.value is None:
        return None, False
    if given.value in ("auto", "-1"):
        return None, True
    value = human_number(given.value)
    if value is None or value < 1:
        raise InputError(f"{given.written}: {shown(given.value)} is no length", "give a whole number of tokens")
    return value, False


# ------------------------------------------------------------------ vLLM


def _vllm(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
    model = line.text("model")
    places = list(line.positional)
    if places:
        first = places.pop(0)
        if model is not None and model != first:
            raise InputError(f"model: {shown(first)}, and --model says {shown(model)}", "keep one of them")
        model = first
    if places:
        raise InputError(
            f"argument {shown(places[0])}: is neither an option nor the model",
            "a switch takes no value (write --enable-expert-parallel alone); put quotes around a value with blanks",
        )
    length, fits = _length(line.of("max_model_len"))
    rank = line.of("dp_rank")
    line.count("dp_local")
    node = line.of("node_rank")
    headless = line.switch("headless") or False
    later = any(given is not None and given.value not in (None, "0") for given in (rank, node))
    notes = []
    role, told = _vllm_role(line)
    notes += told
    return EngineSaid(
        framework,
        model,
        tp=line.count("tp") or 1,
        pp=line.count("pp") or 1,
        dp=line.count("dp") or 1,
        attention_dp=True,
        ep_all=line.switch("ep") or False,
        nodes=line.count("nodes"),
        secondary=headless or later,
        max_sequences=line.count("max_sequences"),
        max_tokens_per_step=line.count("max_tokens_per_step"),
        max_model_len=length,
        longest_that_fits=fits,
        memory_fraction=_share(line),
        chunked_prefill=line.switch("chunked_prefill"),
        quantize=line.text("quantize"),
        dtype=line.text("dtype"),
        kv=line.text("kv"),
        role=role,
        draft_tokens=_vllm_drafts(line),
        experts=_vllm_experts(line),
        notes=tuple(notes),
    )


def _vllm_role(line: Arguments) -> tuple[Role | None, list[str]]:
    """(the role, None where the command does not say it; notes)."""
    asked = line.document("kv_transfer")
    if not asked:
        return "aggregated", []
    within = [each for each in _joined(asked) if not any(word in str(each["kv_connector"]) for word in OFFLOADING)]
    if asked.get("kv_connector") == "MultiConnector" and within:
        asked = within[0]
    connector, role = str(asked.get("kv_connector", "")), asked.get("kv_role")
    if any(word in connector for word in OFFLOADING):
        return "aggregated", [f"{connector}: the cache that it keeps elsewhere is not counted"]
    roles: dict[object, Role] = {"kv_producer": "prefill", "kv_consumer": "decode"}
    return roles.get(role), []


def _joined(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a MultiConnector joins."""
    joined = asked.get("kv_connector_extra_config")
    given = joined.get("connectors") if isinstance(joined, Mapping) else None
    found = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    return [each for each in found if "kv_connector" in each]


def _vllm_experts(line: Arguments) -> ExpertsSaid:
    balanced = line.switch("balancer") or False
    copies = line.document("balancer_config").get("num_redundant_experts", 0)
    line.of("two_batch_prefill"), line.of("two_batch_decode")
    return ExpertsSaid(
        backend=line.text("exchange") or "",
        redundant=copies if balanced and isinstance(copies, int) and not isinstance(copies, bool) else 0,
        overlap="two_batch" if line.switch("two_batch") else "none",
        eplb="dynamic" if balanced else "off",
    )


def _sglang_experts(line: Arguments) -> ExpertsSaid:
    mode = line.text("exchange_mode")
    line.of("dense_tp"), line.of("dp_head")
    overlap: Literal["none", "two_batch", "single_batch"] = "two_batch" if line.switch("two_batch") else "none"
    if line.switch("single_batch"):
        overlap = "single_batch"
    placed = line.of("placement") is not None
    return ExpertsSaid(
        backend=line.text("exchange") or "",
        mode="" if mode in (None, "auto") else str(mode),
        redundant=line.count("copies") or 0,
        overlap=overlap,
        eplb="dynamic" if line.switch("balancer") else "static" if placed else "off",
    )


def _vllm_drafts(line: Arguments) -> int:
    """Tokens drafted a step."""
    asked = dict(line.document("drafting"))
    method, model, tokens = line.text("draft_method"), line.text("draft_model"), line.text("draft_tokens")
    said = tokens if tokens is not None else asked.get("num_speculative_tokens")
    if not asked and method is None and model is None and tokens is None:
        return 0
    count = said if isinstance(said, int) and not isinstance(said, bool) else human_number(str(said or ""))
    if count is None or not 1 <= count <= 64:
        raise InputError(
            "--speculative-config: how many tokens are drafted is not said"
            if said is None
            else f"--speculative-config: num_speculative_tokens {shown(str(said))} is not a number from 1 to 64",
            'write "num_speculative_tokens": N in it',
        )
    return count


# ------------------------------------------------------------------ SGLang


def _sglang(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
    model = line.text("model")
    if line.positional:
        raise InputError(
            f"argument {shown(line.positional[0])}: is neither an option nor its value",
            "name the model with --model-path; put quotes around a value with blanks",
        )
    tp, dp, each = line.count("tp") or 1, line.count("dp") or 1, line.count("attention_dp_size")
    shared = line.switch("attention_dp") or False
    if shared and each is not None:
        raise InputError(
            "--attn-dp-size and --enable-dp-attention: both are given", "keep --attn-dp-size, which is the newer one"
        )
    attention = each or (dp if shared else 1)
    copies = dp if each is not None or not shared else 1
    if tp % attention:
        raise InputError(
            f"--tp-size: {tp} is not a multiple of the {attention} attention replicas",
            "--tp-size counts all GPUs of a stage; attention replicas share them out",
        )
    chunk = line.of("max_tokens_per_step")
    whole_prompts = chunk is not None and chunk.value == "-1"
    length, fits = _length(line.of("max_model_len"))
    node, ep = line.of("node_rank"), line.count("ep")
    notes = []
    backend = line.text("exchange")
    if backend not in (None, "none", *WITHOUT_EXPERT_PARALLEL) and ep != tp:
        ep = tp
        notes.append(f"--moe-a2a-backend {backend} shares the experts out over all {tp} GPUs (ep {tp})")
    role = {"prefill": "prefill", "decode": "decode"}.get(line.text("role") or "", "aggregated")
    return EngineSaid(
        framework,
        model,
        tp=tp,
        pp=line.count("pp") or 1,
        dp=attention,
        attention_dp=attention > 1,
        copies=copies,
        ep=ep or 1,
        nodes=line.count("nodes"),
        secondary=node is not None and node.value not in (None, "0"),
        max_sequences=line.count("max_sequences"),
        max_tokens_per_step=None if whole_prompts else line.count("max_tokens_per_step"),
        max_model_len=length,
        longest_that_fits=fits,
        memory_fraction=_share(line),
        chunked_prefill=False if whole_prompts else None,
        limits_of_all=True,
        quantize=line.text("quantize"),
        dtype=line.text("dtype"),
        kv=line.text("kv"),
        role=role,  # type: ignore[arg-type]
        draft_tokens=_sglang_drafts(line, notes),
        experts=_sglang_experts(line),
        notes=tuple(notes),
    )


def _sglang_drafts(line: Arguments, notes: list[str]) -> int:
    algorithm, steps, branches = line.text("draft_method"), line.count("draft_steps"), line.count("draft_branches")
    tokens = line.count("draft_tokens")
    line.text("draft_model")
    if algorithm is None or algorithm.casefold() == "none":
        return 0
    if (branches or 1) > 1:
        notes.append(
            f"--speculative-eagle-topk {branches}: a tree of tokens is drafted; predicted as the chain of its depth"
        )
    count = steps or (None if tokens is None else max(tokens - 1, 1))
    if count is None:
        raise InputError(
            f"--speculative-algorithm {shown(algorithm)}: how many tokens are drafted is not said, and SGLang's choice "
            "goes by the model",
            "write --speculative-num-steps N, as its log has it",
        )
    return count


# ------------------------------------------------------------------ TensorRT-LLM


def _trtllm(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
    if len(line.positional) > 1:
        raise InputError(
            f"argument {shown(line.positional[1])}: is neither an option nor the model", "name the model once"
        )
    read = options_file(line, files)
    from_file = read.said

    def said(name: str) -> Any:
        # The options file replaces what flags say.
        given = line.of(name)
        return from_file.get(name, None if given is None else given.value)

    def count(name: str) -> int | None:
        value = said(name)
        if value is None:
            return None
        found = human_number(str(value))
        if found is None or found < 1:
            raise InputError(f"{name}: {shown(str(value))} is not at least 1", "give a whole number")
        return found

    tp, over_all = count("tp") or 1, from_file.get("attention_dp") is True
    share = said("memory_fraction")
    chunked = from_file.get("chunked_prefill", line.switch("chunked_prefill"))
    kv = said("kv")
    drafts = count("draft_tokens") or 0
    if from_file.get("draft_method") is not None and not drafts:
        raise InputError("speculative_config: how many tokens are drafted is not said", "write max_draft_len: N in it")
    disaggregated = from_file.get("transceiver") is not None
    role: Role | None = "aggregated"
    if disaggregated:
        role = "prefill" if from_file.get("no_overlap") is True else None
    return EngineSaid(
        framework,
        line.positional[0] if line.positional else None,
        tp=tp,
        pp=count("pp") or 1,
        dp=tp if over_all else 1,
        attention_dp=over_all,
        ep=count("ep") or 1,
        moe_tp=count("moe_tp"),
        max_sequences=count("max_sequences"),
        max_tokens_per_step=count("max_tokens_per_step"),
        max_model_len=count("max_model_len"),
        memory_fraction=None if share is None else _as_share(share),
        chunked_prefill=bool(chunked) if chunked is not None else None,
        kv=None if kv in (None, "auto") else str(kv),
        role=role,
        draft_tokens=drafts,
        experts=ExpertsSaid(
            eplb="off" if read.moves is None else "dynamic" if read.moves else "static", slots=read.slots
        ),
        notes=tuple(f"{name} of the options file has no meaning here" for name in read.unread),
    )


def _as_share(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = 0.0
    if not 0 < found <= 1:
        raise InputError(
            f"free_gpu_memory_fraction: {shown(str(value))} is no share", "give a number above 0, at most 1"
        )
    return found


_READERS: dict[str, Callable[[Framework, Arguments, Mapping[str, str]], EngineSaid]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "trtllm": _trtllm,
}
