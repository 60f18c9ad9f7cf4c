"""The watts that come with B200's kernel rows, held out: ``python -m tests.benchmarks.power_b200 FOLDER``.

FOLDER is an unpacked wheel of aiconfigurator-core 0.12.0 (PyPI), whose vLLM 0.22 tables have a column of watts. Their
collector (ai-dynamo/aiconfigurator, ``collector/helper.py``) prepares a kernel, replays it for a second at most, 3,000
times at most, and notes the mean of what NVML reads at once and every 0.1 s. NVML's reading is the mean of the second
before: a kernel of 8 µs runs for 24 ms and is noted with one reading, which is of whatever ran before it. So the column
is a matter of what ran when. :func:`readings` plays that: each row is a rest (the setup) and a run at the watts of
:func:`kernel_watts`, in the order of the file, where that is the order on one GPU: attention with a cache in fp8 under
FlashInfer (its rows rise in the collector's order throughout; all others are of several GPUs that work side by side),
and experts, where one process takes all numbers of tokens of a shape. No row's watts are used to tell another's: twelve
constants are fitted to the rows of other shapes (or operations), and a forest, where it is said, corrects them.

How many readings a mean is of shows in its digits: readings are whole mW. Intervals are the 10th and 90th percentile of
what the other folds missed. GPPerf's forest has R² 0.78 and 5.4 % in the median.
Adds ``B200 rows`` to ``costmodels/evidence/power.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import least_squares
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupKFold

from profiles.hardware import SHIPPED
from profiles.importers.aiconfigurator import find_data
from tests.benchmarks.cards import EVIDENCE, card, write

Array = np.ndarray[Any, np.dtype[np.float64]]

CHAINS = 2
"""Of the experts' shapes one in so many is looked at."""

EVERY_S = 0.105
"""Between readings: 0.1 s, and what a reading takes."""

MOST_RUNS, WARM_RUNS = 3000, 6
EAGER_S = 2e-4
"""Of a call of vLLM's experts outside a CUDA graph, by which the collector chooses the number of runs: read off how
many readings rows have."""

LIMIT_WATTS = 985.0

SOFT = 0.05
"""Errors (log) beyond which rows pull less in a fit: some runs are shorter than their readings can say."""

READINGS = 12
"""Of a row at most."""

USE = ["seconds", "memory", "compute"]
SIZES = ["batch", "tokens", "heads", "kv_heads", "width", "dtype", "readings"]


class Law(NamedTuple):
    """Of the kernels: as a share of what is left from ``least_watts`` to the limit, ``base`` (of the share of time that
    is not the ``gap_us`` between replays), ``memory`` and ``compute`` by their shares of time with exponents. Of the
    collector: ``setup_s`` before each run, ``setup_s_per_sequence`` more, at ``setup_watts``. Of the meter: what it
    reads is the mean of ``window_s``, ``lag_s`` ago."""

    base: float
    memory: float
    compute: float
    memory_exponent: float
    compute_exponent: float
    gap_us: float
    least_watts: float
    setup_s: float
    setup_s_per_sequence: float
    setup_watts: float
    lag_s: float
    window_s: float


BEGIN = Law(0.3, 0.7, 1.0, 1.0, 1.0, 4.0, 220.0, 0.05, 1e-4, 250.0, 0.05, 1.0)
LOW = Law(0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 140.0, 0.005, 0.0, 150.0, 0.0, 0.5)
HIGH = Law(1.0, 3.0, 6.0, 1.5, 1.5, 20.0, 300.0, 0.3, 2e-3, 500.0, 0.5, 1.5)
OF_KERNELS = 7
"""Fields of :class:`Law`."""


