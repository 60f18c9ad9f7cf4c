"""The serving frameworks as data: one YAML file each, in this folder (``vllm.yaml`` says how it is read)."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from packaging.version import Version
from pydantic import Field

from costmodels.models.precision import Precision, missing_hardware, without_tensor_cores
from costmodels.serving.frameworks.calibration import LATENCIES, Calibration, HalfWidths, calibrations
from costmodels.serving.frameworks.connector import KvConnector
from costmodels.serving.frameworks.facts import (
    Capabilities,
    CommandLine,
    Defaults,
    Drift,
    Facts,
    Limits,
    MemoryBudget,
    Parallelism,
    StandIn,
    Switch,
)
from costmodels.serving.frameworks.history import Basis, Chosen, Entry, Release, choose_release, part_at
from costmodels.serving.frameworks.names import CALIBRATION, FOLDER, framework_names
from costmodels.serving.frameworks.policies import Policy
from profiles.errors import DataError, InputError, UnknownName, Unsupported, near
from profiles.hardware import Gpu
from profiles.shipped import shipped
from profiles.values import shown

T = TypeVar("T")

PARTS = (
    *("limits", "defaults", "memory", "parallelism", "capabilities", "scheduler", "kv_connector", "command"),
    "overheads",
)
"""The parts whose facts are dated."""

_SWITCHED = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}
_NOTHING_SAID = ("off", "none")
"""Words of a switch that is off, which say nothing against another."""

_LONGEST_RELEASE = 200  # characters: the name of an image and its tag

_MISSPELT = 0.7
"""Of 1: how alike to one that is modelled a name is from which on that is meant."""

DAYS_OF_MONTH = 30.44

PREDICTED = ("limits", "memory", "scheduler", "overheads")
"""Those that a prediction rests on: it says of which releases they are."""


class Framework(Facts):
    """One serving framework at one release.

    Attributes:
        release: for which it answers; ``nearest``: the listed one that it is taken for; ``listed``: whether its file
            lists it; ``note``: how it came to be this one, where that is not plain.
        fitted: what its engine takes beyond its kernels, as fitted to runs of the releases that ``overheads`` covers.
        bases: where the facts of each of :data:`PARTS` come from.
        words: its own words for what users say of an engine → ours; those ``of_all_replicas`` count what ours count of
            one attention replica. ``switches``: options whose values say one of our fields.
    """

    name: str
    full_name: str
    release: Release
    nearest: Release
    listed: bool
    note: str
    limits: Limits
    defaults: Defaults
    memory: MemoryBudget
    parallelism: Parallelism
    capabilities: Capabilities
    scheduler: Policy
    kv_connector: KvConnector
    command: CommandLine
    overheads: Drift
    stand_ins: tuple[StandIn, ...]
    words: dict[str, str]
    words_of_all_replicas: tuple[str, ...]
    switches: dict[str, Switch]
    fitted: Calibration
    bases: tuple[Basis, ...]

    @property
    def spec(self) -> str:
        """What :func:`find_framework` finds this framework at this release by."""
        return f"{self.name}@{self.release.version}"

    @property
    def title(self) -> str:
        """Name and release, as people read it."""
        return f"{self.full_name} {self.release.version}"

    @property
    def buffers_of_step(self) -> bool:
        """Whether low-latency buffers hold as many tokens as a step may have, whatever else is said."""
        since = self.parallelism.buffers_of_step_from
        return bool(since) and not self.release.older_than(since)

    @property
    def calibration(self) -> Calibration:
        """What its engine takes beyond its kernels. A release without runs is less sure, one that nobody lists still
        less."""
        return self.less_sure(self.fitted)

    def less_sure(self, calibration: Calibration, vendor: str = "nvidia") -> Calibration:
        """``calibration`` as sure as the release allows on GPUs of a vendor. Among releases that runs are of, a
        candidate or a post-release is as sure as those that are listed; builds of somebody's own are not."""
        basis, version = self.basis("overheads"), Version(self.release.version)
        last = Version(basis.release).release
        between = (version.is_prerelease or version.is_postrelease) and version.release[: len(last)] <= last
        alike = basis.own and between and not (version.is_devrelease or version.local)
        away = (not basis.own) + (not self.listed and not alike)
        if away == 0:
            return calibration
        days, day = calibration.effects.days, self.nearest.date
        before, after = ((min(days) - day).days, (day - max(days)).days) if days and day is not None else (0, 0)
        months, walk = max(before, after, 0) / DAYS_OF_MONTH, "earlier" if before > 0 else vendor
        return calibration.widened(
            HalfWidths(**{name: self.overheads.width(name, away, months, walk) for name in LATENCIES})
        )

    def at(self, release: str) -> Framework:
        """The framework at another release: a version, a series (its newest) or a month.

        Raises:
            InputError: no such date.
        """
        return find_framework(f"{self.name}@{release}")

    def basis(self, part: str) -> Basis:
        """Where the facts of one of :data:`PARTS` come from."""
        return next(basis for basis in self.bases if basis.part == part)

    @property
    def borrowed(self) -> tuple[Basis, ...]:
        """The parts of which the release has no facts of its own."""
        return tuple(basis for basis in self.bases if not basis.own)

    def told(self, parts_asked: Container[str] = PARTS) -> str:
        """What a reader should know of the release, in a line: how it was chosen, and which of some parts are as of
        others; empty where there is nothing."""
        parts: dict[str, list[str]] = {}
        for basis in (basis for basis in self.borrowed if basis.part in parts_asked):
            parts.setdefault(basis.release, []).append(basis.part.replace("_", " "))
        older = [
            f"{' and '.join((', '.join(names[:-1]), names[-1])) if names[1:] else names[0]} as of {release}"
            for release, names in parts.items()
        ]
        return "; ".join(filter(None, [self.note, f"{self.title}: {'; '.join(older)}" if older else ""]))

    def cuts(self, longest: int, *, latent: bool) -> bool:
        """Whether it cuts prompts, where nobody says so, of a model whose sequences are so long at most, with latent
        attention or without."""
        least = self.scheduler.mixes_from
        return self.scheduler.chunked and not (least and (latent or longest <= least))

    def serving(self, longest: int, *, latent: bool, whole: bool = False) -> Framework:
        """As it schedules a model of so long a context, with latent attention or without; ``whole``: told to leave
        prompts uncut."""
        if not self.scheduler.mixes_from or (self.cuts(longest, latent=latent) and not whole):
            return self
        alone = {"prefill_first": True, "mixed": False}
        return self.model_copy(update={"scheduler": self.scheduler.model_copy(update=alone)})

    def with_prompts(self, chunked: bool | None, polling: int | None) -> Framework:
        """Started with prompts cut or whole, and that many steps between two looks at the queue; None: as it is.

        Raises:
            Unsupported: it has no option for that.
        """
        said: dict[str, bool | int] = {"mixes_from": 0} if chunked and self.scheduler.mixes_from else {}
        if chunked is not None and chunked != self.scheduler.chunked:
            said["chunked"] = chunked
            if not chunked and not {"whole_prompts", "chunked_prefill"} & set(self.command.flags):
                raise Unsupported(
                    f"chunked_prefill: plans have no word that keeps {self.full_name} from cutting prompts",
                    "leave it out, or predict one engine: plan predict --no-chunked-prefill",
                )
        if polling is not None and polling != self.scheduler.polling:
            said["polling"] = polling
            if self.scheduler.polls_for_ranks:
                raise Unsupported(
                    f"polling_interval={polling}: of {self.full_name} it is the steps that prompts wait for others "
                    "(timeout_iters, batch_wait_timeout_iters), and at a rate that is not counted",
                    "leave it out (what is planned does not wait), or predict users in a closed loop: plan predict "
                    f"--concurrency … --polling-interval {polling}",
                )
            if "polling" not in self.command.flags:
                raise Unsupported(
                    f"polling_interval: {self.full_name} has no option for it", "leave it out, or choose sglang"
                )
        return self.model_copy(update={"scheduler": self.scheduler.model_copy(update=said)}) if said else self

    def with_prompt_flags(self, command: Sequence[str]) -> tuple[str, ...]:
        """``command`` with the flags that start it as :meth:`with_prompts` says."""
        flags = self.command.flags
        kept = [word for word in command if self.scheduler.chunked or word != flags.get("chunked_prefill")]
        whole = [] if self.scheduler.chunked else [flags.get("whole_prompts")]
        polled = [flags.get("polling"), str(self.scheduler.polling)] if self.scheduler.polling > 1 else []
        return tuple(word for word in (*kept, *whole, *polled) if word is not None)

    def in_our_words(self, given: Mapping[str, T]) -> dict[str, T]:
        """``given`` with the framework's own words replaced by ours.

        Raises:
            InputError: two words for one thing that say different things; a word of all replicas where there are
                several.
        """
        out: dict[str, T] = {}
        for word, value in given.items():
            ours = self.words.get(word, word)
            if str(out.get(ours, given.get(ours, value))) != str(value):
                raise InputError(f"{word}: {ours} is given too", "give one of them")
            if word in self.words_of_all_replicas and str(given.get("dp") or given.get("dp_size") or 1) != "1":
                raise InputError(
                    f"{word}: counts all attention replicas, of which there are several",
                    f"give {ours}, of one replica",
                )
            out[ours] = value
        return out

    def with_switches(self, given: Mapping[str, str]) -> dict[str, str]:
        """``given`` with what the framework's own switches say in our fields.

        Raises:
            InputError: a value that they do not have, or that contradicts what is given beside.
        """
        out = {name: value for name, value in given.items() if name not in self.switches}
        for name, switch in self.switches.items():
            if not (said := given.get(name, "").strip().casefold().replace("-", "_")):
                continue
            said = _SWITCHED.get(said, said)
            if said not in switch.values:
                raise InputError(
                    f"{name}: {shown(given[name])} is not known", f"give one of {', '.join(switch.values)}"
                )
            before, word = out.get(switch.field, ""), switch.values[said]
            if switch.within is not None and before.strip().casefold() != switch.within:
                continue
            if word is None or (before and word in _NOTHING_SAID):
                continue
            if before and switch.within is None and before.casefold() != word:
                raise InputError(
                    f"{name}: {shown(given[name])} contradicts {switch.field} {shown(before)}", "give one of them"
                )
            out[switch.field] = word
        return out

    def missing(self, gpu: Gpu) -> str | None:
        """Why the framework does not run on ``gpu`` at all, or None where it does."""
        can = self.capabilities
        if gpu.vendor not in can.vendors:
            return f"{self.full_name} does not run on {gpu.name} ({gpu.vendor})"
        if gpu.compute_capability is not None and gpu.compute_capability < can.least_cuda_capability:
            return (
                f"{self.full_name} runs from compute capability {can.least_cuda_capability:g} on, "
                f"{gpu.name} has {gpu.compute_capability:g}"
            )
        return None

    def missing_hardware(self, precision: Precision, gpu: Gpu) -> str | None:
        """Why the framework cannot run ``precision`` on ``gpu``, or None where it can, be it with 16-bit products."""
        return self.missing(gpu) or missing_hardware(precision, gpu, self.capabilities.weight_only_on(gpu))

    def check_runs(self, precision: Precision, gpu: Gpu) -> None:
        """Raises Unsupported where the framework does not run on ``gpu``, or not in ``precision``."""
        if (missing := self.missing(gpu)) is not None:
            raise Unsupported(f"framework: {missing}", "choose another framework or GPU type")
        if (lacking := self.missing_hardware(precision, gpu)) is not None:
            raise Unsupported(f"precision: {lacking}", "choose another precision or GPU type")

    def weight_only(self, precision: Precision, gpu: Gpu) -> tuple[str, ...]:
        """Weights of ``precision`` that run on ``gpu`` with 16-bit products, for want of tensor cores for them."""
        ways = self.capabilities.weight_only_on(gpu)
        return tuple(dtype for dtype in without_tensor_cores(precision, gpu) if dtype in ways)

    def told_of_weights(self, precision: Precision, gpu: Gpu) -> str:
        """What a reader should know of :meth:`weight_only`; empty where there is nothing."""
        dtypes = self.weight_only(precision, gpu)
        if not dtypes:
            return ""
        return (
            f"{gpu.name} has no tensor cores for {' and '.join(dtypes)}: {self.full_name} multiplies these weights in "
            "16 bits (they take less memory, not less arithmetic)"
        )

    def stand_in(self, operation: str, gpu: Gpu, precision: str, *, replicas: bool = False) -> StandIn | None:
        """What speaks for ``operation`` in ``precision`` on ``gpu``, or None: its own rows of that precision.

        Args:
            replicas: of engines with several attention replicas.
        """
        for entry in self.stand_ins:
            if (entry.operation, entry.precision) == (operation, precision) and entry.holds_on(gpu):
                return None if replicas and entry.one_attention_replica else entry
        return None


