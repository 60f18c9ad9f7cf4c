"""``plan predict``: latency, throughput and memory of configurations that are given, one or thousands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing, page, write_text
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_ONE, _SHOWN = "One configuration", "Output"


@flowing
def predict(
    configs: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIGS.csv]", help="One configuration a row; columns as the options are called."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name (`plan models`).", rich_help_panel=_ONE)] = None,
    gpu: Annotated[str | None, typer.Option(help="GPU type (`plan gpus`).", rich_help_panel=_ONE)] = None,
    framework: Annotated[str, typer.Option(help="vllm, sglang or trtllm.", rich_help_panel=_ONE)] = "vllm",
    precision: Annotated[str | None, typer.Option(help="Weights. Default: as published.", rich_help_panel=_ONE)] = None,
    kv_precision: Annotated[
        str | None, typer.Option(help="KV cache: bf16 (default) or fp8.", rich_help_panel=_ONE)
    ] = None,
    tp: Annotated[str | None, typer.Option(metavar="N", help="Tensor parallel.", rich_help_panel=_ONE)] = None,
    pp: Annotated[str | None, typer.Option(metavar="N", help="Pipeline stages.", rich_help_panel=_ONE)] = None,
    dp: Annotated[str | None, typer.Option(metavar="N", help="Attention data parallel.", rich_help_panel=_ONE)] = None,
    ep: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Expert parallel; ep x moe_tp = tp x dp. Default: 1, or all with dp.",
            rich_help_panel=_ONE,
        ),
    ] = None,
    moe_tp: Annotated[
        str | None, typer.Option(metavar="N", help="Tensor parallel within experts.", rich_help_panel=_ONE)
    ] = None,
    num_gpus: Annotated[
        str | None, typer.Option(metavar="N", help="Of the engine; must be tp x pp x dp.", rich_help_panel=_ONE)
    ] = None,
    isl: Annotated[str | None, typer.Option(metavar="TOKENS", help="Prompt.", rich_help_panel=_ONE)] = None,
    osl: Annotated[str | None, typer.Option(metavar="TOKENS", help="Output.", rich_help_panel=_ONE)] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Requests that the client keeps in flight, of the whole engine (a burst, then one for each answered).",
            rich_help_panel=_ONE,
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RPS", help="Instead: requests per second that arrive at random (Poisson).", rich_help_panel=_ONE
        ),
    ] = None,
    profiles: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Lay this profile store over the shipped pack. May be given again."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the CSV there.", rich_help_panel=_SHOWN),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one object a configuration.", rich_help_panel=_SHOWN)
    ] = False,
) -> None:
    """Predicts configurations that you name: time to first token, time per output token, whole request (each the mean,
    its 80 % interval `low`–`high`, p50 and p99 of requests), throughput and memory.

    With a CSV, its columns are kept and those of the prediction added; a row that cannot be predicted says why in
    `error` and the others still are. Lengths are taken as the public harnesses draw them: uniform within 20 % below isl
    and osl.

    Examples:

      plan predict --model Qwen/Qwen3-32B --gpu H200 --tp 2 --isl 4000 --osl 500 --concurrency 32

      plan predict configs.csv -o predictions.csv
    """
    options = {
        "model": model,
        "gpu": gpu,
        "framework": framework,
        "precision": precision,
        "kv_precision": kv_precision,
        "tp": tp,
        "pp": pp,
        "dp": dp,
        "ep": ep,
        "moe_tp": moe_tp,
        "num_gpus": num_gpus,
        "isl": isl,
        "osl": osl,
        "concurrency": concurrency,
        "rate": rate,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if configs is not None and (extra := set(given) - {"framework"}):
        raise InputError(
            f"--{min(extra).replace('_', '-')}: has no effect beside {configs}", "give it as a column of the file"
        )
    if output is not None:
        from api.cli.output import check_target

        check_target(output)
    if configs is None:
        _one(given, profiles, output, as_json)
    else:
        _many(configs, profiles, output, as_json)


def _one(given: dict[str, str], profiles: list[Path] | None, output: Path | None, as_json: bool) -> None:
    missing = [name for name in ("model", "gpu", "isl", "osl") if name not in given]
    if missing:
        raise InputError(
            f"--{missing[0]} is missing",
            "name a CSV, or for example: plan predict --model Qwen/Qwen3-32B --gpu H200 --tp 2 --isl 4000 --osl 500 "
            "--concurrency 32",
        )
    import pandas as pd

    table = pd.DataFrame([{"concurrency": "", **given}])
    answer = _predicted(table, profiles)
    error = answer["error"].iloc[0]
    if error:
        message, _, hint = error.partition("; ")
        raise InputError(message, hint)
    _hand_over(answer, output, as_json, show=output is None)


def _many(configs: Path, profiles: list[Path] | None, output: Path | None, as_json: bool) -> None:
    table = _read(configs)
    answer = _predicted(table, profiles)
    failed = int((answer["error"] != "").sum())
    _hand_over(answer, output, as_json, show=False)
    if failed < len(answer):
        typer.echo(f"{len(answer) - failed:,} predicted, {failed:,} not", err=True)
    else:
        raise InputError(
            f"{configs}: no row could be predicted; the first: {answer['error'].iloc[0]}",
            "correct the rows: each one's column error says why",
        )


def _read(path: Path) -> pd.DataFrame:
    from profiles.files import Source
    from profiles.tables import read_table

    # Everything stays text: input columns are handed back as they came.
    source = Source(path, "", "give a CSV with a header: model,gpu,framework,tp,isl,osl,concurrency,...")
    return read_table(source, skipinitialspace=True)


def _predicted(table: pd.DataFrame, profiles: list[Path] | None) -> pd.DataFrame:
    from api.cli.progress import Reporter

    with Reporter(f"predicting {len(table):,} configuration{'s' if len(table) != 1 else ''}") as report:
        from planner.serving.prediction_table import predict as predict_table
        from profiles.store import ProfileStore

        if profiles:
            from profiles.descriptions import add_described

            for folder in profiles:
                add_described(folder)
        return predict_table(table, measured=[ProfileStore(folder) for folder in profiles or ()], progress=report)


def _hand_over(answer: pd.DataFrame, output: Path | None, as_json: bool, *, show: bool) -> None:
    if output is not None:
        from api.cli.output import write_atomically

        write_atomically(output, answer.to_csv(index=False))
    if as_json:
        write_text(answer.to_json(orient="records", indent=1))
    elif show:
        _show(answer.iloc[0])
    elif output is None:
        write_text(answer.to_csv(index=False))


def _show(row: pd.Series) -> None:
    from api.cli.console import heading, indented, table
    from api.cli.quantities import gib, milliseconds, number

    with page() as out:
        heading(out, "Prediction")
        rows = table("latency", "mean", "80 % interval", "p50", "p99")
        for name, title in (
            ("ttft_ms", "time to first token (TTFT)"),
            ("tpot_ms", "time per output token (TPOT)"),
            ("e2e_ms", "whole request (E2E)"),
        ):
            mean, low, high, p50, p99 = (
                milliseconds(float(row[f"{name}_{part}"])) for part in ("mean", "low", "high", "p50", "p99")
            )
            rows.add_row(title, mean, f"{low} – {high}", p50, p99)
        indented(out, rows)
        out.print(f"  output        {number(float(row['output_tokens_per_s_per_gpu']))} tokens/s per GPU")
        out.print(f"  memory        {gib(float(row['memory_bytes_per_gpu']))} GiB per GPU")
        out.print(f"  KV cache      {int(row['kv_tokens']):,} tokens per attention rank")
        out.print(f"  known from    {row['how']}")