@dataclass(frozen=True)
class Chained:
    """Rows in the order in which GPUs took them. ``starts``: those before which nothing is known; ``judged``: those of
    which the meter's second lies within the chain."""

    rows: pd.DataFrame
    run_s: Array
    starts: Any
    judged: Any

    @classmethod
    def of(cls, rows: pd.DataFrame, calls: Any, eager_s: float) -> Chained:
        """``calls``: kernels of a run; ``eager_s``: a run's duration when the collector counted."""
        each = rows["seconds"].to_numpy()
        longest = np.maximum(each / np.maximum(each, eager_s), WARM_RUNS * calls * each)
        run_s = np.minimum(MOST_RUNS * calls * each, longest)
        count = whole_readings(rows["watts"].to_numpy(), (run_s / EVERY_S).astype(int) + 1)
        run_s = np.clip(run_s, EVERY_S * (count - 1) + 0.005, EVERY_S * count - 0.001)
        rows = rows.assign(readings=count)
        starts = ~rows["chain"].duplicated().to_numpy()
        spent = np.cumsum(run_s + 0.02 + WARM_RUNS * each) - run_s
        since = spent - np.maximum.accumulate(np.where(starts, spent, 0.0))
        return cls(rows, run_s, starts, since > 1.0)

    @property
    def watts(self) -> Array:
        return self.rows["watts"].to_numpy()


def whole_readings(mean: Array, likely: Any) -> Any:
    """Readings of whole mW that a mean is of: the multiple of the fewest that is nearest to what is likely."""
    fewest = np.ones(len(mean), int)
    for count in range(READINGS, 0, -1):
        milliwatts = mean * count * 1000
        fewest[np.abs(milliwatts - np.round(milliwatts)) < 0.02] = count
    best = fewest.copy()
    for times in range(2, READINGS):
        more = fewest * times
        nearer = (more <= likely + 1) & (np.abs(more - likely) < np.abs(best - likely))
        best[nearer] = more[nearer]
    return best


def kernel_watts(law: Law, rows: pd.DataFrame) -> Array:
    """Of each row's kernel, replayed without end."""
    busy = np.clip(1 - law.gap_us / (rows["seconds"].to_numpy() * 1e6), 0.02, 1)
    memory, compute = (np.maximum(rows[name].to_numpy(), 1e-6) for name in ("memory", "compute"))
    level = law.base * busy + law.memory * memory**law.memory_exponent + law.compute * compute**law.compute_exponent
    return np.asarray(law.least_watts + (LIMIT_WATTS - law.least_watts) * (level**-10 + 1) ** -0.1)


def readings(law: Law, chained: Chained, only_first: bool = False) -> Array:
    """What the collector notes of each row; ``only_first``: what the meter reads as the run begins."""
    rows = chained.rows
    warm = WARM_RUNS * rows["seconds"].to_numpy()
    rest = law.setup_s + law.setup_s_per_sequence * rows["sequences"].to_numpy() + np.where(chained.starts, 2.0, 0.0)
    lasts = np.stack([rest, warm + chained.run_s], 1).ravel()
    draws = np.stack([np.full(len(rows), law.setup_watts), kernel_watts(law, rows)], 1).ravel()
    clock = np.concatenate([[0.0], np.cumsum(lasts)])
    joules = np.concatenate([[0.0], np.cumsum(lasts * draws)])

    def spent(until: Array) -> Array:
        return np.where(until < 0, until * law.setup_watts, np.interp(until, clock, joules))

    count = np.ones(len(rows), int) if only_first else rows["readings"].to_numpy()
    total = np.zeros(len(rows))
    for at in range(READINGS):
        now = clock[1::2] + warm + EVERY_S * at - law.lag_s
        total += np.where(at < count, (spent(now) - spent(now - law.window_s)) / law.window_s, 0.0)
    return np.asarray(total / count)


