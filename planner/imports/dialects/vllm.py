"""vLLM: ``vllm serve``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import Role
from planner.imports.command_line import Arguments, human_number
from planner.imports.said import EngineSaid, ExpertsSaid, longest, memory_share
from profiles.errors import InputError
from profiles.values import shown

OFFLOADING = ("LMCache", "Offload", "SharedStorage", "HF3FS", "MooncakeStore", "MultiConnector", "ExampleConnector")
"""Words of the names of vLLM's connectors that keep caches elsewhere, and hand none to another engine."""


def read(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
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
    length, fits = longest(line.of("max_model_len"))
    rank = line.of("dp_rank")
    dp, local = line.count("dp") or 1, line.count("dp_local")
    apart = None if local is None or local >= dp else -(-dp // max(local, 1))  # nodes that share the replicas out
    node = line.of("node_rank")
    headless = line.switch("headless") or False
    later = any(given is not None and given.value not in (None, "0") for given in (rank, node))
    notes = []
    role, told = _role(line)
    notes += told
    return EngineSaid(
        framework,
        model,
        tp=line.count("tp") or 1,
        pp=line.count("pp") or 1,
        dp=dp,
        replicas_apart=True,
        ep_all=line.switch("ep") or False,
        nodes=line.count("nodes") or apart,
        secondary=headless or later,
        max_sequences=line.count("max_sequences"),
        max_tokens_per_step=line.count("max_tokens_per_step"),
        max_model_len=length,
        longest_that_fits=fits,
        memory_fraction=memory_share(line),
        chunked_prefill=line.switch("chunked_prefill"),
        quantize=line.text("quantize"),
        dtype=line.text("dtype"),
        kv=line.text("kv"),
        role=role,
        draft_tokens=_drafts(line),
        experts=_experts(line),
        notes=tuple(notes),
    )


def _role(line: Arguments) -> tuple[Role | None, list[str]]:
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


def _experts(line: Arguments) -> ExpertsSaid:
    balanced = line.switch("balancer") or False
    copies = line.document("balancer_config").get("num_redundant_experts", 0)
    line.of("two_batch_prefill"), line.of("two_batch_decode")
    return ExpertsSaid(
        backend=line.text("exchange") or "",
        redundant=copies if balanced and isinstance(copies, int) and not isinstance(copies, bool) else 0,
        overlap="two_batch" if line.switch("two_batch") else "none",
        eplb="dynamic" if balanced else "off",
    )


def _drafts(line: Arguments) -> int:
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
