"""``plan predict``: latency, throughput and memory of configurations that are given, one or thousands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.console import flowing, write_text
from api.cli.engines import Engines, document_of_shapes
from api.cli.options import SHOWN, Asked, Profiles, Quiet, Request, SkipFailed, option_name, takes
from api.cli.output import check_target, write_atomically
from api.cli.requests import check_words, measured_stores, read_request
from planner.serving.configuration import ENGINE
from planner.serving.predictions import Configuration
from profiles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from planner.contract.deployment import DeploymentDocument
    from planner.contract.workload.workload import Workload
    from planner.serving.asked_rows import FindLoads
    from planner.serving.document.plan import Plan
    from profiles.hardware import Catalogue
    from profiles.store import ProfileStore

EXAMPLE = "plan predict --model Qwen/Qwen3-32B --gpu H200 --tp 2 --isl 4000 --osl 500 --concurrency 32"


@takes(Configuration)
@flowing
def predict(
    asked: Asked,
    configs: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIGS.csv | DOCUMENT.json]",
            help="One configuration a row; columns as the options are called. Or a plan or a deployment: each of its "
            "groups of engines under its share of --workload.",
        ),
    ] = None,
    engines: Engines = None,
    profiles: Profiles = None,
    skip_failed: SkipFailed = False,
    request: Request = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the CSV there, or to a .json the document.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the document: a row for each.", rich_help_panel=SHOWN)
    ] = False,
    scored: Annotated[
        bool,
        typer.Option(
            "--measured",
            help="Score the CSV's measured columns (ttft_ms_mean, tpot_ms_p50, watts_per_gpu, …): errors, bias, and "
            "how often intervals hold.",
            rich_help_panel=SHOWN,
        ),
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="With --measured: also by these columns, as gpu,framework,date.",
            rich_help_panel=SHOWN,
        ),
    ] = None,
    expert_loads: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Tokens that each expert received, as `plan experts --loads` reads them: engines with an exchange are "
            "as uneven as these leave them (with eplb, as EPLB places them). May be given again.",
            rich_help_panel=ENGINE,
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Show what times consist of and rest on; of an engine with one role (--role) a step: attention, dense "
            "products, experts, dispatch, combine, what overlap hides, what imbalance costs. With --measured: which "
            "part is likely off.",
            rich_help_panel=SHOWN,
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Predicts configurations that you name: time to first token, time per output token, whole request (each the mean,
    its 80 % interval `low`–`high`, p50 and p99 of requests), throughput and memory.

    With a CSV, its columns are kept and those of the prediction added; a row that cannot be predicted says why in
    `error` and the others still are. All requests are as long as isl and osl say, unless the workload has a spread:
    the public harnesses draw lengths uniform within 20 % below, --workload isl=1000,osl=100,concurrency=8,spread=0.8-1.

    With --measured, columns called as the prediction's hold what was measured: they are kept, the predictions beside
    them end in _predicted, and how far these are is printed, of all rows and by the columns of --by. Results of load
    generators are read too, .json and .jsonl; options say what no column does.

    Examples:

      plan predict --model Qwen/Qwen3-32B --gpu H200 --tp 2 --isl 4000 --osl 500 --concurrency 32

      plan predict configs.csv -o predictions.csv

      plan predict running.json --workload isl=4000,osl=500,rate=5

      plan predict --model Qwen/Qwen3-32B --gpu H200 --engines prefill=2xTP2,decode=1xTP4 --isl 4000 --osl 500 --rate 5

      plan predict runs.csv --measured --by gpu,framework -o predictions.csv

      plan predict result.json --measured --gpu H100 --framework vllm --tp 1
    """
    if expert_loads and (engines is not None or request is not None or _is_document(configs)):
        what = "--request" if request is not None else "--engines" if engines is not None else str(configs)
        raise InputError(f"--expert-loads: has no effect beside {what}", "describe the engine by options or in a CSV")
    check_words(asked, Configuration)
    loads_of = _loads_in(expert_loads)
    if engines is not None:
        if configs is not None or request is not None:
            raise InputError("--engines: has no effect beside a file or a request", "give one of them")
        if "draft_model" in asked:
            raise InputError("--draft-model: has no effect beside --engines", "describe one engine, as with --tp 2")
        running = document_of_shapes(engines, {**asked.usual, **asked}, profiles)
        load = Asked({name: value for name, value in asked.items() if name in LOAD}, {})
        _document(running, "--engines", load, request, profiles, output, as_json, quiet)
        return
    if configs is not None and _is_document(configs) and not scored:
        if by is not None:
            raise InputError("--by: has no effect without --measured", "add --measured")
        from planner.serving.document.opening import read_running

        _document(read_running(configs), str(configs), asked, request, profiles, output, as_json, quiet)
        return
    if configs is not None and (extra := (set() if scored else set(asked)) | ({"request"} if request else set())):
        option = "--request" if "request" in extra else option_name(Configuration, min(extra))
        raise InputError(f"{option}: has no effect beside {configs}", "give it as a column of the file")
    if scored and configs is None:
        raise InputError("--measured: has no effect without a CSV", "name a CSV with a measured column")
    if by is not None and not scored:
        raise InputError("--by: has no effect without --measured", "add --measured")
    check_target(output)
    measured, catalogue = measured_stores(profiles)
    if configs is not None and scored:
        rows = _with_columns(read_configurations(configs), asked, configs)
        more: dict[str, Any] = {"skip_failed": skip_failed, "loads_of": loads_of}
        _score(rows, configs, measured, output, by or "", more, as_json=as_json, quiet=quiet, explain=explain)
    elif configs is not None:
        from api.cli.views.scores import told_of_file
        from planner.serving.prediction_table import added_columns

        table = read_configurations(configs)
        more = {"skip_failed": skip_failed, "loads_of": loads_of}
        answer = _predicted(table, measured, quiet, folder=configs.parent, **more)
        errors = answer[added_columns(table.columns)["error"]]
        failed = int((errors != "").sum())
        _hand_over(answer, measured, output, as_json, show=False)
        if not quiet and failed < len(answer):
            typer.echo(told_of_file(table.columns, len(answer), failed), err=True)
        if failed == len(answer):
            raise InputError(
                f"{configs}: no row could be predicted; the first: {errors.iloc[0]}",
                f"correct the rows: each one's column {errors.name} says why",
            )
    elif request is not None:
        _requested(asked, request, measured, catalogue, output, as_json, quiet)
    else:
        usual = {name: value for name, value in asked.usual.items() if name != "workload" or "isl" not in asked}
        _one({**usual, **asked}, measured, output, as_json, quiet, skip_failed, explain, loads_of)


