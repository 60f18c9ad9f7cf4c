"""TensorRT-LLM: ``trtllm-serve`` with the PyTorch backend. What its flags lack goes to a YAML file."""

from __future__ import annotations

from typing import ClassVar

from planner.launchers.base import DRAFT_MODEL, EngineSpec, Launcher

OPTIONS_FILE = "trtllm-options.yaml"


class TrtllmLauncher(Launcher):
    """``--tp_size`` counts the whole group (tp·dp); attention data parallel is over all of it or none."""

    name: ClassVar[str] = "trtllm"

    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        layout = spec.layout
        command = self._flag("tp", layout.tp * layout.dp)
        if layout.pp > 1:
            command += self._flag("pp", layout.pp)
        if spec.is_moe:
            command += self._flag("ep", layout.ep)  # the experts' tensor split follows: tp_size ÷ ep_size
        if spec.nodes > 1:
            command += self._flag("gpus_per_node", spec.gpus_per_node)
            notes.append(
                f"One MPI world over {spec.nodes} nodes: prefix the command with srun -N {spec.nodes} "
                f"--ntasks {layout.gpus} --ntasks-per-node {spec.gpus_per_node} --mpi=pmix "
                "trtllm-llmapi-launch."
            )
        return command

    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        limits = spec.limits
        command = [*self._limit_flags(spec), *self._flag("chunked_prefill")]
        options = []
        if spec.layout.dp > 1:
            options.append("enable_attention_dp: true")
        if spec.kv_precision != "bf16":
            word = self.words.kv[spec.kv_precision]
            # The file replaces what the flags say, so the fraction is repeated.
            options.append(f"kv_cache_config: {{dtype: {word}, free_gpu_memory_fraction: {limits.memory_fraction:g}}}")
        elif spec.published_precision not in ("bf16", "fp16", "fp32"):
            notes.append("Check that the checkpoint asks for no fp8 KV cache of its own: the prediction has bf16.")
        options += self._in_file(spec, notes)
        if options:
            command += self._flag("options_file", OPTIONS_FILE)
            notes.append(f"{OPTIONS_FILE} holds: " + "; ".join(f"`{line}`" for line in options) + " (one a line).")
        notes.append(
            f"{self._flag('memory_fraction')[0]} is a share of what weights and buffers leave free, so the "
            f"KV cache may grow beyond the plan's {limits.memory_fraction:.0%} of the GPU."
        )
        return command

    def _in_file(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Lines of the options file for drafting and roles, which have no flags."""
        lines = []
        if spec.draft_tokens:
            lines.append(
                f"speculative_config: {{decoding_type: Eagle, max_draft_len: {spec.draft_tokens}, "
                f"speculative_model_dir: {DRAFT_MODEL}}}"
            )
            notes.append(
                f"{DRAFT_MODEL}: the EAGLE head whose acceptance the workload gives; DeepSeek's MTP module is "
                "{decoding_type: MTP, num_nextn_predict_layers: N}."
            )
        if spec.role != "aggregated":
            lines.append(
                f"cache_transceiver_config: {{backend: DEFAULT, max_tokens_in_buffer: {spec.limits.max_model_len}}}"
            )
            if spec.role == "prefill":
                lines.append("disable_overlap_scheduler: true")
        return lines

    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        return []  # in the options file

    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        group = {"prefill": "context_servers", "decode": "generation_servers"}[spec.role]
        notes.append(
            "Requests go through `trtllm-serve disaggregated -c FILE`, whose FILE lists hostname and port of every "
            f"engine under context_servers (prefill) and generation_servers (decode); this one under {group}."
        )
        return []
