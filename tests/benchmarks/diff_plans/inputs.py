"""The files that requests read: those of ``files/``, and some that are better made than kept."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np

from tests.benchmarks.diff_plans.seams import make_store

KEPT = Path(__file__).parent / "files"


def lay_out(folder: Path) -> None:
    """Puts every file that a request may read into ``folder``; the same ones at every call."""
    shutil.copytree(KEPT, folder, dirs_exist_ok=True)
    draw = random.Random(7)
    popularity = [[draw.lognormvariate(0, 0.7) for _ in range(128)] for _ in range(48)]  # Qwen3-30B-A3B's experts
    for name in ("monday", "tuesday"):
        counts = [[round(1e5 * p * draw.lognormvariate(0, 0.2)) for p in layer] for layer in popularity]
        (folder / f"{name}.json").write_text(json.dumps({"logical_count": counts}), encoding="utf-8")
    chosen = [[draw.sample(range(8), 2) for _ in range(32)] for _ in range(200)]  # Mixtral-8x7B's: tokens, layers, 2
    np.save(folder / "routes.npy", np.array(chosen, dtype=np.int16))
    make_store(folder / "store")
