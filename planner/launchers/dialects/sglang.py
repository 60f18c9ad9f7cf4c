"""SGLang: ``python -m sglang.launch_server``."""

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
from profiles.errors import Unsupported

EXPERT_LOCATION = "expert-location.json"
"""Which GPU holds which expert, as `plan experts` writes it for SGLang."""

INIT_PORT = 20000
"""Port of the process group, as in SGLang's documentation; any free one will do."""


class SglangLauncher(Launcher):
    """Under attention data parallel, ``--tp-size`` counts the whole group (tp·dp), and the limits are
    those of the whole group too: SGLang divides them by the number of its attention replicas. From 0.5.23 on that is
    ``--attn-dp-size``; before, ``--dp-size`` with ``--enable-dp-attention``."""

    name: ClassVar[str] = "sglang"
    limits_span_replicas: ClassVar[bool] = True
    dispatch_tokens: ClassVar[str] = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp * layout.dp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if layout.dp > 1:
            command += self._flag("dp", layout.dp)
            command += self._flag("attention_dp") if "attention_dp" in self.words.flags else []
        if layout.ep > 1:
            command += self._flag("ep", layout.ep)
        return command

    def _experts(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout, exchange, command = spec.layout, self._exchange(spec), []
        if exchange is not None:
            command += self._flag("exchange", exchange.backend)
            if exchange.mode:
                command += self._flag("exchange_mode", exchange.mode)
            if layout.dp > 1:
                command += [*self._flag("dense_tp", 1), *self._flag("dp_head")]
        if layout.redundant:
            command += self._flag("copies", layout.redundant)
        if layout.eplb == "dynamic":
            command += self._flag("balancer")
        elif layout.eplb != "off":
            command += self._flag("placement", EXPERT_LOCATION)
            notes.append(
                f"{EXPERT_LOCATION}: where experts and their copies lie; `plan export` writes it beside the command "
                "where the plan has a placement (--expert-loads), else `plan experts` makes it from recorded loads "
                f"(or give {self._flag('balancer')[0]} in its place: the engine then moves experts as it runs)."
            )
        if layout.overlap != NOTHING:
            command += self._flag(layout.overlap)
        return command

    def _files(self, spec: EngineSpec) -> dict[str, str]:
        """The placement, a row for every layer of the model; those without experts have them in order."""
        if not self._is_placed(spec):
            return {}
        placed = spec.placement
        if placed is None:
            raise Unsupported(
                f"layout {spec.layout.label}: its experts are placed by loads, and the plan has none",
                "plan with --expert-loads, or with --eplb dynamic",
            )
        slots = len(placed.physical_to_logical_map[0])
        rows = [[slot % spec.experts for slot in range(slots)] for _ in range(spec.layers)]
        for layer, row in zip(placed.layer_index, placed.physical_to_logical_map, strict=True):
            rows[layer] = list(row)
        return {EXPERT_LOCATION: json.dumps({"physical_to_logical_map": rows}) + "\n"}

    def _is_placed(self, spec: EngineSpec) -> bool:
        """Whether the command names the placement: what balances as it runs needs none."""
        layout = spec.layout
        return layout.eplb not in ("off", "dynamic") or (
            spec.placement is not None and layout.exchange == NOTHING and layout.ep > 1
        )

    def _command(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        command = super()._command(spec, place, notes)
        if place is None:
            return command
        if self._is_placed(spec) and EXPERT_LOCATION not in command:
            command += self._flag("placement", EXPERT_LOCATION)
        return [f"{place.files}{word}" if word == EXPERT_LOCATION else word for word in command]

    def _nodes(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        if place is None:
            notes.append(
                f"Run it on each of {spec.nodes} nodes with NODE_RANK = 0 … {spec.nodes - 1} and "
                "HEAD_ADDRESS = address of node 0."
            )
        nodes, rank = (spec.nodes, NODE_RANK) if place is None else (place.nodes, place.node_rank)
        address = f"{HEAD_ADDRESS}:{INIT_PORT}" if place is None else f"{place.head}:{place.ports.master}"
        return [*self._flag("nodes", nodes), *self._flag("node_rank", rank), *self._flag("address", address)]

    def cannot_place(self, spec: EngineSpec, gpus_by_node: Sequence[int]) -> str | None:
        if spec.draft_tokens and spec.layout.pp > 1 and spec.role != "prefill":
            return f"{self.framework.full_name} drafts in one pipeline stage only (or on prefill engines)"
        return self._uneven(gpus_by_node)

    def _placed(self, spec: EngineSpec, place: Place) -> list[str]:
        command = ["--host", "0.0.0.0", *self._flag("port", place.ports.http)]
        if place.nodes == 1 and spec.layout.dp > 1:  # else it counts on from the port that clients use
            command += self._flag("address", f"{place.own}:{place.ports.master}")
        if spec.role == "prefill":
            command += ["--disaggregation-bootstrap-port", str(place.ports.bootstrap)]
        return command

    def front(self, engines: Sequence[Behind], port: int, files: str) -> Front:
        """SGLang's router; its policies know load and prefixes, not weights."""
        command = ["python", "-m", "sglang_router.launch_router", "--host", "0.0.0.0", "--port", str(port)]
        command += ["--policy", "round_robin"]
        if any(engine.role != "aggregated" for engine in engines):
            command.append("--pd-disaggregation")
            for engine in engines:
                if engine.role == "prefill":
                    command += ["--prefill", f"http://{engine.host}", str(engine.ports.bootstrap)]
            for engine in engines:
                command += ["--decode", f"http://{engine.host}"] if engine.role == "decode" else []
        else:
            command += ["--worker-urls", *(f"http://{engine.host}" for engine in engines)]
        start = NodeStart(tuple(command), ready="/health")
        return Front("SGLang's router", start, weighted=False, image_key="front_image")

    def benchmark(self, url: str, sweep: Sweep) -> Benchmark:
        command: tuple[str, ...] = (
            "python",
            "-m",
            "sglang.bench_serving",
            "--backend",
            "sglang-oai",
            "--base-url",
            url,
            "--model",
        )
        command += (sweep.model, "--dataset-name", "random", "--random-input-len", str(sweep.isl))
        command += ("--random-output-len", str(sweep.osl), "--random-range-ratio", "1.0", "--num-prompts")
        command += (sweep.requests, "--request-rate", sweep.rate, "--output-file", sweep.output)
        return Benchmark(command, measured_columns("e2e_latency"), appends=True)

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
        return [*command, *self._kv_flags(spec)]

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        notes.append(
            f"{DRAFT_MODEL}: the EAGLE head whose acceptance the workload gives (EAGLE3 in place of EAGLE where it "
            "is one); DeepSeek's MTP module is run by EAGLE without a draft model. The prediction is of one chain of "
            "tokens, not of a tree."
        )
        mtp = spec.draft_method == MTP
        return [
            *self._flag("draft_method", "EAGLE" if mtp or not spec.draft_method else spec.draft_method.upper()),
            *([] if mtp else self._flag("draft_model", spec.draft_model)),
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
