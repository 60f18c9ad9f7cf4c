"""Manifests → the commands that they run: Kubernetes, LeaderWorkerSet, DisaggregatedSet, Dynamo, KServe, compose,
SkyPilot, Ray Serve and values of charts, each known by what it says it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from planner.contract.engine import Role
from planner.imports import charts
from planner.imports.containers import PlacedStart, PodAround, count_of, gpu_called, in_pod, items, mapping, starts_in
from planner.imports.programs import Start, starts_of
from planner.imports.shell import Word
from profiles.errors import InputError
from profiles.hardware import Catalogue
from profiles.markup import Malformed
from profiles.values import shown
from profiles.yaml_markup import strict_yaml

MOST_DOCUMENTS = 500

_SEPARATOR = re.compile(r"^---(?:[ \t].*)?$", re.MULTILINE)
_ROLES: dict[str, Role] = {"prefill": "prefill", "decode": "decode"}
_PLACED = "/mnt/models"
_LWS = {"LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "leader"}

Read = Callable[[Mapping[str, Any], Catalogue], Iterator[PlacedStart]]


def placed_in(text: str, where: str, catalogue: Catalogue) -> tuple[list[PlacedStart], list[str], dict[str, str]]:
    """(what the documents of a YAML text start, what they are in words, files of its ConfigMaps).

    Raises:
        InputError: not YAML; a document of no kind that is known, and nothing else in it.
    """
    found: list[PlacedStart] = []
    kinds: list[str] = []
    unknown: list[str] = []
    known = 0
    for document in documents(text, where):
        kind = kind_of(document)
        if document.get("kind") == "ConfigMap":
            continue
        if kind is None:
            unknown.append(shown(str(document.get("kind") or next(iter(document), ""))))
        else:
            known += 1
            started = list(READERS[kind](document, catalogue))
            found += started
            kinds += [kind] if started else []
    if unknown and not known:
        raise InputError(
            f"{where}: {', '.join(dict.fromkeys(unknown))} is no manifest that is known",
            _CHART if all(map(_is_chart, documents(text, where))) else f"known are {', '.join(READERS)}",
        )
    return found, list(dict.fromkeys(kinds)), config_maps(text, where)


_STACK, _MODELSERVICE = "values of vLLM's production stack", "values of llm-d's modelservice"
_CHARTS = {_STACK: charts.is_stack, _MODELSERVICE: charts.is_modelservice}
_CHART = "values of another Helm chart say only with it what runs: `helm template CHART -f FILE | plan import -`"


def _is_chart(document: Mapping[str, Any]) -> bool:
    """Whether a mapping is rather the values of a chart than an object."""
    return not {"kind", "apiVersion"} & {*document}


def config_maps(text: str, where: str) -> dict[str, str]:
    """The files that the ConfigMaps of a YAML text hold, as MAP/FILE. Raises as :func:`documents`."""
    maps = [each for each in documents(text, where) if each.get("kind") == "ConfigMap"]
    named = [(mapping(each.get("metadata")).get("name"), mapping(each.get("data"))) for each in maps]
    return {f"{name}/{file}": text for name, data in named for file, text in data.items() if isinstance(text, str)}


def documents(text: str, where: str) -> Iterator[dict[str, Any]]:
    """The mappings of a YAML text, those in lists of Kubernetes (``kind: List``) one by one.

    Raises:
        InputError: not YAML, or too many documents.
    """
    parts = [part for part in _SEPARATOR.split(text) if part.strip()]
    if len(parts) > MOST_DOCUMENTS:
        raise InputError(f"{where}: has more than {MOST_DOCUMENTS} documents", "give those that start the engines")
    for part in parts:
        try:
            document = strict_yaml(part)
        except Malformed as error:
            line = f" at line {error.line}" if error.line else ""
            raise InputError(
                f"{where}: not valid YAML{line} ({error})", "give the manifest, or the command alone"
            ) from error
        if isinstance(document, dict) and document.get("kind") == "List":
            yield from items(document.get("items"))
        elif isinstance(document, dict):
            yield document


def kind_of(document: Mapping[str, Any]) -> str | None:
    """Which of :data:`READERS` reads a document; None: none does."""
    kind, api = document.get("kind"), str(document.get("apiVersion") or "")
    if isinstance(kind, str) and kind in READERS:
        return kind
    if isinstance(kind, str) and api:
        return None
    if isinstance(document.get("services"), dict):
        return "compose"
    if isinstance(document.get("run"), str):
        return "SkyPilot"
    if isinstance(document.get("applications"), list):
        return "Ray Serve"
    return next((name for name, known in _CHARTS.items() if known(document)), None)


def _labels(template: Mapping[str, Any]) -> dict[str, str]:
    labels = mapping(mapping(template.get("metadata")).get("labels"))
    return {str(name): str(value) for name, value in labels.items()}


def _name(document: Mapping[str, Any]) -> str:
    """Of an engine that this program exported, its own; else the object's."""
    component = _labels(document).get("app.kubernetes.io/component")
    return component or str(mapping(document.get("metadata")).get("name") or document.get("kind") or "manifest")


