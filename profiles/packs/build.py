"""Builds the pack that ships: ``python -m profiles.packs.build``.

Takes the rows of aiconfigurator-core for the GPUs below and thins the grids: points that lie between two
others on a curve which is smooth there are left out. ``make bench`` shows what that costs
(``costmodels/evidence/thinning.json``). Latencies are rounded to four significant digits, a twentieth of the
noise between two runs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from profiles.errors import InputError
from profiles.importers import aiconfigurator
from profiles.manifest import MANIFEST
from profiles.plausibility import findings
from profiles.store import ProfileStore
from profiles.whole_files import whole_folder

GPUS = ("A100-SXM-80GB", "H100-SXM", "H200", "B200", "B300", "GB200", "L40S", "RTX-PRO-6000")
NAME = "silicon"
VERSION = "1"
ATTRIBUTION = (
    "Kernel timings by NVIDIA CORPORATION & AFFILIATES, from the PyPI package aiconfigurator-core 0.12.0, "
    "Apache-2.0; units converted, grids thinned, latencies rounded to 4 digits. See NOTICE."
)
NOTICE = """\
Shardwright pack "silicon": kernel timings of NVIDIA GPUs

This folder contains data derived from the Python package aiconfigurator-core 0.12.0
(https://pypi.org/project/aiconfigurator-core/, https://github.com/ai-dynamo/aiconfigurator),
files systems/data/**/*.parquet.

  Copyright (c) 2025-2026 NVIDIA CORPORATION & AFFILIATES. All rights reserved.
  SPDX-License-Identifier: Apache-2.0

Licensed under the Apache License, Version 2.0. You may obtain a copy of the License at
http://www.apache.org/licenses/LICENSE-2.0; it is also in the file LICENSE of this distribution.

Changes made by the Shardwright project (profiles/importers/aiconfigurator.py, profiles/packs/build.py):

- columns, GPU types, frameworks and precisions renamed to Shardwright's schema;
- latencies converted from milliseconds to microseconds and rounded to four significant digits, collective
  message sizes converted from elements to bytes;
- of several framework versions and kernels that timed the same question, one kept;
- of linear attention and state spaces, the convolution and the recurrence taken apart or added up;
- timings of eager (not graph-captured) launches, rows filed under another framework than their own, and
  precisions that the schema does not name, left out, as listed in these two files;
- tables that cannot be what they say left out (LEFT_OUT in profiles/packs/build.py);
- rows that time a library's kernels under a framework's name given under the library's, too (LIBRARIES there);
- grids thinned: the points listed in profiles/packs/build.py left out;
- a source and a date of retrieval added to each row; rows sorted and stored anew as Parquet.

The timings are provided "AS IS", without warranties or conditions of any kind.
"""

_LONG = (1536, 3072, 6144, 10240, 12288)

# Values left out of each grid, by operation and column. GEMM keeps the unaligned rows (17, 33, ..., 2049) at
# which kernels change, and drops their repetitions.
DROPPED: dict[str, dict[str, tuple[int, ...]]] = {
    "gemm": {
        "m": (
            *(3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 80, 81, 97, 112, 224, 768, 769, 1280, 1281, 1536, 1792),
            *(1793, 2304, 2305, 2560, 2561, 2816, 2817, 3328, 3329, 3584, 3585, 3840, 3841, 4352, 4353),
        )
    },
    "attention_prefill": {"query_tokens": (1536, 6144, 10240, 12288)},
    "attention_decode": {"context_tokens": (8, 32)},
    "moe": {"tokens": (48, 80, 96, 160, 192, 320, 768, 12288)},
    "gdn_prefill": {"query_tokens": (2, 4, 8, 32)},
    "dsa_prefill": {"query_tokens": _LONG},
    "dsa_shared_prefill": {"query_tokens": _LONG},
    "compressed_prefill": {"query_tokens": _LONG},
    "block_sparse_prefill": {"query_tokens": _LONG},
    "kda_prefill": {"query_tokens": (2, 4, 8, 32)},
    "short_conv_prefill": {"query_tokens": (2, 4, 8, 32)},
}

_PREFIXES = (0, 128, 1024, 4096, 16384, 65536, 131072)

# Values kept of the grids that are finer still.
KEPT: dict[str, dict[str, tuple[int, ...]]] = {
    "dsa_prefill": {"prefix_tokens": _PREFIXES},
    "dsa_shared_prefill": {"prefix_tokens": _PREFIXES},
    "compressed_prefill": {"prefix_tokens": (*_PREFIXES, 524288)},
    "block_sparse_prefill": {"prefix_tokens": _PREFIXES},
    "dsa_decode": {
        "context_tokens": (17, 257, 513, 1025, 2049, 4097, 8193, 16385, 32769, 65537, 131073, 163840, 202752)
    },
    "encoder_attention": {
        "batch": (1, 4, 16, 64),
        "patches": (64, 128, 256, 400, 576, 1024, 1296, 1536, 2304, 3136, 4096, 5184, 6400, 8192, 10816, 16384),
    },
}

HOPPER, B200_B300 = ("H100-SXM", "H200"), ("B200", "B300")


@dataclass(frozen=True)
class LeftOut:
    """Rows that cannot be what they say they are; ``query`` selects them. Where nothing of a framework is left,
    another's
    rows stand in, and plans say so."""

    operation: str
    query: str
    why: str


LEFT_OUT = (
    LeftOut(
        "gemm",
        "framework == 'vllm' and dtype == 'fp8_block'",
        "times the host, not the GPU: launched eagerly with its Python-side quantization, no row is faster than 57 µs "
        "on H100/H200, 160 µs on B200 and 290 µs on L40S, where the same shapes take 3.6–6 µs under SGLang and "
        "TensorRT-LLM and a bf16 product (twice the bytes) takes 2.6 µs under vLLM itself; an engine replays such "
        "steps from CUDA graphs",
    ),
    LeftOut(
        "gemm",
        "framework == 'sglang' and gpu == 'H100-SXM' and dtype == 'int8_wo'",
        "50 rows are over 5 % faster than the dense peak of the tensor cores; no other GPU has such rows",
    ),
    LeftOut(
        "attention_decode",
        "framework == 'trtllm' and gpu == 'A100-SXM-80GB'",
        "with grouped heads it would move the KV cache at up to 1.69 × the GPU's memory bandwidth",
    ),
    LeftOut(
        "moe",
        "framework == 'sglang' and framework_version == '0.5.10' and moe_ep > 1",
        "the kernel does not skip what is not local: DeepSeek's layer at 16384 tokens over 32 H100 takes 5.75 ms, in "
        "its table of wide expert parallelism 0.9-1.3 ms, and 0.74 ms under TensorRT-LLM (H200)",
    ),
    LeftOut(
        "moe",
        "framework in ('flashinfer', 'sglang', 'vllm') and moe_ep > 1 and experts == 256 and hidden == 7168",
        "a router that is limited to groups of experts sent all that was timed to few GPUs: spread evenly, one token "
        "takes the GPU timed of 4 to 32 as long as all its eight experts do, and 8192 tokens 0.84-0.87 as long over 32 "
        "as over 8 (0.53-0.60 for 384 experts, that no groups limit)",
    ),
    LeftOut(
        "expert_exchange",
        "framework == 'vllm'",
        "time the host, not the GPU alone: DeepEP's low-latency dispatch of a token takes 50-67 µs on H100, in no "
        "order, where SGLang's same kernel takes 13, and its high-throughput dispatch 0.3 ms from 16 to 512 tokens",
    ),
    LeftOut(
        "expert_exchange",
        "framework == 'trtllm' and kind in ('ll_dispatch', 'll_combine', 'ht_dispatch', 'ht_combine')",
        "have a floor of the host's (72 µs on H100, 167 µs on GB200, whatever is sent), where SGLang's of the same "
        "library grow smoothly from 13 µs",
    ),
    *(
        LeftOut(
            operation,
            "framework == 'trtllm' or gpu == 'A100-SXM-80GB'",
            "the convolution would pass the GPU's memory bandwidth up to 5-fold on data-centre GPUs (18-fold on L40S), "
            "where vLLM and a newer SGLang stay below it",
        )
        for operation in ("gdn_prefill", "gdn_decode")
    ),
    *(
        LeftOut(
            operation,
            f"framework == 'sglang' and gpu == 'H200' and {work} > {most}",
            "of a machine that slows down under long kernels: above it, times rise to 2–4 times H100's (decode: "
            "2–3 times vLLM's, whose kernel is the same) and scatter; below it they are 0.92–1.0 of H100's, as others",
        )
        for operation, work, most in (
            ("gdn_prefill", "batch * query_tokens * value_heads", 32768),
            ("gdn_decode", "batch * value_heads", 6144),
        )
    ),
    LeftOut(
        "gdn_decode",
        "gpu in ('L40S', 'RTX-PRO-6000') and batch * value_heads <= 4096",
        "the same states are timed again and again: as long as these GPUs' large second-level caches hold them (64 kB "
        "each) they move at up to 4.6 × the memory bandwidth, and in an engine they would come from memory",
    ),
    *(
        LeftOut(
            "dsa_prefill",
            f"framework == '{framework}' and gpu in {gpus} and batch * query_tokens < {tokens} "
            f"and (latency_us < {floor} or prefix_tokens + query_tokens <= 2048)",
            f"times the host, not the GPU: launched eagerly, 98 % of prompts of 256 tokens or less take up to {floor} "
            "µs however short they are; in an engine the host runs ahead of the experts' kernels. Rows of more tokens "
            "stay: they bound what the GPU takes",
        )
        for framework, gpus, floor, tokens in (
            ("sglang", (*HOPPER, *B200_B300), 1900, 4096),
            ("sglang", ("GB200",), 3700, 4096),
            ("vllm", HOPPER, 2000, 4096),
            ("vllm", B200_B300, 2700, 8192),
            ("vllm", ("GB200",), 4500, 8192),
            ("trtllm", HOPPER, 300, 128),
        )
    ),
    LeftOut(
        "dsa_decode",
        "framework == 'sglang' and batch >= 512 and latency_us > 1000",
        "batches beyond its CUDA graphs are launched eagerly: 1.3 ms whatever the context, where half the batch takes "
        "0.1 ms",
    ),
    LeftOut(
        "dsa_decode",
        f"framework == 'trtllm' and gpu in {HOPPER} and latency_us < 300",
        "times the host: as long as the same module's shortest prompts, and flat up to 64 sequences",
    ),
    *(
        LeftOut(
            "dsa_shared_prefill",
            f"gpu in {gpus} and batch * query_tokens < 4096 and latency_us < {floor}",
            f"times the host, not the GPU, as dsa_prefill: 98 % of prompts of 256 tokens or less take up to {floor} µs",
        )
        for gpus, floor in ((("B200", "B300"), 1000), (("GB200",), 1600), (("H100-SXM",), 1200), (("H200",), 1600))
    ),
    *(
        LeftOut(
            "block_sparse_prefill",
            f"framework == 'sglang' and gpu in {gpus} and batch * query_tokens < 8192 and latency_us < {floor}",
            f"times the host, not the GPU: 98 % of prompts of 256 tokens or less take up to {floor} µs however short",
        )
        for gpus, floor in ((("B200", "B300"), 900), (HOPPER, 1030), (("GB200",), 1200))
    ),
    *(
        LeftOut(
            operation,
            f"framework == 'sglang' and batch >= 512 and latency_us > {floor}",
            "batches beyond its CUDA graphs are launched eagerly: times jump tenfold whatever the context",
        )
        for operation, floor in (("dsa_shared_decode", 250), ("block_sparse_decode", 360))
    ),
    *(
        LeftOut(
            operation,
            "framework == 'trtllm'",
            "not kernels that an engine would run: prompts of 8192 tokens take 4 to 77 ms without order in the heads, "
            "and a long decode with 16 heads takes 6.6 times one with 32",
        )
        for operation in ("block_sparse_prefill", "block_sparse_decode")
    ),
    *(
        LeftOut(
            operation,
            "gpu == 'RTX-PRO-6000'",
            "a path written out in PyTorch: 64 sequences take 64 times one, 44 ms where B200 takes 0.08",
        )
        for operation in ("compressed_prefill", "compressed_decode")
    ),
    LeftOut(
        "kda_decode",
        "gpu in ('L40S', 'RTX-PRO-6000') and batch * heads <= 4096",
        "as gdn_decode: the states are timed again and again out of the second-level cache, at up to 5.2 × the memory "
        "bandwidth",
    ),
    LeftOut(
        "kda_decode",
        "framework == 'vllm' and gpu == 'H100-SXM' and 96 < batch * heads <= 1024",
        "the same: up to 1.39 × the memory bandwidth",
    ),
    *(
        LeftOut(
            operation,
            "gpu in ('A100-SXM-80GB', 'L40S', 'RTX-PRO-6000')",
            "would pass these GPUs' memory bandwidth up to 5-fold: the same buffers are timed again and again out of "
            "large second-level caches (A100: as gdn_prefill)",
        )
        for operation in ("short_conv_prefill", "short_conv_decode", "hyper_connection")
    ),
    LeftOut(
        "hyper_connection",
        "framework == 'sglang' and gpu == 'H100-SXM' and kind == 'post' and hidden == 4096 and 256 <= tokens <= 384",
        "out of the second-level cache: 1.06–1.16 × the memory bandwidth",
    ),
    LeftOut(
        "encoder_attention",
        "gpu in ('L40S', 'RTX-PRO-6000') and patches <= 256",
        "out of the second-level cache: up to 3.3 × the memory bandwidth",
    ),
    LeftOut(
        "dsa_decode",
        "framework == 'trtllm' and context_tokens == 2049",
        "the first step beyond 2048 tokens takes twice as long as at twice the context, on every GPU: not a step that "
        "an engine repeats",
    ),
)


LIBRARIES = {
    "moe": (
        "flashinfer",
        "framework == 'sglang' and kernel.str.contains('flashinfer_trtllm') and dtype in "
        "('nvfp4', 'fp8_block', 'mxfp4_fp8')",
    )
}
"""By operation, a library and which rows time its kernels, which others than the framework that timed them run: they
stand under the library's name, too."""


def of_libraries(operation: str, rows: pd.DataFrame) -> pd.DataFrame:
    """``rows``, and those of :data:`LIBRARIES` once more."""
    if operation not in LIBRARIES:
        return rows
    name, query = LIBRARIES[operation]
    return pd.concat([rows, rows.query(query).assign(framework=name)], ignore_index=True)


def plausible(operation: str, rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` without those in :data:`LEFT_OUT`."""
    for out in LEFT_OUT:
        if out.operation == operation:
            rows = rows.query(f"not ({out.query})")
    return rows


def thin(operation: str, rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` without the redundant grid points of ``operation``."""
    keep = np.ones(len(rows), dtype=bool)
    for column, values in DROPPED.get(operation, {}).items():
        keep &= ~rows[column].isin(values).to_numpy()
    for column, values in KEPT.get(operation, {}).items():
        keep &= rows[column].isin(values).to_numpy()
    return rows[keep]


def round_latency(latency_us: pd.Series) -> pd.Series:
    """To four significant digits."""
    digits = np.power(10.0, np.floor(np.log10(latency_us)) - 3)
    rounded: pd.Series = (latency_us / digits).round() * digits
    return rounded


def build(source: Path | None, out: Path, *, all_points: bool = False) -> ProfileStore:
    """Writes the pack and its NOTICE to ``out`` and returns it.

    A pack that is there is replaced once the new one is whole.

    Raises:
        InputError: ``out`` is a folder that holds other things than a pack.
        DataError: the source cannot be read.
    """
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise InputError(f"--out: {out} holds other things than a pack", "choose a new or empty folder")
    with whole_folder(out, replaces=True) as made:
        _fill(source, made, all_points)
        (made / "NOTICE").write_text(NOTICE, encoding="utf-8")
    return ProfileStore(out)


def _fill(source: Path | None, out: Path, all_points: bool) -> None:
    store = ProfileStore.create(out, name=NAME, version=VERSION, attribution=ATTRIBUTION)
    parts: dict[str, list[pd.DataFrame]] = {}
    for operation, rows in aiconfigurator.read(source, {"gpu": ",".join(GPUS)}):
        rows = plausible(operation, of_libraries(operation, rows))
        kept = rows if all_points else thin(operation, rows)
        parts.setdefault(operation, []).append(kept.assign(latency_us=round_latency(kept["latency_us"])))
    for operation, tables in parts.items():
        for finding in findings(operation, pd.concat(tables, ignore_index=True)):
            print(f"doubtful: {finding}", file=sys.stderr)
        store.add(operation, pd.concat(tables, ignore_index=True), where="pack")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, help="unpacked wheel (default: as installed)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / NAME)
    parser.add_argument("--all-points", action="store_true", help="do not thin the grids")
    arguments = parser.parse_args()
    store = build(arguments.source, arguments.out, all_points=arguments.all_points)
    for operation in store.operations():
        size = (store.path / f"{operation}.parquet").stat().st_size
        print(f"{operation:18} {len(store.query(operation, columns=['gpu'])):>9,} rows {size / 1e6:6.2f} MB")


if __name__ == "__main__":
    main()
