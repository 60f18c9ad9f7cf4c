"""What every launcher (the dialect of one framework) shares: what it can express, and the names of its flags."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from costmodels.serving.frameworks.facts import CommandLine, ExchangeWay
from costmodels.serving.frameworks.framework import Framework
from planner.contract.engine import NOTHING, Launch, Layout, Limits
from planner.launchers.client import Benchmark, Sweep
from planner.launchers.front import Behind, Front, NodeStart
from planner.launchers.places import Place
from planner.launchers.releases import ReleaseOptions
from planner.launchers.spec import CHECKPOINT, MTP, EngineSpec
from planner.launchers.vendors import find_vendor
from planner.launchers.words import plain
from profiles.errors import Unsupported

if TYPE_CHECKING:
    pass


class Launcher(ABC):
    """Starts engines of one framework, whose YAML file says what it can express and in which words."""

    name: ClassVar[str]  # of its framework
    limits_span_replicas: ClassVar[bool] = False  # whether batch limits are said of all attention replicas together
    one_world: ClassVar[str] = ""  # what runs a command as one MPI world where an engine has several nodes; "": no need
    ready: ClassVar[str] = "/health"  # answers 200 once an engine serves
    dispatch_tokens: ClassVar[str] = ""  # variable that sizes low-latency buffers; "": it has none
    kinds: ClassVar[dict[str, type[Launcher]]] = {}  # every launcher, by its framework

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.kinds[cls.name] = cls

    def __init__(self, framework: Framework) -> None:
        self.framework = framework
        self.options: ReleaseOptions | None = None

    @classmethod
    def at(cls, framework: Framework, options: ReleaseOptions | None = None) -> Launcher:
        """The launcher of a framework; ``options``: those of its release, where they are known."""
        made = cls(framework)
        made.options = options
        return made

    @property
    def words(self) -> CommandLine:
        """How the framework spells what a plan decides."""
        return self.framework.command

    def cannot_express(self, layout: Layout, *, is_moe: bool) -> str | None:
        """Why the framework has no words for ``layout``, or None where it has."""
        name, can = self.framework.full_name, self.framework.parallelism
        if not is_moe:
            dense = layout.dp == 1 and layout.ep == 1
            return None if dense else f"{name}: attention data parallel and expert parallel are for MoE models"
        group = layout.tp * layout.dp
        if layout.ep * layout.moe_tp != group:
            return f"{name}: ep {layout.ep} × moe_tp {layout.moe_tp} is not tp {layout.tp} × dp {layout.dp}"
        if can.expert_splits == "all_or_nothing" and layout.ep not in (1, group):
            return f"{name} shares experts out over all GPUs of a stage or over none"
        if not can.tensor_and_data_parallel_attention and layout.tp > 1 and layout.dp > 1:
            return f"{name} runs attention tensor parallel or data parallel, not both"
        return None

    def launch(self, spec: EngineSpec) -> Launch:
        """The command and what it cannot say.

        Raises:
            Unsupported: a layout or precision that the framework cannot be told.
        """
        reason = self.cannot_express(spec.layout, is_moe=spec.is_moe)
        if reason is not None:
            raise Unsupported(f"layout {spec.layout.label}: {reason}", "choose another layout or framework")
        runs = self.framework.capabilities.precisions
        if spec.weights_precision not in runs:
            raise Unsupported(
                f"precision: {self.framework.full_name} does not run {spec.weights_precision} weights",
                f"choose one of {', '.join(sorted(runs))}, or another framework",
            )
        notes: list[str] = []
        command = self._command(spec, None, notes)
        if spec.layout.gpus < spec.gpus_per_node:
            seen = find_vendor(spec.vendor).visible_devices
            notes.append(
                f"On each node set {seen} to the replica's GPUs (see `plan --explain`) and "
                f"give every engine of a node its own {self._flag('port')[0]} (default {self.words.port})."
            )
        notes.append(
            f"Flags are those of {self.framework.full_name} {self.framework.basis('command').release} "
            f"(checked {self.words.checked_on}); "
            + (
                f"prefix caching is on by default, and the prediction counts on a hit rate of {spec.prefix_hit:g}."
                if spec.prefix_hit
                else "prefix caching is left at its default and the prediction counts on none."
            )
        )
        return Launch(framework=self.name, command=tuple(map(plain, command)), notes=tuple(notes))

    def _command(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        """The whole command, on a node of the engine; without ``place`` as it is shown, the rest in ``notes``."""
        model, quantize = self._weights(spec, notes)
        command = [*self.words.program, *self._flag("model"), model]
        command += self._parallel(spec, notes)
        if spec.layout.exchange != NOTHING or spec.layout.redundant or spec.layout.eplb != "off":
            command += self._experts(spec, notes)
            for name, tokens in self._environment_of_buffers(spec).items():
                notes.append(f"Set {name}={tokens} on each node: buffers hold so many tokens.")
        if (spec.nodes if place is None else place.nodes) > 1:
            command += self._nodes(spec, place, notes)
        command += quantize
        command += self._limits(spec, notes)
        if spec.draft_tokens:
            command += self._drafting(spec, notes)
        if spec.role != "aggregated":
            command += self._role(spec, notes)
        if spec.attention_backend:
            command += self._flag("attention_backend", spec.attention_backend)
        return command if place is None else [*command, *self._placed(spec, place)]

    # ------------------------------------------------------------------ as it is started

    def start(self, spec: EngineSpec, place: Place) -> NodeStart:
        """What starts one node's part of the engine.

        Raises:
            Unsupported: an engine that the framework cannot be told, or not on such nodes.
        """
        reason = self.cannot_express(spec.layout, is_moe=spec.is_moe) or self.cannot_place(spec, place.gpus_by_node)
        if reason is not None:
            raise Unsupported(f"layout {spec.layout.label}: {reason}", "choose another layout or framework")
        return NodeStart(
            command=tuple(self._command(spec, place, [])),
            environment=self._environment(spec, place),
            files=self._files(spec),
            ready=self.ready if place.leads else "",
        )

    def front(self, engines: Sequence[Behind], port: int, files: str) -> Front | None:
        """What takes requests in for ``engines``, listening on ``port``; None: the framework has nothing for their
        roles. ``files``: the folder of its files."""
        return None

    def cannot_place(self, spec: EngineSpec, gpus_by_node: Sequence[int]) -> str | None:
        """Why the framework cannot start the engine on nodes that have so many of its GPUs, or None where it can."""
        return None

    def _uneven(self, gpus_by_node: Sequence[int]) -> str | None:
        """Why nodes that have not as many of its GPUs each cannot start an engine; None where they have."""
        if len(set(gpus_by_node)) == 1:
            return None
        counts = ", ".join(map(str, gpus_by_node))
        return f"{self.framework.full_name} wants as many GPUs on each node, and it has {counts}"

    def needs(self, spec: EngineSpec) -> tuple[str, ...]:
        """Keys of an export's values without which the engine cannot be started: what a plan cannot know."""
        keys = ["checkpoint"] if self._weights(spec, [])[0] == CHECKPOINT else []
        if spec.draft_tokens and spec.draft_method != MTP:
            keys.append("draft_model")
        return tuple(keys)

    def benchmark(self, url: str, sweep: Sweep) -> Benchmark:
        """The framework's own client, against ``url``."""
        raise Unsupported(f"{self.framework.full_name} has no client that measures", "measure with another's")

    def _environment(self, spec: EngineSpec, place: Place) -> dict[str, str]:
        """Variables that the engine reads."""
        return self._environment_of_buffers(spec)

    def _environment_of_buffers(self, spec: EngineSpec) -> dict[str, str]:
        tokens = spec.layout.dispatch_tokens
        sized = self.dispatch_tokens and not self.framework.buffers_of_step
        return {self.dispatch_tokens: str(tokens)} if sized and tokens else {}

    def _files(self, spec: EngineSpec) -> dict[str, str]:
        """Files that its command names."""
        return {}

    def _placed(self, spec: EngineSpec, place: Place) -> list[str]:
        """Flags of what a node has: ports, addresses."""
        return []

    def _experts(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of how tokens reach their experts, of copies of them, and of what hides the exchange."""
        return []

    def _exchange(self, spec: EngineSpec) -> ExchangeWay | None:
        """The framework's words for the engine's exchange; None: it gathers."""
        return self.framework.parallelism.exchanges.get(spec.layout.exchange)

    def _nodes(self, spec: EngineSpec, place: Place | None, notes: list[str]) -> list[str]:
        """Flags of an engine of several nodes; without ``place`` as they are shown, with variables."""
        return []

    def _flag(self, name: str, value: object = None) -> list[str]:
        """The flag with its value; nothing where the framework has none (a positional argument)."""
        flag = self.words.flags[name]
        if flag is None:
            return []
        return [flag] if value is None else [flag, str(value)]

    def _limit_values(self, limits: Limits, layout: Layout) -> dict[str, str]:
        """What the command line says of the batch limits: our name of the flag → the value."""
        replicas = layout.dp if self.limits_span_replicas else 1
        return {
            "max_tokens_per_step": str(limits.max_tokens_per_step * replicas),
            "max_sequences": str(limits.max_sequences * replicas),
            "max_model_len": str(limits.max_model_len),
            "memory_fraction": f"{limits.memory_fraction:g}",
        }

    def _kv_flags(self, spec: EngineSpec) -> list[str]:
        """Of the KV cache's precision, where the checkpoint's own would be another."""
        return self._flag("kv", self.words.kv[spec.kv_precision]) if spec.must_name_kv else []

    def _limit_flags(self, spec: EngineSpec) -> list[str]:
        values = self._limit_values(spec.limits, spec.layout)
        return [word for name, value in values.items() for word in self._flag(name, value)]

    def other_limits(self, command: Sequence[str], limits: Limits, layout: Layout) -> str | None:
        """Where ``command`` says another batch limit than the engine has, in words; None where it says all of them."""
        said = dict(pairwise(command))
        for name, value in self._limit_values(limits, layout).items():
            (flag,) = self._flag(name)
            if said.get(flag) != value:
                given = f"{flag} {said[flag]}" if flag in said else f"no {flag}"
                return f"{given}, and its limits are {name} {value}"
        return None

    def _weights(self, spec: EngineSpec, notes: list[str]) -> tuple[str, list[str]]:
        """(model argument, flags that convert its weights). A conversion that the framework does not do while
        loading becomes a placeholder: a command that ran other weights than planned is silently wrong."""
        if not spec.precision_converted:
            return spec.checkpoint, []
        word = self.words.quantize.get(spec.weights_precision)
        if word is not None and spec.published_precision in ("bf16", "fp16", "fp32"):
            return spec.checkpoint, self._flag("quantize", word)
        if spec.converted_checkpoint != CHECKPOINT:
            return spec.converted_checkpoint, []
        notes.append(
            f"{CHECKPOINT}: {spec.checkpoint} converted from {spec.published_precision} to "
            f"{spec.weights_precision} beforehand; {self.framework.full_name} does not do this while loading."
        )
        return CHECKPOINT, []

    @abstractmethod
    def _parallel(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of the layout and of the nodes."""

    @abstractmethod
    def _drafting(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of speculative decoding."""

    @abstractmethod
    def _role(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of an engine that only prefills or only decodes."""

    def _limits(self, spec: EngineSpec, notes: list[str]) -> list[str]:
        """Flags of the batch limits, memory and KV cache."""
        return [*self._limit_flags(spec), *self._kv_flags(spec)]
