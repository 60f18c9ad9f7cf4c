"""What is asked of ``plan import``: text that starts engines, and what it cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from planner.contract.clusters import GpusPerNode
from planner.contract.documents import Document, Name, checked
from planner.contract.engine import FrameworkName, Role
from planner.contract.models import ModelInput
from planner.contract.options import RELEASE_HELP, Option
from profiles.hardware import SHIPPED, Catalogue

LONGEST_FILE = 4_000_000
MOST_FILES = 2000

Text = Annotated[str, Field(max_length=LONGEST_FILE)]

_TOLD = "What it cannot say"


class RunningText(Document):
    """A command, a script or manifests, and what is not said there."""

    text: Text = Field(default="", description="a command, a shell script, or YAML; empty where files say all")
    form: Literal["auto", "command", "script", "manifest"] = Field(
        default="auto", description="what the text is: recognised by what it is, unless said"
    )
    files: dict[Name, Text] = Field(
        default={}, max_length=MOST_FILES, description="file name → text: what the text reads, or a whole folder"
    )
    framework: Annotated[
        FrameworkName | None,
        Field(description="its release where the text does not say it; default: the newest"),
        Option(f"Release that runs, where nothing says it: {RELEASE_HELP} Default: the newest.", _TOLD),
    ] = None
    gpu: Annotated[
        Name | None,
        Field(description="GPU type, where the text does not say it"),
        Option("GPU type (`plan gpus`), where the text does not say it.", _TOLD),
    ] = None
    model: Annotated[
        ModelInput | None,
        Field(description="model that a path stands for: bundled name, or a config.json as an object"),
        Option("Model that a path stands for: a name (`plan models`), or the path of a config.json.", _TOLD),
    ] = None
    role: Annotated[
        Role | None,
        Field(description="of an engine that hands caches over, where the text does not say it"),
        Option("prefill, decode or aggregated, of an engine that can be any.", _TOLD),
    ] = None
    gpus_per_node: Annotated[
        GpusPerNode | None,
        Field(description="default: as the GPU's usual node has"),
        Option("GPUs of a node. Default: as the GPU's usual node has.", _TOLD, metavar="N"),
    ] = None
    variables: dict[Name, Text] = Field(
        default={}, max_length=MOST_FILES, description="shell variables that the text does not set"
    )

    @model_validator(mode="after")
    def _says_something(self) -> RunningText:
        if not self.text.strip() and not self.files and getattr(self, "plan", None) is None:
            raise ValueError("text: is empty; give a command, a script, YAML, or the files of a folder")
        return self


class ImportRequest(RunningText):
    """Everything a deployment depends on, beside the program's version."""


def parse_import_request(value: Mapping[str, Any], catalogue: Catalogue = SHIPPED) -> ImportRequest:
    """A request from a mapping. Raises InputError with the first field that is wrong."""
    return checked(ImportRequest, value, "request", catalogue, schema="deployment-request")
