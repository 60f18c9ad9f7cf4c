"""Pictures of a placement; matplotlib is imported only here."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from planner.experts.placement import Floats, Placement
from planner.experts.placing import Placed
from profiles.errors import InputError, Unsupported

KINDS = (".png", ".svg", ".html")


def check_kind(path: Path) -> None:
    """Raises InputError for a suffix that is not drawn, Unsupported where matplotlib is not installed."""
    if path.suffix.casefold() not in KINDS:
        raise InputError(f"--plot: {path.name} is not one of {', '.join(KINDS)}", "name the file load.png")
    _matplotlib()


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Unsupported(
            "--plot: matplotlib is not installed", "pip install 'shardwright[plot]', or leave --plot out"
        ) from error
    return Figure


def heat_map(placed: Placed, kind: str) -> bytes:
    """Load of each GPU ÷ the layer's mean, before and after, one row a layer, as a file of ``kind``."""
    before, after = (_relative(placement, placed) for placement in (placed.before, placed.after))
    model, layers = placed.job.model, len(placed.job.model.moe_layers)
    figure = _matplotlib()(figsize=(11, max(3.0, min(9.0, 2.2 + 0.11 * layers))), layout="constrained")
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
    figure.suptitle(f"{model.name}: expert load per GPU and layer")
    drawn = io.BytesIO()
    form = "png" if kind == ".html" else kind[1:]
    # No date: the same placement gives the same file.
    figure.savefig(drawn, format=form, dpi=120, metadata={"Date": None} if form == "svg" else {"Software": None})
    if kind != ".html":
        return drawn.getvalue()
    title = escape(f"{model.name}: expert load per GPU and layer")
    picture = base64.b64encode(drawn.getvalue()).decode("ascii")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body><img alt="{title}" style="max-width:100%" src="data:image/png;base64,{picture}"></body></html>\n'
    ).encode()


def _relative(placement: Placement, placed: Placed) -> Floats:
    loads = placed.job.loads
    load = placement.gpu_loads(loads.counts)
    mean = loads.counts.sum(axis=2) / placement.topology.speed.sum()
    return np.asarray(np.tensordot(loads.weights, load / mean[:, :, None], 1))
