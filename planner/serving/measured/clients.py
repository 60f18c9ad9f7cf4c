"""Results that load generators write as one JSON document or as a table of metrics, as rows of runs.

InferenceX's interface (an object ``metrics`` in each), AIPerf and GenAI-Perf (``input_config`` beside an object of
statistics for each metric; as CSV ``Metric,avg,p50,…``), GuideLLM (a list ``benchmarks``), trtllm-bench (its
``--report_json``: ``world_info`` and ``request_info``), and what an SGLang server says of itself (``server_info``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from planner.serving.measured.units import without_commas

if TYPE_CHECKING:
    import pandas as pd

METRIC = "metric"
"""What the header of GenAI-Perf's and AIPerf's CSV begins with."""

_OF_GUIDELLM = {
    "time_to_first_token_ms": "ttft_ms",
    "inter_token_latency_ms": "tpot_ms",
    "request_latency": "e2e_s",
    "output_tokens_per_second": "output_tokens_per_second",
}
"""GuideLLM's metric → what it is called here. Its time per output token has the first one in it, and its inter-token
latency is a request's mean between tokens."""

_OF_SERVER = (
    *("version", "tp_size", "pp_size", "dp_size", "ep_size", "enable_dp_attention", "quantization", "kv_cache_dtype"),
    *("mem_fraction_static", "max_running_requests", "chunked_prefill_size", "context_length"),
)
"""Of an SGLang server's own words those that say how it was started."""

_OF_ALL_REPLICAS = ("max_running_requests", "chunked_prefill_size")
"""Of these those of which it does not say whether one replica is meant or all."""

_OF_TRTLLM = {
    "engine": {
        "model": "model",
        "version": "version",
        "quantization": "quantization",
        "kv_cache_dtype": "kv_precision",
    },
    "world_info": {
        **{name: name for name in ("tp_size", "pp_size", "ep_size", "max_batch_size", "max_num_tokens")},
        "world_size": "num_gpus",
        "kv_cache_percentage": "kv_cache_free_gpu_memory_fraction",
    },
    "request_info": {
        "num_requests": "requests",
        "avg_num_concurrent_requests": "concurrency",
        "avg_input_length": "isl",
        "avg_output_length": "osl",
    },
    "performance": {
        "avg_request_latency_ms": "e2e_ms_mean",
        "output_throughput_per_gpu_tok_s": "output_tokens_per_s_per_gpu",
    },
    "streaming_metrics": {"avg_ttft_ms": "ttft_ms_mean", "avg_tpot_ms": "tpot_ms_mean"},
    "decoding_stats": {"mode": "spec"},
}
"""Part and name in trtllm-bench's report → what it is called here (tensorrt_llm/bench/dataclasses/reporting.py)."""

_OF_TRTLLM_PERCENTILES = {
    ("performance", "request_latency_percentiles_ms"): "e2e_ms",
    ("streaming_metrics", "ttft_percentiles"): "ttft_ms",
    ("streaming_metrics", "tpot_percentiles"): "tpot_ms",
}

_ALL_AT_ONCE = 0.3
"""Share of a run's requests that are there in the mean, from which on all were sent at once: they leave one by one."""

_MEANS = {"prompt_token_count": "isl", "output_token_count": "osl"}


def plain_results(document: Any) -> Any:
    """``document`` as a list of plain objects where it is one that is known, else as it is."""
    if isinstance(document, Mapping) and isinstance(document.get("benchmarks"), list):
        return [_of_guidellm(document, run) for run in document["benchmarks"] if isinstance(run, Mapping)]
    rows = document if isinstance(document, list) else [document]
    if not all(isinstance(row, dict) for row in rows):
        return document
    return [_plain(row) for row in rows]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(row.get("world_info"), Mapping) and isinstance(row.get("request_info"), Mapping):
        return _of_trtllm_bench(row)
    out = dict(row)
    if isinstance(server := out.pop("server_info", None), Mapping):
        out = {**_started(server), **out}
    metrics = out.get("metrics")
    if isinstance(metrics, Mapping):
        out = {**metrics, **{name: value for name, value in out.items() if name != "metrics"}}
    if isinstance(config := out.get("input_config"), Mapping):
        out.pop("schema_version", None)  # of the client's document
        out = {**_asked(config), **out}
    return out


