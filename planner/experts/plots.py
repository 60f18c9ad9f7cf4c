"""Pictures of a placement."""

from __future__ import annotations

import numpy as np

from planner.experts.placement import Floats, Placement
from planner.experts.placing import Placed
from planner.pictures import drawn, new_figure


def heat_map(placed: Placed, kind: str) -> bytes:
    """Load of each GPU ÷ the layer's mean, before and after, one row a layer, as a file of ``kind``."""
    before, after = (_relative(placement, placed) for placement in (placed.before, placed.after))
    model, layers = placed.job.model, len(placed.job.model.moe_layers)
    figure = new_figure(figsize=(11, max(3.0, min(9.0, 2.2 + 0.11 * layers))))
    axes = figure.subplots(1, 2, sharey=True)
    from matplotlib.colors import TwoSlopeNorm

    scale = TwoSlopeNorm(1.0, vmin=0.0, vmax=max(1.5, float(np.quantile(before, 0.99))))
    image = None
    for axis, load, name in zip(axes, (before, after), ("before", "after"), strict=True):
        image = axis.imshow(load, aspect="auto", interpolation="nearest", cmap="RdBu_r", norm=scale)
        axis.set_title(f"{name}: slowest GPU {load.max(axis=1).mean():.3g} × mean")
        axis.set_xlabel("GPU")
        ticks = np.unique(np.linspace(0, layers - 1, min(layers, 12)).astype(int))
        axis.set_yticks(ticks, [str(model.moe_layers[i]) for i in ticks])
        edges = np.flatnonzero(np.diff(placed.topology.node))
        for edge in edges:
            axis.axvline(edge + 0.5, color="black", linewidth=0.5)
    axes[0].set_ylabel("layer")
    assert image is not None
    figure.colorbar(image, ax=axes, label="load ÷ mean of the layer", extend="max")
    return drawn(figure, kind, f"{model.name}: expert load per GPU and layer")


def _relative(placement: Placement, placed: Placed) -> Floats:
    loads = placed.job.loads
    load = placement.gpu_loads(loads.counts)
    mean = loads.counts.sum(axis=2) / placement.topology.speed.sum()
    return np.asarray(np.tensordot(loads.weights, load / mean[:, :, None], 1))
