"""All-to-all of tokens and their experts within a scale-up domain. Layers ask for it as an exchange of experts, which
the network turns into questions (:mod:`costmodels.step.expert_exchange`)."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
from costmodels.operations.roofline import Columns, Hardware, Work, activation_bytes, code, floats, of_dtype
from costmodels.operations.shape_features import Features, log, logs
from costmodels.operations.wide_moe import reached

LOW_LATENCY = (code("kind", "ll_dispatch"), code("kind", "ll_combine"))
"""Send each of a token's copies by itself; the others send a token once to each GPU."""


def _work(q: Columns) -> Work:
    tokens, hidden, top_k, ranks = floats(q, "tokens", "hidden", "top_k", "num_gpus")
    copies = np.where(np.isin(q["kind"].astype(np.int64), LOW_LATENCY), top_k, reached(ranks, top_k))
    # Sums come back in 16 bits, whatever the experts' precision.
    name = q["kind"].astype(np.int64)
    back = np.isin(name, [code("kind", f"{mode}_combine") for mode in ("ll", "ht", "one_sided", "two_sided")])
    each = np.where(back, 2.0, of_dtype(activation_bytes, q))
    sent = tokens * copies * hidden * each
    return Work(np.zeros_like(sent), 2 * sent, sent * (ranks - 1) / ranks)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    return {
        **logs(q, "tokens", "hidden", "top_k", "num_gpus"),
        "kind": q["kind"].astype(np.float64),
        "sent": log(_work(q).link_bytes),
    }


EXPERT_EXCHANGE = Kernel(
    name="expert_exchange",
    part="communication",
    factor="",
    work=_work,
    features=_features,
    group=("kind", "hidden", "top_k", "experts"),
    range=("tokens", "hidden", "num_gpus"),
    near={"tokens": 2.0, "num_gpus": 3.0},
    alike=("hidden", "top_k"),
    figures_of="collective",
)

FAMILY = OperationFamily("expert_exchange", (EXPERT_EXCHANGE,))
