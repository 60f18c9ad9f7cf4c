"""``plan experts``: which GPU holds which expert, and which copies of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from api.cli.console import flowing, page, write_text
from profiles.errors import InputError, UnknownName
from profiles.values import shown, whole

if TYPE_CHECKING:
    from planner.experts.placing import Placed

_ASKED, _STATISTICS, _RULES, _SHOWN = "What to place", "Statistics", "Rules", "Output"

EXAMPLE = "plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads counts.json --redundant 32"


@flowing
def experts(
    model: Annotated[
        str | None, typer.Option(help="Name (`plan models`), or path of a config.json.", rich_help_panel=_ASKED)
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="The GPUs of one expert-parallel group: 4x8xH200, a YAML file, ...", rich_help_panel=_ASKED),
    ] = None,
    slots_per_gpu: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Experts that each GPU holds per layer; N,M,... for each pool. Default: as few as hold all.",
            rich_help_panel=_ASKED,
        ),
    ] = None,
    redundant: Annotated[
        int | None,
        typer.Option(metavar="N", help="Extra copies per layer, all GPUs together.", rich_help_panel=_ASKED),
    ] = None,
    loads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Expert counts: .json, .npy, .npz, .csv, SGLang's .pt, a TensorRT-LLM folder. Repeat for windows.",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    routes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Token routes: .jsonl, or .npy: tokens x layers x top-k.", rich_help_panel=_STATISTICS
        ),
    ] = None,
    holdout: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Counts to score on and not fit on. Repeatable.", rich_help_panel=_STATISTICS
        ),
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            metavar="sigma=S",
            help="Made-up counts for want of recorded ones: sigma=0.7[,windows=3][,drift=0.2].",
            rich_help_panel=_STATISTICS,
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="balance, traffic (needs --routes) or time.", rich_help_panel=_RULES)
    ] = "balance",
    over: Annotated[
        str, typer.Option(help="How several windows count: mean or worst.", rich_help_panel=_RULES)
    ] = "mean",
    balance_tolerance: Annotated[
        float,
        typer.Option(help="Balance that --objective traffic may give up, relative.", rich_help_panel=_RULES),
    ] = 0.01,
    groups: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pin N groups of experts to nodes (group-limited routing).", rich_help_panel=_RULES
        ),
    ] = None,
    dispatch: Annotated[
        str,
        typer.Option(
            help="home: tokens return after each layer, as in all engines; stay: they go on from their expert.",
            rich_help_panel=_RULES,
        ),
    ] = "home",
    current: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The placement that runs now, in any --format.", rich_help_panel=_RULES),
    ] = None,
    max_moves: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Copies that may move from --current, all layers together.", rich_help_panel=_RULES
        ),
    ] = None,
    max_move_bytes: Annotated[
        float | None,
        typer.Option(metavar="BYTES", help="The same as bytes of weights: 20e9.", rich_help_panel=_RULES),
    ] = None,
    lost_gpus: Annotated[
        str | None,
        typer.Option(metavar="3,7", help="GPUs of --current that are gone, counted from 0.", rich_help_panel=_RULES),
    ] = None,
    lost_nodes: Annotated[
        str | None, typer.Option(metavar="1", help="Nodes of --current that are gone.", rich_help_panel=_RULES)
    ] = None,
    decode_tokens: Annotated[
        int, typer.Option(help="Tokens per GPU in a decode step, for the times.", rich_help_panel=_RULES)
    ] = 128,
    prefill_tokens: Annotated[
        int, typer.Option(help="Tokens per GPU in a prefill step, for the times.", rich_help_panel=_RULES)
    ] = 4096,
    precision: Annotated[
        str | None, typer.Option(help="Weights. Default: as published.", rich_help_panel=_RULES)
    ] = None,
    framework: Annotated[str, typer.Option(help="vllm, sglang or trtllm.", rich_help_panel=_RULES)] = "vllm",
    seed: Annotated[int, typer.Option(help="Of the search and of --synthetic.", rich_help_panel=_RULES)] = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds for the balance.", rich_help_panel=_RULES)] = 60.0,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack.", rich_help_panel=_RULES),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the placement there.", rich_help_panel=_SHOWN),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="Of --output: shardwright, sglang, trtllm, vllm-ascend or eplb (npz).",
            rich_help_panel=_SHOWN,
        ),
    ] = "shardwright",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Heat-map of load per GPU and layer: .png, .svg or .html.", rich_help_panel=_SHOWN
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the document.", rich_help_panel=_SHOWN)] = False,
) -> None:
    """Places the experts of a mixture-of-experts model, and copies of the busy ones, on GPUs.

    The slowest GPU of each layer sets the pace, so loads are balanced over GPUs, with a bound that no placement beats.
    With --routes, a token's next experts are brought near as well.

    Examples:

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads counts.json --redundant 32

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads monday.json --loads tuesday.json
      --holdout today.json --slots-per-gpu 9 -o sglang.json --format sglang

      plan experts --model mistralai/Mixtral-8x7B-v0.1 --cluster 4xH200 --routes routes.jsonl --objective traffic

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --loads today.json --slots-per-gpu 9
      --current placement.json --max-moves 200

      plan experts --model deepseek-ai/DeepSeek-V3 --cluster 4x8xH200 --synthetic sigma=0.7 --plot load.png
    """
    from planner.experts import document, layer_time, outputs

    if model is None or cluster is None:
        raise InputError(f"--{'cluster' if model else 'model'} is missing", f"for example: {EXAMPLE}")
    for name, value, known in (
        ("--objective", objective, get_args(document.Objective)),
        ("--over", over, ("mean", "worst")),
        ("--dispatch", dispatch, get_args(layer_time.Dispatch)),
        ("--format", form, outputs.FORMATS),
        ("--framework", framework, ("vllm", "sglang", "trtllm")),
    ):
        if value not in known:
            raise UnknownName(name, value, known, f"choose from {', '.join(known)}")
    _check_targets(output, form, plot)
    if profiles:
        from profiles.descriptions import add_described

        for folder in profiles:
            add_described(folder)  # before names of GPUs are looked up
    from planner.contract.clusters import parse_cluster

    fields: dict[str, Any] = {
        "model": model,
        "cluster": parse_cluster(cluster),
        "loads": tuple(loads or ()),
        "routes": routes,
        "holdout": tuple(holdout or ()),
        "synthetic": synthetic,
        "slots_per_gpu": _numbers("--slots-per-gpu", slots_per_gpu),
        "redundant": redundant,
        "current": current,
        "max_moves": max_moves,
        "max_move_bytes": max_move_bytes,
        "lost_gpus": _numbers("--lost-gpus", lost_gpus) or (),
        "lost_nodes": _numbers("--lost-nodes", lost_nodes) or (),
        "objective": objective,
        "over_windows": over,
        "groups": groups,
        "balance_tolerance": balance_tolerance,
        "dispatch": dispatch,
        "tokens_per_gpu": {"decode": decode_tokens, "prefill": prefill_tokens},
        "precision": precision,
        "framework": framework,
        "seed": seed,
        "time_limit_s": time_limit,
    }
    _place(fields, profiles, output, form, plot, as_json)


def _place(
    fields: dict[str, Any],
    profiles: list[Path] | None,
    output: Path | None,
    form: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    from api.cli.progress import Reporter

    with Reporter(f"placing the experts of {fields['model']}") as report:
        from planner.experts.asking import Asked, prepared
        from planner.experts.outputs import check_slots
        from planner.experts.placing import place
        from planner.experts.report import assemble
        from profiles.store import ProfileStore

        asked = Asked(**fields)
        job, held_out = prepared(asked)
        check_slots(job.slots, form)
        placed = place(job, measured=[ProfileStore(folder) for folder in profiles or ()], progress=report)
        made = assemble(
            placed,
            asked.cluster,
            holdout=held_out,
            routes_name=None if asked.routes is None else str(asked.routes),
            current_name=None if asked.current is None else str(asked.current),
            notes=("the counts are made up (--synthetic)",) if asked.synthetic is not None else (),
        )
    document = made.to_json()
    _write(placed, document, output, form, plot)
    if as_json:
        write_text(document)
        return
    from api.cli import experts_view

    with page() as out:
        experts_view.show(made, out, written=[str(path) for path in (output, plot) if path is not None])


def _check_targets(output: Path | None, form: str, plot: Path | None) -> None:
    from api.cli.output import check_target

    if form != "shardwright" and output is None:
        raise InputError(f"--format {form} is given without a file", "name it with -o FILE")
    if output is not None:
        check_target(output)
    if plot is not None:
        from planner.pictures import check_kind

        check_target(plot, "--plot")
        check_kind(plot, "load.png")


def _write(placed: Placed, document: str, output: Path | None, form: str, plot: Path | None) -> None:
    from api.cli.output import write_atomically
    from planner.experts.outputs import written

    if output is not None:
        write_atomically(output, document if form == "shardwright" else written(placed.after, placed.job.model, form))
    if plot is not None:
        from planner.experts.plots import heat_map

        write_atomically(plot, heat_map(placed, plot.suffix.casefold()), "--plot")


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    numbers = [whole(part) for part in text.split(",")]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        raise InputError(f"{option}: {shown(text)} is not whole numbers with commas between", "write 9, or 9,8")
    return known
