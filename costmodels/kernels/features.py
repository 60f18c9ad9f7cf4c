"""What the forests see of an operation: physical features, the same for every GPU.

A feature is useful on a GPU that nobody measured only if it means the same there, hence sizes relative to
the machine (roofline times, waves of tiles per SM, weights per L2) beside the plain logarithms of the
shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from costmodels.estimates import Floats, Ints
from costmodels.operations.roofline import INDEX_TOP, ROUTING_SKEW, Columns, Hardware, expected_active, times_us, work

Features = dict[str, Floats]

LAUNCH_US = 2.0
"""Added to the roofline before ratios are taken, so that tiny kernels (all launch, no work) do not need a
forest to learn the slope -1. About the time of an empty kernel on the GPUs in the pack."""


@dataclass(frozen=True)
class Family:
    """How one operation is modelled.

    ``group`` names the columns that make up one *shape*: rows of a shape are held out together, and trees are
    bootstrapped by shape, so errors are those of shapes never seen. ``range`` columns are continuous:
    beyond what was measured of them, the forest's answer is an extrapolation. ``near`` columns (with their
    scale) say which measured rows are neighbours of a question, and ``alike`` columns must be equal for two
    rows to be neighbours at all (beside the GPU and the precision): a question without such rows is one
    about an unseen GPU or model.
    """

    operation: str
    group: tuple[str, ...]
    range: tuple[str, ...]
    near: dict[str, float]
    specific: Callable[[Columns, Hardware, Ints], Features]
    alike: tuple[str, ...] = ()
    leaf_rows: int = 3  # least of a leaf: smooth families do as well with larger ones, in half the memory


def base_us(operation: str, q: Columns, gpu: Ints, hw: Hardware) -> Floats:
    """The yardstick of the forest's target: log(measured ÷ base)."""
    return np.maximum(*times_us(operation, q, gpu, hw)) + LAUNCH_US


def matrix(family: Family, q: Columns, gpu: Ints, hw: Hardware) -> NDArray[np.float32]:
    """Feature matrix, shape [n, features], float32."""
    compute, transfer = times_us(family.operation, q, gpu, hw)
    todo = work(family.operation, q)
    dtype = q["dtype"].astype(np.int64)
    features: Features = {
        "compute": _log(compute),
        "transfer": _log(transfer),
        "roofline": _log(np.maximum(compute, transfer)),
        "balance": _log(compute) - _log(transfer),
        "flops": _log(todo.flops),
        "dtype": dtype.astype(np.float64),
        "peak": np.log2(hw.peak_flops[gpu, dtype] / 1e12),
        "ridge": np.log2(hw.peak_flops[gpu, dtype] / hw.bandwidth[gpu]),
    }
    for position, trait in enumerate(hw.trait_names):
        features[trait] = hw.traits[gpu, position]
    features.update(family.specific(q, hw, gpu))
    return np.column_stack(list(features.values())).astype(np.float32)


def _log(x: NDArray[np.generic]) -> Floats:
    return np.log2(np.maximum(np.asarray(x, dtype=np.float64), 1e-9))


def _logs(q: Columns, *names: str) -> Features:
    return {name: _log(q[name]) for name in names}


def _power_of_two(x: NDArray[np.generic], most: int) -> Floats:
    """log2 of the largest power of two that divides x, up to ``most``: alignment decides which kernel may
    run."""
    whole = x.astype(np.int64)
    log: Floats = np.log2(np.minimum(whole & -whole, most).astype(np.float64))
    return log


def _waves(tiles: Floats, sms: Floats) -> tuple[Floats, Floats]:
    """(log2 waves, share of the last wave's SMs in use averaged over all waves)."""
    waves = tiles / sms
    return np.log2(waves), waves / np.ceil(waves)


def _sms(hw: Hardware, gpu: Ints) -> Floats:
    count: Floats = hw.traits[gpu, hw.trait_names.index("sm_count")]
    return count


