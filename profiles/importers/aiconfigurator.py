"""Reads the kernel timings of the PyPI package ``aiconfigurator-core`` (NVIDIA, Apache-2.0).

Layout: ``systems/data/<system>/<family>/<framework>/<version>/<table>.parquet``. What its columns mean was
checked against the physics of 0.12.0, not only against the names:

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

A few files were copied from another framework or version, and their rows say so in ``framework`` and
``version``. Rows filed under another framework than their own are left out (each is also filed under its
own); the version that we note is the row's own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from packaging.version import InvalidVersion, Version

from profiles.errors import DataError, InputError, UnknownName
from profiles.files import GIB, Source
from profiles.importers import Importer, check_options
from profiles.markup import Malformed
from profiles.measurements import OPERATIONS, merge_rows, validate
from profiles.tables import read_parquet
from profiles.values import shown

PACKAGE = "aiconfigurator-core"
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
_LEFT_OUT = {"w4afp8"}  # int4 weights with fp8 activations: 417 MoE rows of TensorRT-LLM 1.0.0 on L40S
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "int8": 1}

Translate = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class _Table:
    family: str
    file: str
    operation: str
    translate: Translate
    frameworks: str = "*"  # folders that it is read from
    prepare: Translate = pd.DataFrame.copy  # what is done to the whole table first


def _dtype(column: pd.Series) -> pd.Series:
    names = column.astype("str")
    for name in names.unique():
        if name not in _DTYPES and name not in _LEFT_OUT:
            raise Malformed(f"precision {shown(name)} in column {column.name!r} is not known")
    return names.map(_DTYPES)


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
            "dtype": _dtype(raw["gemm_type"]),
            "batch": raw["batch_size"],
            "heads": raw["num_heads"],
            "kv_dtype": _dtype(raw["kv_cache_dtype"]),
            **{name: widths.str[i] for i, name in enumerate(names)},
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
    return _collective(raw, _dtype(raw["nccl_dtype"]))


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
    _Table(
        "linear_attention",
        "gdn_perf",
        "gdn_prefill",
        lambda raw: _gdn(raw).assign(query_tokens=raw["seq_len"]),
        prepare=_gdn_pairs("context"),
    ),
    _Table("linear_attention", "gdn_perf", "gdn_decode", _gdn, prepare=_gdn_pairs("generation")),
    _Table("sparse_attention", "dsa_context_module_perf", "dsa_prefill", _prefill(_dsa), prepare=_with_indexer),
    _Table("sparse_attention", "dsa_generation_module_perf", "dsa_decode", _decode(_dsa), prepare=_with_indexer),
    _Table("moe", "moe_perf", "moe", _moe),
    # B300 has an NCCL table among TensorRT-LLM's too: not newer, and under that framework's version number.
    _Table("comm", "nccl_perf", "collective", _nccl, frameworks="nccl"),
    _Table("comm", "custom_allreduce_perf", "collective", _custom_all_reduce),
)


def find_data(source: Path | None) -> Path:
    """The package's ``systems/data`` folder: below ``source``, or where the package is installed.

    Raises:
        InputError: no ``source`` is given and the package is not installed.
        DataError: there is no such folder at ``source``.
    """
    if source is None:
        spec = importlib.util.find_spec("aiconfigurator_core")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"aiconfigurator: the package {PACKAGE} is not installed",
                "pip install 'shardwright[silicon]', or give the folder of an unpacked wheel with --from",
            )
        source = Path(next(iter(spec.submodule_search_locations)))
    for below in (".", "data", "systems/data", "aiconfigurator_core/systems/data"):
        if any((source / below / system).is_dir() for system in SYSTEMS):
            return source / below
    raise DataError(f"aiconfigurator: no systems/data folder at {source}", "give the folder of the unpacked wheel")


def _source(data: Path) -> str:
    """Who measured, with the package's version where its metadata lie beside it."""
    infos = [
        info
        for folder in list(data.resolve().parents)[:3]
        for info in folder.glob(f"{PACKAGE.replace('-', '_')}-*.dist-info")
    ]
    version = infos[0].name.removesuffix(".dist-info").rpartition("-")[2] if infos else "(version not stated)"
    return f"NVIDIA, {PACKAGE} {version} on PyPI (Apache-2.0)"


