"""SGLang: ``python -m sglang.launch_server``."""

from __future__ import annotations

from typing import ClassVar

from planner.launchers.base import DRAFT_MODEL, HEAD_ADDRESS, NODE_RANK, EngineSpec, Launcher

INIT_PORT = 20000
"""Port of the process group, as in SGLang's documentation; any free one will do."""


class SglangLauncher(Launcher):
    """Under attention data parallel, ``--tp-size`` counts the whole group (tp·dp), and the limits are
    those of the whole group too: SGLang divides them by ``--dp-size``."""

    name: ClassVar[str] = "sglang"
    limits_span_replicas: ClassVar[bool] = True

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp * layout.dp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if layout.dp > 1:
            command += [*self._flag("dp", layout.dp), *self._flag("attention_dp")]
        if layout.ep > 1:
            command += self._flag("ep", layout.ep)
        if spec.nodes > 1:
            command += [
                *self._flag("nodes", spec.nodes),
                *self._flag("node_rank", NODE_RANK),
                *self._flag("address", f"{HEAD_ADDRESS}:{INIT_PORT}"),
            ]
            notes.append(
                f"Run it on each of {spec.nodes} nodes with NODE_RANK = 0 … {spec.nodes - 1} and "
                "HEAD_ADDRESS = address of node 0."
            )
        return command

    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        limits, dp = spec.limits, spec.layout.dp
        command = self._limit_flags(spec)
        if spec.role == "aggregated":
            command += self._flag("mixed_steps")  # the prediction mixes prefill chunks with decodes in one step
        if dp > 1:
            names = self.words.flags
            notes.append(
                f"{names['max_tokens_per_step']} and {names['max_sequences']} are for all {dp} attention "
                f"replicas: {limits.max_tokens_per_step} tokens and {limits.max_sequences} sequences each."
            )
        if spec.must_name_kv:
            command += self._flag("kv", self.words.kv[spec.kv_precision])
        return command

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            f"{DRAFT_MODEL}: the EAGLE head whose acceptance the workload gives (EAGLE3 in place of EAGLE where it "
            "is one); DeepSeek's MTP module is run by EAGLE without a draft model. The prediction is of one chain of "
            "tokens, not of a tree."
        )
        return [
            *self._flag("draft_method", "EAGLE"),
            *self._flag("draft_model", DRAFT_MODEL),
            *self._flag("draft_steps", spec.draft_tokens),
            *self._flag("draft_branches", 1),
            *self._flag("draft_tokens", spec.draft_tokens + 1),
        ]

    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            "Requests go through SGLang's router, which pairs the engines: python -m sglang_router.launch_router "
            "--pd-disaggregation --prefill URL of each prefill engine --decode URL of each decode engine. Mooncake "
            "must be installed (or NIXL, named by --disaggregation-transfer-backend)."
        )
        return self._flag("role", spec.role)
