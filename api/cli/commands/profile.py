"""``plan profile``: what was measured, shown and added to."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from api.cli.commands import collect, few_shot
from api.cli.console import console, facts, flowing, heading, indented, table
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over_json
from api.cli.progress import silent
from profiles.errors import InputError, UnknownName
from profiles.operation_tables import OPERATIONS
from profiles.values import named, one_of, shown

if TYPE_CHECKING:  # pandas and pyarrow take a third of a second: the commands below import what they need
    import pandas as pd

    from profiles.hardware import Catalogue
    from profiles.importers import Rows
    from profiles.measurements import Operation
    from profiles.store import ProfileStore

app = typer.Typer(
    name="profile",
    help="Kernel timings: what was measured, on which GPU, by whom; import more.",
    no_args_is_help=True,
)

MOST_DOUBTS = 10
"""Curves of an import that are named as doubtful; the others are counted."""

MOST_SHOWN = 5000
"""Rows of a table for people."""

_ALWAYS = ("latency_us",)  # shown as a column even where it is the same in all rows
_PROVENANCE = ("kernel", "framework_version", "driver", "torch_version", "cuda_version", "source", "date")

Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profiles", metavar="DIR", help="Also read this profile store; may be given again."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


@app.command("list")
@flowing
def list_(
    profiles: Profiles = None,
    op: Annotated[str | None, typer.Option(help="Only this operation: gemm, moe, collective, ...")] = None,
    gpu: Annotated[str | None, typer.Option(help="Only this GPU type: H200, A100, ...")] = None,
    framework: Annotated[str | None, typer.Option(help="Only this framework: vllm, sglang, ...")] = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """How many timings there are, by operation, GPU, framework and precision.

    Reads the pack that ships, and each --profiles store after it.

    Examples:

      plan profile list

      plan profile list --op gemm --gpu H200

      plan profile list --profiles ./measured --json
    """
    check_target(output)
    stores = _stores(profiles)
    counts = _counts(stores, op, gpu, framework)
    document = [{**_identity(s), "rows": c.to_dict("records")} for s, c in zip(stores, counts, strict=True)]
    if not hand_over_json(document, output, as_json=as_json):
        return
    out = console()
    for store, count in zip(stores, counts, strict=True):
        manifest = store.manifest
        rows = f"{count['rows'].sum():,} rows"
        heading(out, f"{manifest.name} {manifest.version}: {rows}, hash {manifest.content_hash[:12]}")
        listing = table("operation", "GPU", "framework", "rows of each precision", left=4)
        for (operation, where, by), group in count.groupby(["operation", "gpu", "framework"], sort=False):
            parts = ", ".join(f"{d} {n:,}" for d, n in zip(group["dtype"], group["rows"], strict=True))
            listing.add_row(str(operation), str(where), str(by), parts)
        indented(out, listing)


@app.command()
@flowing
def show(
    operation: Annotated[
        str,
        typer.Argument(help=f"{one_of(OPERATIONS)}."),
    ],
    gpu: Annotated[str | None, typer.Option(help="Only this GPU type: H200, A100, ...")] = None,
    framework: Annotated[str | None, typer.Option(help="Only this framework: vllm, sglang, ...")] = None,
    profiles: Profiles = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows at most; 0 = all.")] = 20,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV, all columns.")] = False,
    output: JsonOutput = None,
    _quiet: Quiet = False,
) -> None:
    """What the columns of an operation mean and in which unit, and some of its rows.

    Latencies are medians in microseconds (µs), sizes are bytes, power is watts. Rows of a
    --profiles store stand in place of the shipped pack's where both timed the same question.

    Examples:

      plan profile show gemm --gpu H200

      plan profile show attention_decode --gpu B200 --framework vllm --limit 5

      plan profile show collective --limit 0 --csv > collectives.csv
    """
    from profiles.measured_rows import merge_rows
    from profiles.measurements import find_operation

    if as_json and as_csv:
        raise InputError("--json and --csv are both given", "give one of them")
    check_target(output)
    known = find_operation(operation)
    stores = _stores(profiles)
    counts = _counts(stores, operation, gpu, framework)
    name = None if gpu is None else _gpu_name(gpu, counts, stores)
    rows = merge_rows(known, [store.query(operation, gpu=name, framework=framework) for store in stores])
    shown = rows.head(limit) if limit else rows
    if not hand_over_json(_document(known, shown, len(rows)), output, as_json=as_json):
        return
    if not as_csv and len(shown) > MOST_SHOWN:
        raise InputError(
            f"--limit: {len(shown):,} rows are too many for a table, which shows {MOST_SHOWN:,} at most",
            "add --csv or --json, or narrow them: --gpu, --framework",
        )
    if as_csv:
        shown.to_csv(sys.stdout, index=False)
    else:
        _print_schema(known, rows)
        _print_rows(shown, len(rows))


@app.command("import")
@flowing
def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="aiconfigurator, collect or vidur.")],
    into: Annotated[
        Path, typer.Option("--into", metavar="DIR", help="The profile store to add to; made when missing.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="PATH", help="File or folder to read (default: the format's installed package)."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="An option of the format, see below; repeatable."),
    ] = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Add other people's kernel timings to a profile store.

    FORMAT aiconfigurator reads an unpacked wheel of the PyPI package
    aiconfigurator-core 0.12.0, or the installed one. Its options narrow what is read, each
    a comma-separated list: gpu, framework, version, op. One more, date, is the ISO date
    to record.

    FORMAT collect reads the journal that `python -m profiles.collect` wrote on another machine.
    Its option gpu_facts names a gpus.yaml that describes a GPU type which the catalogue does
    not know; source, who measured.

    FORMAT vidur reads vidur's mlp.csv and all_reduce.csv, or a folder that holds them.
    They do not say on what they were measured, so the options gpu, date and measured_by
    must; further options are dtype (fp16 or bf16) and version.

    Milliseconds become microseconds, elements become bytes. Rows that are in the store
    already are replaced where the new ones time the same question. Nothing is written
    unless every table can be read and every row is valid. Then each operation's file is
    replaced whole: a killed import leaves a store that can be read, and can be run again.

    Prints a count for each operation; progress goes to stderr.

    Examples:

      plan profile import aiconfigurator --into ./measured --option gpu=H200,B200 --option op=gemm

      plan profile import collect --from ./h200 --into ./measured

      plan profile import vidur --from ./a100/mlp.csv --into ./measured --option gpu=A100
      --option date=2024-05-01 --option measured_by="microsoft/vidur"
    """
    from profiles.importers import check_options, find_importer

    importer = find_importer(format_name)
    options = _options(option or [])
    check_options(importer.name, options, importer.options)
    _check_target(into)
    check_target(output)
    with silent(quiet), tempfile.TemporaryDirectory(prefix="plan-profile-import-") as folder:
        read = _stage(importer.read(source, options), Path(folder))
        if not read:
            raise InputError(f"{importer.name}: no rows there match the options", "leave an option out")
        counts = _add(read, into, importer.name, importer.catalogue(source, options))
    if not hand_over_json({"store": str(into), "operations": counts}, output, as_json=as_json):
        return
    out = console()
    heading(out, f"store {into}")
    listing = table("operation", "rows read", "new questions", "rows in the store")
    for count in counts:
        listing.add_row(str(count["operation"]), *(f"{count[key]:,}" for key in ("read", "new", "total")))
    indented(out, listing)


