"""``plan``: from a model, GPUs and a promise to a layout with its proof."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from api.cli import running
from api.cli.commands import (
    calibrate,
    catalogue,
    check,
    collect,
    compare,
    db,
    experts,
    export,
    few_shot,
    fleet,
    importing,
    keys,
    memory,
    plan,
    power,
    predict,
    prices,
    profile,
    schema,
    serve,
    simulate,
    train,
)

app = typer.Typer(
    name="plan",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without a command, plans. Exit codes: 2 bad input, 3 no plan satisfies it, 4 out of time.",
)
app.callback(invoke_without_command=True)(plan.plan)
app.command("models")(catalogue.models)
app.command("gpus")(catalogue.gpus)
app.command("predict")(predict.predict)
app.command("calibrate")(calibrate.calibrate)
app.command("memory")(memory.memory)
app.command("simulate")(simulate.simulate)
app.command("fleet")(fleet.fleet)
app.command("check")(check.check)
app.command("compare")(compare.compare)
app.command("import")(importing.import_)
app.command("export")(export.export)
app.command("power")(power.power)
app.command("experts")(experts.experts)
app.command("schema")(schema.schema)
app.command("serve")(serve.serve)
profile.app.command("collect")(collect.collect)
profile.app.command("propose")(collect.propose)
profile.app.command("fit")(few_shot.fit)
profile.app.command("validate")(few_shot.validate)
app.add_typer(profile.app, name="profile")
app.add_typer(train.app, name="train")
app.add_typer(keys.app, name="keys", help="Who may ask the service.")
app.add_typer(db.app, name="db", help="The service's database.")
app.add_typer(prices.app, name="prices")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script: runs ``arguments`` (default: the process's) and returns the exit code."""
    return running.run(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
