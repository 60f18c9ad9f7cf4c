"""vLLM: ``vllm serve``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

from planner.contract.engine import NOTHING
from planner.launchers.base import Launcher
from planner.launchers.client import Benchmark, Sweep, measured_columns
from planner.launchers.front import Behind, Front, NodeStart
from planner.launchers.places import HEAD_ADDRESS, NODE_RANK, Place
from planner.launchers.spec import DRAFT_MODEL, MTP, EngineSpec
from planner.launchers.words import plain

RPC_PORT = 13345
"""Port of the data-parallel coordinator, as in vLLM's documentation; any free one will do."""


class VllmLauncher(Launcher):
    """Limits are per data-parallel rank, as in the plan. Experts go over all GPUs of a stage or none."""

    name: ClassVar[str] = "vllm"
    dispatch_tokens: ClassVar[str] = "VLLM_MOE_DP_CHUNK_SIZE"

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if layout.dp > 1:
            command += self._flag("dp", layout.dp)
        if layout.ep > 1:
            command += self._flag("ep")
        return command

    def _experts(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout, exchange, command = spec.layout, self._exchange(spec), []
        if exchange is not None:
            command += self._flag("exchange", exchange.backend)
        if layout.eplb != "off":
            command += self._flag("balancer")
        if layout.redundant:
            command += self._flag("balancer_config", json.dumps({"num_redundant_experts": layout.redundant}))
        if layout.overlap != NOTHING:
            command += self._flag("two_batch")
            kind = "prefill" if spec.role == "prefill" else "decode"
            command += self._flag(f"two_batch_{kind}", 2)
        return command

    def _nodes(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        layout, rank = spec.layout, spec.layout.tp * spec.layout.pp
        if place is not None:
            return self._nodes_of(spec, place)
        if layout.dp > 1 and rank <= spec.gpus_per_node:
            local = spec.gpus_per_node // rank
            notes.append(
                f"{plain(HEAD_ADDRESS)}: address of the first of {-(-layout.dp // local)} nodes. On node i = 1, 2, "
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

    def _nodes_of(self, spec: EngineSpec, place: Place) -> list[str]:
        """Whole attention replicas a node: by their ranks, which may be more on one node than on another; else, and
        where all nodes are told the same, one world of even nodes."""
        rank = spec.layout.tp * spec.layout.pp
        headless = [] if place.leads else self._flag("headless")
        if not place.alike and spec.layout.dp > 1 and all(gpus % rank == 0 for gpus in place.gpus_by_node):
            start = [] if place.leads else self._flag("dp_start", place.gpus_before // rank)
            return [
                *self._flag("dp_local", place.gpus_by_node[int(place.node_rank)] // rank),
                *start,
                *self._flag("dp_address", place.head),
                *self._flag("dp_port", place.ports.rpc),
                *headless,
            ]
        return [
            *self._flag("nodes", place.nodes),
            *self._flag("node_rank", place.node_rank),
            *self._flag("address", place.head),
            *self._flag("port_of_master", place.ports.master),
            *headless,
        ]

    def cannot_place(self, spec: EngineSpec, gpus_by_node: Sequence[int]) -> str | None:
        rank = spec.layout.tp * spec.layout.pp
        if spec.layout.dp > 1 and all(gpus % rank == 0 for gpus in gpus_by_node):
            return None
        return self._uneven(gpus_by_node)

    def _placed(self, spec: EngineSpec, place: Place) -> list[str]:
        return self._flag("port", place.ports.http) if place.leads else []

    def _environment(self, spec: EngineSpec, place: Place) -> dict[str, str]:
        buffers = super()._environment(spec, place)
        if spec.role == "aggregated":
            return buffers
        return buffers | {
            "VLLM_NIXL_SIDE_CHANNEL_HOST": place.own,
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(place.ports.side_channel),
        }

    def front(self, engines: Sequence[Behind], port: int, files: str) -> Front:
        """vllm-router; its policies know load and prefixes, not weights."""
        command = ["vllm-router", "--host", "0.0.0.0", "--port", str(port), "--policy", "round_robin"]
        if any(engine.role != "aggregated" for engine in engines):
            command += ["--vllm-pd-disaggregation", "--kv-connector", "nixl"]
            for role, flag in (("prefill", "--prefill"), ("decode", "--decode")):
                for engine in engines:
                    command += [flag, f"http://{engine.host}"] if engine.role == role else []
        else:
            command += ["--worker-urls", *(f"http://{engine.host}" for engine in engines)]
        start = NodeStart(tuple(command), ready="/health")
        return Front("vllm-router", start, weighted=False, image_key="front_image")

    def benchmark(self, url: str, sweep: Sweep) -> Benchmark:
        command: tuple[str, ...] = (
            "vllm",
            "bench",
            "serve",
            "--backend",
            "vllm",
            "--base-url",
            url,
            "--model",
            sweep.model,
        )
        command += ("--dataset-name", "random", "--random-input-len", str(sweep.isl), "--random-output-len")
        command += (str(sweep.osl), "--ignore-eos", "--num-prompts", sweep.requests, "--request-rate", sweep.rate)
        command += ("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99")
        command += ("--save-result", "--result-filename", sweep.output)
        return Benchmark(command, measured_columns("e2el"))

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            f"{DRAFT_MODEL}: the EAGLE head or draft model whose acceptance the workload gives; for a model's own MTP "
            f"module give {self._flag('draft_model')[0].rpartition('.')[0]}.method mtp instead of it."
        )
        method = [f"{self.words.flags['draft_model']}".replace(".model", ".method"), spec.draft_method]
        return [
            *(method if spec.draft_method else []),
            *([] if spec.draft_method == MTP else self._flag("draft_model", spec.draft_model)),
            *self._flag("draft_tokens", spec.draft_tokens),
        ]

    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            "Set VLLM_NIXL_SIDE_CHANNEL_HOST to the node's address and VLLM_NIXL_SIDE_CHANNEL_PORT to a free port for "
            "every engine (NIXL must be installed). The command does not say which role the engine has: requests go "
            "through vllm-router --vllm-pd-disaggregation --prefill URL of each prefill engine --decode URL of each "
            "decode engine."
        )
        return self._flag(
            "kv_transfer", json.dumps({"kv_connector": self.framework.kv_connector.name, "kv_role": "kv_both"})
        )
