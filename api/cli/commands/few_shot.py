"""``plan profile fit`` and ``plan profile validate``: what measured rows teach the cost model, and how well."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import bullet, flowing, heading, indented, page, table
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over_json
from api.cli.progress import Reporter
from costmodels.serving.frameworks.names import framework_choices
from profiles.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from costmodels.kernels.cost_model import CostModel
    from costmodels.kernels.validation import Errors, Taught, Validated

Profiles = Annotated[
    list[Path],
    typer.Option("--profiles", metavar="DIR", help="Profile store to learn from; may be given again, the last on top."),
]
Framework = Annotated[str, typer.Option(help=f"Whose kernels are predicted: {framework_choices()}.")]
OnlyGpu = Annotated[str | None, typer.Option("--gpu", help="Only this GPU type. Default: all that DIR has.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of tables.")]


@flowing
def fit(
    profiles: Profiles,
    framework: Framework = "vllm",
    gpu: OnlyGpu = None,
    as_json: AsJson = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Learn from measured rows what the shipped pack gets wrong about these machines.

    Lays the rows over the pack, as `plan --profiles DIR` does: they answer exactly, and correct the forests
    around them. Forests are fitted (once) and kept, so that planning starts at once. Prints how the
    machine compares with what was predicted of it, and which rows are not used and why.

    Examples:

      plan profile fit --profiles ./measured

      plan profile fit --profiles ./measured --framework sglang --gpu H200
    """
    check_target(output)
    with Reporter("learning from the measured rows", quiet=quiet) as report:
        from costmodels.kernels.validation import taught
        from costmodels.training.kernel_validation import taught_of_training
        from planner.training.machines import own_kernels_of

        found = {}
        for cost in _costs(profiles, framework, gpu, report):
            of_training = taught_of_training(own_kernels_of(cost))
            names = {each.operation for each in of_training}
            found[cost.gpu.name] = [each for each in taught(cost) if each.operation not in names] + of_training
    _note_stale(quiet)
    learnt = {name: [dataclasses.asdict(each) for each in entries] for name, entries in found.items()}
    if not hand_over_json({"framework": framework, "gpus": learnt}, output, as_json=as_json):
        return
    with page() as out:
        for name, entries in found.items():
            heading(out, f"{name} under {framework}: what the rows taught")
            listing = table("operation", "precision", "rows used", "in the median", left=2)
            for each in entries:
                for part in each.learnt:
                    listing.add_row(each.operation, part.dtype, f"{part.rows:,}", _compared(part.shift))
            if listing.row_count:
                indented(out, listing)
            for line in _lines(entries):
                bullet(out, line)


def _lines(entries: list[Taught]) -> list[str]:
    lines = []
    for each in entries:
        used = sum(part.rows for part in each.learnt)
        if used > each.rows_in_correction:
            lines.append(
                f"{each.operation}: all {used:,} rows answer exactly; {each.rows_in_correction:,} of them, drawn at "
                "random, correct the forest"
            )
        lines += [
            f"{each.operation} {left.dtype}: {_rows(left.rows)} of {left.row_source} not used: {left.why}"
            for left in each.unused
        ]
        if each.unmodelled:
            lines.append(f"{each.operation}: {_rows(each.unmodelled)} not used: no kernel that the cost model predicts")
    return lines


def _compared(shift: float) -> str:
    if abs(shift) < 5e-4:
        return "as predicted"
    return f"{abs(shift):.1%} {'slower' if shift > 0 else 'faster'} than the pack said"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


@flowing
def validate(
    profiles: Profiles,
    framework: Framework = "vllm",
    gpu: OnlyGpu = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that are held out in turn.")] = 5,
    as_json: AsJson = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    """Hold out measured rows and compare what is predicted of them with what was measured.

    Whole shapes are held out at a time. Before: the shipped pack alone (of training's kernels: the
    laws that `plan train` takes them by). After: with the rest of the rows. MAPE is the mean absolute
    error, bias the median signed one; coverage is the share of rows inside the interval that claims
    80 %. With fewer than 8 rows of a precision nothing is said of it.

    Examples:

      plan profile validate --profiles ./measured

      plan profile validate --profiles ./measured --gpu H200 --folds 10 --json
    """
    check_target(output)
    with Reporter("validating against the measured rows", quiet=quiet) as report:
        from costmodels.kernels import validation
        from costmodels.training.kernel_validation import validate_training
        from planner.training.machines import own_kernels_of

        found = {}
        for cost in _costs(profiles, framework, gpu, report):
            of_training = validate_training(own_kernels_of(cost), folds)
            found[cost.gpu.name] = validation.validate(cost, folds, report) + of_training
    cards = {name: [dataclasses.asdict(each) for each in entries] for name, entries in found.items()}
    document = {"framework": framework, "folds": folds, "claimed_coverage_pct": 80.0, "gpus": cards}
    if not hand_over_json(document, output, as_json=as_json):
        return
    with page() as out:
        for name, entries in found.items():
            heading(out, f"{name} under {framework}: error on rows held out, % (pack alone → with the other rows)")
            listing = table("operation", "precision", "rows", "MAPE", "median", "bias", "coverage", left=2)
            for each in entries:
                listing.add_row(each.operation, each.dtype, f"{each.rows:,}", *_cells(each))
            indented(out, listing)
            few = [each for each in entries if each.before is None]
            if few:
                bullet(out, f"– : fewer than {validation.FEWEST_ROWS} rows, or a single shape: too few to judge by")


def _note_stale(quiet: bool) -> None:
    from costmodels.kernels.cost_model import stale_priors

    if not quiet and (said := stale_priors()) is not None:
        typer.echo(f"note: {said}", err=True)


def _cells(each: Validated) -> list[str]:
    if each.before is None or each.after is None:
        return ["–"] * 4

    def change(name: str, form: str) -> str:
        def text(errors: Errors) -> str:
            return format(getattr(errors, name), form)

        return f"{text(each.before)} → {text(each.after)}"  # type: ignore[arg-type]

    return [
        change("mape_pct", ".1f"),
        change("median_pct", ".1f"),
        change("bias_pct", "+.1f"),
        change("coverage_pct", ".0f"),
    ]


def _costs(profiles: list[Path], framework: str, gpu: str | None, report: Callable[[str], None]) -> list[CostModel]:
    """A cost model of each GPU type in the stores, or of the one that was asked for.

    Raises:
        InputError: the stores have no rows (of that GPU).
        UnknownName: unknown framework or GPU.
    """
    from costmodels.kernels.cost_model import CostModel
    from costmodels.serving.frameworks.framework import find_framework
    from profiles.descriptions import catalogue_with
    from profiles.store import ProfileStore

    framework = find_framework(framework).name
    stores = [ProfileStore(folder) for folder in profiles]
    catalogue = catalogue_with(profiles)
    names = list(dict.fromkeys(name for store in stores for name in store.summary()["gpu"]))
    where = " and ".join(str(folder) for folder in profiles)
    if not names:
        raise InputError(f"--profiles: {where} has no rows", "measure some: plan profile collect --help")
    if gpu is not None:
        wanted = catalogue.find_gpu(gpu, "--gpu").name
        if wanted not in names:
            raise InputError(f"--gpu: {where} has no rows of {wanted}", f"it has rows of {', '.join(names)}")
        names = [wanted]
    return [CostModel(catalogue.find_gpu(name), framework, None, report, stores) for name in names]
