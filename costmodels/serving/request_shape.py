"""What the requests of a load look like, as far as an engine's steps are concerned."""

from __future__ import annotations

from dataclasses import dataclass

from costmodels.serving.speculative_decoding import SpeculativeDecoding


@dataclass(frozen=True)
class RequestShape:
    """Every request of a load.

    Attributes:
        isl, osl: prompt and output tokens. With osl 1 nothing is left to decode after the first token.
        routing: how tokens spread over experts (:mod:`costmodels.step.operators`).
        cached_tokens: prompt tokens that the prefix cache holds, < isl.
        drafting: speculative decoding; None: one token a step.
    """

    isl: int
    osl: int
    routing: str
    cached_tokens: int = 0
    drafting: SpeculativeDecoding | None = None

    @property
    def tokens(self) -> int:
        """Of a whole request, prompt and output."""
        return self.isl + self.osl

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that are computed."""
        return self.isl - self.cached_tokens

    @property
    def context(self) -> int:
        """Tokens that a decoding sequence attends to, on average over its life."""
        return self.isl + self.osl // 2

    @property
    def queries(self) -> int:
        """Tokens of a decoding sequence that a step computes."""
        return self.drafting.queries if self.drafting else 1

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens that a decode step yields of each sequence."""
        return self.drafting.tokens_per_step if self.drafting else 1.0

    @property
    def decode_steps(self) -> float:
        """Steps of a request after its first token; the last may yield more than are wanted, so at least 1 if any."""
        return max((self.osl - 1) / self.tokens_per_step, 1.0) if self.osl > 1 else 0.0

    def share_of_step(self, layers: int) -> float:
        """Time to draft the tokens of one step ÷ a step of the model, which has so many layers."""
        return self.drafting.share_of_step(layers) if self.drafting else 0.0