def _is_document(configs: Path | None) -> bool:
    return configs is not None and configs.suffix.casefold() == ".json"


def _loads_in(files: list[Path] | None) -> FindLoads | None:
    """What each expert of a model received, of :func:`planner.serving.prediction_table.predict`; read once a model."""
    if not files:
        return None
    from functools import cache

    from planner.serving.expert_placement import read_expert_loads

    return cache(lambda architecture: read_expert_loads(files, architecture))


LOAD = ("workload", "isl", "osl", "concurrency", "rate")


def _document(
    running: Plan | DeploymentDocument,
    where: str,
    asked: Asked,
    request: str | None,
    profiles: list[Path] | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predicts the engines of a plan or a deployment."""
    extra = {name for name in asked if name not in LOAD}
    if extra or request is not None:
        option = "--request" if request is not None else option_name(Configuration, min(extra))
        raise InputError(f"{option}: has no effect beside {where}", "the document says it")
    from api.cli.progress import Reporter
    from api.cli.requests import with_workload
    from planner.contract.workload.workload import workload_of
    from planner.replay.predicted import predictions, serve_together
    from planner.serving.predictions import parse_prediction_request

    check_target(output)
    measured, _ = measured_stores(profiles)
    fields = with_workload({"workload": asked["workload"]} if "workload" in asked else {}, Path())
    pairs = [(name, str(asked[name])) for name in ("isl", "osl", "concurrency", "rate") if name in asked]
    if pairs:
        fields["workload"] = workload_of(pairs, _fields_of(fields.get("workload"), pairs))
    understood = parse_prediction_request({"plan": running, **fields})
    rows = 1 if serve_together(running) else len(understood.asked)
    with Reporter(_doing(rows), quiet=quiet) as report:
        made = predictions(understood, measured=measured, progress=report)
    failed = [row for row in made.rows if row.get("error")]
    if len(failed) == len(made.rows):
        message, _, hint = str(failed[0]["error"]).partition("; ")
        raise InputError(message, hint or "correct the document")
    if output is not None:
        write_atomically(output, made.to_json())
    if as_json:
        write_text(made.to_json())
    elif output is None:
        import pandas as pd

        for row in made.rows:
            from api.cli.views.prediction_row import show_row

            show_row(pd.Series({name: "" if value is None else value for name, value in row.items()}))


def _fields_of(workload: object, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The fields of the workload that options stand beside."""
    from planner.contract.workload.workload import Workload, parse_workload

    if workload is None:
        return {}
    found = dict(workload if isinstance(workload, Workload) else parse_workload(str(workload)))
    if {"concurrency", "rate"} & {name for name, _ in pairs}:
        found |= {"concurrency": None, "rate_rps": None}
    return found


def _score(
    table: pd.DataFrame,
    configs: Path,
    measured: list[ProfileStore],
    output: Path | None,
    by: str,
    more: Mapping[str, Any],
    *,
    as_json: bool,
    quiet: bool,
    explain: bool = False,
) -> None:
    """Predicts the rows of ``table`` beside what was measured of them, and shows how far that is; ``more``: as of
    :func:`_predicted`."""
    from api.cli.views.scores import show, show_suspects
    from planner.serving.measured.columns import measured_columns
    from planner.serving.measured.scores import scores_of
    from planner.serving.prediction_table import column_meant
    from planner.serving.predictions import document_of

    truth = measured_columns(table)
    columns = [column_meant(name.strip(), table, "--by") for name in by.split(",") if name.strip()]
    answer = _predicted(table, measured, quiet, folder=configs.parent, beside_measured=True, **more)
    scores = scores_of(answer, truth, columns)
    if output is not None:
        in_json = output.suffix.casefold() == ".json"
        text = document_of(answer, measured, scores).to_json() if in_json else answer.to_csv(index=False)
        write_atomically(output, text)
    if as_json:
        write_text(document_of(answer, measured, scores).to_json())
    else:
        show(scores)
        if explain and scores.scores:
            from planner.serving.measured.suspects import suspects

            show_suspects(suspects(answer, truth))
    if not scores.scores:
        raise InputError(
            f"{configs}: nothing that was measured could be predicted", "its rows say why: -o FILE, column error"
        )


def _one(
    asked: dict[str, Any],
    measured: list[ProfileStore],
    output: Path | None,
    as_json: bool,
    quiet: bool,
    skip_failed: bool,
    explain: bool,
    loads_of: FindLoads | None,
) -> None:
    needed = ("model", "gpu") if "workload" in asked else ("model", "gpu", "isl", "osl")
    missing = [name for name in needed if name not in asked]
    if missing:
        raise InputError(f"--{missing[0]} is missing", f"name a CSV, or for example: {EXAMPLE}")
    if "image" in asked and "images" not in asked:  # of a table, it may be the container's
        raise InputError("--image: has no effect without --images", "say how many a request has: --images 1")
    import pandas as pd

    given = {"framework": Configuration.model_fields["framework"].default, **asked}
    ordered = {name: str(given[name]) for name in Configuration.model_fields if name in given}
    row = pd.DataFrame([{"concurrency": "", **ordered}])
    answer = _predicted(row, measured, quiet, skip_failed=skip_failed, loads_of=loads_of)
    error = answer["error"].iloc[0]
    if error:
        message, _, hint = error.partition("; ")
        raise InputError(message, hint)
    _hand_over(answer, measured, output, as_json, show=output is None)
    if explain and not as_json:
        from api.cli.views.prediction_row import explained

        explained(answer.iloc[0], [store.path for store in measured])


def _requested(
    asked: dict[str, Any],
    request: str,
    measured: list[ProfileStore],
    catalogue: Catalogue,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Predicts what a request document asks for, whose files are put in; options go into every configuration."""
    from api.cli.progress import Reporter
    from api.cli.requests import with_files
    from planner.serving.predictions import parse_prediction_request, predictions

    document, folder = read_request(request, "predictions-request")
    rows = document.get("configurations")
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        beside = with_files(asked, Path(), catalogue)
        document["configurations"] = [{**with_files(row, folder, catalogue), **beside} for row in rows]
    understood = parse_prediction_request(document)
    with Reporter(_doing(len(understood.configurations)), quiet=quiet) as report:
        made = predictions(understood, measured=measured, progress=report).to_json()
    if output is not None:
        write_atomically(output, made)
    if as_json or output is None:
        write_text(made)


def read_configurations(path: Path) -> pd.DataFrame:
    """A CSV, or lines of JSON, as text, column by column."""
    from planner.serving.measured.clients import metrics_in_one_row, plain_results
    from profiles.files import Source
    from profiles.tables import read_lines, read_objects, read_table

    # Everything stays text: input columns are handed back as they came.
    source = Source(path, "", "give a CSV with a header: model,gpu,framework,tp,isl,osl,concurrency,...")
    if (kind := path.suffix.casefold()) == ".json":
        table = read_objects(source, plain_results)
        if "schema_version" in table.columns:
            raise InputError("--measured: has no effect beside a document", "name a CSV with a measured column")
        return table
    table = read_lines(source, plain_results) if kind == ".jsonl" else read_table(source, skipinitialspace=True)
    return metrics_in_one_row(table)


def _with_columns(table: pd.DataFrame, asked: Asked, where: Path) -> pd.DataFrame:
    """Measured rows, with columns of what options say: load generators know nothing of GPUs. A column that is called
    otherwise (``backend``, which may be the client's) stands back."""
    from planner.serving.harness_words import is_told

    for name, value in asked.items():
        option = option_name(Configuration, name)
        if name in table.columns:
            raise InputError(f"{option}: has no effect beside the column {name} of {where}", "leave it out")
        if name == "workload" or is_told(name, table):
            raise InputError(f"{option}: has no effect beside {where}", "its columns say what was sent")
        table[name] = str(value)
    return table


def _doing(count: int) -> str:
    return f"predicting {count:,} configuration{'s' if count != 1 else ''}"


def _predicted(
    table: pd.DataFrame,
    measured: list[ProfileStore],
    quiet: bool,
    *,
    folder: Path = Path(),
    skip_failed: bool = False,
    beside_measured: bool = False,
    loads_of: FindLoads | None = None,
) -> pd.DataFrame:
    """``folder``: what files that the column ``workload`` names are relative to."""
    from api.cli.progress import Reporter

    def find_workload(text: str) -> Workload:
        from planner.contract.workload.files import workload_at
        from planner.contract.workload.workload import parse_workload

        return workload_at(text, folder, skip_failed=skip_failed) or parse_workload(text)

    with Reporter(_doing(len(table)), quiet=quiet) as report:
        from planner.serving.prediction_table import predict as predict_table

        return predict_table(
            table,
            measured=measured,
            progress=report,
            find_workload=find_workload,
            beside_measured=beside_measured,
            expert_loads=loads_of,
        )


def _hand_over(
    answer: pd.DataFrame, measured: list[ProfileStore], output: Path | None, as_json: bool, *, show: bool
) -> None:
    from planner.serving.predictions import document_of

    def document() -> str:
        return document_of(answer, measured).to_json()

    if output is not None:
        in_json = output.suffix.casefold() == ".json"
        write_atomically(output, document() if in_json else answer.to_csv(index=False))
    if as_json:
        write_text(document())
    elif show:
        from api.cli.views.prediction_row import show_row

        show_row(answer.iloc[0])
    elif output is None:
        write_text(answer.to_csv(index=False))
