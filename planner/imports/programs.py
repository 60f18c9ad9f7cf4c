"""Commands → those that start an engine: the program, its arguments, and what stands around them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from planner.contract.engine import Role
from planner.imports.options import all_meanings, meanings
from planner.imports.shell import Command, Word, commands
from planner.launchers.vendors import vendors
from profiles.errors import InputError

DEEPEST = 4
"""Levels of ``bash -c`` in ``bash -c``."""

_TAG = re.compile(r"v?([0-9]+(?:\.[0-9]+){1,3}(?:(?:rc|a|b)[0-9]+)?(?:\.post[0-9]+)?)(?:[-+].*)?")
_OF_DYNAMO = ("--disaggregation-mode", "--is-prefill-worker", "--is-decode-worker", "--connector")
_ROLES: dict[str, Role] = {"prefill": "prefill", "decode": "decode"}
_SHELLS = ("bash", "sh", "zsh", "dash", "/bin/bash", "/bin/sh", "/usr/bin/bash")


@dataclass(frozen=True)
class KnownImages:
    """Images that have a framework.

    Attributes:
        pattern: of their names: (repository, tag).
        framework: of those whose tag is a release, by repository; ``runs``: what they start by themselves.
    """

    pattern: re.Pattern[str]
    framework: Mapping[str, str]
    runs: Mapping[str, tuple[str, ...]]


@cache
def known_images() -> KnownImages:
    starts = {name: each.starts for name, each in all_meanings().items()}
    framework = {image: name for name, each in starts.items() for image in each.images}
    names = [*map(re.escape, framework), *(each.images_like for each in starts.values() if each.images_like)]
    return KnownImages(
        re.compile(rf"(?:[\w.-]+(?::[0-9]+)?/)*({'|'.join(names)}):([\w.-]+)(?:@sha256:[0-9a-f]+)?"),
        framework,
        {image: command for each in starts.values() for image, command in each.images.items() if command},
    )


@cache
def _modules() -> Mapping[str, str]:
    return {module: name for name, each in all_meanings().items() for module in each.starts.modules}


@dataclass(frozen=True)
class Start:
    """One command that starts an engine.

    Attributes:
        framework: its name; ``release``: where an image's tag says it.
        program: argument vector up to the arguments.
        gpus: how many the container or ``CUDA_VISIBLE_DEVICES`` gives it; None: nothing says it.
        role: where the program around the framework says it. ``log``: name of the file that it writes to;
            ``inside``: the block that it is in.
    """

    framework: str
    program: tuple[str, ...]
    arguments: tuple[Word, ...]
    environment: Mapping[str, str]
    line: int
    release: str | None = None
    gpus: int | None = None
    role: Role | None = None
    log: str = ""
    inside: str = ""


def starts_of(text: str, variables: Mapping[str, str], depth: int = 0) -> tuple[list[Start], dict[str, str]]:
    """(the commands of a script that start engines, files that it writes by here-documents).

    Raises:
        InputError: what :func:`planner.imports.shell.commands` raises; a command in a block that may run any number of
            times.
    """
    found: list[Start] = []
    files: dict[str, str] = {}
    for command in commands(text, variables):
        if command.here is not None and command.writes and not (command.appends and command.inside):
            before = files.get(command.writes, "") if command.appends else ""
            files[command.writes] = files[command.writes.rpartition("/")[2]] = before + command.here
        below, nested = _within(command, variables, depth)
        files |= nested
        if below and command.inside in ("for", "while", "until", "select"):
            raise InputError(
                f"script line {command.line}: an engine is started inside {command.inside!r}, nobody knows how often",
                "write one command for each engine, or import the command alone",
            )
        found += below
    return found, files


def _within(command: Command, variables: Mapping[str, str], depth: int) -> tuple[list[Start], dict[str, str]]:
    words = _with_entrypoint(command.words)
    texts = [word.text for word in words]
    for at, text in enumerate(texts[:-2]):
        inline = next((i for i in range(at + 1, len(texts) - 1) if re.fullmatch(r"-[a-z]*c", texts[i])), None)
        if text in _SHELLS and inline is not None and inline <= at + 2 and depth < DEEPEST:
            inner, files = starts_of(texts[inline + 1], {**variables, **command.environment}, depth + 1)
            around = _around(words[:at])
            return [
                _merged(replace(each, line=command.line, inside=each.inside or command.inside), around)
                for each in inner
            ], files
    if len(texts) > 2 and texts[0] == "ssh" and " " in texts[-1] and depth < DEEPEST:
        return starts_of(texts[-1], variables, depth + 1)
    start = start_of(words, command.environment, command.line)
    log = (command.writes or "").rpartition("/")[2].removesuffix(".log")
    return ([] if start is None else [replace(start, log=log, inside=command.inside)]), {}


def _with_entrypoint(words: Sequence[Word]) -> tuple[Word, ...]:
    """A container's command with the program that ``--entrypoint`` names where it runs: behind the image."""
    texts = [word.text for word in words]
    at = next((i for i, text in enumerate(texts) if text.partition("=")[0] == "--entrypoint"), None)
    image = next(
        (i for i, text in enumerate(texts) if at is not None and i > at and known_images().pattern.fullmatch(text)),
        None,
    )
    if at is None or image is None or not {"run", "create"} & {*texts[:at]}:
        return tuple(words)
    program = words[at].text.partition("=")[2]
    kept = words[at + 1 : image + 1] if program else words[at + 2 : image + 1]
    named = Word(program) if program else words[at + 1]
    return (*words[:at], *kept, *([named] if named.text else []), *words[image + 1 :])


