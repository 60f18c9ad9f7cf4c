"""``--engines``: engines by their shape in place of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from profiles.errors import InputError

if TYPE_CHECKING:
    from planner.contract.deployment import DeploymentDocument

Engines = Annotated[
    str | None,
    typer.Option(
        metavar="SHAPE",
        help="Several engines in place of one, or of a document, as plans label them: 2xTP4, "
        "prefill=4xTP1,decode=1xTP4, decode=1xTP1 DP16 EP16+32 low-latency two-batch.",
    ),
]


def document_of_shapes(
    text: str, asked: Mapping[str, Any], profiles: Sequence[Path] | None = None
) -> DeploymentDocument:
    """The deployment of the engines; ``asked``: model, GPU type and how each is started, by fields' names.

    Raises:
        InputError, UnknownName, Unsupported: what :func:`planner.imports.shapes.deployment_of_shapes` raises, a model
            or a GPU type that is missing, and degrees beside the shape.
    """
    from api.cli.requests import described, with_files
    from planner.contract.documents import checked
    from planner.imports.shapes import DEGREES, IN_LABELS, deployment_of_shapes
    from planner.serving.configuration import EngineAsked

    for name in ("model", "gpu"):
        if name not in asked:
            raise InputError(f"--{name} is missing", "for example: --model Qwen/Qwen3-32B --gpu H100 --engines 2xTP4")
    if twice := [name for name in DEGREES if name in asked]:
        option = "--" + twice[0].replace("_", "-")
        raise InputError(f"{option}: has no effect beside --engines", "write it into the shape: 2xTP4 PP2")
    if twice := [name for name in IN_LABELS if asked.get(name) is not None]:
        way = "write it into the shape: prefill=1xTP1 DP16 EP16,decode=1xTP1 DP16 EP16+32 low-latency two-batch"
        raise InputError(f"--{twice[0]}: has no effect beside --engines", way)
    catalogue = described(profiles)
    fields = with_files({name: asked[name] for name in EngineAsked.model_fields if name in asked}, Path(), catalogue)
    return deployment_of_shapes(text, checked(EngineAsked, fields, "request", catalogue), catalogue)
