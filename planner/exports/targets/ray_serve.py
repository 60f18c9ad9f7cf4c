"""A Serve config of an LLM application: vLLM's engine arguments as keywords."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from planner.exports.fleet import PlacedEngine
from planner.exports.gpu_names import gpu_name
from planner.exports.serving import ServingTarget
from planner.exports.text import yaml_text
from planner.launchers.checks import said
from planner.launchers.front import NodeStart
from planner.launchers.places import Place
from planner.launchers.releases import CommandOption

OWN = ("--port", "--host")
"""What Serve does itself."""


OF_REPLICAS = ("--data-parallel-size-local", "--data-parallel-address", "--data-parallel-rpc-port")
"""What Serve tells each attention replica itself: it places them by gangs, and a replica of its deployment is a group
of ``data_parallel_size`` of them (ray 2.60.0, ray/llm/_internal/serve/serving_patterns/data_parallel)."""


ITS_OWN = "VLLM_NIXL_SIDE_CHANNEL"
"""Variables that Serve's NIXL backend sets in each replica (written from knowledge of ray.llm, not from a checkout)."""


VLLM = "0.29"
"""The series of vLLM that ray[llm] 2.60.0 requires (its METADATA). It imports vllm.entrypoints.launchers.cli_args,
which vLLM 0.33 has no more and 0.20 has not yet."""


class RayServe(ServingTarget):
    name: ClassVar[str] = "ray-serve"
    writes: ClassVar[str] = "serve.yaml"
    release: ClassVar[str] = "Ray 2.60"
    rung: ClassVar[int] = 2
    refuses: ClassVar[Mapping[str, str]] = {
        # ray 2.60.0, ray/llm/_internal/serve/engines: vllm, and sglang by a class of its internals ("in early
        # development", ray-project/ray#61114), which ray.serve.llm does not offer and no builder pairs
        "sglang": "ray.serve.llm of this release offers vLLM; its class for SGLang is internal and in development",
        "trtllm": "ray.serve.llm has no TensorRT-LLM engine",
    }

    def cannot(self) -> str | None:
        groups = self.plan.decision.engines
        for role in ("aggregated", "prefill", "decode"):
            alike = [group for group in groups if group.role == role]
            if len(alike) > 1:
                return f"{alike[1].id}: an application has one kind of {role} engine, and the plan has several"
        return super().cannot()

    def steps(self, folder: Path) -> tuple[str, ...]:
        return (*self._other, *self._places, f"start: serve deploy {folder}/serve.yaml")

    @property
    def _other(self) -> tuple[str, ...]:
        """What to mind where the plan's vLLM is not that of the release of Ray."""
        version = self.fleet.framework.release.version
        if version.startswith(f"{VLLM}."):
            return ()
        return (
            f"Ray 2.60 starts vLLM {VLLM} only (ray[llm] requires it), and this is for {version}: export with "
            f"--framework vllm@{VLLM}, or run a Ray that requires vLLM {version}",
        )

    @property
    def _places(self) -> tuple[str, ...]:
        """What no file can say: max_replicas_per_node is refused beside the placement groups of LLM replicas
        (ray-project/ray at 05db432e, doc/source/serve/advanced-guides/replica-scheduling.md)."""
        if not self.fleet.is_spread:
            return ()
        return ("Ray places replicas itself, and nothing here keeps so few on a node: see to it (`ray status -v`)",)

    def platform_files(self) -> dict[str, str]:
        fleet = self.fleet
        configs = {group.role: self._config(group.id) for group in self.plan.decision.engines}
        args: dict[str, Any]
        if "aggregated" not in configs:
            path = "build_pd_openai_app"
            args = {"prefill_config": configs["prefill"], "decode_config": configs["decode"]}
        elif self.plan.decision.engines[0].layout.dp > 1:
            path, args = "build_dp_openai_app", {"llm_config": configs["aggregated"]}
        else:
            path, args = "build_openai_app", {"llm_configs": [configs["aggregated"]]}
        application = {"name": fleet.name, "route_prefix": "/", "import_path": f"ray.serve.llm:{path}", "args": args}
        document = {"http_options": {"host": "0.0.0.0", "port": fleet.first_port}, "applications": [application]}
        return {
            "serve.yaml": yaml_text(document, header=(*fleet.told, *self._other, *self._places, *fleet.equal_shares))
        }

    def _config(self, group: str) -> dict[str, Any]:
        engines = [engine for engine in self.fleet.engines if engine.group.id == group]
        engine = engines[0]
        said = self._start(engine).environment
        variables = {name: value for name, value in said.items() if not name.startswith(ITS_OWN)}
        return {
            "model_loading_config": {"model_id": self.plan.request.model, "model_source": engine.spec.model},
            "accelerator_type": gpu_name(engine.group.gpu, "ray"),
            "deployment_config": {"autoscaling_config": {"min_replicas": len(engines), "max_replicas": len(engines)}},
            "engine_kwargs": self.engine_arguments(engine),
            **({"runtime_env": {"env_vars": variables}} if variables else {}),
        }

    def _start(self, engine: PlacedEngine) -> NodeStart:
        """As it would be started on one node that held all of it."""
        whole = Place("0", True, (engine.group.layout.gpus,), "", "", self.fleet.ports(engine, alone=True), "")
        return self.fleet.start(engine, whole)

    def engine_arguments(self, engine: PlacedEngine) -> dict[str, Any]:
        """The engine's options as vLLM's engine arguments have them."""
        fleet = self.fleet
        words = self._start(engine).command[len(fleet.framework.command.program) :]
        out: dict[str, Any] = {}
        assert fleet.options is not None
        for flag, option, values in said(fleet.options, words):
            if flag in OWN or (flag in OF_REPLICAS and engine.group.layout.dp > 1):
                continue
            name, _, key = option.flag[2:].replace("-", "_"), *flag.partition(".")[1:]
            value = _value(option, values, key)
            if key:
                out.setdefault(name, {})[key] = value
            else:
                out[name] = value
        if len(engine.shares) > 1 or engine.group.layout.dp > 1:
            out["distributed_executor_backend"] = "ray"
        return out


def _value(option: CommandOption, values: list[str], key: str) -> Any:
    if option.takes == "none":
        return True
    text = values[0]
    if key:
        return int(text) if text.isdigit() else text
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "json": json.loads}
    return kinds.get(option.type, str)(text)