class FrameworkFile(Facts):
    """One framework's YAML file: everything that is known of it, over all its releases (oldest first)."""

    full_name: str
    releases_source: str
    releases: tuple[Release, ...] = Field(min_length=1)
    limits: tuple[Entry, ...]
    defaults: tuple[Entry, ...]
    memory: tuple[Entry, ...]
    parallelism: tuple[Entry, ...]
    capabilities: tuple[Entry, ...]
    scheduler: tuple[Entry, ...]
    kv_connector: tuple[Entry, ...]
    command: tuple[Entry, ...]
    overheads: tuple[Entry, ...]
    stand_ins: tuple[StandIn, ...] = ()
    also_called: tuple[str, ...] = ()
    words: dict[str, str] = Field(default_factory=dict)
    words_of_all_replicas: tuple[str, ...] = ()
    switches: dict[str, Switch] = Field(default_factory=dict)

    def at(self, name: str, chosen: Chosen, fitted: Calibration) -> Framework:
        """The framework at a release.

        Raises:
            ValueError: facts that are missing, unknown or contradict each other.
        """
        found = {part: part_at(part, getattr(self, part), chosen.nearest.version) for part in PARTS}
        facts: dict[str, Any] = {part: dict(each) for part, (each, _) in found.items()}
        return Framework(
            name=name,
            full_name=self.full_name,
            release=chosen.release,
            nearest=chosen.nearest,
            listed=chosen.listed,
            note=chosen.note,
            stand_ins=tuple(each for each in self.stand_ins if each.holds_at(chosen.release)),
            words=self.words,
            words_of_all_replicas=self.words_of_all_replicas,
            switches=self.switches,
            fitted=fitted,
            bases=tuple(basis for _, basis in found.values()),
            **facts,
        )


