"""One combination's stage table, with memory that asks for recomputation in the first stages."""

from __future__ import annotations

import numpy as np
from roofline_cost import roofline_links

from costmodels.training.frameworks import find_training_framework
from costmodels.training.layouts import ONE_F_ONE_B, TrainingLayouts
from costmodels.training.models import trained_model
from costmodels.training.pools import pooled_times
from costmodels.training.setting import Setting
from planner.training.stages import StageTable, stage_table


def stage_case(layers: int = 13, pp: int = 4, microbatches: int = 8) -> tuple[StageTable, np.ndarray, int, int]:
    """(table, content of each run of layers, layers, micro-batches)."""
    model = trained_model(f"llama:hidden=4096,layers={layers},heads=32,kv_heads=8,ffn=14336,vocab=128256")
    setting = Setting(model, find_training_framework("megatron"), 4096)

    def one(value: int) -> np.ndarray:
        return np.array([value], dtype=np.int64)

    layout = TrainingLayouts(
        tp=one(2), pp=one(pp), vpp=one(1), dp=one(2), cp=one(1), ep=one(1), etp=one(1), sharding=one(1),
        shard_ranks=one(2), micro_batch=one(2), microbatches=one(microbatches), sequence_parallel=np.array([True]),
        schedule=one(ONE_F_ONE_B), selective=one(0), recomputed=np.zeros((1, pp)), attention=one(4),
        layers=np.zeros((1, pp, 1)),
    )  # fmt: skip
    links = roofline_links()
    contents = np.arange(1, layers - pp + 2, dtype=np.float64)[:, None]
    times = pooled_times(setting, (links,), layout)
    table = stage_table(setting, layout, times, contents, np.array([[20e9]]), recompute=True)
    index = np.full((layers + 1, layers + 1), -1, dtype=np.int64)
    for start in range(layers):
        for end in range(start + 1, min(start + len(contents), layers) + 1):
            index[start, end] = end - start - 1
    assert np.isfinite(table.time).any()
    assert (table.recomputed > 0).any()
    return table, index, layers, microbatches
