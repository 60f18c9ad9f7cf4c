"""TensorRT-LLM: ``trtllm-serve`` and its file of options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Role
from planner.imports.command_line import Arguments, human_number
from planner.imports.options_file import options_file
from planner.imports.said import EngineSaid, ExpertsSaid
from profiles.errors import InputError
from profiles.values import shown


def read(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
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

    tp, pp, over_all = count("tp") or 1, count("pp") or 1, from_file.get("attention_dp") is True
    on_node = count("gpus_per_node") or tp * pp
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
        tp=1 if over_all else tp,
        pp=pp,
        dp=tp if over_all else 1,
        ep=count("ep") or 1,
        moe_tp=count("moe_tp"),
        nodes=-(-tp * pp // on_node) if tp * pp > on_node else None,
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