def read(source: Path | None, options: dict[str, str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of every table, newest framework version winning where two measured the same question.

    Args:
        source: folder of the package or of its data; None for the installed one.
        options: as ``IMPORTER.options`` says.

    Yields:
        (operation, rows), one pair per system and operation, so that memory stays bounded.

    Raises:
        InputError: an option is unknown, or names what is not there.
        DataError: a table cannot be read.
    """
    check_options("aiconfigurator", options, IMPORTER.options)
    data = find_data(source)
    operations = _wanted(options, "op", OPERATIONS)
    gpus = _wanted(options, "gpu", SYSTEMS.values())
    folders = {path.relative_to(data).parts for path in data.glob("*/*/*/*") if path.is_dir()}
    frameworks = _wanted(options, "framework", {parts[2] for parts in folders})
    versions = _wanted(options, "version", {parts[3] for parts in folders})
    source_text = _source(data)
    for system, gpu in SYSTEMS.items():
        if gpu not in gpus:
            continue
        origin = {"gpu": gpu, "source": source_text, "date": options.get("date", RETRIEVED)}
        for operation in (name for name in OPERATIONS if name in operations):
            parts = [
                _rows(table, path, origin)
                for table in TABLES
                if table.operation == operation
                for path in _versions(data / system / table.family, table)
                if path.parts[-3] in frameworks and path.parts[-2] in versions
            ]
            if any(len(part) for part in parts):
                yield operation, merge_rows(OPERATIONS[operation], _newest_blocks(operation, parts))


# An older version fills in for a newer one by whole blocks (rows that are equal in these columns), never by
# single points: a curve that mixes two versions' kernels has steps in it that no machine has.
_BLOCKS: dict[str, tuple[str, ...]] = {
    "gemm": (),
    "attention_prefill": ("kv_dtype", "head_dim", "window_tokens"),
    "attention_decode": ("kv_dtype", "head_dim", "window_tokens"),
    "mla_prefill": ("kv_dtype",),
    "mla_decode": ("kv_dtype",),
    "mla_bmm": ("kind",),
    "gdn_prefill": (),
    "gdn_decode": (),
    "dsa_prefill": ("kv_dtype", "hidden"),
    "dsa_decode": ("kv_dtype", "hidden"),
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


def _wanted(options: dict[str, str], option: str, known: Collection[str]) -> set[str]:
    if option not in options:
        return set(known)
    wanted = {name.strip() for name in options[option].split(",")}
    for name in sorted(wanted - set(known)):
        raise UnknownName(f"aiconfigurator option {option}", name, known)
    return wanted


def _versions(folder: Path, table: _Table) -> list[Path]:
    """The table's files in all frameworks and versions, oldest version first."""

    def age(path: Path) -> tuple[str, Version]:
        try:
            return path.parts[-3], Version(path.parts[-2])
        except InvalidVersion:
            return path.parts[-3], Version("0")

    return sorted(folder.glob(f"{table.frameworks}/*/{table.file}.parquet"), key=age)


def _rows(table: _Table, path: Path, origin: dict[str, str]) -> pd.DataFrame:
    """The rows of one file, the most ordinary kernel's last. ``origin``: columns equal in all rows."""
    framework, version = path.parts[-3], path.parts[-2]
    unchanged = f"give an unchanged copy of {PACKAGE} 0.12.0"
    try:
        raw = read_parquet(Source(path, "aiconfigurator:", unchanged, GIB, DataError))
        if framework != "nccl":  # whose tables name the framework that called it
            raw = raw[_column(raw, "framework", framework).astype("str").str.lower() == framework]
        raw = table.prepare(raw)
        rows = table.translate(raw)
        rows = rows[rows["dtype"].notna()]
        raw = raw.loc[rows.index]
        rows = rows.assign(
            num_gpus=rows.get("num_gpus", 1),
            latency_us=raw["latency"] * 1e3,
            power_watts=_column(raw, "power", np.nan),
            kernel=raw["kernel_source"].astype("str"),
            framework=framework,
            framework_version=_column(raw, "version", version).astype("str"),
            **origin,
        )
    except Malformed as error:
        raise DataError(f"aiconfigurator: {path}: {error}", unchanged) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"aiconfigurator: {path}: is not the table that it should be",
            unchanged,
        ) from error
    valid = validate(OPERATIONS[table.operation], rows, where=str(path))
    # Some files hold one question measured with several kernels. The kernel with most rows of a precision is
    # the framework's ordinary path; the others only fill in what it lacks. (Later rows win in merge_rows.)
    commonness = valid.groupby(["dtype", "kernel"])["latency_us"].transform("size")
    return valid.iloc[np.argsort(commonness.to_numpy(), kind="stable")]


IMPORTER = Importer(
    "aiconfigurator",
    "kernel timings of the PyPI package aiconfigurator-core 0.12.0",
    read,
    {
        "gpu": "only these GPU types, comma-separated",
        "framework": "only these frameworks: vllm, sglang, trtllm, nccl",
        "version": "only these version folders, comma-separated",
        "op": "only these operations, comma-separated",
        "date": f"ISO date to record (default {RETRIEVED}, when 0.12.0 was retrieved)",
    },
)
