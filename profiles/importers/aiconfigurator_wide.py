"""The tables of ``aiconfigurator-core`` on wide expert parallelism: whole attention modules, routed experts behind an
all-to-all, and the all-to-all itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from profiles.importers.aiconfigurator_tables import (
    Table,
    Translate,
    column,
    decode_rows,
    dtype_of,
    mla_columns,
    prefill_rows,
)
from profiles.shipped import shipped


@cache
def _exchange_facts() -> dict[str, Any]:
    return shipped(Path(__file__).parent / "aiconfigurator.yaml", lambda document: dict(document["expert_exchange"]))


def _wide_experts(kind: str) -> Translate:
    """Routed experts behind an all-to-all. ``num_tokens`` counts all ranks: read so, 131,072 tokens of DeepSeek's layer
    over 16 H100 are 942 TFLOP/s a GPU."""

    def translate(raw: pd.DataFrame) -> pd.DataFrame:
        ranks = raw["moe_ep_size"]
        tokens = raw["dp_num_tokens"] if "dp_num_tokens" in raw.columns else raw["num_tokens"] // ranks
        slots = column(raw, "num_slots", raw["num_experts"]) // ranks
        rows = pd.DataFrame(
            {
                "dtype": dtype_of(raw["moe_dtype"]),
                "kind": kind,
                "tokens": tokens,
                "hidden": raw["hidden_size"],
                "intermediate": raw["inter_size"],
                "top_k": raw["topk"],
                "slots": slots,
                "routing": raw["distribution"].astype("str").replace({"uniform": "balanced", "power_law_1.02": ""}),
            }
        )
        whole = (rows["tokens"] >= 1) & (rows["slots"] >= 1) & (rows["routing"] != "")
        return rows[whole]  # 1.02 repeats 1.01

    return translate


def _phases(raw: pd.DataFrame, parts: dict[str, pd.Series]) -> pd.DataFrame:
    """``raw`` once for each phase of an exchange, with its time (µs)."""
    return pd.concat([raw.assign(phase=phase, latency=time / 1e3) for phase, time in parts.items()], ignore_index=True)


def _deepep_low_latency(raw: pd.DataFrame) -> pd.DataFrame:
    return _phases(raw, {"dispatch": raw["dispatch_avg_t_us"], "combine": raw["combine_avg_t_us"]})


def _deepep_normal(raw: pd.DataFrame) -> pd.DataFrame:
    """With as many multiprocessors as the library takes when nothing is said."""
    usual = _exchange_facts()["multiprocessors"]
    raw = raw[(raw["dispatch_sms"] == usual) & (raw["combine_sms"] == usual)]
    return _phases(raw, {"dispatch": raw["dispatch_transmit_us"], "combine": raw["combine_transmit_us"]})


def _deepep(mode: str) -> Translate:
    """Rows that count nodes, not GPUs."""

    def translate(raw: pd.DataFrame) -> pd.DataFrame:
        device, node_gpus = raw["device"].astype("str"), dict(_exchange_facts()["node_gpus"])
        gpus = pd.Series(node_gpus.pop(""), device.index)
        for name, count in node_gpus.items():
            gpus = gpus.mask(device.str.contains(name, regex=False), count)
        return pd.DataFrame(
            {
                "dtype": raw["phase"].map({"dispatch": "fp8", "combine": "bf16"}),
                "num_gpus": gpus * raw["node_num"],
                "kind": f"{mode}_" + raw["phase"],
                "tokens": raw["num_token"],
                "hidden": raw["hidden_size"],
                "top_k": raw["num_topk"],
                "experts": raw["num_experts"],
            }
        )

    return translate


def _engine_exchange(raw: pd.DataFrame) -> pd.DataFrame:
    """Exchanges as vLLM and TensorRT-LLM call them."""
    mode = raw["comm_backend"].astype("str").map(_exchange_facts()["modes"])
    dtype = raw["comm_dtype"].astype("str").replace({"fp4": "nvfp4"})
    usual = raw["phase"].map({"dispatch": "fp8", "combine": "bf16"})
    dtype = dtype.where(dtype != "default", usual).replace({"bfloat16": "bf16"})
    rows = pd.DataFrame(
        {
            "dtype": dtype,
            "num_gpus": raw["ep_size"],
            "kind": mode + "_" + raw["phase"],
            "tokens": raw["num_tokens"],
            "hidden": raw["hidden_size"],
            "top_k": raw["topk"],
            "experts": raw["num_experts"],
        }
    )
    return rows[mode != ""]


def _over_nvlink(raw: pd.DataFrame) -> pd.DataFrame:
    """TensorRT-LLM's: what two-sided exchanges prepare is part of their dispatch."""
    shape = ["kernel_source", "moe_dtype", "num_tokens", "hidden_size", "topk", "num_experts", "moe_ep_size"]
    prepare = raw[raw["op_name"] == "alltoall_prepare"].groupby(shape)["latency"].first()
    sent = raw[raw["op_name"].isin(("alltoall_dispatch", "alltoall_combine"))].reset_index(drop=True)
    before = prepare.reindex(pd.MultiIndex.from_frame(sent[shape])).to_numpy()
    dispatch = (sent["op_name"] == "alltoall_dispatch").to_numpy()
    return sent.assign(latency=sent["latency"] + np.where(dispatch, np.nan_to_num(before), 0.0))


def _nvlink_exchange(raw: pd.DataFrame) -> pd.DataFrame:
    side = raw["kernel_source"].map({"NVLinkOneSided": "one_sided", "NVLinkTwoSided": "two_sided"})
    return pd.DataFrame(
        {
            "dtype": dtype_of(raw["moe_dtype"]),
            "num_gpus": raw["moe_ep_size"],
            "kind": side + "_" + raw["op_name"].astype("str").str.removeprefix("alltoall_"),
            "tokens": raw["num_tokens"],
            "hidden": raw["hidden_size"],
            "top_k": raw["topk"],
            "experts": raw["num_experts"],
        }
    )


def _mla_module(raw: pd.DataFrame) -> pd.DataFrame:
    """A module is in the precision of its projections."""
    return mla_columns(raw).assign(dtype=dtype_of(column(raw, "gemm_type", "fp8_block").rename("gemm_type")))


WIDE_TABLES = (
    Table("mla", "wideep_context_mla_perf", "mla_module_prefill", prefill_rows(_mla_module)),
    Table("mla", "wideep_generation_mla_perf", "mla_module_decode", decode_rows(_mla_module)),
    Table("moe", "wideep_context_moe_perf", "wide_moe", _wide_experts("contiguous"), frameworks="sglang"),
    Table("moe", "wideep_generation_moe_perf", "wide_moe", _wide_experts("masked"), frameworks="sglang"),
    Table("moe", "wideep_moe_perf", "wide_moe", _wide_experts("grouped"), frameworks="trtllm"),
    Table("comm", "wideep_deepep_ll_perf", "expert_exchange", _deepep("ll"), prepare=_deepep_low_latency),
    Table("comm", "wideep_deepep_normal_perf", "expert_exchange", _deepep("ht"), prepare=_deepep_normal),
    Table("comm", "moe_a2a_perf", "expert_exchange", _engine_exchange),
    Table("comm", "trtllm_alltoall_perf", "expert_exchange", _nvlink_exchange, prepare=_over_nvlink),
)