def _stage(tables: Rows, folder: Path) -> dict[str, list[Path]]:
    """The importer's tables as files by operation: all are read before the store is touched."""
    staged: dict[str, list[Path]] = {}
    progress = Console(stderr=True, highlight=False, markup=False)
    for operation, rows in tables:
        files = staged.setdefault(operation, [])
        file = folder / f"{operation}-{len(files)}.parquet"
        rows.to_parquet(file, index=False)
        files.append(file)
        progress.print(f"read {operation}: {len(rows):,} rows of {', '.join(rows['gpu'].unique())}")
    return staged


def _add(staged: dict[str, list[Path]], into: Path, source: str, catalogue: Catalogue) -> list[dict[str, object]]:
    import pandas as pd

    from profiles.descriptions import keep
    from profiles.manifest import MANIFEST
    from profiles.store import ProfileStore

    if (into / MANIFEST).exists():
        store = ProfileStore(into)
    else:
        store = ProfileStore.create(
            into,
            name=into.resolve().name,
            version="1",
            attribution=f"Imported with `plan profile import {source}`; each row names its source.",
        )
    counts: list[dict[str, object]] = []
    for operation, files in staged.items():
        rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
        before = len(store.query(operation, columns=["gpu"]))
        _doubts(operation, rows)
        total = store.add(operation, rows, where=source)
        counts.append({"operation": operation, "read": len(rows), "new": total - before, "total": total})
        keep(into, rows["gpu"].unique(), catalogue)
    return counts


def _doubts(operation: str, rows: pd.DataFrame) -> None:
    """Says which rows make no sense beside each other; they are taken in all the same."""
    from profiles.plausibility import findings

    found = sorted(findings(operation, rows), key=lambda each: -each.ratio)
    out = Console(stderr=True, highlight=False, markup=False)
    for finding in found[:MOST_DOUBTS]:
        out.print(f"doubtful: {finding}")
    if len(found) > MOST_DOUBTS:
        out.print(f"doubtful: {len(found) - MOST_DOUBTS:,} more curves of {operation}, by smaller factors")


def _check_target(into: Path) -> None:
    from profiles.manifest import MANIFEST
    from profiles.store import ProfileStore

    if (into / MANIFEST).exists():
        ProfileStore(into)  # one that cannot be read is refused before an hour of reading
    elif into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise InputError(f"--into: {named(into)} is there and is no profile store", "name a store, or a new folder")


