"""Reads the kernel timings of the PyPI package ``aiconfigurator-core`` (NVIDIA, Apache-2.0).

Layout: ``systems/data/<system>/<family>/<framework>/<version>/<table>.parquet``. What its columns mean was checked
against the physics, not only the names:

* all latencies are milliseconds; head counts are per GPU; decode attention's KV length is ``isl + step``;
* ``message_size`` of both collective tables counts *elements* (2-byte rows of ``n`` elements take as long as 1-byte
  rows of ``2n``), and is the full buffer of one rank (an all-gather over 8 GPUs of H200 could not otherwise finish);
* MoE ``num_tokens`` are those of the whole expert group, ``inter_size`` is the unsplit width of one expert.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from profiles.errors import DataError, InputError, UnknownName
from profiles.importers import Importer
from profiles.measurements import OPERATIONS, merge_rows, validate

SOURCE = "NVIDIA, aiconfigurator-core 0.12.0 on PyPI (Apache-2.0)"
RETRIEVED = "2026-11-21"  # neither the package nor its tables say when each row was measured

SYSTEMS = {
    "a100_sxm": "A100-SXM-80GB",
    "h100_sxm": "H100-SXM",
    "h200_sxm": "H200",
    "b200_sxm": "B200",
    "b300_sxm": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
    "l40s": "L40S",
    "rtx_pro_6000_server": "RTX-PRO-6000",
}

_DTYPES = {
    "bfloat16": "bf16",
    "half": "fp16",
    "float16": "fp16",
    "int8": "int8",
    "int8_wo": "int8_wo",
    "int4_wo": "int4",
    "sq": "int8",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
}
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "int8": 1}

Translate = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class _Table:
    family: str
    file: str
    operation: str
    translate: Translate


def _dtype(column: pd.Series) -> pd.Series:
    return column.astype("str").map(_DTYPES)


def _column(raw: pd.DataFrame, name: str, default: object) -> pd.Series:
    return raw[name] if name in raw.columns else pd.Series(default, index=raw.index)


def _gemm(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"dtype": _dtype(raw["gemm_dtype"]), "m": raw["m"], "n": raw["n"], "k": raw["k"]})


def _attention(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": _dtype(raw["attn_dtype"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_heads": raw["num_key_value_heads"],
            "head_dim": _column(raw, "head_dim", 128),
            "window_tokens": _column(raw, "window_size", 0),
            "kv_dtype": _dtype(raw["kv_cache_dtype"]),
        }
    )


def _mla(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": _dtype(raw["mla_dtype"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_dtype": _dtype(raw["kv_cache_dtype"]),
        }
    )


def _prefill(common: Translate) -> Translate:
    return lambda raw: common(raw).assign(query_tokens=raw["isl"], prefix_tokens=raw["step"])


def _decode(common: Translate) -> Translate:
    return lambda raw: common(raw).assign(context_tokens=raw["isl"] + raw["step"])


def _mla_bmm(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": _dtype(raw["bmm_dtype"]),
            "kind": raw["op_name"].astype("str").str.removeprefix("mla_gen_"),
            "tokens": raw["num_tokens"],
            "heads": raw["num_heads"],
        }
    )


def _moe(raw: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dtype": _dtype(raw["moe_dtype"]),
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
    return _collective(raw, _dtype(raw["nccl_dtype"])).assign(framework="nccl")


def _custom_all_reduce(raw: pd.DataFrame) -> pd.DataFrame:
    rows = _collective(raw, _dtype(raw["allreduce_dtype"]))
    # Engines decode inside CUDA graphs; the eager rows of the same table are mostly Python's launch time.
    return rows[~_column(raw, "backend", "").astype("str").str.endswith("eager")]


TABLES = (
    _Table("gemm", "gemm_perf", "gemm", _gemm),
    _Table("attention", "context_attention_perf", "attention_prefill", _prefill(_attention)),
    _Table("attention", "generation_attention_perf", "attention_decode", _decode(_attention)),
    _Table("mla", "context_mla_perf", "mla_prefill", _prefill(_mla)),
    _Table("mla", "generation_mla_perf", "mla_decode", _decode(_mla)),
    _Table("mla_bmm", "mla_bmm_perf", "mla_bmm", _mla_bmm),
    _Table("moe", "moe_perf", "moe", _moe),
    _Table("comm", "nccl_perf", "collective", _nccl),
    _Table("comm", "custom_allreduce_perf", "collective", _custom_all_reduce),
)


def find_data(source: Path | None) -> Path:
    """The package's ``systems/data`` folder: below ``source``, or where the package is installed."""
    if source is None:
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                "aiconfigurator: the package aiconfigurator-core is not installed",
                "pip install 'shardwright[silicon]', or give the folder of an unpacked wheel with --from",
            )
        source = Path(next(iter(spec.submodule_search_locations)))
    for candidate in (source, source / "data", source / "systems/data", source / "aiconfigurator_core/systems/data"):
        if any((candidate / system).is_dir() for system in SYSTEMS):
            return candidate
    raise DataError(f"aiconfigurator: no systems/data folder at {source}", "give the folder of the unpacked wheel")


