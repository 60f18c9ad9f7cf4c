"""Attention of an image encoder: every patch of an image sees every other (arXiv:2010.11929 §3.1)."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Ints
from costmodels.operations.family import OperationFamily
from costmodels.operations.kernel import Kernel
from costmodels.operations.roofline import Columns, Hardware, Work, floats
from costmodels.operations.shape_features import Features, logs, waves


def _work(q: Columns) -> Work:
    batch, patches, heads, width = floats(q, "batch", "patches", "heads", "head_dim")
    return Work.local(4 * batch * heads * width * patches**2, 2 * 4 * batch * patches * heads * width)


def _features(q: Columns, hw: Hardware, gpu: Ints) -> Features:
    batch, patches, heads = floats(q, "batch", "patches", "heads")
    count, used = waves(batch * heads * np.ceil(patches / 128), hw, gpu)
    return {**logs(q, "batch", "patches", "heads", "head_dim"), "waves": count, "used": used}


ATTENTION = Kernel(
    name="encoder_attention",
    part="attention",
    factor="attention_prefill",
    work=_work,
    features=_features,
    group=("batch", "heads", "head_dim"),
    range=("batch", "patches", "heads", "head_dim"),
    near={"batch": 2.0, "patches": 2.0, "heads": 1.0, "head_dim": 1.0},
    figures_of="attention_prefill",
)

FAMILY = OperationFamily("encoder", (ATTENTION,))
