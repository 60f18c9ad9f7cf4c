"""Token mixers other than plain attention: state spaces, linear and compressed attention; and how residuals are mixed.

Each says which weights it has (:class:`Weights`), so that its parameters and its memory cannot disagree, and what one
sequence keeps in the cache. Sizes are those of the whole, unsplit layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from costmodels.estimates import Floats, Ints

CONVOLUTION_BYTES = 2  # of one input that a short convolution keeps: 16 bits in vLLM and SGLang


@dataclass(frozen=True)
class Weights:
    """``elements`` of one matrix (or of several alike), in the precision of ``part``: "attention_qkv",
    "attention_output" or "16-bit" (never quantized). Tensor parallelism cuts them in at most ``pieces``: 1 is whole
    on every GPU."""

    part: str
    elements: int
    pieces: int


class Mixer:
    """What the mixers of this module share. ``kind`` is what messages call one."""

    kind: ClassVar[str]
    heads: int

    @property
    def window_tokens(self) -> int:
        return 0

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        raise NotImplementedError

    def parameters(self, hidden: int) -> int:
        return sum(each.elements for each in self.weights(hidden))

    def kv_elements_per_token(self) -> int:
        """Elements that one token adds for good to the cache of one layer."""
        return 0

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        """Bytes that one sequence of ``tokens`` tokens keeps on one of ``tp`` GPUs, in one layer; shape [n]."""
        raise NotImplementedError


@dataclass(frozen=True)
class NoMixer(Mixer):
    """A layer without one: a feed-forward block alone, as in Nemotron-H, or attention that a search for a smaller
    network took out (Nemotron-Super)."""

    kind: ClassVar[str] = "no mixer"
    heads: int = 0  # which any degree divides

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        return ()

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        return np.zeros(len(tp))


@dataclass(frozen=True)
class Mamba2(Mixer):
    """State-space duality (arXiv:2405.21060 §7) behind a short convolution: a state of ``head_dim`` × ``state`` for
    each head, in place of a KV cache. ``groups`` heads share their input and output projections of the state."""

    heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int
    state_bytes: int  # of one element
    conv_bias: bool = True
    bias: bool = False  # on the projections
    gated_norm: bool = True
    kind: ClassVar[str] = "Mamba-2"

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Channels of the convolution: the input, and B and C of each group."""
        return self.inner + 2 * self.groups * self.state

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        wide = self.inner + self.convolved + self.heads  # gate; input, B, C; the step of each head
        small = self.convolved * (self.conv_kernel + self.conv_bias) + 3 * self.heads  # and A, D, bias of the step
        small += (self.inner if self.gated_norm else 0) + (wide if self.bias else 0)
        return (
            Weights("attention_qkv", hidden * wide, self.heads),
            Weights("attention_output", self.inner * hidden, self.heads),
            Weights("16-bit", small, self.heads),
            Weights("16-bit", hidden if self.bias else 0, 1),
        )

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        held = self.inner * self.state * self.state_bytes
        return np.asarray((held + self.convolved * (self.conv_kernel - 1) * CONVOLUTION_BYTES) / tp)


@dataclass(frozen=True)
class Mamba(Mixer):
    """The first Mamba (arXiv:2312.00752 §3), as Jamba has it (arXiv:2403.19887 §3: a norm on step, B and C)."""

    inner: int
    state: int
    step_rank: int
    conv_kernel: int
    state_bytes: int
    conv_bias: bool = True
    bias: bool = False
    norms: bool = True  # on step, B and C
    kind: ClassVar[str] = "Mamba"

    @property
    def heads(self) -> int:  # type: ignore[override]
        """Of which GPUs take equal shares: channels."""
        return self.inner

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        selected = self.step_rank + 2 * self.state
        small = self.inner * (self.conv_kernel + self.conv_bias + self.state + 2)  # and A, D, bias of the step
        return (
            Weights("attention_qkv", hidden * 2 * self.inner, self.inner),
            Weights("16-bit", self.inner * (selected + self.step_rank) + small, self.inner),
            Weights("16-bit", selected if self.norms else 0, 1),
            Weights("attention_output", self.inner * hidden, self.inner),
            Weights("16-bit", 2 * self.inner if self.bias else 0, self.inner),
            Weights("16-bit", hidden if self.bias else 0, 1),
        )

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        convolution = (self.conv_kernel - 1) * CONVOLUTION_BYTES
        return np.asarray(self.inner * (self.state * self.state_bytes + convolution) / tp)


@dataclass(frozen=True)
class ShortConvolution(Mixer):
    """A causal convolution over ``conv_kernel`` tokens between two gates, all from one projection (LFM2): the last
    inputs of each channel, in place of a KV cache."""

    channels: int
    conv_kernel: int
    bias: bool = False  # of the projections and of the convolution
    kind: ClassVar[str] = "short convolution"

    @property
    def heads(self) -> int:  # type: ignore[override]
        """Of which GPUs take equal shares: channels."""
        return self.channels

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        small = self.channels * (self.conv_kernel + (4 if self.bias else 0))  # of three projections, too
        return (
            Weights("attention_qkv", hidden * 3 * self.channels, self.channels),
            Weights("16-bit", small, self.channels),
            Weights("attention_output", self.channels * hidden, self.channels),
            Weights("16-bit", hidden if self.bias else 0, 1),
        )

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        return np.asarray(self.channels * (self.conv_kernel - 1) * CONVOLUTION_BYTES / tp)