def _started(server: Mapping[str, Any]) -> dict[str, Any]:
    """How an SGLang server says that it was started."""
    several = (server.get("dp_size") or 1) != 1
    out = {name: server[name] for name in _OF_SERVER if server.get(name) not in (None, "", "auto")}
    out = {name: value for name, value in out.items() if not (several and name in _OF_ALL_REPLICAS)}
    model, drafts = server.get("model_path"), server.get("speculative_algorithm")
    if isinstance(drafts, str):
        word, steps = drafts.casefold(), server.get("speculative_num_steps")
        ours = {"nextn": ("mtp", ""), "eagle": ("eagle", ":"), "eagle3": ("eagle3", ":")}.get(word)
        # Each of their steps drafts a token; others are refused by name.
        out["spec"] = word if ours is None else f"{ours[0]}{ours[1]}{steps}" if steps in range(1, 10) else ours[0]
    return {"framework": "sglang", **({"model": model} if isinstance(model, str) else {}), **out}


def _of_trtllm_bench(report: Mapping[str, Any]) -> dict[str, Any]:
    """trtllm-bench's report. It says how many requests were there in the mean: of as many as all sent at once leave
    there, or of so many users."""
    out: dict[str, Any] = {"framework": "trtllm"}
    for part, names in _OF_TRTLLM.items():
        told = report.get(part)
        out |= {ours: told.get(name) for name, ours in names.items()} if isinstance(told, Mapping) else {}
    for (part, name), ours in _OF_TRTLLM_PERCENTILES.items():
        told = report.get(part)
        ends = told.get(name) if isinstance(told, Mapping) else None
        out |= {f"{ours}_{p}": ends.get(p) for p in ("p50", "p99")} if isinstance(ends, Mapping) else {}
    sent, users = out.get("requests"), out.get("concurrency")
    if isinstance(sent, int | float) and isinstance(users, int | float) and users > _ALL_AT_ONCE * sent:
        out |= {"concurrency": None, "rate": "inf"}
    if out.get("isl"):
        out |= {name: round(out[name]) for name in ("isl", "osl") if isinstance(out.get(name), float)}
    return out


def _asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """Model, load and data set among the options of AIPerf and GenAI-Perf."""
    out: dict[str, Any] = {}
    for name, value in _leaves(config):
        if name in ("model_names", "models", "model") and isinstance(value, list | str) and value:
            out.setdefault("model", value if isinstance(value, str) else value[0])
        elif name in ("concurrency", "request_rate") and isinstance(value, int | float) and not isinstance(value, bool):
            out.setdefault(name, value)
        elif name == "public_dataset" and isinstance(value, str):
            out.setdefault("dataset", value)
    return out


def _leaves(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _leaves(each)
        else:
            yield name, each


def _of_guidellm(document: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """One benchmark of GuideLLM's document. Requests come one by one, so many at once, or at a rate; what comes as fast
    as it is answered says no load."""
    out: dict[str, Any] = {}
    for part in (document.get("args"), run):
        for name, value in _leaves(part) if isinstance(part, Mapping) else ():
            if name == "model" and isinstance(value, str):
                out.setdefault("model", value)
    strategy = next(_named("strategy", run), {})
    kind = str(strategy.get("type_", ""))
    if kind == "synchronous":
        out["concurrency"] = 1
    elif kind == "concurrent":
        out["concurrency"] = strategy.get("streams")
    elif kind in ("constant", "poisson"):
        out["rate"] = strategy.get("rate")
    metrics = run.get("metrics")
    for name, value in metrics.items() if isinstance(metrics, Mapping) else ():
        told = value.get("successful") if isinstance(value, Mapping) else None
        if not isinstance(told, Mapping):
            continue
        if name in _MEANS:
            out[_MEANS[name]] = told.get("mean")
        elif name in _OF_GUIDELLM:
            ends = told.get("percentiles")
            parts = {"mean": told.get("mean"), "p50": told.get("median"), **(ends if isinstance(ends, Mapping) else {})}
            if name == "output_tokens_per_second":
                out[_OF_GUIDELLM[name]] = parts["mean"]
            else:
                out |= {
                    f"{_OF_GUIDELLM[name]}_{part}": each
                    for part, each in parts.items()
                    if part in ("mean", "p50", "p99")
                }
    return out


def _named(name: str, value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key, each in value.items():
        if isinstance(each, Mapping):
            if key == name:
                yield each
            yield from _named(name, each)


def metrics_in_one_row(table: pd.DataFrame) -> pd.DataFrame:
    """A table of metrics (``Metric,avg,p50,…``), whose second part has a value for each, as the one row of a run; other
    tables as they are."""
    import pandas as pd

    first = str(table.columns[0])
    if first.strip().casefold() != METRIC:
        return table
    row: dict[str, str] = {}
    for record in table.fillna("").to_dict("records"):
        name = _word(str(record[first]))
        if name == METRIC:
            continue
        row |= {
            f"{name}_{_word(str(part))}": without_commas(str(text))
            for part, text in record.items()
            if part != first and str(text)
        }
    return pd.DataFrame([row])


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_")
