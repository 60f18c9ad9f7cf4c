"""What a simulation shows: each request's times, and how busy the engine was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from profiles.errors import InputError

T = TypeVar("T")

Metric = Literal["ttft", "tpot", "e2e"]

REFUSALS = (
    "",
    "longer than max_model_len",
    "longer than the KV cache",
    "prompt longer than the token budget, and prompts are not cut",
    "no engine is there",
    "lost with its engine again and again",
)
"""Why a request may be refused; index 0: it was served."""

NOBODY, LOST = 4, 5
"""Of them, where no engine runs that a request could go to, and where it was lost each time that it was sent."""

TIMELINE = ("time_us", "busy_us", "running", "waiting", "kv_share", "prompt_us", "prompt_steps", "prompt_tokens")


@dataclass(frozen=True)
class Outcome:
    """``n`` requests, arrays of shape [n]; refused requests have NaN times.

    Attributes:
        isl, osl: prompt and output tokens.
        arrival_us, first_us, finish_us: sent by the client, first token, last token.
        preemptions: how often each was preempted.
        rank: the attention rank that served it.
        refused: index into :data:`REFUSALS`.
        end_us: when the last one finished.
        busy_us: time in steps (of the slowest pipeline stage).
        steps: engine steps.
        timeline: shape [samples, 8], columns :data:`TIMELINE`; running and waiting count sequences, kv_share
            is the fullest rank's use of its cache; µs in steps that hold prompts, these steps and the prompts' tokens
            in them count from the beginning, as µs in steps do.
    """

    isl: Ints
    osl: Ints
    arrival_us: Floats
    first_us: Floats
    finish_us: Floats
    preemptions: Ints
    rank: Ints
    refused: NDArray[np.int8]
    end_us: float
    busy_us: float
    steps: int
    timeline: Floats

    def __len__(self) -> int:
        return len(self.isl)

    def once(self, what: str, make: Callable[[], T]) -> T:
        """What there is to ``make`` of it, made once."""
        if what not in self._made:
            self._made[what] = make()
        found: T = self._made[what]
        return found

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    @property
    def served(self) -> NDArray[np.bool_]:
        return np.asarray(self.refused == 0)

    @property
    def ttft_us(self) -> Floats:
        """Time to the first token of each request."""
        return self.first_us - self.arrival_us

    @property
    def tpot_us(self) -> Floats:
        """Time per output token after the first; NaN for outputs of one token."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.osl > 1, (self.finish_us - self.first_us) / (self.osl - 1), np.nan)

    @property
    def e2e_us(self) -> Floats:
        """Time to the last token of each request."""
        return self.finish_us - self.arrival_us

    def of(self, metric: Metric) -> Floats:
        """The metric of each request that has one."""

        def of_each() -> Floats:
            values: Floats = getattr(self, f"{metric}_us")
            return values[~np.isnan(values)]

        return self.once(metric, of_each)

    def mean_us(self, metric: Metric) -> float:
        """Mean over requests; NaN where no request has the metric."""
        values = self.of(metric)
        return float(values.mean()) if len(values) else float("nan")

    def percentile_us(self, metric: Metric, p: float) -> float:
        """What a share ``p`` of requests stays below; NaN where no request has the metric."""
        values = self.once(f"{metric}, sorted", lambda: np.sort(self.of(metric)))
        if not len(values):
            return float("nan")
        at = p * (len(values) - 1)  # as numpy.quantile has it, which takes many times as long for one share
        low = int(at)
        below, above, part = float(values[low]), float(values[min(low + 1, len(values) - 1)]), at - low
        gap = above - below
        return below + gap * part if part < 0.5 else above - gap * (1 - part)

    def within(self, limits_us: Mapping[Metric, float]) -> NDArray[np.bool_]:
        """Whether each request met every limit; refused ones did not, and outputs of one token meet any TPOT."""
        met = self.served.copy()
        for metric, limit in limits_us.items():
            values: Floats = getattr(self, f"{metric}_us")
            met &= ~(values > limit)
        return met

    def attainment(self, limits_us: Mapping[Metric, float]) -> float:
        """Share of all requests that met every limit."""
        return float(self.within(limits_us).mean())

    def goodput_rps(self, limits_us: Mapping[Metric, float]) -> float:
        """Requests per second that met every limit."""
        return float(self.within(limits_us).sum()) / self.span_s

    @property
    def span_s(self) -> float:
        """From the first request to the last token."""
        return float(np.nanmax(self.finish_us, initial=self.end_us) - self.arrival_us.min()) / 1e6

    @property
    def rate_rps(self) -> float:
        """Requests served per second."""
        return float(self.served.sum()) / self.span_s

    @property
    def output_tokens_per_s(self) -> float:
        return float(self.osl[self.served].sum()) / self.span_s

    @property
    def utilisation(self) -> float:
        """Share of the time in which a step ran."""
        return self.busy_us / (self.span_s * 1e6)

    def take(self, index: Ints) -> Outcome:
        """Some of the requests; what was counted of the engine stays as it is."""
        chosen = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if field.name not in ("end_us", "busy_us", "steps", "timeline")
        }
        return replace(self, **chosen)

    def trimmed(self, first_share: float = 0.0, last_share: float = 0.0) -> Outcome:
        """Without the first and the last requests to arrive: while the engine fills and empties, it is not
        what it is under steady load.

        Raises:
            InputError: shares that leave nothing.
        """
        if not (first_share >= 0 and last_share >= 0 and first_share + last_share < 1):
            raise InputError(f"trimmed: {first_share} and {last_share} leave nothing", "give shares below 1 in all")
        n = len(self)
        order = np.argsort(self.arrival_us, kind="stable")
        kept = order[int(n * first_share) : n - int(n * last_share)]
        return self.take(np.sort(kept))