@dataclass(frozen=True)
class KimiDeltaAttention(Mixer):
    """A gated delta rule whose every key channel forgets at its own rate (arXiv:2510.26692 §3): a matrix of
    ``head_dim`` squared for each head, in place of a KV cache."""

    heads: int
    head_dim: int
    conv_kernel: int
    full_rank_gate: bool = False  # Kimi-K3; Kimi-Linear's output gate goes through head_dim
    state_bytes: int = 4
    kind: ClassVar[str] = "Kimi Delta Attention"

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        low_rank, up = hidden * self.head_dim, self.head_dim * self.inner
        gate = (hidden * self.inner, 0) if self.full_rank_gate else (up, low_rank)
        return (
            Weights("attention_qkv", 3 * hidden * self.inner + gate[0], self.heads),
            Weights("attention_qkv", gate[1], 1),
            Weights("16-bit", up + hidden * self.heads + 3 * self.inner * self.conv_kernel, self.heads),
            Weights("16-bit", self.inner + self.heads, self.heads),  # bias and rate of the decay
            Weights("16-bit", low_rank + self.head_dim, 1),  # into the decay; the output's norm
            Weights("attention_output", self.inner * hidden, self.heads),
        )

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        held = self.inner * self.head_dim * self.state_bytes
        return np.asarray((held + 3 * self.inner * (self.conv_kernel - 1) * CONVOLUTION_BYTES) / tp)


@dataclass(frozen=True)
class CompressedAttention(Mixer):
    """DeepSeek-V4's attention (technical report §2.3): one latent, key and value at once, of the last
    ``window_size`` tokens, and one for every ``ratio`` tokens before (0: none). Where an indexer is named, a query
    sees ``index_top_k`` of those (compressed sparse attention), else all (heavily compressed attention)."""

    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    output_groups: int
    output_rank: int
    window_size: int
    ratio: int
    index_heads: int = 0
    index_dim: int = 0
    index_top_k: int = 0
    kind: ClassVar[str] = "compressed attention"

    @property
    def overlap(self) -> int:
        """Windows that one compressed latent is made of: its own, and with an indexer the one before."""
        return 2 if self.index_heads else 1

    @property
    def entry_bytes(self) -> int:
        """One latent in the cache: fp8, the rotated part in bf16, one 8-bit scale per 64 and a byte of padding. No
        framework keeps it in 16 bits (vLLM 0.22's ``fp8_ds_mla`` for this model)."""
        plain = self.head_dim - self.rope_dim
        return plain + 2 * self.rope_dim + plain // 64 + 1

    def _compressor(self, hidden: int, width: int) -> int:
        """Latents and their weights in the mean, a bias for each place in the window, and a norm."""
        wide = self.overlap * width
        return 2 * hidden * wide + self.ratio * wide + width

    def weights(self, hidden: int) -> tuple[Weights, ...]:
        found = [
            Weights("attention_qkv", hidden * (self.q_rank + self.head_dim), 1),
            Weights("attention_qkv", self.q_rank * self.heads * self.head_dim, self.heads),
            Weights("attention_output", self.heads * self.head_dim * self.output_rank, self.output_groups),
            Weights("attention_output", self.output_groups * self.output_rank * hidden, self.output_groups),
            Weights("16-bit", self.q_rank + self.head_dim, 1),
            Weights("16-bit", self.heads, self.heads),  # sinks
        ]
        if self.ratio:
            found.append(Weights("16-bit", self._compressor(hidden, self.head_dim), 1))
        if self.index_heads:
            found.append(Weights("attention_qkv", self.q_rank * self.index_heads * self.index_dim, 1))
            small = hidden * self.index_heads + self._compressor(hidden, self.index_dim)
            found.append(Weights("16-bit", small, 1))
        return tuple(found)

    def cache_bytes(self, tokens: Floats, tp: Ints, element_bytes: float) -> Floats:
        """Whole on every GPU. A compressor keeps its open window, latents and weights, in fp32."""
        kept = np.minimum(tokens, self.window_size) * self.entry_bytes
        widths = [self.head_dim] if self.ratio else []
        per_window = self.entry_bytes
        if self.index_heads:
            widths.append(self.index_dim)
            per_window += self.index_dim + 4
        if self.ratio:
            kept = kept + tokens / self.ratio * per_window
        open_windows = sum(self.overlap * self.ratio * 2 * self.overlap * width * 4 for width in widths)
        return np.broadcast_to(np.asarray(kept + open_windows, dtype=np.float64), len(tp))


@dataclass(frozen=True)
class PerLayerInputs:
    """An embedding of each token for every layer, ``width`` wide, that a gate lets through behind the layer and a
    projection adds to its residual (Gemma 4 E2B and E4B; Gemma 3n before them)."""

    width: int
    vocabulary: int
    layers: int

    @property
    def table_parameters(self) -> int:
        return self.vocabulary * self.width * self.layers

    def layer_parameters(self, hidden: int) -> int:
        """Gate and projection of one layer; their norm is counted with the layer's own."""
        return 2 * self.width * hidden

    def joint_parameters(self, hidden: int) -> int:
        """The projection of the token's embedding to all layers, and its norm."""
        return hidden * self.width * self.layers + self.width

    def parameters(self, hidden: int) -> int:
        return self.table_parameters + self.layers * self.layer_parameters(hidden) + self.joint_parameters(hidden)


@dataclass(frozen=True)
class HyperConnections:
    """``streams`` residuals side by side, mixed before and after each half of a layer (mHC, arXiv:2512.24880)."""

    streams: int

    def parameters(self, hidden: int) -> int:
        """Of both halves of a layer."""
        mixes = (2 + self.streams) * self.streams
        return 2 * (mixes * self.streams * hidden + mixes + 3)

    def head_parameters(self, hidden: int) -> int:
        """Of the collapse before the head."""
        return self.streams * self.streams * hidden + self.streams + 1


Alone = CompressedAttention | KimiDeltaAttention | Mamba | Mamba2 | ShortConvolution | NoMixer
"""Those beside which a layer has no attention."""