def fitted(parts: Sequence[tuple[Chained, Any]], kernels: Law | None = None) -> Law:
    """To the rows of each that are said; ``kernels``: a law whose kernels stay."""
    begin, low, high = (np.array(each) for each in (BEGIN, LOW, HIGH))
    free = np.arange(len(begin)) >= (0 if kernels is None else OF_KERNELS)
    whole = begin if kernels is None else np.array(kernels)

    def law(scaled: Array) -> Law:
        told = whole.copy()
        told[free] = scaled * begin[free]
        return Law(*told)

    def missed(scaled: Array) -> Array:
        told = law(scaled)
        return np.concatenate([np.log(np.maximum(readings(told, each)[of], 50) / each.watts[of]) for each, of in parts])

    bounds = (low[free] / begin[free], high[free] / begin[free])
    return law(
        least_squares(
            missed, np.ones(free.sum()), bounds=bounds, diff_step=1e-3, max_nfev=25, loss="soft_l1", f_scale=SOFT
        ).x
    )


def figures(folder: Path) -> dict[str, Any]:
    tables = find_data(folder) / "b200_sxm"
    operations = {
        "attention, context": attention(tables, prefill=True),
        "attention, generation": attention(tables, prefill=False),
        "experts": experts(tables),
    }
    out = {}
    for name, each in operations.items():
        others = [(other, other.judged) for key, other in operations.items() if key != name]
        elsewhere = fitted(others)
        own_setup = fitted([(each, each.judged)], elsewhere)
        count = each.rows["readings"][each.judged]
        out[name] = {
            "rows with one reading, %": round(100 * float((count == 1).mean()), 1),
            **shapes_left_out(each),
            "operation left out, law": _told(each, readings(elsewhere, each)),
            "operation left out, law of kernels, its own setup": _told(each, readings(own_setup, each)),
            "law": {key: round(float(value), 6) for key, value in fitted([(each, each.judged)])._asdict().items()},
        }
    return out


def shapes_left_out(chained: Chained) -> dict[str, Any]:
    watts, groups = chained.watts, chained.rows["shape"].to_numpy()
    folds = list(GroupKFold(5).split(watts, watts, groups))
    kinds = {name: np.ones(len(watts)) for name in ("forest alone", "law", "law and forest")}
    for train, held in folds:
        seen = np.zeros(len(watts), bool)
        seen[train] = True
        seen &= chained.judged
        law = fitted([(chained, seen)])
        told = readings(law, chained)
        own = np.log(np.maximum(chained.rows[[*USE, *SIZES]].to_numpy(float), 1e-9))
        before = readings(law, chained, only_first=True)
        more = np.column_stack([own, told, before, kernel_watts(law, chained.rows), told - before])
        kinds["law"][held] = told[held]
        kinds["forest alone"][held] = _forest(own[seen], watts[seen]).predict(own[held])
        corrected = _forest(more[seen], np.log(watts[seen] / told[seen])).predict(more[held])
        kinds["law and forest"][held] = told[held] * np.exp(corrected)
    return {f"shape left out, {name}": _told(chained, each, folds) for name, each in kinds.items()}


def _forest(seen: Array, truth: Array) -> Any:
    return ExtraTreesRegressor(60, min_samples_leaf=3, n_jobs=1, random_state=0).fit(seen, truth)


