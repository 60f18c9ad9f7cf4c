"""What a plan cannot know and an export needs: images, paths, addresses, names. One typed document for all targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, Field

from planner.contract.documents import LONGEST_TEXT, PLAIN_NUMBER, Document, checked
from planner.contract.files import mapping_of, read_text
from planner.contract.published import DRAFT
from profiles.errors import InputError, UnknownName
from profiles.markup import Malformed
from profiles.values import shown, whole
from profiles.yaml_markup import strict_yaml

VERSION = "1.0"
_NUMBERS = ("first_port",)
HINT = "give a mapping of values; `plan schema values` says which there are"


def _text(value: str) -> str:
    from planner.launchers.words import has_marks  # deferred: schemas need no launchers

    if has_marks(value) or "\0" in value:
        raise ValueError(f"{shown(value)} holds characters that no file here can hold")
    return value


def _argument(value: str) -> str:
    if value.startswith("-"):
        raise ValueError(f"{shown(value)} would be read as an option; begin with ./ where it is a path")
    return value


Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_text)]
Argument = Annotated[Text, AfterValidator(_argument)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.\[\]-]+$", max_length=253)]


class Values(Document):
    """Every target takes from it what it needs, and refuses by name what is missing."""

    name: DnsName | None = Field(default=None, max_length=30, description="what it is called; default: after the model")
    image: Text | None = Field(default=None, description="container image of the engines")
    front_image: Text | None = Field(default=None, description="image of the router; default: the engines'")
    sidecar_image: Text | None = Field(
        default=None, description="image of llm-d's routing sidecar, before decode engines"
    )
    nodes: tuple[Address, ...] = Field(
        default=(), description="addresses of the nodes, pool by pool in the cluster's order and by their numbers there"
    )
    first_port: Annotated[int, Field(ge=1024, le=60000), PLAIN_NUMBER] | None = Field(
        default=None, description="the port that clients use; engines take those after it; default: the framework's"
    )
    namespace: DnsName | None = Field(default=None, description="Kubernetes namespace; default: the current one")
    service_account: DnsName | None = Field(default=None, description="of the pods")
    hf_secret: DnsName | None = Field(default=None, description="name of the secret whose key HF_TOKEN is the token")
    storage_claim: DnsName | None = Field(default=None, description="PersistentVolumeClaim mounted at /models")
    image_pull_secret: DnsName | None = Field(default=None, description="name of the registry's secret")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels of the nodes to run on")
    node_selectors: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="labels of the nodes of each pool, where there are several"
    )
    tolerations: tuple[dict[str, str | int], ...] = Field(default=(), description="of the pods, as Kubernetes has them")
    gpu_resource: Text | None = Field(
        default=None, description="what Kubernetes calls a GPU; default: that of the GPU's vendor (nvidia.com/gpu, ...)"
    )
    gateway: DnsName | None = Field(default=None, description="Gateway that an HTTPRoute belongs to")
    gateway_namespace: DnsName | None = Field(default=None, description="of that Gateway; default: the route's")
    picker: DnsName | None = Field(default=None, description="Service of the endpoint picker of an InferencePool")
    api_version: Literal["v1beta1", "v1alpha1"] | None = Field(
        default=None, description="of Dynamo's resource; default v1beta1"
    )
    ssh_user: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=64)] | None = Field(
        default=None, description="who logs in on the nodes; default: who runs the script"
    )
    ssh_secret: DnsName | None = Field(
        default=None,
        description="secret of type kubernetes.io/ssh-auth: the key by which pods of one MPI world reach each other",
    )
    partition: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,-]+$", max_length=200)] | None = Field(
        default=None, description="Slurm partition"
    )
    partitions: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,-]+$", max_length=200)]] = Field(
        default_factory=dict, description="Slurm partition of each pool, where there are several"
    )
    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200)] | None = Field(
        default=None, description="Slurm account"
    )
    time_limit: Annotated[str, Field(pattern=r"^[0-9:-]+$", max_length=40)] | None = Field(
        default=None, description="Slurm time limit, as sbatch takes it"
    )
    checkpoint: Argument | None = Field(
        default=None,
        description="what engines load, in place of the model's name: a path where they run, or another name",
    )
    draft_model: Argument | None = Field(default=None, description="EAGLE head or draft model, where the plan drafts")
    draft_method: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=40)] | None = Field(
        default=None, description="how it drafts, in the framework's word; mtp: the model's own module, no draft_model"
    )
    module: Argument | None = Field(default=None, description="torchtitan's module of the model: llama3, deepseek_v3")
    config: Argument | None = Field(
        default=None, description="torchtitan's configuration in its registry (before 0.3: the model's flavor)"
    )
    script: Argument | None = Field(default=None, description="the training script that torchrun starts")


def missing(values: Values, needed: Iterable[str]) -> tuple[str, ...]:
    """The keys among ``needed`` that are not given."""
    return tuple(key for key in dict.fromkeys(needed) if getattr(values, key) in (None, (), {}))


def check_given(values: Values, needed: Iterable[str], target: str) -> None:
    """Refuses values that lack what a target needs, all at once.

    Raises:
        InputError: naming every missing key.
    """
    if absent := missing(values, needed):
        said = {key: Values.model_fields[key].description for key in absent}
        raise InputError(
            f"values: {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing; --to {target} needs "
            f"{'it' if len(absent) == 1 else 'them'}",
            "; ".join(f"--set {key}=…: {text}" for key, text in said.items()),
        )


def read_values(path: Path | None, settings: Iterable[str]) -> Values:
    """The values in a file, replaced by ``key=value`` settings.

    Raises:
        InputError, UnknownName: what is no mapping, no such key, or no such value.
    """
    fields: dict[str, Any] = {}
    if path is not None:
        fields = mapping_of(read_text(path, "values"), f"values {path}", HINT)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(
                f"--set: {shown(setting)} is no key=value", "for example: --set image=vllm/vllm-openai:v0.33.0"
            )
        fields[key] = _typed(key, text)
    for key in fields:
        if key not in Values.model_fields:
            raise UnknownName("values", str(key), list(Values.model_fields), "`plan schema values` describes them")
    return checked(Values, fields, "values")


def _typed(key: str, text: str) -> Any:
    if key not in Values.model_fields:
        return text
    annotation = Values.model_fields[key].annotation
    if key == "nodes":
        return [part.strip() for part in text.split(",")]
    if get_origin(annotation) in (dict, tuple):
        try:
            return strict_yaml(text)
        except Malformed as error:
            raise InputError(
                f"--set {key}: {shown(text)} is no YAML ({error})", "write it as in a values file"
            ) from error
    return number if key in _NUMBERS and (number := whole(text)) is not None else text


def values_schema() -> dict[str, Any]:
    """JSON Schema of a values document."""
    return {"$schema": DRAFT, "$id": f"urn:shardwright:values:{VERSION}", **Values.model_json_schema(mode="validation")}


def values_example() -> Mapping[str, Any]:
    return {
        "image": "registry.example.com/vllm-openai:v0.33.0",
        "nodes": ["10.0.0.1", "10.0.0.2"],
        "namespace": "serving",
        "hf_secret": "hf-token",
        "first_port": 8000,
    }