# ------------------------------------------------------------------ Kubernetes


def _workload(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    """A Deployment, StatefulSet, ReplicaSet or Job."""
    spec = mapping(document.get("spec"))
    template = mapping(spec.get("template"))
    name = _name(document)
    replicas = count_of(spec.get("replicas", spec.get("parallelism")), f"{name}: replicas")
    around = PodAround(name, replicas, labels={**_labels(document), **_labels(template)})
    yield from in_pod(mapping(template.get("spec")), around, catalogue)


def _pod(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    yield from in_pod(mapping(document.get("spec")), PodAround(_name(document), labels=_labels(document)), catalogue)


def _leader_worker_set(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    yield from _groups(mapping(document.get("spec")), _name(document), None, catalogue, _labels(document))


def _groups(
    spec: Mapping[str, Any], name: str, role: Role | None, catalogue: Catalogue, labels: Mapping[str, str]
) -> Iterator[PlacedStart]:
    """The leaders of a LeaderWorkerSet: their workers run parts of the same engines."""
    template = mapping(spec.get("leaderWorkerTemplate"))
    size = count_of(template.get("size"), f"{name}: size")
    leader = mapping(template.get("leaderTemplate")) or mapping(template.get("workerTemplate"))
    around = PodAround(
        name,
        count_of(spec.get("replicas"), f"{name}: replicas"),
        max(size, 1),
        {**labels, **_labels(leader)},
        role,
        environment={**_LWS, "LWS_GROUP_SIZE": str(size)},
    )
    yield from in_pod(mapping(leader.get("spec")), around, catalogue)


def _disaggregated_set(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    for each in items(mapping(document.get("spec")).get("roles")):
        role = str(each.get("name") or "")
        name = f"{_name(document)}-{role}"
        yield from _groups(mapping(each.get("spec")), name, _ROLES.get(role), catalogue, _labels(each))


# ------------------------------------------------------------------ Dynamo


def _dynamo(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    """DynamoGraphDeployment: ``spec.components`` (v1beta1) or ``spec.services`` (v1alpha1)."""
    spec = mapping(document.get("spec"))
    services = mapping(spec.get("services"))
    parts = items(spec.get("components")) or [{"name": name, **mapping(each)} for name, each in services.items()]
    for part in parts:
        name = str(part.get("name") or "component")
        said = [str(part.get(key) or "") for key in ("type", "subComponentType", "name")]
        role = next((_ROLES[word] for word in said if word in _ROLES), None)
        pods = count_of(mapping(part.get("multinode")).get("nodeCount"), f"{name}: nodeCount")
        pod = mapping(mapping(part.get("podTemplate")).get("spec")) or _extra_pod(part)
        labels = {**_labels(document), **_labels(mapping(part.get("podTemplate")))}
        labels.pop("app.kubernetes.io/component", None)
        replicas = count_of(part.get("replicas"), f"{name}: replicas")
        yield from in_pod(pod, PodAround(name, replicas, max(pods, 1), labels, role), catalogue)


def _extra_pod(part: Mapping[str, Any]) -> dict[str, Any]:
    """The pod of a service of v1alpha1."""
    extra = mapping(part.get("extraPodSpec"))
    main = dict(mapping(extra.get("mainContainer")))
    resources = mapping(part.get("resources"))
    main.setdefault("resources", resources)
    main["env"] = [*(main.get("env") or []), *(part.get("envs") or [])]
    return {**extra, "containers": [main]}


# ------------------------------------------------------------------ KServe


def _llm_inference_service(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    spec = mapping(document.get("spec"))
    uri = str(mapping(spec.get("model")).get("uri") or "")
    model = uri.removeprefix("hf://")
    whole: list[tuple[Role | None, Mapping[str, Any]]] = [(None, spec)]
    if mapping(spec.get("prefill")):
        whole = [("decode", spec), ("prefill", mapping(spec.get("prefill")))]
    for role, part in whole:
        pod = mapping(part.get("template")) or mapping(part.get("worker"))
        degrees = mapping(part.get("parallelism"))
        name = f"{_name(document)}{'-' + role if role else ''}"
        local = count_of(degrees.get("dataLocal"), f"{name}: dataLocal")
        data = count_of(degrees.get("data"), f"{name}: data")
        pods = max(-(-data // max(local, 1)), 1) if degrees.get("dataLocal") else 1
        if mapping(part.get("worker")) and not (degrees.get("data") or degrees.get("dataLocal")):
            pods = count_of(degrees.get("pipeline"), f"{name}: pipeline")
        around = PodAround(
            name,
            count_of(part.get("replicas"), f"{name}: replicas"),
            pods,
            {**_labels(document), **{str(k): str(v) for k, v in mapping(part.get("labels")).items()}},
            role,
            ("vllm", "serve", model or _PLACED),
            _LWS,
        )
        if not items(pod.get("containers")):
            pod = {**pod, "containers": [{"name": "main"}]}
        for placed in in_pod(pod, around, catalogue):
            start = _with_degrees(placed.start, degrees, name)
            if uri.startswith("hf://"):  # its weights lie there before the engine starts
                named = [Word(model) if word.text == _PLACED else word for word in start.arguments]
                start = replace(start, arguments=tuple(named))
            yield replace(placed, start=start)


def _with_degrees(start: Start, degrees: Mapping[str, Any], name: str) -> Start:
    """The degrees of ``parallelism``, which KServe writes into the command of its own templates: vLLM's.

    Raises:
        InputError: the command says one of them, too, and another.
    """
    if start.framework != "vllm":
        return start
    words = [word.text for word in start.arguments]
    said = {word.replace("_", "-"): value for word, value in zip(words, [*words[1:], ""], strict=True)}
    said |= {word.partition("=")[0].replace("_", "-"): word.partition("=")[2] for word in words if "=" in word}
    flags = {
        "tensor": "--tensor-parallel-size",
        "pipeline": "--pipeline-parallel-size",
        "data": "--data-parallel-size",
    }
    more: list[Word] = []
    for key, flag in flags.items():
        value = count_of(degrees.get(key), f"{name}: parallelism.{key}")
        if degrees.get(key) is not None and value > 1:
            if said.get(flag) == str(value):
                continue
            if flag in said:
                raise InputError(
                    f"{name}: parallelism.{key} is given, and the arguments say {flag}",
                    "say it once: KServe may drop one of them",
                )
            more += [Word(flag), Word(str(value))]
    if degrees.get("expert") is True and "--enable-expert-parallel" not in said:
        more.append(Word("--enable-expert-parallel"))
    return replace(start, arguments=(*start.arguments, *more))


def _inference_service(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    """A predictor with containers of its own, or of KServe's Hugging Face runtime, which starts vLLM."""
    predictor = mapping(mapping(document.get("spec")).get("predictor"))
    around = PodAround(
        _name(document),
        count_of(predictor.get("minReplicas"), "minReplicas") or 1,
        labels=_labels(document),
        program=("vllm", "serve"),
    )
    if items(predictor.get("containers")):
        yield from in_pod(predictor, replace(around, program=()), catalogue)
        return
    runtime = dict(mapping(predictor.get("model")))
    if mapping(runtime.get("modelFormat")).get("name") not in ("huggingface", "vllm"):
        return
    words = [str(word) for word in runtime.get("args") or []]
    model = next((word.partition("=")[2] for word in words if word.startswith("--model_id=")), None)
    model = model or str(runtime.get("storageUri") or "").removeprefix("hf://")
    dropped = ("--model_id", "--model_name", "--backend", "--task")
    kept = [word for word in words if not word.startswith(dropped)]
    runtime["args"] = [model, *kept] if model else kept
    yield from in_pod({**predictor, "containers": [runtime]}, around, catalogue)


# ------------------------------------------------------------------ others


def _compose(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    for name, service in mapping(document.get("services")).items():
        each = mapping(service)
        container = {
            "image": each.get("image"),
            "command": each.get("entrypoint"),
            "args": each.get("command"),
            "env": each.get("environment"),
        }
        deploy = mapping(each.get("deploy"))
        replicas = count_of(deploy.get("replicas", each.get("scale")), f"{name}: replicas")
        gpus = _devices(mapping(mapping(deploy.get("resources")).get("reservations")).get("devices"))
        for start in starts_in(container, PodAround(str(name))):
            yield PlacedStart(
                start, str(name), replicas, gpus=gpus if start.gpus is None else start.gpus, role=start.role
            )


def _devices(given: Any) -> int | None:
    """GPUs that a service reserves; None: all of the machine, or nothing is said."""
    for each in items(given):
        if isinstance(each.get("device_ids"), list):
            return len(each["device_ids"])
        if isinstance(each.get("count"), int) and not isinstance(each.get("count"), bool):
            return int(each["count"])
    return None


def _skypilot(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    resources = mapping(document.get("resources"))
    said = resources.get("accelerators")
    if isinstance(said, dict) and len(said) == 1:
        said = ":".join(str(part) for part in next(iter(said.items())))
    found = re.fullmatch(r"([\w.-]+)(?::([0-9]{1,9}))?", said) if isinstance(said, str) else None
    gpu = None if found is None else gpu_called(found[1], catalogue)
    variables = {str(name): str(value) for name, value in mapping(document.get("envs")).items() if value is not None}
    starts, _ = starts_of(str(document.get("run")), variables)
    replicas = count_of(mapping(document.get("service")).get("replicas"), "service.replicas")
    nodes = count_of(document.get("num_nodes"), "num_nodes")
    gpus = int(found[2] or 1) if found is not None else None
    name = str(document.get("name") or "task")
    for start in starts:
        yield PlacedStart(start, name, max(replicas, 1), max(nodes, 1), gpus, gpu, start.role)


def _ray_serve(document: Mapping[str, Any], catalogue: Catalogue) -> Iterator[PlacedStart]:
    for application in items(document.get("applications")):
        for role, config in _llm_configs(mapping(application.get("args"))):
            loading = mapping(config.get("model_loading_config"))
            model = str(loading.get("model_source") or loading.get("model_id") or "")
            words = [Word(model)] if model else []
            for name, value in mapping(config.get("engine_kwargs")).items():
                if value is False or value is None:
                    continue
                words.append(Word(f"--{str(name).replace('_', '-')}"))
                if value is not True:
                    words.append(Word(value if isinstance(value, str) else json.dumps(value)))
            deploy = mapping(config.get("deployment_config"))
            scaling = mapping(deploy.get("autoscaling_config"))
            replicas = count_of(deploy.get("num_replicas", scaling.get("min_replicas")), "num_replicas")
            gpu = gpu_called(str(config.get("accelerator_type") or ""), catalogue)
            name = str(loading.get("model_id") or application.get("name") or "llm")
            start = Start("vllm", ("vllm", "serve"), tuple(words), {}, 0)
            yield PlacedStart(start, name, max(replicas, 1), gpu=gpu, role=role)


def _llm_configs(arguments: Mapping[str, Any]) -> Iterator[tuple[Role | None, dict[str, Any]]]:
    """(role, configuration) of each model of an application."""
    for config in (*items(arguments.get("llm_configs")), *items([arguments.get("llm_config")])):
        yield None, config
    for role in _ROLES:
        yield from ((_ROLES[role], config) for config in items([arguments.get(f"{role}_config")]))


READERS: dict[str, Read] = {
    "Deployment": _workload,
    "StatefulSet": _workload,
    "ReplicaSet": _workload,
    "Job": _workload,
    "Pod": _pod,
    "LeaderWorkerSet": _leader_worker_set,
    "DisaggregatedSet": _disaggregated_set,
    "DynamoGraphDeployment": _dynamo,
    "LLMInferenceService": _llm_inference_service,
    "InferenceService": _inference_service,
    "compose": _compose,
    "SkyPilot": _skypilot,
    "Ray Serve": _ray_serve,
    _STACK: charts.stack,
    _MODELSERVICE: charts.modelservice,
}
