"""What is simulated: one serving engine, its limits and its host's overheads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from costmodels.serving.frameworks.policies import Policy
from costmodels.serving.simulator.arrivals import Requests
from costmodels.serving.simulator.step_table import StepTable
from profiles.errors import InputError

Role = Literal["aggregated", "prefill", "decode"]


@dataclass(frozen=True)
class Overheads:
    """Host time that the step table does not hold, µs.

    Attributes:
        request_us: before a request reaches the scheduler (tokeniser, HTTP), each for itself.
        serial_us: the share of that which is done for one request after another.
        sequence_us: per sequence of a step.
        step_factor: on every step's time.
    """

    request_us: float = 0.0
    serial_us: float = 0.0
    sequence_us: float = 0.0
    step_factor: float = 1.0


@dataclass(frozen=True)
class Engine:
    """One engine to simulate.

    Attributes:
        kv_tokens: tokens of cache of each attention rank.
        token_budget: most tokens in one step of a rank; ``max_sequences``: most sequences of a rank.
        max_model_len: longest request that is admitted, prompt and output (None: what the cache holds).
        cached_share: share of each prompt that the prefix cache holds already.
        role: a prefill engine is done with a request at its first token; to a decode engine requests come
            with the cache of their prompt.
        first_token_here: whether a decode engine computes the first token (vLLM drops the prefill engine's), or
            is handed it with the cache.
        draft_share: time to draft the tokens of a step ÷ a step (see :mod:`costmodels.serving.speculative_decoding`).
        tokens_per_step: tokens that a sequence gains in a step, on average; above 1 with speculative decoding.
    """

    table: StepTable
    policy: Policy
    kv_tokens: float
    token_budget: int
    max_sequences: int
    max_model_len: int | None = None
    cached_share: float = 0.0
    role: Role = "aggregated"
    first_token_here: bool = False
    tokens_per_step: float = 1.0
    draft_share: float = 0.0
    overheads: Overheads = Overheads()

    def __post_init__(self) -> None:
        for name in ("kv_tokens", "token_budget", "max_sequences"):
            if getattr(self, name) < 1:
                raise InputError(f"engine: {name} {getattr(self, name)} is not at least 1", "give a larger one")
        if not 0 <= self.cached_share <= 1:
            raise InputError(f"engine: cached_share {self.cached_share} is not between 0 and 1", "give a share")
        if not 1 <= self.tokens_per_step <= self.table.latency.queries:
            raise InputError(
                f"engine: {self.tokens_per_step} tokens a step, of {self.table.latency.queries} that a step verifies",
                "a step gains at least 1 token, and at most as many as the table's queries",
            )


def refusals(engine: Engine, requests: Requests) -> NDArray[np.int8]:
    """Why the engine would refuse each request, indices into :data:`costmodels.serving.simulator.outcome.REFUSALS`."""
    length = requests.isl + (1 if engine.role == "prefill" else requests.osl)
    most = length + engine.policy.block_tokens + engine.tokens_per_step
    why = np.zeros(len(requests), np.int8)
    if not engine.policy.chunked:
        why[requests.isl > engine.token_budget] = 3
    why[most > engine.kv_tokens] = 2
    if engine.max_model_len is not None:
        why[requests.isl + requests.osl > engine.max_model_len] = 1
    return why
