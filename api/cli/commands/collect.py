"""``plan profile collect`` and ``propose``: measure this machine, and say what to measure on another."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.console import flowing
from api.cli.options import JsonOutput, Quiet
from api.cli.output import check_target, hand_over, hand_over_json, write_atomically
from api.cli.progress import silent
from profiles.collect.operations import GROUPS
from profiles.errors import DataError, InputError
from profiles.operation_tables import OPERATIONS

if TYPE_CHECKING:
    from profiles.collect.devices import Device
    from profiles.collect.journal import Header
    from profiles.collect.points import Outcome, Point
    from profiles.collect.runner import Proposer
    from profiles.collect.session import Asked
    from profiles.hardware import Catalogue, Gpu

INTERRUPTED = 130
OPS = "gemm,attention,moe,collective,memcpy,launch"
MODELLED = [group for group, names in GROUPS.items() if all(OPERATIONS[name].predicted for name in names)]
EVERY_S = 10.0  # between two lines of progress where no terminal shows a bar

Precision = Annotated[
    str, typer.Option(help="Comma-separated: bf16, fp16, fp32, fp8, fp8_block, int8.", metavar="NAMES")
]


@flowing
def collect(
    device: Annotated[str, typer.Option(help="cuda or cpu.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The profile store; made when missing, resumed when there.")],
    ops: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"Comma-separated: {', '.join(GROUPS)}."),
    ] = OPS,
    budget: Annotated[str, typer.Option(help="90s, 10m, 1h: everything included.")] = "10m",
    precision: Precision = "bf16",
    gpus: Annotated[
        int | None,
        typer.Option(help="GPUs (CPU: ranks) that collectives may use. Default: all of the type (CPU: 2)."),
    ] = None,
    gpu_index: Annotated[int | None, typer.Option(help="Which GPU, by CUDA's number.")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="The plain grid in place of the sampler's choice.")] = False,
    points: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure these, of `plan profile propose`, in order.")
    ] = None,
    power: Annotated[bool, typer.Option("--power", help="Power too, on some of the points; see below.")] = False,
    sustained: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Also what lasting load costs: a layer kept up for so long (30s); see below."
        ),
    ] = None,
    clocks: Annotated[
        str | None,
        typer.Option(metavar="MHZ", help="Also how it answers to its SM clock: 1980,1500,1100. Sets them; see below."),
    ] = None,
    target_error: Annotated[
        str, typer.Option(help="Half-width of each median's 95 % interval at which repeating ends.")
    ] = "1%",
    gpu_facts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Describes a GPU type (or CPU) that the catalogue lacks.")
    ] = None,
    describe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what is found of an unlisted type there, and end."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random operands.")] = 0,
    source: Annotated[
        str | None, typer.Option(help="Who measures, for the rows. Default: this harness on this type of device.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    output: JsonOutput = None,
    quiet: Quiet = False,
) -> None:
    r"""Measure this machine; the rows are of use to the cost model at once.

    Asks for the shapes of which the model is least sure, by expected error reduction a second
    (--grid: all shapes, in the order of their use). Every run finds its caches cold and its
    operands random; medians are repeated until they are known to --target-error or the point's
    time (2 s) is over. Clock, temperature and throttling are recorded beside each.

    Each outcome goes to DIR/journal.jsonl at once and to the store's tables every 15 s.
    Stopped in any way (Ctrl-C, kill, power cut), the store is readable and the same command
    goes on where it ended. Shapes that run out of memory, fail, or take too long are recorded
    as such, and counted in the summary.

    --power runs some of the points (a spread of durations and arithmetic intensities, a third
    of the time at most) back to back for seconds, until the temperature is steady, and reads
    the energy counter. NVIDIA's sensors see part of the time only (about 25 of every 100 ms on
    A100 and H100, arXiv:2312.02741), so a figure holds for a steady load, not for one kernel.
    CPUs answer where RAPL is readable, else not at all.

    --sustained runs the products and the attention of a layer back to back for the time given,
    until clocks have settled, and in bursts of 10 ms after rests. The ratio is what a GPU loses
    at its power limit, which rows of single kernels do not know: training lives there.

    --clocks locks the SM clock at each of these in turn (nvidia-smi, as root, on a machine of your
    own; nothing else ever changes a clock), measures products that tensor cores and memory bound,
    and unlocks it, also when the run is killed. DIR/clock_response.json then says how time and
    watts follow the clock, and `--profiles DIR` lays it under --clock and --power-cap. A GPU whose
    clocks are set already is left alone.

    A type (or CPU) that the catalogue does not know is measured first, for a few seconds: its
    peak by a product, its memory by a copy, its launch by an empty call; the rest is what the
    system and the driver report. The facts stay with the store, each with its source. To state
    them yourself, write them to a file with --describe, correct it, and give --gpu-facts.

    Needs torch: pip install 'shardwright\[collect]'. Where nothing can be installed, see
    `python -m profiles.collect --help`.

    Examples:

      plan profile collect --device cuda --ops gemm,attention --budget 10m --out ./h200

      plan profile collect --device cuda --precision bf16,fp8 --power --budget 30m --out ./h200

      plan profile collect --device cpu --gpus 2 --gpu-facts cpu.yaml --budget 60s --out ./cpu
    """
    began = time.monotonic()
    from profiles.collect.clocks import parse_clocks
    from profiles.collect.devices import find_device, import_torch
    from profiles.collect.journal import read_points
    from profiles.collect.session import Asked

    if grid and points is not None:
        raise InputError("--grid and --points are both given", "give one of them")
    asked = Asked.parse(ops, precision, budget, target_error, sustained)
    wanted = None if clocks is None else parse_clocks(clocks, device)
    listed = None if points is None else read_points(points)
    _check_out(out)
    check_target(output)
    with silent(quiet):
        found = find_device(device, index=gpu_index, gpus=gpus)
        typed = _type_of(found, out, gpu_facts, describe)
        if typed is None:
            return
        found, gpu, catalogue = typed
        order = "points" if listed is not None else "grid" if grid else "active"
        header = asked.header(found, gpu.name, source, order=order, seed=seed)
        import_torch().manual_seed(seed)
        if wanted is not None:
            _clocked(asked, found, gpu, out, wanted, header)
        _run(asked, found, gpu, catalogue, out, listed, began, header, power=power, as_json=as_json, output=output)


def _clocked(asked: Asked, device: Device, gpu: Gpu, out: Path, clocks: tuple[int, ...], header: Header) -> None:
    """Measures how the device answers to its clock, before all else."""
    from profiles.collect.clocked import check, measure_response
    from profiles.collect.rows import open_store

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    check(device, gpu, clocks, asked.budget_s)
    open_store(out)
    path = measure_response(device, gpu, clocks, asked.settings, out, header.source, header.date, say)
    say(f"{path}: how {gpu.name} answers to its clock")


def _check_out(out: Path) -> None:
    """Refuses, before a minute is spent, a folder that holds something else or a newer version's store."""
    from profiles.collect.journal import FILE
    from profiles.manifest import MANIFEST
    from profiles.store import ProfileStore

    if (out / MANIFEST).exists():
        ProfileStore(out)
    elif out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FILE).exists())):
        raise InputError(f"--out: {out} is there and is no profile store", "name a store, or a new folder")


