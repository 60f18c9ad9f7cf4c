"""Attention of an image encoder: every patch of an image sees every other (arXiv:2010.11929 §3.1)."""

from __future__ import annotations

import numpy as np

from costmodels.estimates import Floats, Ints
from costmodels.models.images import EncodedImage
from costmodels.models.vision_tower import VisionTower
from costmodels.operations.family import OperationFamily
from costmodels.operations.gemm import ask_product
from costmodels.operations.kernel import Kernel
from costmodels.operations.questions import ACTIVATION_BYTES, LayerStep
from costmodels.operations.roofline import Columns, Hardware, Work, code, floats
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


def ask_images(step: LayerStep, tower: VisionTower, image: EncodedImage, count: Floats) -> None:
    """Asks for the encoding of ``count`` images (shape [n], fractions count), one at a time, in 16 bits: the layers of
    the tower, split over the tensor-parallel group, and the first product of the projector."""
    tp, hidden, one = step.split.layouts.tp, tower.hidden, np.ones(len(step.split.layouts), np.int64)
    rows, each = one * image.pieces * image.patches, count * tower.layers
    width = np.maximum((tower.attention or hidden) // tp, 1)
    wide, matrices = -(-tower.intermediate // tp), 2 if tower.gated else 1
    ask_product(step, "bf16", rows, hidden, 3 * tower.patch_pixels**2, count)
    ask_product(step, "bf16", rows, 3 * width, hidden, each)
    heads = np.maximum(tower.heads // tp, 1)
    shape = {"dtype": code("dtype", "bf16"), "heads": heads, "head_dim": (tower.attention or hidden) // tower.heads}
    windows = -(-image.patches // tower.window_patches) if tower.windowed else 0
    busy = count > 0
    step.work.ask(
        ATTENTION, count * (tower.layers - tower.windowed), busy, batch=image.pieces, patches=image.patches, **shape
    )
    if windows:
        inside = {"batch": image.pieces * windows, "patches": min(tower.window_patches, image.patches)}
        step.work.ask(ATTENTION, count * tower.windowed, busy, **inside, **shape)
    ask_product(step, "bf16", rows, hidden, width, each)
    ask_product(step, "bf16", rows, matrices * wide, hidden, each)
    ask_product(step, "bf16", rows, hidden, wide, each)
    moved = rows.astype(np.float64) * hidden * ACTIVATION_BYTES
    step.work.exchange("all_reduce", moved, tp, 2 * each)
    # Two norms that add the residual, rotary positions, and the activation: each reads and writes.
    step.work.moved_bytes += each * (moved * (2 * 4 + 2) + rows * wide * (matrices + 1.0) * ACTIVATION_BYTES)
    step.work.small_kernels += each * 4
    joined = one * image.tokens
    ask_product(step, "bf16", joined, step.split.hidden, tower.merge**2 * hidden, count)


FAMILY = OperationFamily("encoder", (ATTENTION,))