def read(source: Path | None, options: dict[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of every table, newest framework version winning where two measured the same question.

    Args:
        source: folder of the package or of its data; None for the installed one.
        options: ``gpu``, ``framework``, ``version`` and ``op``: comma-separated; absent means all. A ``version``
            names the framework's version folder.

    Yields:
        (operation, rows), one pair per system and operation, so that memory stays bounded.
    """
    data = find_data(source)
    wanted_ops = _names(options, "op", OPERATIONS)
    wanted_gpus = _names(options, "gpu", SYSTEMS.values())
    frameworks = {name.strip() for name in options["framework"].split(",")} if options.get("framework") else None
    versions = {name.strip() for name in options["version"].split(",")} if options.get("version") else None
    for system, gpu in SYSTEMS.items():
        if gpu not in wanted_gpus:
            continue
        for operation in (name for name in OPERATIONS if name in wanted_ops):
            parts = [
                _rows(table, path, gpu)
                for table in TABLES
                if table.operation == operation
                for path in _versions(data / system / table.family, table.file)
                if (frameworks is None or path.parts[-3] in frameworks)
                and (versions is None or path.parts[-2] in versions)
            ]
            if any(len(part) for part in parts):
                yield operation, merge_rows(OPERATIONS[operation], _newest_blocks(operation, parts))


# An older version fills in for a newer one by whole blocks (rows that are equal in these columns), never by single points:
# a curve that mixes two versions' kernels has steps in it that no machine has.
_BLOCKS: dict[str, tuple[str, ...]] = {
    "gemm": (),
    "attention_prefill": ("kv_dtype", "head_dim", "window_tokens"),
    "attention_decode": ("kv_dtype", "head_dim", "window_tokens"),
    "mla_prefill": ("kv_dtype",),
    "mla_decode": ("kv_dtype",),
    "mla_bmm": ("kind",),
    "moe": ("hidden", "intermediate", "top_k", "experts", "gated"),
    "collective": ("kind", "num_gpus"),
}


def _newest_blocks(operation: str, oldest_first: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """``oldest_first`` without the rows whose block a newer table of the same framework has."""
    columns = ["framework", "dtype", *_BLOCKS[operation]]
    kept: list[pd.DataFrame] = []
    seen: pd.MultiIndex | None = None
    for table in reversed([table for table in oldest_first if len(table)]):
        blocks = pd.MultiIndex.from_frame(table[columns])
        kept.append(table if seen is None else table[~blocks.isin(seen)])
        seen = blocks.unique() if seen is None else seen.append(blocks.unique()).unique()
    return kept[::-1]


def _names(options: dict[str, str], option: str, known: object) -> set[str]:
    names = set(known)  # type: ignore[call-overload]
    if not options.get(option):
        return names
    wanted = {name.strip() for name in options[option].split(",")}
    for name in sorted(wanted - names):
        raise UnknownName(f"aiconfigurator option {option}", name, names)
    return wanted


def _versions(folder: Path, file: str) -> list[Path]:
    """The table's files in all frameworks and versions, oldest version first."""

    def age(path: Path) -> tuple[str, Version]:
        try:
            return path.parts[-3], Version(path.parts[-2])
        except InvalidVersion:
            return path.parts[-3], Version("0")

    return sorted(folder.glob(f"*/*/{file}.parquet"), key=age)


def _rows(table: _Table, path: Path, gpu: str) -> pd.DataFrame:
    try:
        raw = pd.read_parquet(path)
        rows = table.translate(raw)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"aiconfigurator: {path} cannot be read ({error!r})", "reinstall aiconfigurator-core==0.12.0"
        ) from error
    # A precision without a name in our schema (none in 0.12.0) is left out rather than mislabelled.
    rows = rows[rows["dtype"].notna()]
    raw = raw.loc[rows.index]
    rows = rows.assign(
        gpu=gpu,
        num_gpus=rows.get("num_gpus", 1),
        latency_us=raw["latency"] * 1e3,
        power_watts=_column(raw, "power", None),
        kernel=raw["kernel_source"].astype("str"),
        framework=rows.get("framework", path.parts[-3]),
        framework_version=path.parts[-2],
        source=SOURCE,
        date=RETRIEVED,
    )
    valid = validate(OPERATIONS[table.operation], rows, where=str(path))
    # Some files hold one question measured with several kernels. The kernel with most rows of a precision is the
    # framework's ordinary path; the others only fill in what it lacks. (Later rows win in merge_rows.)
    commonness = valid.groupby(["dtype", "kernel"])["latency_us"].transform("size")
    return valid.iloc[np.argsort(commonness.to_numpy(), kind="stable")]


IMPORTER = Importer(
    "aiconfigurator",
    "kernel timings of the PyPI package aiconfigurator-core 0.12.0",
    read,
    {
        "gpu": "only these GPU types, comma-separated",
        "framework": "only these frameworks: vllm, sglang, trtllm, nccl",
        "version": "only these framework versions",
        "op": "only these operations",
    },
)
