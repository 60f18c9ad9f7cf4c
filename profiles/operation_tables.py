"""The operations that are measured: their shape columns, what these mean and in which unit.

Validation, importers, the store, the cost model and ``plan profile show`` all read them
(:mod:`profiles.measurements` adds what every row has).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DTYPE_MEANINGS: dict[str, str] = {
    "fp32": "32-bit floats",
    "bf16": "bfloat16",
    "fp16": "half",
    "int8": "8-bit integers, weights and activations",
    "int8_wo": "8-bit integer weights only, products in bf16",
    "fp8": "8-bit floats, scaled per tensor or per channel",
    "fp8_block": "8-bit floats, one scale per 128-wide block",
    "nvfp4": "4-bit floats, weights and activations, one scale per 16",
    "mxfp4": "4-bit float weights only, one scale per 32, products in bf16",
    "mxfp4_fp8": "4-bit float weights, one scale per 32, 8-bit float activations",
    "int4": "4-bit integer weights only, products in bf16",
}
DTYPES = tuple(DTYPE_MEANINGS)
"""Precisions of an operation, in a fixed order: cost models encode a precision by its place here."""


@dataclass(frozen=True)
class Column:
    """One column: ``kind`` is ``int``, ``float`` or ``str``.

    ``minimum`` and ``maximum`` are inclusive. A text is one of ``levels`` where there are any, and matches all of
    ``pattern`` (a regular expression) where there is one.
    """

    name: str
    kind: str
    meaning: str
    required: bool = True
    minimum: float = 0.0
    maximum: float = math.inf
    unit: str = ""
    levels: tuple[str, ...] = ()
    pattern: str = ""


@dataclass(frozen=True)
class Operation:
    """A family of kernels that share their shape columns and their cost model, where they are ``predicted``: others
    are measured for people to read."""

    name: str
    meaning: str
    shape: tuple[Column, ...]
    predicted: bool = True

    @property
    def shape_names(self) -> list[str]:
        return [column.name for column in self.shape]

    @property
    def key(self) -> list[str]:
        """The columns that identify a question: same key, same answer up to noise."""
        return ["gpu", "framework", "num_gpus", "dtype", *self.shape_names]


def _count(name: str, meaning: str, minimum: int = 1, unit: str = "") -> Column:
    return Column(name, "int", meaning, minimum=minimum, unit=unit)


def _tokens(name: str, meaning: str, minimum: int = 1) -> Column:
    return _count(name, meaning, minimum, "tokens")


_KV_DTYPE = Column("kv_dtype", "str", "precision of the KV cache", levels=DTYPES)
_QUERY = _tokens("query_tokens", "new tokens of each sequence")
_PREFIX = _tokens("prefix_tokens", "tokens of each sequence already in the KV cache", 0)
_CONTEXT = _tokens("context_tokens", "KV cache length that the one new token attends to, itself included")
_BATCH = _count("batch", "sequences")
_HEADS = _count("heads", "query heads on this GPU")
_GQA = (
    _HEADS,
    _count("kv_heads", "key/value heads on this GPU"),
    _count("head_dim", "width of one head", unit="elements"),
    _tokens("window_tokens", "sliding window; 0 = full attention", 0),
    _KV_DTYPE,
)

_GDN = (
    _count("key_heads", "query and key heads on this GPU"),
    _count("value_heads", "value heads on this GPU"),
)
_DSA = (
    _HEADS,
    _KV_DTYPE,
    _count("hidden", "model width", unit="elements"),
    _count("q_rank", "width of the query's latent", unit="elements"),
    _count("qk_dim", "width of one query head, rotary part included", unit="elements"),
    _count("v_dim", "width of one value head", unit="elements"),
    _count("index_heads", "heads of the indexer (128 wide, on every GPU)"),
)

_CSA = (
    _HEADS,
    _count("hidden", "model width", unit="elements"),
    _count("q_rank", "width of the query's latent", unit="elements"),
    _count("ratio", "tokens that are compressed into one latent; 0: none are", 0, "tokens"),
    _count("index_top_k", "compressed latents that a query sees; 0: all, without an indexer", 0),
)
_MSA = (_HEADS, _KV_DTYPE, _count("hidden", "model width", unit="elements"))
_SSD = (
    _count("state_heads", "heads of the state space on this GPU"),
    _count("head_dim", "width of one head", unit="elements"),
    _count("state_dim", "state of one element of a head", unit="elements"),
    _count("groups", "groups of heads on this GPU that share how the state is written and read"),
    _count("state_bytes", "of one element of the state", unit="bytes"),
)
_CHANNELS = _count("channels", "channels on this GPU")

LINEAR_KINDS = ("forward", "data_gradient", "weight_gradient", "weight_gradient_fp32")
_LINEAR_KIND = Column(
    "kind",
    "str",
    "forward, data_gradient, weight_gradient (in the operands' precision), or weight_gradient_fp32 (added to one in 32 "
    "bits)",
    levels=LINEAR_KINDS,
)
_IN = _count("in_features", "input features on this GPU", unit="elements")
_OUT = _count("out_features", "output features on this GPU", unit="elements")

EXCHANGE_KINDS = tuple(
    f"{mode}_{phase}" for mode in ("ll", "ht", "one_sided", "two_sided") for phase in ("dispatch", "combine")
)
"""Of expert exchanges: DeepEP's low-latency and high-throughput (normal) kernels, TensorRT-LLM's over NVLink."""

OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation(
            "gemm",
            "dense matrix product [m, k] × [k, n], weights stationary",
            (
                _tokens("m", "rows of the activations"),
                _count("n", "output features on this GPU", unit="elements"),
                _count("k", "input features on this GPU", unit="elements"),
            ),
        ),
        Operation("attention_prefill", "causal attention of new tokens", (_BATCH, _QUERY, _PREFIX, *_GQA)),
        Operation("attention_decode", "attention of one new token per sequence", (_BATCH, _CONTEXT, *_GQA)),
        Operation(
            "mla_prefill",
            "latent attention of new tokens (heads 128+64 wide, values 128), projections excluded",
            (_BATCH, _QUERY, _PREFIX, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "mla_decode",
            "latent attention of one new token per sequence on the 512+64 latent, projections excluded",
            (_BATCH, _CONTEXT, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "mla_bmm",
            "per-head product that absorbs (pre) or rebuilds (post) the latent: [tokens, 128] × [128, 512]",
            (
                Column("kind", "str", "pre or post", levels=("pre", "post")),
                _tokens("tokens", "new tokens"),
                _HEADS,
            ),
        ),
        Operation(
            "mla_module_prefill",
            "latent attention of new tokens as a whole module: query and key-value up-projections, attention, output "
            "projection (the first, latent projection excluded)",
            (_BATCH, _QUERY, _PREFIX, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "mla_module_decode",
            "the same of one new token per sequence, absorbed",
            (_BATCH, _CONTEXT, _HEADS, _KV_DTYPE),
        ),
        Operation(
            "gdn_prefill",
            "gated delta rule over new tokens behind its causal convolution (heads 128 wide, kernel of 4), projections "
            "excluded",
            (_BATCH, _QUERY, *_GDN),
        ),
        Operation(
            "gdn_decode",
            "one step of the gated delta rule per sequence behind its convolution, state in fp32, projections excluded",
            (_BATCH, *_GDN),
        ),
        Operation(
            "dsa_prefill",
            "DeepSeek sparse attention of new tokens, whole module with its projections and indexer (the best 2048 of "
            "all tokens); dtype is that of the projections",
            (_BATCH, _QUERY, _PREFIX, *_DSA),
        ),
        Operation(
            "dsa_decode",
            "the same module for one new token per sequence",
            (_BATCH, _CONTEXT, *_DSA),
        ),
        Operation(
            "dsa_shared_prefill",
            "DeepSeek sparse attention of new tokens on the choice of another layer's indexer, whole module with its "
            "projections; dtype is that of the projections",
            (_BATCH, _QUERY, _PREFIX, *_DSA[:-1]),
        ),
        Operation(
            "dsa_shared_decode",
            "the same module for one new token per sequence",
            (_BATCH, _CONTEXT, *_DSA[:-1]),
        ),
        Operation(
            "compressed_prefill",
            "DeepSeek-V4's compressed attention of new tokens (one latent 512 wide, a window of 128 tokens), whole "
            "module with its projections, compressor and indexer; dtype is that of the projections, the cache is fp8",
            (_BATCH, _QUERY, _PREFIX, *_CSA),
        ),
        Operation(
            "compressed_decode",
            "the same module for one new token per sequence",
            (_BATCH, _CONTEXT, *_CSA),
        ),
        Operation(
            "block_sparse_prefill",
            "MiniMax-M3's block-sparse attention of new tokens (16 query heads a KV head, 128 wide; the best 16 blocks "
            "of 128 tokens), whole module with its projections and indexer; dtype is that of the projections",
            (_BATCH, _QUERY, _PREFIX, *_MSA),
        ),
        Operation(
            "block_sparse_decode",
            "the same module for one new token per sequence",
            (_BATCH, _CONTEXT, *_MSA),
        ),
        Operation(
            "kda_prefill",
            "Kimi Delta Attention over new tokens behind its convolutions (heads 128 wide, kernels of 4), projections "
            "excluded",
            (_BATCH, _QUERY, _HEADS),
        ),
        Operation(
            "kda_decode",
            "one step of Kimi Delta Attention per sequence behind its convolutions, state in fp32, projections "
            "excluded",
            (_BATCH, _HEADS),
        ),
        Operation(
            "short_conv_prefill",
            "causal convolution over the last 4 tokens of each channel, over new tokens",
            (_BATCH, _QUERY, _CHANNELS),
        ),
        Operation(
            "short_conv_decode",
            "one step of the same convolution per sequence",
            (_BATCH, _CHANNELS),
        ),
        Operation(
            "state_space_prefill",
            "selective state space (Mamba, Mamba-2) over new tokens, convolution and projections excluded",
            (_BATCH, _QUERY, *_SSD),
        ),
        Operation(
            "state_space_decode",
            "one step of the selective state space per sequence",
            (_BATCH, *_SSD),
        ),
        Operation(
            "hyper_connection",
            "mixing of a layer's residual streams, for both its halves: before them (pre: weights, mixture, input) or "
            "behind them (post)",
            (
                Column("kind", "str", "pre or post", levels=("pre", "post")),
                _tokens("tokens", "new tokens"),
                _count("hidden", "model width", unit="elements"),
                _count("streams", "residual streams"),
            ),
        ),
        Operation(
            "encoder_attention",
            "attention of every patch of an image to every other, projections excluded",
            (
                _count("batch", "images"),
                _count("patches", "patches of each image"),
                _HEADS,
                _count("head_dim", "width of one head", unit="elements"),
            ),
        ),
        Operation(
            "moe",
            "routed experts of one layer on the busiest GPU of its group: gate/up, activation, down",
            (
                _tokens("tokens", "tokens that enter the layer, over all GPUs of the expert group"),
                _count("hidden", "model width", unit="elements"),
                _count("intermediate", "width of one expert, before the tensor split", unit="elements"),
                _count("top_k", "experts per token"),
                _count("experts", "routed experts of the layer"),
                _count("moe_tp", "GPUs that split each expert"),
                _count("moe_ep", "GPUs that share out the experts"),
                _count("gated", "1: gate, up and down; 0: up and down", 0),
                Column(
                    "routing",
                    "str",
                    "balanced, or power_law_<alpha>: skew of tokens over experts",
                    pattern=r"balanced|power_law_\d+(\.\d+)?",
                ),
            ),
        ),
        Operation(
            "wide_moe",
            "routed experts of one layer on the busiest GPU of its group, of tokens that an all-to-all brought: "
            "gate/up, activation, down",
            (
                Column(
                    "kind",
                    "str",
                    "contiguous (rows of all experts in one product), masked (a fixed number of rows for each, in a "
                    "CUDA graph) or grouped (one kernel for both)",
                    levels=("contiguous", "masked", "grouped"),
                ),
                _tokens("tokens", "tokens of one GPU that enter the layer, on average over the group"),
                _count("hidden", "model width", unit="elements"),
                _count("intermediate", "width of one expert", unit="elements"),
                _count("top_k", "experts per token"),
                _count("slots", "experts on this GPU, copies included"),
                Column(
                    "routing",
                    "str",
                    "balanced, or power_law_<alpha>: skew of tokens over experts; _eplb: with hot experts copied",
                    pattern=r"balanced|power_law_\d+(\.\d+)?(_eplb)?",
                ),
            ),
        ),
        Operation(
            "collective",
            "one collective over num_gpus GPUs of a scale-up domain, in a CUDA graph where possible",
            (
                Column(
                    "kind",
                    "str",
                    "all_reduce, all_gather, reduce_scatter, all_to_all, or send_recv (rank 0 to 1)",
                    levels=("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"),
                ),
                _count("message_bytes", "the full buffer of one rank (input or output, the larger)", unit="bytes"),
            ),
        ),
        Operation(
            "expert_exchange",
            "tokens to the GPUs that hold their experts (dispatch), or the sums back (combine), among num_gpus GPUs of "
            "a scale-up domain; dtype is that of what is sent",
            (
                Column("kind", "str", "library's mode, and dispatch or combine", levels=EXCHANGE_KINDS),
                _tokens("tokens", "tokens of each GPU"),
                _count("hidden", "model width", unit="elements"),
                _count("top_k", "experts per token"),
                _count("experts", "routed experts of the layer"),
            ),
        ),
        Operation(
            "memcpy",
            "one copy of a contiguous buffer; dtype is int8 by convention",
            (
                Column(
                    "kind",
                    "str",
                    "device_to_device, host_to_device or device_to_host (pinned host memory)",
                    levels=("device_to_device", "host_to_device", "device_to_host"),
                ),
                _count("copied_bytes", "bytes that arrive at the target", unit="bytes"),
            ),
            predicted=False,
        ),
        Operation(
            "launch",
            "an empty kernel, one after the other: what a launch costs; dtype is int8 by convention",
            (
                Column(
                    "kind",
                    "str",
                    "kernel (from the host) or graph_kernel (replayed from a CUDA graph)",
                    levels=("kernel", "graph_kernel"),
                ),
            ),
            predicted=False,
        ),
        Operation(
            "sustained",
            "the products and the attention of one layer, back to back: right after a rest, and under lasting load",
            (
                Column(
                    "state",
                    "str",
                    "rested (bursts of 10 ms, each after a rest) or sustained (once clocks have settled)",
                    levels=("rested", "sustained"),
                ),
                _count("tokens", "tokens that go through the layer"),
                _count("hidden", "width of the model"),
                _count("intermediate", "width of the feed-forward layer"),
                _count("heads", "query heads"),
                _count("kv_heads", "key/value heads"),
                _count("head_dim", "width of a head"),
            ),
            predicted=False,
        ),
        Operation(
            "training_linear",
            "a product of a linear layer in training: its own, or that of one of its two gradients",
            (_LINEAR_KIND, _tokens("tokens", "rows of the activations"), _IN, _OUT),
            predicted=False,
        ),
        Operation(
            "training_attention",
            "causal attention of whole sequences in training, which keeps what its backward pass needs, or that pass",
            (
                Column("kind", "str", "forward or backward", levels=("forward", "backward")),
                *(_BATCH, _QUERY, *_GQA[:3]),
                _count("value_dim", "width of one value head", unit="elements"),
            ),
            predicted=False,
        ),
        Operation(
            "training_experts",
            "one product of all routed experts of a GPU in training, each with as many rows",
            (
                _LINEAR_KIND,
                _count("experts", "experts on this GPU"),
                _tokens("rows", "rows of each expert"),
                *(_IN, _OUT),
            ),
            predicted=False,
        ),
    )
}
