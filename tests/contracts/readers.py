"""Every reader of a file that a user names, with a file that it reads: a new reader is one entry here."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pandas as pd
import yaml
from reader_files import (
    AIBRIX,
    AZURE,
    CLUSTER,
    CONFIG,
    CONFIGS,
    EAGLE3,
    ENGINES,
    FLEET,
    LOAD,
    LOADS,
    MELANGE,
    MLP,
    OFFERS,
    PRICES,
    RESPONSE,
    RUN,
    TRACE,
)

from api.cli.commands import predict as predict_command
from costmodels.models.registry import find_architecture
from costmodels.power.own_response import CLOCK_RESPONSES
from costmodels.serving.frameworks.framework import find_framework
from costmodels.serving.frameworks.own_calibration import CALIBRATIONS, text_of
from costmodels.training.calibration import OWN_CALIBRATION, training_calibration
from planner.contract.clusters import read_cluster
from planner.contract.kind import EXAMPLES
from planner.contract.models import drafting_with, read_draft
from planner.contract.workload.files import workload_at
from planner.contract.workload.traces import recorded
from planner.experts.inputs import read_loads
from planner.experts.model import MoeModel
from planner.experts.outputs import read_current, written
from planner.experts.placement import Placement, Topology
from planner.experts.routes import read_routes
from planner.imports.importing import deployment_of
from planner.imports.request import parse_import_request
from planner.power.series import read_drive
from planner.serving import prediction_table
from planner.serving.document.opening import read_running
from planner.serving.document.plan import read_plan
from planner.serving.fleets.decision import loads_of
from planner.serving.fleets.files import read_fleet
from planner.serving.fleets.load_files import read_load_table
from planner.serving.fleets.request import parse_fleet_request
from planner.serving.fleets.tables import read_tables
from profiles.collect.journal import read, read_points
from profiles.collect.rows import rows_of
from profiles.descriptions import read_descriptions
from profiles.errors import ShardwrightError
from profiles.files import Source
from profiles.hardware import gpus
from profiles.importers import vidur
from profiles.measurements import OPERATIONS, columns_of
from profiles.offers import read_catalogue, read_offers
from profiles.store import ProfileStore

MODEL = MoeModel("made/up", layers=5, moe_layers=(1, 2, 4), experts=4, top_k=2)
COUNTS = [[5, 1, 2, 3], [1, 1, 1, 7], [9, 0, 0, 1]]
TOPOLOGY = Topology.uniform(3, 2)
PLACED = Placement(
    TOPOLOGY, np.array([[0, 1, 2, 3, 0, 2], [3, 0, 1, 2, 3, 1], [0, 1, 2, 3, 1, 0]]), 4, MODEL.layer_index
)

Spoil = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """``read(path)`` reads a file called ``name`` that holds ``sample()``. ``spoil``: what mends no syntax, besides
    :func:`mutations.spoilt_bytes`."""

    name: str
    sample: Callable[[], bytes]
    read: Callable[[Path], Any]
    spoil: Spoil = mutations.spoilt_bytes


def spoilt_yaml(content: bytes, draw: random.Random) -> bytes:
    document = mutations.spoilt_document(yaml.safe_load(content), draw)
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "replace")


def _json(document: Any) -> Callable[[], bytes]:
    return lambda: json.dumps(document).encode()


def _lines(*documents: Any) -> Callable[[], bytes]:
    return lambda: b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def _npy(array: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(array))
        return buffer.getvalue()

    return content


def _npz(**arrays: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
        return buffer.getvalue()

    return content


# ------------------------------------------------------------------ documents


@cache
def _plan() -> bytes:
    from example_plan import example_plan  # beside the tests of the command line

    return example_plan().to_json().encode()


def _config(path: Path) -> Any:
    return find_architecture(str(path))


def _head(path: Path) -> Any:
    return drafting_with(find_architecture("meta-llama/Llama-3.1-8B"), read_draft(str(path)))


# ------------------------------------------------------------------ tables


def _prices(path: Path) -> Any:
    return read_catalogue(path, provider="p", date=dt.date(2026, 11, 26), source="s")


def _fleet(path: Path) -> Any:
    return loads_of(parse_fleet_request(read_fleet(path)))


def _memories(path: Path) -> Any:
    """The table as `plan memory` reads it."""
    from planner.serving.memory_table import memory_table

    answer = memory_table(predict_command.read_configurations(path))
    for error in answer["error"]:
        if error:
            raise ShardwrightError(error, "correct the row")
    return answer


def _predicted(path: Path) -> Any:
    """The table as `plan predict` reads it, up to where times are computed."""
    before = prediction_table._predict_group
    prediction_table._predict_group = lambda *_: None  # type: ignore[assignment]
    try:
        answer = prediction_table.predict(predict_command.read_configurations(path))
    finally:
        prediction_table._predict_group = before
    for error in answer["error"]:
        if error:
            raise ShardwrightError(error, "correct the row")
    return answer


def _vidur(path: Path) -> Any:
    return list(vidur.read(path, {"gpu": "A100", "date": "2024-05-01", "measured_by": "somebody"}))


# ------------------------------------------------------------------ measurements

POINT = {"operation": "gemm", "dtype": "bf16", "shape": {"m": 64, "n": 4096, "k": 4096}, "num_gpus": 1}
DEVICE = {
    "kind": "cuda", "name": "NVIDIA H200", "count": 8, "capability": [9, 0], "sm_count": gpus()["H200"].sm_count,
    "memory_bytes": gpus()["H200"].memory_bytes, "l2_bytes": 2**25, "facts": {},
}  # fmt: skip
HEADER = {
    "type": "header", "format_version": 1, "source": "a test", "date": "2026-11-21", "gpu": "H200",
    "device": {
        "kind": "cuda", "name": "NVIDIA H200", "count": 8, "capability": [9, 0], "sm_count": 132,
        "memory_bytes": 150_109_880_320, "l2_bytes": 62_914_560, "facts": {},
    }, "versions": {"torch": "2.9", "driver": None}, "settings": {},
}  # fmt: skip
OUTCOME = {
    "type": "outcome", "point": POINT, "status": "measured", "reason": "", "kernel": "cublas", "framework": "torch",
    "timing": {
        "median_us": 12.5, "p10_us": 12.0, "p90_us": 13.0, "repeats": 20, "relative_error": 0.01, "outliers": 0,
        "method": "cuda_graph",
    },
    "framework_version": "2.9", "power_watts": 400.0, "clock_mhz": 1900.0, "facts": {}, "seconds": 0.1,
}  # fmt: skip


def _journal(path: Path) -> Any:
    return rows_of(list(read(path)), "journal")


def _facts() -> bytes:
    gpu = gpus()["H200"].model_dump(mode="json", exclude={"name", "aliases"}, exclude_none=True)
    described = {"H900": {**gpu, "node": {"gpus": 8, "default_fabric": "ib-400g"}}}
    return yaml.safe_dump(described, allow_unicode=True).encode()


GEMM = {
    "gpu": "H200", "num_gpus": 1, "dtype": "bf16", "m": 64, "n": 4096, "k": 4096, "latency_us": 25.0,
    "latency_p10_us": 24.0, "latency_p90_us": 26.0, "repeats": 20, "power_watts": 400.0, "clock_mhz": 1900.0,
    "kernel": "cublas", "framework": "torch", "framework_version": "2.9", "driver": "580", "torch_version": "2.9",
    "cuda_version": "13.0", "source": "a test", "date": "2026-11-21",
}  # fmt: skip


def _rows() -> pd.DataFrame:
    names = [column.name for column in columns_of(OPERATIONS["gemm"])]
    return pd.DataFrame([{**GEMM, "m": m} for m in (1, 2, 64)])[names]


@cache
def _parquet() -> bytes:
    buffer = io.BytesIO()
    _rows().to_parquet(buffer, index=False)
    return buffer.getvalue()


def spoilt_rows(content: bytes, draw: random.Random) -> bytes:
    """One value of one row of a store replaced by what a column can be made to hold."""
    rows = pd.read_parquet(io.BytesIO(content))
    column, strange = draw.choice(list(rows.columns)), draw.choice(mutations.STRANGE_VALUES)
    if isinstance(strange, int) and abs(strange) >= 2**63:
        strange = float(min(strange, 10**300))
    values = rows[column].astype("object").tolist()
    values[draw.randrange(len(values))] = strange
    whole = [strange] * len(values)
    buffer = io.BytesIO()
    for attempt in (values, whole):
        with contextlib.suppress(Exception):  # pyarrow writes columns of one type only
            changed = rows.assign(**{column: pd.Series(attempt, dtype=None)})
            buffer = io.BytesIO()
            changed.to_parquet(buffer, index=False)
            return buffer.getvalue()
    rows.drop(columns=column).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _manifest(digest: str) -> dict[str, Any]:
    hashes = {"gemm": digest}
    return {"format_version": 1, "name": "s", "version": "1", "attribution": "a test", "hashes": hashes}


def _store_of_manifest(path: Path) -> Any:
    (path.parent / "gemm.parquet").write_bytes(_parquet())
    return ProfileStore(path.parent)


def _store_of_rows(path: Path) -> Any:
    """A store whose manifest fits the file, whatever it holds; it is read as the cost model and `plan gpus` do."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    (path.parent / "manifest.json").write_text(json.dumps(_manifest(digest)))
    from costmodels.kernels.plausibility import check_rows

    store = ProfileStore(path.parent)
    check_rows("gemm", store.query("gemm", gpu="H200"), gpus()["H200"], "store")
    return store.values("gemm", "gpu"), store.summary()