def _told(chained: Chained, told: Array, folds: Sequence[tuple[Any, Any]] = ()) -> dict[str, Any]:
    """R² and errors of the rows that are judged."""
    judged = chained.judged
    truth, said = chained.watts[judged], told[judged]
    left = float(((truth - said) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    missed = np.where(judged, np.log(chained.watts / told), np.nan)
    inside = []
    for others, held in folds:
        low, high = np.nanpercentile(missed[others], [10, 90])
        known = missed[held][np.isfinite(missed[held])]
        inside.append(float(((known >= low) & (known <= high)).mean()))
    covered = {"within the 80 % interval": round(float(np.mean(inside)), 3)} if inside else {}
    return {"r2": round(1 - left, 3), **covered, **card(truth, said)}


def _read(tables: Path, name: str) -> pd.DataFrame:
    table = pd.read_parquet(tables / name)
    return table[table["power"] > 0].reset_index(drop=True)


def _rows(table: pd.DataFrame, flops: Any, moved: Any, shape: list[str], **columns: Any) -> pd.DataFrame:
    gpu, seconds = SHIPPED.find_gpu("B200"), table["latency"] / 1e3
    return pd.DataFrame(
        {
            "watts": table["power"],
            "seconds": seconds,
            "memory": moved / gpu.memory_bandwidth_bytes_per_s / seconds,
            "compute": flops / gpu.peak_flops["bf16"] / seconds,
            "shape": table[shape].astype(str).agg("-".join, axis=1),
            **columns,
        }
    )


def attention(tables: Path, *, prefill: bool) -> Chained:
    """One GPU's rows (module docstring)."""
    name = "context" if prefill else "generation"
    table = _read(tables, f"attention/vllm/0.22.0/{name}_attention_perf.parquet")
    table = table[(table["kv_cache_dtype"] == "fp8") & (table["kernel_source"] == "vllm_flashinfer")]
    length = (table["isl"] + table["step"]).astype(float)
    seen = length.where(table["window_size"] <= 0, np.minimum(length, table["window_size"]))
    pairs = table["isl"] * seen / 2 if prefill else seen
    flops = 4.0 * table["batch_size"] * table["num_heads"] * table["head_dim"] * pairs
    kv = table["batch_size"] * seen * table["num_key_value_heads"] * table["head_dim"] * 2
    streams = 2.0 * table["batch_size"] * table["isl"] * 2 * table["num_heads"] * table["head_dim"]
    rows = _rows(
        table, flops, kv + streams, ["num_heads", "num_key_value_heads", "head_dim", "window_size", "batch_size"],
        batch=table["batch_size"], tokens=length, heads=table["num_heads"], kv_heads=table["num_key_value_heads"],
        width=table["head_dim"], dtype=1.0, sequences=table["batch_size"], chain=0,
    )  # fmt: skip
    return Chained.of(rows, 1, 0.0)


def experts(tables: Path) -> Chained:
    """A chain a shape and distribution, whose numbers of tokens one process takes one after the other."""
    table = _read(tables, "moe/vllm/0.22.0/moe_perf.parquet")
    sizes = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"]
    chain = table.groupby(["kernel_source", "moe_dtype", *sizes, "distribution"], sort=False).ngroup()
    table = table.assign(chain=chain).sort_values("chain", kind="stable")
    table = table[table["chain"] % CHAINS == 0]
    size = table["moe_dtype"].map(lambda kind: 2.0 if "16" in str(kind) else 1.0 if "8" in str(kind) else 0.5)
    routed, inter = table["num_tokens"] * table["topk"], table["inter_size"] / table["moe_tp_size"]
    flops = 6.0 * routed * table["hidden_size"] * inter / table["moe_ep_size"] * size / 2
    busy = np.minimum(routed, table["num_experts"])
    weights = 3.0 * busy * table["hidden_size"] * inter / table["moe_ep_size"] * size
    # In 16 bits: read, twice the inner width written and read, once written and read, written, and read to be summed.
    passed = 2.0 * routed * (3 * table["hidden_size"] + 5 * inter) / table["moe_ep_size"]
    rows = _rows(
        table, flops, weights + passed, sizes,
        batch=table["num_tokens"], tokens=table["topk"], heads=table["num_experts"] / table["moe_ep_size"],
        kv_heads=inter, width=table["hidden_size"], dtype=size, sequences=0, chain=table["chain"],
    )  # fmt: skip
    return Chained.of(rows, np.where(table["distribution"] == "balanced", 1, 5), EAGER_S)


def main() -> None:
    found = figures(Path(sys.argv[1]))
    known = json.loads((EVIDENCE / "power.json").read_text("utf-8"))
    print(write("power", {**known, "B200 rows": found}))
    for name, each in found.items():
        for what, figure in each.items():
            print(name, what, figure)


if __name__ == "__main__":
    main()
