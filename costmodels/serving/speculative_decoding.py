"""Speculative decoding, as far as a step's cost and its yield are concerned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpeculativeDecoding:
    """``draft_tokens`` are drafted and then verified in one step of the model.

    Attributes:
        acceptance: probability that a drafted token is accepted when those before it were.
        draft_cost: time to draft one token ÷ a step of the model; None: that of one layer, which is what MTP
            modules (DeepSeek-V3, arXiv:2412.19437 §2.2) and EAGLE heads (arXiv:2401.15077) are.
    """

    draft_tokens: int
    acceptance: float
    draft_cost: float | None = None

    @property
    def queries(self) -> int:
        """Tokens of one sequence in a verifying step: the last one and the drafted ones."""
        return self.draft_tokens + 1

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of one step: (1 − a^(k+1)) ÷ (1 − a) (Leviathan et al., arXiv:2211.17192, eq. 1)."""
        a, k = self.acceptance, self.draft_tokens
        return float(k + 1) if a == 1 else (1 - a ** (k + 1)) / (1 - a)

    def share_of_step(self, layers: int) -> float:
        """Time to draft the tokens of one step ÷ a step of the model, which has so many layers."""
        return self.draft_tokens * (1 / layers if self.draft_cost is None else self.draft_cost)
