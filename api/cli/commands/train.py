"""``plan train``: which layout trains a model fastest. What named layouts take and hold stands in
:mod:`api.cli.commands.train_layouts`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.commands import train_layouts
from api.cli.console import flowing
from api.cli.options import SHOWN, AsJson, Output, Profiles, Quiet, Request, refuse_before_command, takes
from api.cli.output import check_target, hand_over
from api.cli.requests import gathered, measured_stores
from planner.training.request import TrainingRequest

EXAMPLE = "plan train --model meta-llama/Llama-3.1-70B --cluster 8x8xH100 --global-batch 128 --seq-len 8192"

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
app.command("predict")(train_layouts.predict)
app.command("memory")(train_layouts.memory)


@app.callback(invoke_without_command=True)
@takes(TrainingRequest)
@flowing
def train(
    context: typer.Context,
    asked: dict[str, Any],
    profiles: Profiles = None,
    request: Request = None,
    as_json: AsJson = False,
    output: Output = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Also show where time goes, what was rejected and how to start it.", rich_help_panel=SHOWN
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Decides how a model is laid out to be trained: tensor, pipeline, data, context and expert parallelism, sharding,
    micro-batch, schedule, layers of every stage and recomputation.

    Examples:

      plan train --model meta-llama/Llama-3.1-70B --cluster 8x8xH100 --global-batch 128 --seq-len 8192

      plan train --model gpt:hidden=12288,layers=96,heads=96,vocab=51200 --cluster 128x8xA100-SXM-80GB
      --global-batch 1536 --seq-len 2048
    """
    if context.invoked_subcommand is not None:
        refuse_before_command(context)
        return
    from planner.training.request import model_of, parse_training_request

    measured, catalogue = measured_stores(profiles)
    needed = ("model", "cluster", "global_batch", "seq_len")
    fields, _ = gathered(asked, request, "training-request", catalogue, needed=needed, example=EXAMPLE)
    understood = parse_training_request(fields, catalogue)
    check_target(output)
    model = model_of(understood.model)  # a misspelt name is refused before the slow imports
    from api.cli.progress import Reporter

    with Reporter(f"planning the training of {model.name}", quiet=quiet) as report:
        from planner.training.planning import plan_training

        made = plan_training(understood, measured=measured, progress=report)
    if hand_over(made.to_json(), output, as_json=as_json):
        from api.cli.views import train_plan as view

        view.show(made, explain=explain)
