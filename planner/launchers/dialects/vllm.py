"""vLLM: ``vllm serve``."""

from __future__ import annotations

import json
from typing import ClassVar

from planner.launchers.base import DRAFT_MODEL, HEAD_ADDRESS, NODE_RANK, EngineSpec, Launcher

RPC_PORT = 13345
"""Port of the data-parallel coordinator, as in vLLM's documentation; any free one will do."""


class VllmLauncher(Launcher):
    """Limits are per data-parallel rank, as in the plan. Experts go over all GPUs of a stage or none."""

    name: ClassVar[str] = "vllm"

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if layout.dp > 1:
            command += self._flag("dp", layout.dp)
        if layout.ep > 1:
            command += self._flag("ep")
        if spec.nodes > 1:
            command += self._nodes(spec, notes)
        return command

    def _nodes(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout, rank = spec.layout, spec.layout.tp * spec.layout.pp
        if layout.dp > 1 and rank <= spec.gpus_per_node:
            local = spec.gpus_per_node // rank
            notes.append(
                f"{HEAD_ADDRESS}: address of the first of {-(-layout.dp // local)} nodes. On node i = 1, 2, "
                f"… run the same command with --headless --data-parallel-start-rank {local}·i added."
            )
            return [
                *self._flag("dp_local", local),
                *self._flag("dp_address", HEAD_ADDRESS),
                *self._flag("dp_port", RPC_PORT),
            ]
        notes.append(
            f"Run it on each of {spec.nodes} nodes with NODE_RANK = 0 … {spec.nodes - 1} and HEAD_ADDRESS = "
            "address of node 0; add --headless on all but node 0. (With Ray instead: leave these three flags "
            "out and add --distributed-executor-backend ray.)"
        )
        return [
            *self._flag("nodes", spec.nodes),
            *self._flag("node_rank", NODE_RANK),
            *self._flag("address", HEAD_ADDRESS),
        ]

    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        command = self._limit_flags(spec)
        if spec.must_name_kv:
            command += self._flag("kv", self.words.kv[spec.kv_precision])
        return command

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            f"{DRAFT_MODEL}: the EAGLE head or draft model whose acceptance the workload gives; for a model's own MTP "
            f"module give {self._flag('draft_model')[0].rpartition('.')[0]}.method mtp instead of it."
        )
        return [*self._flag("draft_model", DRAFT_MODEL), *self._flag("draft_tokens", spec.draft_tokens)]

    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            "Set VLLM_NIXL_SIDE_CHANNEL_HOST to the node's address and VLLM_NIXL_SIDE_CHANNEL_PORT to a free port for "
            "every engine (NIXL must be installed). The command does not say which role the engine has: a proxy sends "
            "each request to a prefill engine with max_tokens=1, then with what that returns as kv_transfer_params to "
            "a decode engine (toy_proxy_server.py in vLLM's tests/v1/kv_connector/nixl_integration shows how)."
        )
        return self._flag(
            "kv_transfer", json.dumps({"kv_connector": self.framework.kv_connector.name, "kv_role": "kv_both"})
        )
