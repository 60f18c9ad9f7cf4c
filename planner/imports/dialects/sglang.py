"""SGLang: ``python -m sglang.launch_server``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from costmodels.serving.frameworks.framework import Framework
from planner.imports.command_line import Arguments
from planner.imports.said import EngineSaid, ExpertsSaid, longest, memory_share
from profiles.errors import InputError
from profiles.values import shown

WITHOUT_EXPERT_PARALLEL = ("ascend_tp",)
"""Choices of SGLang's --moe-a2a-backend that leave --ep-size as it is (arg_groups/overrides.py of 0.5.23,
_A2A_EP_SPANNING_BACKENDS)."""


def read(framework: Framework, line: Arguments, files: Mapping[str, str]) -> EngineSaid:
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
    length, fits = longest(line.of("max_model_len"))
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
        tp=tp // attention,
        pp=line.count("pp") or 1,
        dp=attention,
        copies=copies,
        ep=ep or 1,
        nodes=line.count("nodes"),
        secondary=node is not None and node.value not in (None, "0"),
        max_sequences=line.count("max_sequences"),
        max_tokens_per_step=None if whole_prompts else line.count("max_tokens_per_step"),
        max_model_len=length,
        longest_that_fits=fits,
        memory_fraction=memory_share(line),
        chunked_prefill=False if whole_prompts else None,
        limits_of_all=True,
        quantize=line.text("quantize"),
        dtype=line.text("dtype"),
        kv=line.text("kv"),
        role=role,  # type: ignore[arg-type]
        draft_tokens=_drafts(line, notes),
        experts=_experts(line),
        notes=tuple(notes),
    )


def _drafts(line: Arguments, notes: list[str]) -> int:
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


def _experts(line: Arguments) -> ExpertsSaid:
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
