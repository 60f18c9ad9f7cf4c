"""Exchanges among the GPUs of a scale-up domain. Layers ask for them as exchanges, which the network turns into
questions (:mod:`costmodels.step.communication`)."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel, OnePrecision
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
from costmodels.operations.shape_features import Features, log, logs


def _work(q: Columns) -> Work:
    message, ranks = floats(q, "message_bytes", "num_gpus")
    kind = q["kind"].astype(np.int64)
    passes = np.where(kind == code("kind", "all_reduce"), 2.0, 1.0)
    # Ring bounds: each rank sends (n-1)/n of the buffer, twice for an all-reduce (Patarasuk & Yuan, JPDC
    # 69(2), 2009). A message from one rank to another goes whole.
    share = np.where(kind == code("kind", "send_recv"), 1.0, (ranks - 1) / ranks)
    return Work(np.zeros_like(message), 2 * message, passes * message * share)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {
        **logs(q, "message_bytes", "num_gpus"),
        "kind": q["kind"].astype(np.float64),
        "share": log(q["message_bytes"]) - log(q["num_gpus"]),
    }


COLLECTIVE = Kernel(
    name="collective",
    part="communication",
    factor="communication",
    work=_work,
    features=_features,
    group=("kind", "message_bytes"),
    range=("message_bytes", "num_gpus"),
    near={"message_bytes": 1.0, "num_gpus": 3.0},
    # 16-bit elements move alike; 8-bit rows repeat the same byte counts.
    one_precision=OnePrecision(
        ("bf16", "fp16"), "bf16", "collectives are modelled by their bytes, measured with 16-bit elements"
    ),
)

FAMILY = OperationFamily("collective", (COLLECTIVE,))