def _options(pairs: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise InputError(f"--option: {shown(pair)} is not KEY=VALUE", "write it as --option gpu=H200")
        if key.strip() in options:
            raise InputError(
                f"--option: {key.strip()} is given twice", "give it once, several values separated by commas"
            )
        options[key.strip()] = value.strip()
    return options


def _stores(profiles: list[Path] | None) -> list[ProfileStore]:
    from profiles.store import ProfileStore, shipped_pack

    return [shipped_pack(), *(ProfileStore(path) for path in profiles or ())]


def _gpu_name(gpu: str, counts: list[pd.DataFrame], stores: list[ProfileStore]) -> str:
    """The GPU's canonical name: as a store spells it, or as the hardware catalogue does."""
    from profiles.descriptions import catalogue_with

    if any((count["gpu"] == gpu).any() for count in counts):
        return gpu
    return catalogue_with(store.path for store in stores).find_gpu(gpu, "--gpu").name


def _counts(stores: list[ProfileStore], op: str | None, gpu: str | None, framework: str | None) -> list[pd.DataFrame]:
    """Each store's row counts of what was asked for.

    Raises:
        UnknownName: an operation, GPU or framework that nobody knows.
        InputError: all are known, but nobody measured them together.
    """
    from profiles.measurements import find_operation

    wanted = {"operation": op and find_operation(op).name, "gpu": gpu, "framework": framework}
    counts = [store.summary(op) for store in stores]
    if gpu is not None:
        wanted["gpu"] = _gpu_name(gpu, counts, stores)
    if framework is not None:
        names = {name for count in counts for name in count["framework"]}
        if framework not in names:
            raise UnknownName(f"--framework of {op}" if op else "--framework", framework, names)
    for column, value in wanted.items():
        if value is not None:
            counts = [count[count[column] == value] for count in counts]
    if not any(len(count) for count in counts):
        asked = ", ".join(f"{column} {value}" for column, value in wanted.items() if value is not None)
        raise InputError(f"profile: no timings of {asked or 'anything'}", "plan profile list shows what there is")
    return counts


def _identity(store: ProfileStore) -> dict[str, str]:
    manifest = store.manifest
    return {
        "path": str(store.path),
        "name": manifest.name,
        "version": manifest.version,
        "content_hash": manifest.content_hash,
        "attribution": manifest.attribution,
    }


def _document(operation: Operation, rows: pd.DataFrame, found: int) -> dict[str, object]:
    from profiles.measurements import columns_of

    return {
        "operation": operation.name,
        "meaning": operation.meaning,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "unit": column.unit or None,
                "meaning": column.meaning,
                "required": column.required,
                "levels": list(column.levels) or None,
            }
            for column in columns_of(operation)
        ],
        "rows_found": found,
        "rows": json.loads(rows.to_json(orient="records", double_precision=15)),
    }


def _print_schema(operation: Operation, rows: pd.DataFrame) -> None:
    from profiles.measurements import DTYPE_MEANINGS, columns_of

    out = console()
    heading(out, f"{operation.name}: {operation.meaning}")
    columns = table("column", "unit", "meaning", left=3)
    for column in columns_of(operation):
        columns.add_row(column.name, column.unit, column.meaning)
    indented(out, columns)
    used = {dtype for column in ("dtype", "kv_dtype") if column in rows for dtype in rows[column].unique()}
    heading(out, "Precisions of these rows")
    facts(out, [(dtype, meaning) for dtype, meaning in DTYPE_MEANINGS.items() if dtype in used])


def _print_rows(rows: pd.DataFrame, found: int) -> None:
    """The question and the answer of each row; what is equal in all rows is said once, above them."""
    known = rows.dropna(axis="columns", how="all")
    same = [name for name in known if name not in _ALWAYS and known[name].nunique(dropna=False) == 1]
    left_out = [name for name in _PROVENANCE if name in known and name not in same]
    out = console()
    heading(out, f"{len(rows):,} of {found:,} rows")
    facts(out, [(str(name), _cell(known[name].iloc[0])) for name in same])
    if left_out:
        facts(out, [(", ".join(left_out), "differ: --csv prints them")])
    columns = [name for name in known if name not in same and name not in left_out]
    texts = [name for name in columns if known[name].dtype == "str"]
    ordered = [*texts, *(name for name in columns if name not in texts)]
    listing = table(*(str(name).replace("_", "\n") for name in ordered), left=len(texts))
    for row in known[ordered].itertuples(index=False):
        listing.add_row(*(_cell(value) for value in row))
    out.print()
    indented(out, listing)


def _cell(value: object) -> str:
    import pandas as pd

    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    return f"{value:.4g}" if isinstance(value, float) and value < 1e4 else f"{value}"


app.command("collect")(collect.collect)
app.command("propose")(collect.propose)
app.command("fit")(few_shot.fit)
app.command("validate")(few_shot.validate)
