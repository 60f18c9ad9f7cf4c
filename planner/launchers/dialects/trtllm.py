"""TensorRT-LLM: ``trtllm-serve`` with the PyTorch backend. What its flags lack goes to a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import yaml

from planner.launchers.base import Launcher
from planner.launchers.client import Benchmark, Sweep, measured_columns
from planner.launchers.front import Behind, Front, NodeStart
from planner.launchers.places import Place
from planner.launchers.spec import DRAFT_MODEL, MTP, EngineSpec
from profiles.errors import Unsupported

OPTIONS_FILE = "trtllm-options.yaml"
BALANCER_FILE = "moe-load-balancer.yaml"
COMMUNICATION = "TRTLLM_FORCE_COMM_METHOD"
"""Variable that names how tokens reach their experts."""

SERVER_FILE = "disaggregated.yaml"


class TrtllmLauncher(Launcher):
    """``--tp_size`` counts the whole group (tp·dp); attention data parallel is over all of it or none."""

    name: ClassVar[str] = "trtllm"
    one_world: ClassVar[str] = "trtllm-llmapi-launch"

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp * layout.dp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if spec.is_moe:
            command += self._flag("ep", layout.ep)  # the experts' tensor split follows: tp_size ÷ ep_size
        return command

    def _experts(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """In the options file, but for the exchange's own way, which is a variable."""
        exchange = self._exchange(spec)
        if exchange is not None:
            notes.append(f"Set {COMMUNICATION}={exchange.backend} on each node: how tokens reach their experts.")
            if spec.layout.eplb != "off":
                notes.append(
                    f"{BALANCER_FILE}: num_slots is the model's experts and {spec.layout.redundant} copies, "
                    f"layer_updates_per_iter {2 if spec.layout.eplb == 'dynamic' else 0}, and "
                    "initial_global_assignments by layer as `plan experts` writes them for TensorRT-LLM (`plan export` "
                    "writes all of it into the options file)."
                )
        return []

    def _environment(self, spec: EngineSpec, place: Place) -> dict[str, str]:
        exchange = self._exchange(spec)
        own = {} if exchange is None else {COMMUNICATION: exchange.backend}
        return own | ({spec.early_launch: "1"} if spec.early_launch else {})

    def _nodes(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        gpus = spec.gpus_per_node if place is None else place.gpus_by_node[0]
        notes.append(
            f"One MPI world over {spec.nodes} nodes: prefix the command with srun -N {spec.nodes} "
            f"--ntasks {spec.layout.gpus} --ntasks-per-node {spec.gpus_per_node} --mpi=pmix "
            "trtllm-llmapi-launch."
        )
        return self._flag("gpus_per_node", gpus)

    def cannot_place(self, spec: EngineSpec, gpus_by_node: Sequence[int]) -> str | None:
        return self._uneven(gpus_by_node)

    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        limits = spec.limits
        command = [*self._limit_flags(spec), *self._flag("chunked_prefill")]
        if spec.kv_precision == "bf16" and spec.published_precision not in ("bf16", "fp16", "fp32"):
            notes.append("Check that the checkpoint asks for no fp8 KV cache of its own: the prediction has bf16.")
        if spec.early_launch:
            notes.append(f"Set {spec.early_launch}=1 on each node: the prediction has kernels start early.")
        options = self._options(spec)
        if options:
            lines = [f"{key}: {_flow(value)}" for key, value in options.items()]
            command += self._flag("options_file", OPTIONS_FILE)
            notes.append(f"{OPTIONS_FILE} holds: " + "; ".join(f"`{line}`" for line in lines) + " (one a line).")
        if spec.draft_tokens:
            notes.append(
                f"{DRAFT_MODEL}: the EAGLE head whose acceptance the workload gives; DeepSeek's MTP module is "
                "{decoding_type: MTP, num_nextn_predict_layers: N}."
            )
        notes.append(
            f"{self._flag('memory_fraction')[0]} is a share of what weights and buffers leave free, so the "
            f"KV cache may grow beyond the plan's {limits.memory_fraction:.0%} of the GPU."
        )
        return command

    def _options(self, spec: EngineSpec) -> dict[str, Any]:
        """The options file: what has no flags."""
        options: dict[str, Any] = {}
        if spec.layout.dp > 1:
            options["enable_attention_dp"] = True
        if self._exchange(spec) is not None:
            options["moe_config"] = {"backend": "WIDEEP"}
            if spec.layout.eplb != "off":
                options["moe_config"]["load_balancer"] = self._balancer(spec)
        elif spec.expert_backend:
            options["moe_config"] = {"backend": spec.expert_backend}
        if spec.kv_precision != "bf16":
            # The file replaces what the flags say, so the fraction is repeated.
            options["kv_cache_config"] = {
                "dtype": self.words.kv[spec.kv_precision],
                "free_gpu_memory_fraction": spec.limits.memory_fraction,
            }
        if spec.draft_tokens and spec.draft_method == MTP:
            options["speculative_config"] = {"decoding_type": "MTP", "num_nextn_predict_layers": spec.draft_tokens}
        elif spec.draft_tokens:
            options["speculative_config"] = {
                "decoding_type": spec.draft_method or "Eagle",
                "max_draft_len": spec.draft_tokens,
                "speculative_model_dir": spec.draft_model,
            }
        if spec.role != "aggregated":
            block = self.framework.scheduler.block_tokens
            whole = -(-spec.limits.max_model_len // block) * block  # must divide by the tokens of a block
            options["cache_transceiver_config"] = {"backend": "DEFAULT", "max_tokens_in_buffer": whole}
        if spec.role == "prefill":
            options["disable_overlap_scheduler"] = True
        return options

    def _files(self, spec: EngineSpec) -> dict[str, str]:
        options = self._options(spec)
        return {OPTIONS_FILE: yaml.safe_dump(options, sort_keys=False, allow_unicode=True)} if options else {}

    def start(self, spec: EngineSpec, place: Place) -> NodeStart:
        made = super().start(spec, place)
        command = [f"{place.files}{word}" if word == OPTIONS_FILE else word for word in made.command]
        return NodeStart(tuple(command), made.environment, made.files, made.ready)

    def _balancer(self, spec: EngineSpec) -> str | dict[str, Any]:
        """What balances experts: where they lie at first, and whether they move; as it is shown, the name of a file."""
        placed, moves = spec.placement, spec.layout.eplb == "dynamic"
        if not spec.experts:
            return BALANCER_FILE
        if placed is None and not moves:
            raise Unsupported(
                f"layout {spec.layout.label}: its experts are placed by loads, and the plan has none",
                "plan with --expert-loads, or with --eplb dynamic",
            )
        said: dict[str, Any] = {
            "num_slots": spec.experts + spec.layout.redundant,
            "layer_updates_per_iter": 2 if moves else 0,
        }
        if placed is not None:
            rows = zip(placed.layer_index, placed.physical_to_logical_map, strict=True)
            said["initial_global_assignments"] = {layer: list(row) for layer, row in rows}
        return said

    def _placed(self, spec: EngineSpec, place: Place) -> list[str]:
        return ["--host", "0.0.0.0", *self._flag("port", place.ports.http)]

    def front(self, engines: Sequence[Behind], port: int, files: str) -> Front | None:
        """``trtllm-serve disaggregated`` for engines of one role; it knows no weights."""
        if all(engine.role == "aggregated" for engine in engines):
            return None
        document: dict[str, Any] = {"hostname": "0.0.0.0", "port": port, "backend": "pytorch"}
        for key, role in (("context_servers", "prefill"), ("generation_servers", "decode")):
            urls = [engine.host for engine in engines if engine.role == role]
            document[key] = {"num_instances": len(urls), "urls": urls}
        command = (*self.words.program, "disaggregated", "-c", f"{files}{SERVER_FILE}")
        text = yaml.safe_dump(document, sort_keys=False)
        return Front(
            "trtllm-serve disaggregated", NodeStart(command, files={SERVER_FILE: text}, ready="/health"), False
        )

    def benchmark(self, url: str, sweep: Sweep) -> Benchmark:
        command: tuple[str, ...] = (
            "python",
            "-m",
            "tensorrt_llm.serve.scripts.benchmark_serving",
            "--backend",
            "openai",
        )
        command += ("--base-url", url, "--model", sweep.model, "--dataset-name", "random", "--random-ids")
        command += ("--random-input-len", str(sweep.isl), "--random-output-len", str(sweep.osl), "--ignore-eos")
        command += ("--num-prompts", sweep.requests, "--request-rate", sweep.rate)
        command += ("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99")
        command += ("--save-result", "--result-filename", sweep.output)
        return Benchmark(command, measured_columns("e2el"))

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        return []  # in the options file

    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        group = {"prefill": "context_servers", "decode": "generation_servers"}[spec.role]
        notes.append(
            "Requests go through `trtllm-serve disaggregated -c FILE`, whose FILE lists hostname and port of every "
            f"engine under context_servers (prefill) and generation_servers (decode); this one under {group}."
        )
        return []


def _flow(value: Any) -> str:
    """A value of YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("\n...\n").strip()
