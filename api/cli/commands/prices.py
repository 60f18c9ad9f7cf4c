"""``plan prices``: offers of a user's own, from the catalogues of clouds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from api.cli.console import as_json_text, page, table, write_text
from api.cli.options import Quiet
from api.cli.output import check_target, write_atomically
from profiles.errors import InputError

app = typer.Typer(
    name="prices", help="Prices of your own, for --prices.", context_settings={"help_option_names": ["-h", "--help"]}
)


@app.callback()
def prices() -> None:
    """Prices of your own, for --prices."""


@app.command("import")
def import_(
    catalogue_file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV with the columns of SkyPilot's catalogues.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the offers there.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who offers them. Default: the file's name.", show_default=False)
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this region alone.", show_default=False)
    ] = None,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Of the prices: 2026-11-26. Default: the file's.", show_default=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Who says so. Default: the file's name.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was read as JSON.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Reads a catalogue of cloud offers into dated, sourced offers, used by --prices and `offers:` in cluster and fleet
    files.

    The columns are those of SkyPilot's public catalogues: InstanceType, AcceleratorName, AcceleratorCount, Price,
    Region, SpotPrice. Prices are of whole instances, and become prices of a GPU-hour.

    Examples:

      plan prices import vms.csv -o offers.yaml --provider Nebius
    """
    from profiles.offers import read_catalogue, written_offers

    if output is None:
        raise InputError("--output is missing", "name the file to write: -o offers.yaml")
    check_target(output)
    found = read_catalogue(
        catalogue_file,
        provider=provider or catalogue_file.stem,
        date=_date(date, catalogue_file),
        source=source or catalogue_file.name,
        region=region,
    )
    write_atomically(output, written_offers(found.offers))
    if as_json:
        write_text(as_json_text(found.model_dump(mode="json")))
        return
    rows = table("GPU", "offers", "on demand from", "spot from")
    for gpu in dict.fromkeys(offer.gpu for offer in found.offers):
        mine = [offer for offer in found.offers if offer.gpu == gpu]
        demand = min((o.usd_per_gpu_hour for o in mine if o.usd_per_gpu_hour is not None), default=None)
        spot = min((o.spot_usd_per_gpu_hour for o in mine if o.spot_usd_per_gpu_hour is not None), default=None)
        rows.add_row(
            gpu,
            str(len(mine)),
            "" if demand is None else f"${demand:,.2f}",
            "" if spot is None else f"${spot:,.2f}",
        )
    with page() as out:
        out.print(rows)
        out.print(f"{len(found.offers)} offers written to {output}; use them with --prices {output}")
        if found.skipped:
            out.print(f"left out, as no or several GPU types are called so: {', '.join(found.skipped)}")


def _date(text: str | None, path: Path) -> dt.date:
    if text is None:
        try:
            return dt.date.fromtimestamp(path.stat().st_mtime)
        except OSError:
            return dt.date.today()  # the reader says what is wrong with the file
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"--date: {text!r} is not a date", "write for example 2026-11-26") from error
