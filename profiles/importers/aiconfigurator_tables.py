"""What the tables of ``aiconfigurator-core`` are, and what their columns mean in our schema.

Checked against the physics of 0.12.0, not only against the names:

* All latencies are milliseconds.
* Head counts are per GPU: counted so, long decodes reach 0.9 of the memory bandwidth of H100, H200 and B200;
  split over a second GPU they would stop at half. ``tp_size`` of the latent-attention tables is only a label.
* Decode attention's KV length is ``isl + step``: ``isl`` is always 1 and the sum a power of two.
* ``message_size`` of both collective tables counts *elements*: 2-byte rows of ``n`` elements take as long as
  1-byte rows of ``2n`` (median ratio 1.00), and above 64 M elements the frameworks' own all-reduce, which
  then calls NCCL, takes as long as NCCL's 2-byte row of the same number.
* ``message_size`` is the full buffer of one rank: were it one rank's part of an all-gather, 8 GPUs of H200
  would pass 2.7 TB/s through links of 450 GB/s.
* MoE ``num_tokens`` are those of the whole expert group, ``inter_size`` is the unsplit width of one expert:
  read in any other way, rows with more than one GPU exceed the peak rate up to sixtyfold.
* Head counts of linear and sparse attention are per GPU, too: states in 32 bits then move at up to 0.81–0.96 of the
  memory bandwidth. Sparse modules hold the projections (times grow with heads and shrink with their precision) and no
  collective.
* Compressed and block-sparse modules (DeepSeek-V4, MiniMax-M3) are the same: their times grow with ``num_heads``,
  whatever ``tp_size`` says. With few heads, long decodes of the latter take what reading all index keys takes: these
  are whole on every GPU.
* A row of ``mhc_module`` is both sites of a layer: for one, writing the streams back would reach no more than 43 % of
  the memory bandwidth of B200, for two it is 86 %; and one token takes two launches.
* ``mamba2_perf`` times the convolution alone: 1024 sequences of 128 heads would move their states (2 × 4.3 GB) in
  48 µs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from profiles.markup import Malformed
from profiles.values import shown

_DTYPES = {
    "bfloat16": "bf16",
    "half": "fp16",
    "float16": "fp16",
    "int8": "int8",
    "int8_wo": "int8_wo",
    "int4_wo": "int4",
    "sq": "int8",
    "fp8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
}
_LEFT_OUT = {"w4afp8"}  # int4 weights with fp8 activations: 417 MoE rows of TensorRT-LLM 1.0.0 on L40S
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "int8": 1}

Translate = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Table:
    """One file of each version, and how it is read."""

    family: str
    file: str
    operation: str
    translate: Translate
    frameworks: str = "*"  # folders that it is read from
    prepare: Translate = pd.DataFrame.copy  # what is done to the whole table first


def dtype_of(column: pd.Series) -> pd.Series:
    names = column.astype("str")
    for name in names.unique():
        if name not in _DTYPES and name not in _LEFT_OUT:
            raise Malformed(f"precision {shown(name)} in column {column.name!r} is not known")
    return names.map(_DTYPES)


def column(raw: pd.DataFrame, name: str, default: object) -> pd.Series:
    """The column ``name``, or ``default`` in every row."""
    return raw[name] if name in raw.columns else pd.Series(default, index=raw.index)


def _gemm(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"dtype": dtype_of(raw["gemm_dtype"]), "m": raw["m"], "n": raw["n"], "k": raw["k"]})


def _attention(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["attn_dtype"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_heads": raw["num_key_value_heads"],
            "head_dim": column(raw, "head_dim", 128),
            "window_tokens": column(raw, "window_size", 0),
            "kv_dtype": dtype_of(raw["kv_cache_dtype"]),
        }
    )


def mla_columns(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["mla_dtype"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_dtype": dtype_of(raw["kv_cache_dtype"]),
        }
    )


def prefill_rows(common: Translate) -> Translate:
    return lambda raw: common(raw).assign(query_tokens=raw["isl"], prefix_tokens=raw["step"])


def decode_rows(common: Translate) -> Translate:
    return lambda raw: common(raw).assign(context_tokens=raw["isl"] + raw["step"])


def _mla_bmm(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["bmm_dtype"]),
            "kind": raw["op_name"].astype("str").str.removeprefix("mla_gen_"),
            "tokens": raw["num_tokens"],
            "heads": raw["num_heads"],
        }
    )


def _gdn_pairs(phase: str) -> Translate:
    """One row for the convolution and the delta rule of ``phase``, which are timed apart. The tables are by model, and
    models that differ only in width ran the same kernels: the first is kept."""
    shape = ["batch_size", "seq_len", "num_k_heads", "num_v_heads"]

    def pairs(raw: pd.DataFrame) -> pd.DataFrame:
        measured = (raw["phase"] == phase) & (raw["d_conv"] == 4)
        raw = raw[measured & (raw["head_k_dim"] == 128) & (raw["head_v_dim"] == 128)]
        convolution = raw["kernel_source"].astype("str").str.startswith("causal_conv1d")
        parts = [part.drop_duplicates(shape) for part in (raw[~convolution], raw[convolution])]
        both = parts[0].merge(parts[1][[*shape, "kernel_source", "latency"]], on=shape, suffixes=("", "_before"))
        return both.assign(
            latency=both["latency"] + both["latency_before"],
            kernel_source=both["kernel_source_before"].astype("str") + "+" + both["kernel_source"].astype("str"),
        )

    return pairs


def _gdn(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": "bf16",
            "batch": raw["batch_size"],
            "key_heads": raw["num_k_heads"],
            "value_heads": raw["num_v_heads"],
        }
    )


# The tables name the architecture and count its heads only: width, query rank, q·k and value width, index heads.
_DSA_WIDTHS = {
    "DeepseekV32ForCausalLM": (7168, 1536, 128 + 64, 128, 64),
    "GlmMoeDsaForCausalLM": (6144, 2048, 192 + 64, 256, 32),
}


def _with_indexer(raw: pd.DataFrame) -> pd.DataFrame:
    """Without the modules that use the index of another layer."""
    return raw[~raw["op_name"].astype("str").str.contains("skip_indexer")]


def _dsa(raw: pd.DataFrame) -> pd.DataFrame:
    names = ("hidden", "q_rank", "qk_dim", "v_dim", "index_heads")
    widths = raw["architecture"].astype("str").map(_DSA_WIDTHS)
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["gemm_type"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_dtype": dtype_of(raw["kv_cache_dtype"]),
            **{name: widths.str[i] for i, name in enumerate(names)},
        }
    )


def _on_a_shared_index(raw: pd.DataFrame) -> pd.DataFrame:
    """The modules that use the index of another layer."""
    return raw[raw["op_name"].astype("str").str.contains("skip_indexer")]


def _dsa_shared(raw: pd.DataFrame) -> pd.DataFrame:
    return _dsa(raw).drop(columns="index_heads")


def _compressed(raw: pd.DataFrame) -> pd.DataFrame:
    flash = raw["model"].astype("str").str.contains("Flash")
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["gemm_type"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "hidden": np.where(flash, 4096, 7168),
            "q_rank": np.where(flash, 1024, 1536),
            "ratio": raw["compress_ratio"],
            "index_top_k": np.where(raw["compress_ratio"] == 4, np.where(flash, 512, 1024), 0),
        }
    )


def _block_sparse(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["gemm_type"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_dtype": dtype_of(raw["kv_cache_dtype"]),
            "hidden": 6144,
        }
    )


def _delta_rule(*kernels: str) -> Translate:
    """Of the Kimi Delta Attention table the rows of ``kernels``, none of which holds the convolutions where another
    was timed without: those of vLLM are launched by the host and take 0.42 ms however short the prompt."""

    def chosen(raw: pd.DataFrame) -> pd.DataFrame:
        measured = (raw["head_k_dim"] == 128) & (raw["head_v_dim"] == 128) & (raw["num_k_heads"] == raw["num_v_heads"])
        return raw[measured & raw["kernel_source"].astype("str").isin(kernels)]

    return chosen


def _kda(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"dtype": "bf16", "batch": raw["batch_size"], "heads": raw["num_k_heads"]})


def _convolutions(phase: str) -> Translate:
    """Of the tables of linear attention the rows of the short convolution."""

    def chosen(raw: pd.DataFrame) -> pd.DataFrame:
        convolution = raw["kernel_source"].astype("str").str.startswith("causal_conv1d")
        return raw[convolution & (raw["phase"] == phase) & (raw["d_conv"] == 4)]

    return chosen


def _gdn_channels(raw: pd.DataFrame) -> pd.DataFrame:
    channels = 2 * raw["num_k_heads"] * raw["head_k_dim"] + raw["num_v_heads"] * raw["head_v_dim"]
    return pd.DataFrame({"dtype": "bf16", "batch": raw["batch_size"], "channels": channels})


def _mamba_channels(raw: pd.DataFrame) -> pd.DataFrame:
    channels = raw["nheads"] * raw["head_dim"] + 2 * raw["n_groups"] * raw["d_state"]
    return pd.DataFrame({"dtype": "bf16", "batch": raw["batch_size"], "channels": channels})


def _both_sites(raw: pd.DataFrame) -> pd.DataFrame:
    return raw[raw["num_sites"] == 2]


def _hyper_connection(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": "bf16",
            "kind": raw["op_name"].astype("str"),
            "tokens": raw["num_tokens"],
            "hidden": raw["hidden_size"],
            "streams": raw["hc_mult"],
        }
    )


def _encoder(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["attn_dtype"]),
            "batch": raw["batch_size"],
            "patches": raw["isl"],
            "heads": raw["num_heads"],
            "head_dim": raw["head_dim"],
        }
    )


def _chunked(common: Translate) -> Translate:
    """Of a table that counts new tokens only."""
    return lambda raw: common(raw).assign(query_tokens=raw["seq_len"])


def _as_it_is(common: Translate) -> Translate:
    return common


def _moe(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["moe_dtype"]),
            "tokens": raw["num_tokens"],
            "hidden": raw["hidden_size"],
            "intermediate": raw["inter_size"],
            "top_k": raw["topk"],
            "experts": raw["num_experts"],
            "moe_tp": raw["moe_tp_size"],
            "moe_ep": raw["moe_ep_size"],
            "gated": np.where(raw["kernel_source"].astype("str").str.contains("nongated"), 0, 1),
            "routing": raw["distribution"].astype("str"),
        }
    )


def _collective(raw: pd.DataFrame, dtype: pd.Series) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": dtype,
            "num_gpus": raw["num_gpus"],
            "kind": raw["op_name"].astype("str").replace({"alltoall": "all_to_all"}),
            "message_bytes": raw["message_size"] * dtype.map(_ELEMENT_BYTES),
        }
    )


def _nccl(raw: pd.DataFrame) -> pd.DataFrame:
    return _collective(raw, dtype_of(raw["nccl_dtype"]))


def _custom_all_reduce(raw: pd.DataFrame) -> pd.DataFrame:
    rows = _collective(raw, dtype_of(raw["allreduce_dtype"]))
    # Engines decode inside CUDA graphs; the eager rows of the same table are mostly Python's launch time.
    return rows[~column(raw, "backend", "").astype("str").str.endswith("eager")]


TABLES = (
    Table("gemm", "gemm_perf", "gemm", _gemm),
    Table("attention", "context_attention_perf", "attention_prefill", prefill_rows(_attention)),
    Table("attention", "generation_attention_perf", "attention_decode", decode_rows(_attention)),
    Table("mla", "context_mla_perf", "mla_prefill", prefill_rows(mla_columns)),
    Table("mla", "generation_mla_perf", "mla_decode", decode_rows(mla_columns)),
    Table("mla_bmm", "mla_bmm_perf", "mla_bmm", _mla_bmm),
    Table(
        "linear_attention",
        "gdn_perf",
        "gdn_prefill",
        _chunked(_gdn),
        prepare=_gdn_pairs("context"),
    ),
    Table("linear_attention", "gdn_perf", "gdn_decode", _gdn, prepare=_gdn_pairs("generation")),
    Table("sparse_attention", "dsa_context_module_perf", "dsa_prefill", prefill_rows(_dsa), prepare=_with_indexer),
    Table("sparse_attention", "dsa_generation_module_perf", "dsa_decode", decode_rows(_dsa), prepare=_with_indexer),
    *(
        Table(
            "sparse_attention",
            f"dsa_{phase}_module_perf",
            f"dsa_shared_{step}",
            way(_dsa_shared),
            prepare=_on_a_shared_index,
        )
        for phase, step, way in (("context", "prefill", prefill_rows), ("generation", "decode", decode_rows))
    ),
    *(
        Table("sparse_attention", f"dsv4_{kind}_{phase}_module_perf", f"compressed_{step}", way(_compressed))
        for kind in ("csa", "hca")
        for phase, step, way in (("context", "prefill", prefill_rows), ("generation", "decode", decode_rows))
    ),
    Table("msa", "msa_context_module_perf", "block_sparse_prefill", prefill_rows(_block_sparse)),
    Table("msa", "msa_generation_module_perf", "block_sparse_decode", decode_rows(_block_sparse)),
    Table("kda", "kda_perf", "kda_prefill", _chunked(_kda), prepare=_delta_rule("chunk_kda", "flashkda_fwd")),
    Table(
        "kda",
        "kda_perf",
        "kda_decode",
        _kda,
        prepare=_delta_rule("fused_recurrent_kda_packed_decode", "kda_fused_decode"),
    ),
    *(
        Table("linear_attention", file, f"short_conv_{step}", way(channels), prepare=_convolutions(phase))
        for file, channels in (("gdn_perf", _gdn_channels), ("mamba2_perf", _mamba_channels))
        for phase, step, way in (("context", "prefill", _chunked), ("generation", "decode", _as_it_is))
    ),
    Table("mhc", "mhc_module_perf", "hyper_connection", _hyper_connection, prepare=_both_sites),
    Table("encoder_attention", "encoder_attention_perf", "encoder_attention", _encoder),
    Table("moe", "moe_perf", "moe", _moe),
    # B300 has an NCCL table among TensorRT-LLM's too: not newer, and under that framework's version number.
    Table("comm", "nccl_perf", "collective", _nccl, frameworks="nccl"),
    Table("comm", "custom_allreduce_perf", "collective", _custom_all_reduce),
)


# An older version fills in for a newer one by whole blocks (rows that are equal in these columns), never by
# single points: a curve that mixes two versions' kernels has steps in it that no machine has.
BLOCKS: dict[str, tuple[str, ...]] = {
    "gemm": (),
    "attention_prefill": ("kv_dtype", "head_dim", "window_tokens"),
    "attention_decode": ("kv_dtype", "head_dim", "window_tokens"),
    "mla_prefill": ("kv_dtype",),
    "mla_decode": ("kv_dtype",),
    "mla_bmm": ("kind",),
    "mla_module_prefill": ("kv_dtype",),
    "mla_module_decode": ("kv_dtype",),
    "gdn_prefill": (),
    "gdn_decode": (),
    "dsa_prefill": ("kv_dtype", "hidden"),
    "dsa_decode": ("kv_dtype", "hidden"),
    "dsa_shared_prefill": ("kv_dtype", "hidden"),
    "dsa_shared_decode": ("kv_dtype", "hidden"),
    "compressed_prefill": ("hidden", "ratio"),
    "compressed_decode": ("hidden", "ratio"),
    "block_sparse_prefill": ("kv_dtype",),
    "block_sparse_decode": ("kv_dtype",),
    "kda_prefill": (),
    "kda_decode": (),
    "short_conv_prefill": (),
    "short_conv_decode": (),
    "state_space_prefill": (),
    "state_space_decode": (),
    "hyper_connection": ("kind", "hidden"),
    "encoder_attention": ("head_dim",),
    "moe": ("hidden", "intermediate", "top_k", "experts", "gated"),
    "wide_moe": ("kind", "hidden", "intermediate", "top_k"),
    "collective": ("kind", "num_gpus"),
    "expert_exchange": ("kind", "hidden", "top_k", "experts"),
}
