"""``plan models`` and ``plan gpus``: what the program knows by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.console import page, table
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over_json
from api.cli.views.quantities import gib, number, parameters
from profiles.errors import InputError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


def models(as_json: AsJson = False, output: JsonOutput = None, _quiet: Quiet = False) -> None:
    """Models that can be planned by name.

    Any other model works by the path of its config.json. Sizes are those of the model cards.

    Examples:

      plan models

      plan models --json
    """
    from dataclasses import asdict

    from costmodels.models.registry import registered

    check_target(output)
    known = registered()
    if not hand_over_json([asdict(model) for model in known], output, as_json=as_json):
        return
    rows = table("model", "parameters", "active", "context", "weights")
    rows.columns[4].justify = "left"
    for model in known:
        active = model.published_active_parameters
        rows.add_row(
            model.name,
            parameters(model.published_parameters),
            "" if active is None else parameters(active),
            f"{model.max_context_tokens:,}",
            model.weight_precision,
        )
    with page() as out:
        out.print(rows)
        out.print(f"{len(known)} models. --json adds sources, licenses and checkpoints of the same shape.")


def gpus(
    fabrics: Annotated[bool, typer.Option("--fabrics", help="Networks between nodes instead.")] = False,
    nodes: Annotated[bool, typer.Option("--nodes", help="Node types instead.")] = False,
    clusters: Annotated[bool, typer.Option("--clusters", help="Clusters that ship by name instead.")] = False,
    as_json: AsJson = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """GPU types: peak rates, memory, power, price; or networks, nodes, clusters.

    Peak rates are dense TFLOP/s, bandwidths one direction, prices on demand in USD per hour.
    --json adds the source of every figure.

    Examples:

      plan gpus

      plan gpus --fabrics

      plan gpus --clusters --json
    """
    chosen = [kind for kind, asked in ((_fabrics, fabrics), (_nodes, nodes), (_clusters, clusters)) if asked]
    if len(chosen) > 1:
        raise InputError("--fabrics, --nodes and --clusters exclude each other", "give one of them at a time")
    check_target(output)
    (chosen or [_gpus])[0](as_json, output)


def _gpus(as_json: bool, output: Path | None) -> None:
    from profiles import hardware

    known = hardware.gpus().values()
    prices = {gpu.name: hardware.on_demand_price(gpu) for gpu in known}
    if not hand_over_json([_gpu_document(gpu, prices[gpu.name]) for gpu in known], output, as_json=as_json):
        return
    rows = table("GPU", "bf16", "fp8", "fp4", "GiB", "TB/s", "SMs", "watts", "link GB/s", "$/h")
    for gpu in known:
        peaks = gpu.peak_flops
        half = peaks.get("bf16", peaks.get("fp16", 0.0))
        price = prices[gpu.name]
        rows.add_row(
            gpu.name,
            *(number(rate / 1e12) if rate else "–" for rate in (half, peaks.get("fp8"), peaks.get("fp4"))),
            gib(gpu.memory_bytes),
            number(gpu.memory_bandwidth_bytes_per_s / 1e12),
            str(gpu.sm_count),
            f"{gpu.tdp_watts:,.0f}",
            f"{gpu.scale_up_link} {gpu.scale_up_bytes_per_s / 1e9:,.0f}",
            "–" if price is None else f"{price.usd_per_gpu_hour:.2f}",
        )
    with page() as out:
        out.print(rows)
        out.print(
            "bf16, fp8, fp4: dense peak TFLOP/s (bf16 is fp16 on V100 and T4); link: to the GPUs of "
            "the node, one direction; $/h: cheapest on-demand price on record. --json adds sources, aliases "
            "and dates."
        )


def _gpu_document(gpu: Any, price: Any) -> dict[str, object]:
    return {
        **gpu.model_dump(mode="json"),
        "on_demand_price": None if price is None else price.model_dump(mode="json"),
    }


def _fabrics(as_json: bool, output: Path | None) -> None:
    from profiles import hardware

    known = hardware.fabrics().values()
    if not hand_over_json([fabric.model_dump(mode="json") for fabric in known], output, as_json=as_json):
        return
    rows = table("fabric", "kind", "GB/s a GPU", "GPUs share a card", "latency", "also called", left=2)
    rows.columns[5].justify, rows.columns[5].no_wrap = "left", False
    for fabric in known:
        rows.add_row(
            fabric.name,
            fabric.kind,
            number(fabric.bytes_per_s_per_gpu / 1e9),
            str(fabric.shared_by_gpus),
            f"{fabric.latency_us:g} µs",
            ", ".join(fabric.aliases),
        )
    with page() as out:
        out.print(rows)


def _nodes(as_json: bool, output: Path | None) -> None:
    from profiles import hardware

    known = hardware.nodes().values()
    if not hand_over_json([node.model_dump(mode="json") for node in known], output, as_json=as_json):
        return
    rows = table("node", "GPU", "GPUs", "joined by", "fabric", "also called", left=2)
    for column in (3, 4, 5):
        rows.columns[column].justify = "left"
    rows.columns[0].no_wrap, rows.columns[5].no_wrap = True, False
    for node in known:
        rows.add_row(
            node.name,
            node.gpu,
            str(node.gpus),
            node.joined_by or "–",
            node.default_fabric,
            ", ".join(node.aliases),
        )
    with page() as out:
        out.print(rows)
        out.print("Nodes can be named in a cluster: --cluster 2xp5.48xlarge. --json adds host memory. Joined by:")
        for topology in hardware.topologies().values():
            out.print(f"  {topology.name:<13} {topology.meaning}")


def _clusters(as_json: bool, output: Path | None) -> None:
    from planner.contract.clusters import bundled_clusters, read_cluster

    known = {name: read_cluster(path) for name, path in bundled_clusters().items()}
    document = [{"bundled_as": name, **c.model_dump(mode="json")} for name, c in known.items()]
    if not hand_over_json(document, output, as_json=as_json):
        return
    from api.cli.views.words import pool_words

    rows = table("cluster", "pools", left=2)
    for name, cluster in known.items():
        rows.add_row(name, "\n".join(map(pool_words, cluster.pools)))
    with page() as out:
        out.print(rows)