def _type_of(
    device: Device, out: Path, gpu_facts: Path | None, describe: Path | None
) -> tuple[Device, Gpu, Catalogue] | None:
    """The device's type in the catalogue, in the store, in the file that the user gives, or as it is found to be, with
    all that these know; None where its facts were asked for alone, and written.

    Raises:
        InputError: the file describes another type, --describe names a type that is known, or nothing can be timed.
    """
    from profiles import descriptions
    from profiles.collect.detection import detect

    catalogue = descriptions.catalogue_with([out])
    if gpu_facts is not None:
        catalogue = descriptions.catalogue_with_file(gpu_facts, catalogue)
    gpu = descriptions.match(device.describe(), catalogue)
    if gpu is not None:
        if describe is not None:
            raise InputError(f"--describe: {device.name} is {gpu.name}, which is known", "leave it out")
        return device, gpu, catalogue
    if gpu_facts is not None:
        raise InputError(
            f"--gpu-facts: {gpu_facts} does not describe {device.name!r}", "add that name to the aliases of its type"
        )
    print(f"{device.name} is not in the catalogue: measuring what it is", file=sys.stderr, flush=True)
    device = dataclasses.replace(device, measured=detect(device, dt.date.today().isoformat()))
    if describe is not None:
        write_atomically(describe, descriptions.measured_document(device.describe()), "--describe")
        print(f"{describe}: correct it where a data sheet knows better, then --gpu-facts {describe}", file=sys.stderr)
        return None
    gpu, node = descriptions.measured_type(device.describe(), f"--device {device.kind}")
    for line in descriptions.in_words(gpu):
        print(line, file=sys.stderr, flush=True)
    return device, gpu, catalogue.describing(gpu, node, f"--device {device.kind}")