def _good_manifest() -> bytes:
    return json.dumps(_manifest(hashlib.sha256(_parquet()).hexdigest())).encode()


ROUTE_LINES = [
    {"layer": layer, "token_idx": token, "experts": [token % 4, (token + 1) % 4], "request_id": "a"}
    for token in range(3)
    for layer in MODEL.moe_layers
]

MOONCAKE = [{"timestamp": 1000 * i, "input_length": 900, "output_length": 5, "hash_ids": [1, 2 + i]} for i in range(3)]

SCRIPT = b"""#!/bin/bash
set -e
export VLLM_USE_V1=1
MODEL=${MODEL:-Qwen/Qwen3-32B}
ARGS=(--max-num-seqs 64 --max-model-len "8k")
cat > options.yaml <<EOF
kv-cache-dtype: fp8
max-num-batched-tokens: 4096
EOF
CUDA_VISIBLE_DEVICES=0,1 vllm serve "$MODEL" --config options.yaml \\
  --tensor-parallel-size=2 "${ARGS[@]}" --speculative-config '{"method": "mtp", "num_speculative_tokens": 3}' > log &
CUDA_VISIBLE_DEVICES=2 python -m vllm.entrypoints.openai.api_server --model $MODEL -tp 1 --gpu-memory-utilization 0.9 \\
  --speculative-config.num_speculative_tokens 3 --max-num-seqs 64 --max-model-len 8k --kv-cache-dtype fp8 &
"""