def _gemm(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    m, n, k = (np.asarray(q[c], dtype=np.float64) for c in ("m", "n", "k"))
    features = {
        **_logs(q, "m", "n", "k"),
        "mn": np.log2(m * n),
        "nk": np.log2(n * k),
        "mk": np.log2(m * k),
        "m_aligned": _power_of_two(q["m"], 64),
        "n_aligned": _power_of_two(q["n"], 1024),
        "k_aligned": _power_of_two(q["k"], 1024),
        "m_filled": m / (np.ceil(m / 64) * 64),
        "n_filled": n / (np.ceil(n / 128) * 128),
        "weights_in_l2": np.log2(n * k / 1e6) - np.log2(hw.traits[gpu, hw.trait_names.index("l2")]),
    }
    for rows, columns in ((64, 64), (64, 128), (128, 128), (128, 256), (256, 128)):
        waves, used = _waves(np.ceil(m / rows) * np.ceil(n / columns), _sms(hw, gpu))
        features[f"used_{rows}x{columns}"] = used
        if (rows, columns) in ((64, 64), (128, 128), (128, 256)):
            features[f"waves_{rows}x{columns}"] = waves
    return features


def _attention_prefill(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = (np.asarray(q[c], dtype=np.float64) for c in ("batch", "query_tokens", "heads"))
    waves, used = _waves(batch * heads * np.ceil(query / 128), _sms(hw, gpu))
    return {
        **_logs(q, "batch", "query_tokens", "prefix_tokens", "heads", "kv_heads", "head_dim", "window_tokens"),
        "group": _log(q["heads"]) - _log(q["kv_heads"]),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "tokens": np.log2(batch * query),
        "waves": waves,
        "used": used,
    }


def _attention_decode(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, kv_heads = (np.asarray(q[c], dtype=np.float64) for c in ("batch", "kv_heads"))
    waves, used = _waves(batch * kv_heads, _sms(hw, gpu))
    return {
        **_logs(q, "batch", "context_tokens", "heads", "kv_heads", "head_dim", "window_tokens"),
        "group": _log(q["heads"]) - _log(q["kv_heads"]),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "cached": _log(q["batch"]) + _log(q["context_tokens"]),
        "waves": waves,
        "used": used,
    }


def _mla_prefill(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = (np.asarray(q[c], dtype=np.float64) for c in ("batch", "query_tokens", "heads"))
    waves, used = _waves(batch * heads * np.ceil(query / 128), _sms(hw, gpu))
    return {
        **_logs(q, "batch", "query_tokens", "prefix_tokens", "heads"),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "waves": waves,
        "used": used,
    }


def _mla_decode(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    waves, used = _waves(np.asarray(q["batch"], dtype=np.float64), _sms(hw, gpu))
    return {
        **_logs(q, "batch", "context_tokens", "heads"),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "waves": waves,
        "used": used,
    }


def _mla_bmm(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {**_logs(q, "tokens", "heads"), "kind": q["kind"].astype(np.float64)}


def _gdn_prefill(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, heads = (np.asarray(q[c], dtype=np.float64) for c in ("batch", "query_tokens", "value_heads"))
    waves, used = _waves(batch * heads, _sms(hw, gpu))
    return {
        **_logs(q, "batch", "query_tokens", "key_heads", "value_heads"),
        "tokens": np.log2(batch * query),
        "chunks": np.log2(batch * np.ceil(query / 64) * heads),  # chunks of 64 tokens run one after the other
        "waves": waves,
        "used": used,
    }


def _gdn_decode(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    states = np.asarray(q["batch"], dtype=np.float64) * np.asarray(q["value_heads"], dtype=np.float64)
    waves, used = _waves(states, _sms(hw, gpu))
    return {**_logs(q, "batch", "key_heads", "value_heads"), "states": np.log2(states), "waves": waves, "used": used}


def _dsa(q: Columns, tokens: Floats, keys: Floats) -> Features:
    return {
        **_logs(q, "batch", "heads", "hidden", "index_heads"),
        "kv_dtype": q["kv_dtype"].astype(np.float64),
        "tokens": np.log2(tokens),
        "keys": np.log2(keys),
        "beyond": _log(np.maximum(keys / INDEX_TOP, 1.0)),
        "scored": np.log2(tokens * keys),
    }


def _dsa_prefill(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, query, prefix = (np.asarray(q[c], dtype=np.float64) for c in ("batch", "query_tokens", "prefix_tokens"))
    return {**_logs(q, "query_tokens", "prefix_tokens"), **_dsa(q, batch * query, prefix + query)}


def _dsa_decode(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return _dsa(q, *(np.asarray(q[c], dtype=np.float64) for c in ("batch", "context_tokens")))


def _moe(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    tokens, experts, top_k, ep = (np.asarray(q[c], dtype=np.float64) for c in ("tokens", "experts", "top_k", "moe_ep"))
    width = np.asarray(q["intermediate"], dtype=np.float64) / np.asarray(q["moe_tp"], dtype=np.float64)
    active = expected_active(experts, top_k, tokens)
    rows = tokens * top_k / np.maximum(active, 1)
    waves, used = _waves(active / ep * np.ceil(rows / 64) * np.ceil(width / 64), _sms(hw, gpu))
    return {
        **_logs(q, "tokens", "hidden", "top_k", "experts", "moe_tp", "moe_ep"),
        "width": np.log2(width),
        "local_experts": np.log2(experts / ep),
        "active": np.log2(np.maximum(active / ep, 1e-3)),
        "rows_per_expert": np.log2(rows),
        "pairs": np.log2(tokens * top_k / ep),
        "gated": np.asarray(q["gated"], dtype=np.float64),
        "skew": ROUTING_SKEW[q["routing"].astype(np.int64)],
        "waves": waves,
        "used": used,
    }


def _collective(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {
        **_logs(q, "message_bytes", "num_gpus"),
        "kind": q["kind"].astype(np.float64),
        "share": _log(q["message_bytes"]) - _log(q["num_gpus"]),
    }


FAMILIES: dict[str, Family] = {
    family.operation: family
    for family in (
        Family("gemm", ("n", "k"), ("m", "n", "k"), {"m": 3.0, "n": 1.0, "k": 1.0}, _gemm),
        Family(
            "attention_prefill",
            ("heads", "kv_heads", "head_dim", "window_tokens"),
            ("batch", "query_tokens", "prefix_tokens", "heads", "head_dim"),
            {
                "batch": 2.0,
                "query_tokens": 2.0,
                "heads": 1.0,
                "kv_heads": 1.0,
                "head_dim": 4.0,
                "window_tokens": 2.0,
            },
            _attention_prefill,
            leaf_rows=5,
        ),
        Family(
            "attention_decode",
            ("heads", "kv_heads", "head_dim", "window_tokens"),
            ("batch", "context_tokens", "heads", "head_dim"),
            {
                "batch": 2.0,
                "context_tokens": 2.0,
                "heads": 1.0,
                "kv_heads": 1.0,
                "head_dim": 4.0,
                "window_tokens": 2.0,
            },
            _attention_decode,
            leaf_rows=5,
        ),
        Family(
            "mla_prefill",
            ("heads", "batch"),
            ("batch", "query_tokens", "prefix_tokens", "heads"),
            {"batch": 2.0, "query_tokens": 2.0, "heads": 1.0},
            _mla_prefill,
        ),
        Family(
            "mla_decode",
            ("heads", "batch"),
            ("batch", "context_tokens", "heads"),
            {"batch": 2.0, "context_tokens": 2.0, "heads": 1.0},
            _mla_decode,
        ),
        Family("mla_bmm", ("heads",), ("tokens", "heads"), {"tokens": 2.0, "heads": 1.0}, _mla_bmm),
        Family(
            "gdn_prefill",
            ("key_heads", "value_heads", "batch"),
            ("batch", "query_tokens", "value_heads"),
            {"batch": 2.0, "query_tokens": 2.0, "key_heads": 1.0, "value_heads": 1.0},
            _gdn_prefill,
        ),
        Family(
            "gdn_decode",
            ("key_heads", "value_heads"),
            ("batch", "value_heads"),
            {"batch": 2.0, "key_heads": 1.0, "value_heads": 1.0},
            _gdn_decode,
        ),
        Family(
            "dsa_prefill",
            ("heads", "hidden", "batch"),
            ("batch", "query_tokens", "prefix_tokens", "heads"),
            {"batch": 2.0, "query_tokens": 2.0, "prefix_tokens": 0.5, "heads": 1.0},
            _dsa_prefill,
            alike=("hidden", "index_heads"),
        ),
        Family(
            "dsa_decode",
            ("heads", "hidden", "batch"),
            ("batch", "context_tokens", "heads"),
            {"batch": 2.0, "context_tokens": 2.0, "heads": 1.0},
            _dsa_decode,
            alike=("hidden", "index_heads"),
        ),
        Family(
            "moe",
            ("hidden", "intermediate", "top_k", "experts", "moe_tp", "moe_ep"),
            ("tokens", "hidden", "intermediate", "experts"),
            {"tokens": 4.0, "moe_tp": 1.0, "moe_ep": 1.0, "routing": 1.0},
            _moe,
            alike=("hidden", "intermediate", "top_k", "experts", "gated"),
            leaf_rows=4,
        ),
        Family(
            "collective",
            ("kind", "message_bytes"),
            ("message_bytes", "num_gpus"),
            {"message_bytes": 1.0, "num_gpus": 3.0},
            _collective,
        ),
    )
}