def _run(
    asked: Asked,
    device: Device,
    gpu: Gpu,
    catalogue: Catalogue,
    out: Path,
    listed: list[Point] | None,
    began: float,
    header: Header,
    *,
    power: bool,
    as_json: bool,
    output: Path | None,
) -> None:
    from api.cli.views.collect_summary import document, show
    from profiles import descriptions
    from profiles.collect.journal import Journal
    from profiles.collect.power import PowerMeter, PowerPlan
    from profiles.collect.rows import folder_of, open_store
    from profiles.collect.runner import Runner
    from profiles.collect.session import measurable

    benchmarks = asked.benchmarks()
    with Journal(out) as journal, _progress(began, asked.budget_s) as (say, on_outcome):
        store = open_store(out)
        descriptions.keep(out, [gpu.name], catalogue)
        fold = folder_of(journal, store, catalogue)
        fold()  # of a run that was killed
        candidates: Mapping[str, Sequence[Point]] = {}
        refused: list[Outcome] = []
        if listed is None:
            candidates, refused = measurable(device, benchmarks, asked.precisions)
        grid = header.settings["order"] == "grid"
        proposer = _proposer(gpu, asked, candidates, listed, grid, say)
        journal.begin(header)
        for outcome in refused:
            journal.add(outcome)
        meter = PowerMeter(device) if power else None
        plan = None if meter is None else PowerPlan(meter)
        ends = began + asked.budget_s
        runner = Runner(device, benchmarks, journal, asked.settings, ends, power=plan, on_outcome=on_outcome, fold=fold)
        report = runner.run(proposer)
        report.outcomes[:0] = refused
    summary = document(report, device, gpu, store, header, meter)
    if hand_over_json(summary, output, as_json=as_json):
        show(summary)
    if report.ended == "device_lost":
        raise DataError(
            f"--device {device.kind}: {device.name} stopped answering ({report.reason})",
            "everything measured is kept: run again to go on; leave the last operation out if it happens again",
        )
    if report.ended == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _proposer(
    gpu: Gpu,
    asked: Asked,
    candidates: Mapping[str, Sequence[Point]],
    listed: list[Point] | None,
    grid: bool,
    say: Callable[[str], None],
) -> Proposer:
    from profiles.collect.runner import Grids, InOrder

    if listed is not None:
        return InOrder(listed)
    if grid:
        return Grids(candidates)
    from api.cli.commands.proposing import Active
    from costmodels.kernels.cost_model import CostModel
    from costmodels.sampling.sampler import modelled

    if not any(modelled(point) for points in candidates.values() for point in points):
        return Grids(candidates)
    return Active(CostModel(gpu, progress=say), candidates, asked.settings)


@contextmanager
def _progress(began: float, budget_s: float) -> Iterator[tuple[Callable[[str], None], Callable[[Outcome], None]]]:
    """(says a line, is told of outcomes): a bar over the budget on a terminal, else a line now and then."""
    count = 0
    if not sys.stderr.isatty():
        spoke = time.monotonic()

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        def tell(outcome: Outcome) -> None:
            nonlocal count, spoke
            count += 1
            if time.monotonic() - spoke >= EVERY_S:
                spoke = time.monotonic()
                say(f"{count} points, {max(began + budget_s - spoke, 0):.0f} s left; last: {_line(outcome)}")

        yield say, tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True, markup=False, highlight=False),
        transient=True,
    )
    with bar:
        task = bar.add_task("preparing", total=budget_s)

        def describe(text: str) -> None:
            bar.update(task, completed=min(time.monotonic() - began, budget_s), description=text)

        def count_up(outcome: Outcome) -> None:
            nonlocal count
            count += 1
            describe(f"{count} points; {_line(outcome)}")

        yield describe, count_up


def _line(outcome: Outcome) -> str:
    point, timing = outcome.point, outcome.timing
    shape = " ".join(str(value) for value in point.shape.values())
    what = outcome.status if timing is None else f"{timing.median_us:,.1f} µs ± {timing.relative_error:.1%}"
    return f"{point.operation} {point.dtype} {shape}: {what}"


@flowing
def propose(
    gpu: Annotated[str, typer.Option(help="GPU type to measure: H200, B200, ...")],
    ops: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Comma-separated: {', '.join(MODELLED)}.")
    ] = "gemm,attention,moe",
    count: Annotated[int, typer.Option(min=1, help="Points.")] = 400,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: print them.")] = None,
    precision: Precision = "bf16",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that collectives may use.")] = 8,
    profiles: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A store that describes the type, or has rows of it already."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them, beside the file of --output too.")] = False,
    quiet: Quiet = False,
) -> None:
    """The points worth measuring on a machine that is not here, best first.

    Chosen as `plan profile collect` chooses them, by how much each is expected to lower the
    model's error a second. Carry the file and the folder `profiles` of this package to the
    machine: it needs nothing but Python and torch.

    Examples:

      plan profile propose --gpu H200 --ops gemm,attention,moe --count 400 -o points.jsonl

      python -m profiles.collect --device cuda --points points.jsonl --budget 8m --out h200   (there)

      plan profile import collect --from h200 --into ./measured   (here)
    """
    from api.cli.progress import Reporter
    from profiles.collect.journal import write_points
    from profiles.collect.session import DEFAULT_ERROR, Asked

    check_target(output)
    asked = Asked.parse(ops, precision, "1h", DEFAULT_ERROR)
    from profiles.descriptions import catalogue_with

    known = catalogue_with([] if profiles is None else [profiles]).find_gpu(gpu, "--gpu")
    with Reporter(f"choosing points for {known.name}", quiet=quiet) as report:
        from api.cli.commands.proposing import candidates_elsewhere
        from api.cli.commands.proposing import propose as best
        from costmodels.kernels.cost_model import CostModel
        from profiles.store import ProfileStore

        points = candidates_elsewhere(known, gpus, asked)
        measured = [] if profiles is None else [ProfileStore(profiles)]
        chosen = best(CostModel(known, progress=report, measured=measured), points, asked.settings, count)
    text = write_points(chosen)
    hand_over(text, output, as_json=as_json or output is None)
    if output is not None and not quiet:
        fewer = f" (all that there are; {count:,} were asked for)" if len(chosen) < count else ""
        print(f"{len(chosen):,} points{fewer} in {output}", file=sys.stderr)