MANIFEST = b"""apiVersion: apps/v1
kind: Deployment
metadata: {name: qwen, labels: {app: qwen}}
spec:
  replicas: 2
  template:
    metadata: {labels: {llm-d.ai/role: decode}}
    spec:
      nodeSelector: {nvidia.com/gpu.product: NVIDIA-H200}
      containers:
        - name: main
          image: vllm/vllm-openai:v0.20.0
          command: [/bin/sh, -c]
          args: ["vllm serve Qwen/Qwen3-32B --tensor-parallel-size $TP --max-num-seqs 64"]
          env: [{name: TP, value: "2"}]
          resources: {limits: {nvidia.com/gpu: 2}}
---
apiVersion: nvidia.com/v1beta1
kind: DynamoGraphDeployment
spec:
  components:
    - name: prefill
      type: prefill
      replicas: 1
      podTemplate:
        spec:
          containers:
            - {name: main, command: [python3, -m, dynamo.vllm], args: [--model, Qwen/Qwen3-32B, -tp, "2"]}
---
services: {llm: {image: "vllm/vllm-openai:v0.20.0", command: "--model Qwen/Qwen3-32B -tp 2", environment: {A: 1}}}
"""


def spoilt_manifests(content: bytes, draw: random.Random) -> bytes:
    parts = [mutations.spoilt_document(part, draw) for part in yaml.safe_load_all(content)]
    return yaml.safe_dump_all(parts, allow_unicode=True).encode("utf-8", "replace")


