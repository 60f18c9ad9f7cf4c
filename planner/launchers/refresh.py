"""``python -m planner.launchers.refresh vllm 0.34.0``: writes the data file of a release from the real package, and
shows what it has that the last one had not.

The package is installed into an environment of its own, without what it depends on; the little that its argument
parser imports comes from ``releases/environments.yaml`` and from the environment that runs this (torch among it, the
extra ``collect``: a CPU build will do). ``--python`` names an interpreter that has the package already: the one in a
container, say.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import platformdirs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from planner.launchers.probe import PROBES
from planner.launchers.releases import RELEASES, known_releases
from profiles.errors import DataError, InputError, ShardwrightError, UnknownName
from profiles.shipped import shipped

PROBE = Path(__file__).parent / "probe.py"
_LONGEST_S = 600


def environment(framework: str, version: str, folder: Path, *, configuration: bool = False) -> Path:
    """The interpreter of an environment with ``framework`` at ``version``, made in ``folder`` where it is not there;
    ``configuration``: with what its configuration imports, too. Packages are of the versions that the framework asks
    for.

    Raises:
        DataError: pip could not install it.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (next(folder.glob("lib/python*/site-packages")) / "zz_of_the_maker.pth").write_text(f"{ours}\n")
    packages = shipped(RELEASES / "environments.yaml", dict)[framework]
    _install(python, [f"{framework}=={version}"])
    wanted = [*packages["packages"], *(packages["configuration"] if configuration else ())]
    _install(python, _as_asked_for(wanted, folder, framework))
    return python


def _install(python: Path, packages: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise DataError(f"{packages[0]}: cannot be installed ({said[-1]})", "check the version and pip")


def _as_asked_for(names: Sequence[str], folder: Path, framework: str) -> list[str]:
    """``names``, each with the versions that the framework's own metadata asks for."""
    site = next(folder.glob("lib/python*/site-packages"))
    found = distributions(name=framework, path=[str(site)])
    wants = {}
    for text in next(iter(found)).requires or ():
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            wants[canonicalize_name(asked.name)] = f"{asked.name}{asked.specifier}"
    return [wants.get(canonicalize_name(name), name) for name in names]


def probed(framework: str, python: Path) -> dict[str, Any]:
    """What the parser of the framework in an environment says.

    Raises:
        DataError: it does not import, or its insides are others than the probe knows.
    """
    done = subprocess.run(
        [str(python), "-I", str(PROBE), framework], capture_output=True, text=True, timeout=_LONGEST_S
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it stopped"]
        raise DataError(
            f"{framework}: its argument parser does not run ({said[0]})",
            f"a missing module: install it there ({python} -m pip install NAME) and into releases/environments.yaml; "
            "another error: the probe (planner/launchers/probe.py) reads a release whose insides have moved",
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def written(document: Mapping[str, Any]) -> str:
    """The data file: an option a line, so that two releases can be compared as text."""
    parts = [
        f" {json.dumps(name)}: " + (_rows(value) if name in ("options", "file") else json.dumps(value))
        for name, value in document.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rows(options: Mapping[str, Any]) -> str:
    rows = [f"  {json.dumps(flag)}: {json.dumps(fields)}" for flag, fields in options.items()]
    return "{\n" + ",\n".join(rows) + "\n }"


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What ``new`` has otherwise than ``old``, option by option: added, gone, deprecated, another default or choice."""
    before, now = old["options"], new["options"]
    spelled = {name: flag for flag, fields in now.items() for name in (flag, *fields.get("aliases", ()))}
    for flag in now:
        if flag not in before and not any(flag in each.get("aliases", ()) for each in before.values()):
            yield f"added {flag}"
    for flag, fields in before.items():
        if flag not in spelled:
            yield f"gone {flag}"
            continue
        later = now[spelled[flag]]
        if later.get("deprecated") and not fields.get("deprecated"):
            yield f"deprecated {flag} ({later['deprecated']})"
        for what in ("type", "default"):
            if fields.get(what) != later.get(what):
                yield f"changed {flag}: {what} {fields.get(what)!r} → {later.get(what)!r}"
        one, other = (set(map(str, each.get("choices", ()))) for each in (fields, later))
        if one != other:
            parts = (f"without {', '.join(sorted(one - other))}" if one - other else "",
                     f"with {', '.join(sorted(other - one))}" if other - one else "")  # fmt: skip
            yield f"changed {flag}: choices {'; '.join(filter(None, parts))}"


def refresh(framework: str, version: str, python: Path | None, folder: Path) -> Iterator[str]:
    """Writes the data file of a release into ``folder``; lines that say what changed against the newest before it.

    Raises:
        UnknownName, InputError: a framework without a probe, no version.
        DataError: what :func:`environment` and :func:`probed` raise.
    """
    if framework not in PROBES:
        raise UnknownName("framework", framework, list(PROBES), "the others have no wheel whose parser could be run")
    try:
        Version(version)
    except InvalidVersion as error:
        raise InputError(f"version: {version!r} is no version", "give one as PyPI has it, e.g. 0.33.0") from error
    where = f"PyPI's wheel {framework} {version}" if python is None else f"{framework} {version} at {python}"
    if python is None:
        cache = Path(platformdirs.user_cache_dir("shardwright")) / "launchers" / f"{framework}-{version}"
        python = environment(framework, version, cache)
    found = probed(framework, python)
    document: dict[str, Any] = {
        "framework": framework,
        "version": version,
        "made": f"{dt.date.today()}",
        "source": f"argument parser of {where}, run on CPU by planner/launchers/refresh.py",
        **{name: found[name] for name in ("series", "underscores", "beginnings", "options") if name in found},
    }
    target = folder / f"{framework}-{version}.json"
    target.write_text(written(document), encoding="utf-8")
    yield f"{target}: {len(document['options'])} options"
    older = [each for each in known_releases(framework) if Version(each) < Version(version)]
    if older:
        yield f"against {framework} {older[-1]}:"
        yield from difference(json.loads((RELEASES / f"{framework}-{older[-1]}.json").read_text("utf-8")), document)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m planner.launchers.refresh", description=__doc__)
    parser.add_argument("framework", help=f"one of {', '.join(PROBES)}")
    parser.add_argument("version", help="as PyPI has it")
    parser.add_argument("--python", type=Path, help="an interpreter that has the package; default: one is made")
    parser.add_argument("-o", "--output", type=Path, default=RELEASES, help="folder of the data files")
    asked = parser.parse_args(arguments)
    try:
        for line in refresh(asked.framework, asked.version, asked.python, asked.output):
            print(line)
    except ShardwrightError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