class Registry:
    """The frameworks of one folder: a YAML file each, and the constants fitted for them (:data:`CALIBRATION`).

    Raises:
        DataError: a file is broken, or a framework has no constants.
    """

    def __init__(self, folder: Path) -> None:
        self._fitted = calibrations(folder)
        self._files: dict[str, FrameworkFile] = {}
        self._known: dict[tuple[str, str], Framework] = {}
        for name in framework_names(folder):
            if name not in self._fitted:
                raise DataError(
                    f"{CALIBRATION}: no constants of {name}",
                    "begin with those of a framework like it; python -m tests.benchmarks.silicon calibrate fits them",
                )
            shipped(folder / f"{name}.yaml", partial(self._add, name))
        self._spellings = {_folded(file.full_name): name for name, file in self._files.items()}
        self._spellings |= {_folded(name): name for name in self._files}
        self._spellings |= {_folded(word): name for name, file in self._files.items() for word in file.also_called}

    def _add(self, name: str, document: dict[str, Any]) -> None:
        """Takes a file up; what is wrong with the facts of its newest release shows here."""
        self._files[name] = FrameworkFile.model_validate(document)
        self._at(name, "")

    def _at(self, name: str, asked: str) -> Framework:
        if (name, asked) not in self._known:
            file = self._files[name]
            newest = file.releases[-1]
            chosen = choose_release(file.full_name, file.releases, asked) if asked else Chosen(newest, newest)
            self._known[name, asked] = file.at(name, chosen, self._fitted[name])
        return self._known[name, asked]

    @property
    def words(self) -> frozenset[str]:
        """What users say of an engine, in the words of any framework."""
        return frozenset(word for file in self._files.values() for word in (*file.words, *file.switches))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def releases(self, name: str) -> tuple[Release, ...]:
        """Every release of a framework that its file lists, oldest first."""
        return self._files[name].releases

    def find(self, text: str) -> Framework:
        """A framework by its name, whatever its case and hyphens, at its newest release or at the one after ``@``.

        Raises:
            UnknownName: with the frameworks there are.
            Unsupported: no framework is called much like it.
            InputError: what follows ``@`` names no release.
        """
        name, at, release = text.partition("@")
        known = self._spellings.get(_folded(name))
        if known is None:
            if not near(_folded(name), self.names, self._spellings, _MISSPELT)[0]:
                modelled = f"{', '.join(self.names)} are: name one of them for what it would do in its place"
                raise Unsupported(f"framework: {shown(name)} is not modelled", modelled)
            raise UnknownName("framework", name, self.names, aliases=self._spellings)
        if len(release) > _LONGEST_RELEASE:
            raise InputError(f"framework: {shown(text)} names no release", f"give one, as in {known}@0.19")
        if at and not release.strip():
            raise InputError(f"framework: {text!r} names no release", f"give one, as in {known}@0.19, or leave @ out")
        return self._at(known, release.strip())


def _folded(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


@cache
def registry() -> Registry:
    """The frameworks that ship with the package."""
    return Registry(FOLDER)


def find_framework(text: str) -> Framework:
    """A framework by its name, whatever its case and hyphens, at its newest release or at the one after ``@``:
    ``vllm``, ``vLLM@0.19`` (the newest of the series), ``tensorrt-llm@2026-02`` (the newest by then).

    Raises:
        UnknownName, Unsupported: with the frameworks there are.
        InputError: what follows ``@`` names no release.
    """
    return registry().find(text)