def _imported(form: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        text = Source(path, "", "give a shell script, or YAML").text()
        return deployment_of(parse_import_request({"text": text, "gpu": "H200", "framework": "vllm", "form": form}))

    return read


READERS = {
    "deployment": Reader(
        "deployment.json", lambda: (EXAMPLES / "deployment.json").read_bytes(), read_running, mutations.spoilt_json
    ),
    "script": Reader("serve.sh", lambda: SCRIPT, _imported("script")),
    "manifests": Reader("m.yaml", lambda: MANIFEST, _imported("manifest"), spoilt_manifests),
    "cluster": Reader("c.yaml", lambda: CLUSTER, read_cluster, spoilt_yaml),
    "config": Reader("config.json", _json(CONFIG), _config, mutations.spoilt_json),
    "plan": Reader("plan.json", _plan, read_plan, mutations.spoilt_json),
    "trace": Reader("t.csv", lambda: TRACE, recorded, mutations.spoilt_csv),
    "azure trace": Reader("t.csv", lambda: AZURE, recorded, mutations.spoilt_csv),
    "mooncake trace": Reader("t.jsonl", _lines(*MOONCAKE), recorded, mutations.spoilt_json),
    "draft head": Reader("config.json", _json(EAGLE3), _head, mutations.spoilt_json),
    "workload": Reader("w.yaml", lambda: b"isl: 4k\nosl: 500\nrate: 2\n", lambda p: workload_at(str(p)), spoilt_yaml),
    "fleet": Reader("f.yaml", lambda: FLEET, _fleet, spoilt_yaml),
    "melange": Reader("m.json", _json(MELANGE), _fleet, mutations.spoilt_json),
    "aibrix": Reader("a.json", _json(AIBRIX), read_tables, mutations.spoilt_json),
    "load table": Reader("l.csv", lambda: LOAD, lambda p: read_load_table(p, {}, "load"), mutations.spoilt_csv),
    "drive": Reader("d.csv", lambda: b"t_s,row_watts\n0,1000\n2,1200.5\n4,900\n", read_drive, mutations.spoilt_csv),
    "offers": Reader("o.yaml", lambda: OFFERS, read_offers, spoilt_yaml),
    "price catalogue": Reader("vms.csv", lambda: PRICES, _prices, mutations.spoilt_csv),
    "engines": Reader("e.csv", lambda: ENGINES, _memories, mutations.spoilt_csv),
    "configurations": Reader("c.csv", lambda: CONFIGS, _predicted, mutations.spoilt_csv),
    "runs of a load generator": Reader("r.jsonl", _lines(RUN, RUN), _predicted, mutations.spoilt_json),
    "own calibration": Reader(
        "calibration.json",
        lambda: text_of({"vllm": find_framework("vllm").fitted}).encode(),
        lambda path: CALIBRATIONS.read(path)["vllm"],
        mutations.spoilt_json,
    ),
    "own clock response": Reader(
        "clock_response.json",
        lambda: json.dumps({"H200": RESPONSE}).encode(),
        CLOCK_RESPONSES.read,
        mutations.spoilt_json,
    ),
    "own training calibration": Reader(
        "training_calibration.json",
        lambda: training_calibration().model_dump_json().encode(),
        OWN_CALIBRATION.read,
        mutations.spoilt_json,
    ),
    "loads.json": Reader(
        "l.json", _json({"logical_count": COUNTS}), lambda p: read_loads([p], MODEL), mutations.spoilt_json
    ),
    "loads.npy": Reader("l.npy", _npy(np.array(COUNTS, float)), lambda p: read_loads([p], MODEL)),
    "loads.npz": Reader("l.npz", _npz(logical_count=COUNTS), lambda p: read_loads([p], MODEL)),
    "loads.csv": Reader("l.csv", lambda: LOADS, lambda p: read_loads([p], MODEL), mutations.spoilt_csv),
    "routes.jsonl": Reader("r.jsonl", _lines(*ROUTE_LINES), lambda p: read_routes(p, MODEL), mutations.spoilt_json),
    "routes.npy": Reader("r.npy", _npy(np.tile([0, 1], (6, 3, 1))), lambda p: read_routes(p, MODEL)),
    "points": Reader("p.jsonl", _lines(POINT, {**POINT, "num_gpus": 2}), read_points, mutations.spoilt_json),
    "journal": Reader("journal.jsonl", _lines(HEADER, OUTCOME), _journal, mutations.spoilt_json),
    "gpu facts": Reader("gpus.yaml", _facts, read_descriptions, spoilt_yaml),
    "vidur": Reader("mlp.csv", lambda: MLP, _vidur, mutations.spoilt_csv),
    "manifest": Reader("manifest.json", _good_manifest, _store_of_manifest, mutations.spoilt_json),
    "rows": Reader("gemm.parquet", _parquet, _store_of_rows, spoilt_rows),
    **{
        f"placement {form}": Reader(
            f"p{suffix}",
            lambda form=form: written(PLACED, MODEL, form),  # type: ignore[misc]
            lambda p: read_current(p, MODEL, TOPOLOGY),
            spoil,
        )
        for form, suffix, spoil in (
            ("sglang", ".json", mutations.spoilt_json),
            ("vllm-ascend", ".json", mutations.spoilt_json),
            ("trtllm", ".yaml", spoilt_yaml),
            ("eplb", ".npz", mutations.spoilt_bytes),
        )
    },
}
