"""The model in a request: a bundled name, or its ``config.json`` as an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PlainValidator

from planner.contract.documents import LONGEST_TEXT, Document, Name, checked
from profiles.errors import InputError
from profiles.values import shown

if TYPE_CHECKING:
    from costmodels.models.architecture import Architecture


class ModelConfig(Document):
    """A model that is not bundled."""

    name: Name = Field(description="what plans call it")
    config: dict[str, Any] = Field(description="its config.json, as on the Hugging Face Hub")
    checkpoint: Name | None = Field(
        default=None, description="what engines load: a name on the Hub or a folder on their machines; default: name"
    )


_WAY_OUT = "name one that `plan models` lists"


def _model(value: Any) -> str | ModelConfig:
    """A name, or an object: with name and config, or a ``config.json`` itself, called what it calls itself."""
    if isinstance(value, ModelConfig):
        return value
    if isinstance(value, Mapping):
        if "model_type" in value and "config" not in value:
            value = {"name": value.get("_name_or_path") or value["model_type"], "config": dict(value)}
        return checked(ModelConfig, value, "model")
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is neither a name nor an object; {_WAY_OUT}")
    if not value:
        raise ValueError(f"'' should have at least 1 character; {_WAY_OUT}")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{shown(value)} should have at most {LONGEST_TEXT} characters; {_WAY_OUT}")
    if any("\ud800" <= character <= "\udfff" for character in value):  # half a character: no text holds it
        raise ValueError(f"{shown(value)} should be a valid string; {_WAY_OUT}")
    return value


ModelInput = Annotated[str | ModelConfig, PlainValidator(_model, json_schema_input_type=Name | ModelConfig)]
"""The type of a request's field ``model``. (A plain union would name its branches in what it says of a mistake.)"""

ModelAsked = Annotated[ModelInput, Field(description="bundled name (`plan models`), or a config.json as an object")]


DraftAsked = Annotated[
    ModelInput | None, Field(description="config.json of an EAGLE or EAGLE-3 head, as an object; null: the model's own")
]


def architecture_of(model: str | ModelConfig) -> Architecture:
    """What a request's ``model`` is. No file is read: requests reach services too.

    Raises:
        UnknownName: no bundled model is called so.
        InputError, Unsupported: what :func:`costmodels.models.huggingface.parse_config` raises.
    """
    from costmodels.models.huggingface import parse_config  # deferred: numpy is not needed to read a command line
    from costmodels.models.registry import find_architecture

    if isinstance(model, str):
        return find_architecture(model, allow_paths=False)
    return parse_config(model.config, model.name)


def drafting_with(model: Architecture, draft: str | ModelConfig | None) -> Architecture:
    """``model`` with the head ``draft`` in place of its own draft module; as it is without one.

    Raises:
        InputError: ``draft`` is a name, or a head for another model.
        Unsupported: it is no head that is modelled.
    """
    from costmodels.models.drafts import draft_head

    if draft is None:
        return model
    if isinstance(draft, str):
        raise InputError(
            f"draft_model: {shown(draft)} is a name, and no draft heads are bundled",
            "give the config.json of an EAGLE or EAGLE-3 head, or its folder",
            field="draft_model",
        )
    return replace(model, draft=draft_head(draft.config, model, f"draft_model: {draft.name}"))


def read_model(text: str) -> str | ModelConfig:
    """What a user names on the command line: a bundled model, one that is written out (``gpt:…``, for training), or
    else a ``config.json`` or its folder, which is read.

    Raises:
        UnknownName: neither a bundled model nor a file.
        InputError: the file cannot be read, or is not a JSON object.
    """
    from costmodels.models.registry import read_config
    from costmodels.training.models import is_written_out

    if is_written_out(text):
        return text
    found = read_config(text)
    if found is None:
        return text
    name, config, folder = found
    return ModelConfig(name=name, config=config, checkpoint=None if folder is None else str(folder))


def read_draft(text: str) -> ModelConfig:
    """The draft head whose ``config.json``, or folder, a user names.

    Raises:
        InputError: there is no such file, it cannot be read, or it is not a JSON object.
    """
    from costmodels.models.registry import read_head

    name, config = read_head(text)
    return ModelConfig(name=name, config=config)