def _merged(start: Start, around: Around) -> Start:
    release = around.release if start.release is None else start.release
    return replace(start, release=release, gpus=around.gpus if start.gpus is None else start.gpus)


def start_of(words: Sequence[Word], environment: Mapping[str, str], line: int) -> Start | None:
    """What of a command starts an engine; None where nothing does."""
    found = _program(words)
    if found is None:
        return None
    framework, begins, end = found
    table = meanings(framework)
    around = _around(words[:begins])
    env = dict(environment)
    for word in words[:begins]:
        name, equals, value = word.text.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_]\w*", name):
            env[name] = value
    program = tuple(word.text for word in words[begins:end])
    arguments: list[Word] = list(words[end:])
    role: Role | None = None
    dynamo = any(text.startswith("dynamo.") for text in program)
    if dynamo:
        arguments, role = _of_dynamo(arguments)
        if "model" not in table.meanings:  # its own command takes it without an option
            arguments = [*_model_first(arguments, table.starts.dynamo)]
    elif arguments and arguments[0].text == table.starts.optional:
        arguments = arguments[1:]
    gpus = around.gpus
    visible = next((env[each.visible_devices] for each in vendors().values() if env.get(each.visible_devices)), None)
    if visible is not None and re.fullmatch(r"[0-9]+(,\s*[0-9]+)*,?", visible):
        gpus = len([each for each in visible.split(",") if each.strip()])
    return Start(
        framework,
        program,
        tuple(arguments),
        env,
        line,
        release=around.release,
        gpus=gpus,
        role=role,
    )


def _program(words: Sequence[Word]) -> tuple[str, int, int] | None:
    """(framework, where its program begins, where its arguments do)."""
    texts = [word.text for word in words]
    for at, text in enumerate(texts):
        name = text.rpartition("/")[2]
        following = texts[at + 1] if at + 1 < len(texts) else ""
        for framework, table in all_meanings().items():
            for program, *more in table.starts.commands:
                end = at + 1 + len(more)
                if (
                    name == program
                    and texts[at + 1 : end] == more
                    and texts[end : end + 1] not in [[word] for word in table.starts.not_before]
                ):
                    return framework, at, end
        if following == "-m" and name.startswith("python") and at + 2 < len(texts) and texts[at + 2] in _modules():
            return _modules()[texts[at + 2]], at, at + 3
    for at, text in enumerate(texts):
        image = known_images().pattern.fullmatch(text)
        if image is not None and image[1] in known_images().runs and "run" in texts[:at]:
            return known_images().framework[image[1]], at + 1, at + 1
    return None


def release_of(image: str) -> tuple[str, str] | None:
    """(framework, release) that an image's name says; None: none."""
    found = known_images().pattern.fullmatch(image.strip())
    if found is None or found[1] not in known_images().framework:
        return None
    tag = _TAG.fullmatch(found[2])
    return None if tag is None else (known_images().framework[found[1]], tag[1])


@dataclass(frozen=True)
class Around:
    """What a container around a program says: release of its image, GPUs that it is given."""

    release: str | None = None
    gpus: int | None = None


def _around(words: Sequence[Word]) -> Around:
    texts = [word.text for word in words]
    release: str | None = None
    gpus: int | None = None
    for at, text in enumerate(texts):
        found = release_of(text)
        if found is not None:
            release = found[1]
        value = text.partition("=")[2] if text.startswith("--gpus=") else None
        if text == "--gpus" and at + 1 < len(texts):
            value = texts[at + 1]
        if value is not None:
            devices = re.search(r"device=([0-9,]+)", value)
            if devices:
                gpus = len([each for each in devices[1].split(",") if each])
            elif re.fullmatch(r"[0-9]{1,9}", value):
                gpus = int(value)
    return Around(release, gpus)


def _of_dynamo(words: list[Word]) -> tuple[list[Word], Role | None]:
    """Without Dynamo's own options; and the role that they say."""
    rest: list[Word] = []
    role: Role | None = None
    at = 0
    while at < len(words):
        name, equals, value = words[at].text.partition("=")
        at += 1
        if name not in _OF_DYNAMO:
            rest.append(words[at - 1])
            continue
        if name == "--is-prefill-worker":
            role = "prefill"
        elif name == "--is-decode-worker":
            role = "decode"
        else:
            if not equals and at < len(words):
                value = words[at].text
                at += 1
            if name == "--disaggregation-mode":
                role = _ROLES.get(value, "aggregated")
    return rest, role


def _model_first(words: Sequence[Word], own_names: Mapping[str, str]) -> Iterator[Word]:
    """Arguments of Dynamo's worker as a command takes them that has the model in front."""
    names = [word.text for word in words]
    for name in ("--model", "--model-path"):
        if name in names[:-1]:
            yield words[names.index(name) + 1]
    at = 0
    while at < len(words):
        word = words[at]
        name, equals, value = word.text.partition("=")
        at += 1
        if name in ("--model", "--model-path"):
            if equals:
                yield Word(value, word.unknown)
            else:
                at += 1
            continue
        own = own_names.get(name, name)
        yield Word(f"{own}{equals}{value}", word.unknown)


def no_start(what: str) -> InputError:
    known = ", ".join(each.starts.called for each in all_meanings().values())
    return InputError(f"{what}: nothing in it starts an engine that is known", f"known are {known}")
