"""How an engine is started: what somebody said of it, and for the rest what its release does when nothing is said."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from costmodels.models.architecture import Architecture
from costmodels.serving.frameworks.framework import Framework
from profiles.errors import InputError
from profiles.hardware import Gpu


@dataclass(frozen=True)
class Recipe:
    """What was said, in vLLM's words; None: nothing.

    Attributes:
        max_num_seqs, max_num_batched_tokens: most sequences and tokens of an attention rank in one step.
        gpu_memory_utilization: share of memory, as the framework means it.
        max_model_len: longest sequence that is admitted, tokens.
        chunked_prefill: whether prompts are cut to what a step has room for.
        polling_interval: decode steps between two looks at the queue.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    chunked_prefill: bool | None = None
    polling_interval: int | None = None

    def started(self, framework: Framework, gpu: Gpu, model: Architecture) -> Started:
        """What an engine of ``model`` on ``gpu`` is started with.

        Raises:
            InputError: a length beyond what the model was trained for.
        """
        batch, defaults, limits = framework.defaults.on(gpu), framework.defaults, framework.limits
        unsaid: dict[str, Any] = {
            "max_num_seqs": batch.max_num_seqs or limits.max_sequences,
            "max_num_batched_tokens": batch.max_num_batched_tokens or max(limits.token_budgets),
            "gpu_memory_utilization": defaults.gpu_memory_utilization or limits.memory_fraction,
            "max_model_len": model.max_context_tokens,
            "chunked_prefill": framework.scheduler.chunked,
            "polling_interval": 1,
        }
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.max_model_len is not None and self.max_model_len > model.max_context_tokens:
            raise InputError(
                f"max_model_len: {self.max_model_len:,} is more than the {model.max_context_tokens:,} of {model.name}",
                f"give at most {model.max_context_tokens}, or leave it out",
            )
        assumed = tuple(name for name, value in said.items() if value is None)
        whole = {name: unsaid[name] if name in assumed else said[name] for name in said}
        if framework.scheduler.checks_step:
            _fit_step(whole, assumed)
        cuts = framework.cuts(int(whole["max_model_len"]), latent=model.is_latent)
        alone = whole["chunked_prefill"] and "chunked_prefill" in assumed and not cuts
        return Started(**whole, assumed=assumed, prompts_alone=alone)


def _fit_step(recipe: dict[str, Any], assumed: tuple[str, ...]) -> None:
    """Makes what nobody said of a step fit the rest, as vLLM does (vllm/engine/arg_utils.py)."""
    longest, sequences = recipe["max_model_len"], recipe["max_num_seqs"]
    if "max_num_batched_tokens" in assumed:
        least = 0 if recipe["chunked_prefill"] else longest
        recipe["max_num_batched_tokens"] = min(max(recipe["max_num_batched_tokens"], least), sequences * longest)
    if "max_num_seqs" in assumed:
        recipe["max_num_seqs"] = min(sequences, recipe["max_num_batched_tokens"])


@dataclass(frozen=True)
class Started:
    """A whole recipe; ``assumed``: what of it nobody said; ``prompts_alone``: whether steps hold prompts alone, as the
    release has it of such a model where nobody says."""

    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    max_model_len: int
    chunked_prefill: bool
    polling_interval: int
    assumed: tuple[str, ...]
    prompts_alone: bool = False

    @property
    def mixes(self) -> bool:
        """Whether prompts are cut, and their chunks are in steps with decodes."""
        return self.chunked_prefill and not self.prompts_alone

    def told(self, framework: Framework, gpu: Gpu) -> str:
        """What was assumed, in a line; empty where all was said."""
        if not self.assumed:
            return ""
        names = {name: "mixes" if name == "chunked_prefill" else name for name in self.assumed}
        each = ", ".join(
            f"{name}={_shown(getattr(self, of))}" for name, of in names.items() if name != "polling_interval"
        )
        return f"not given, so as {framework.title} has it on {gpu.name}: {each}" if each else ""


def _shown(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
