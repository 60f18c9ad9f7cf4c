"""The house stays a house: few levels, no circles, no name twice, small files and short argument lists."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("profiles", "costmodels", "planner", "api")
MOST_LEVELS = {"costmodels": 6, "planner": 7}
"""The longest chain of imports among the files and folders directly in a package."""
MOST_FLAT_FILES = 5
LONGEST_FILE = 450  # lines
MOST_PARAMETERS = 8  # of functions and constructors outside the command line, whose options are parameters


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """Every module of ``package``, by its dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imported(package: str, tree: ast.Module) -> Iterator[str]:
    """Modules of ``package`` that ``tree`` imports, inside functions too."""
    known = modules(package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def children(folder: str) -> dict[str, set[str]]:
    """What the files and folders directly in the package ``folder`` import of each other."""
    top, depth = folder.split(".")[0], folder.count(".") + 1
    graph: dict[str, set[str]] = defaultdict(set)
    for name, tree in modules(top).items():
        if not name.startswith(f"{folder}."):
            continue
        child = name.split(".")[depth]
        graph[child] |= set()
        for target in imported(top, tree):
            if target.startswith(f"{folder}.") and target.split(".")[depth] != child:
                graph[child].add(target.split(".")[depth])
    return graph


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """The longest path; fails on a circle."""
    found: dict[str, list[str]] = {}

    def below(name: str, above: tuple[str, ...]) -> list[str]:
        assert name not in above, f"circle of imports: {' → '.join((*above, name))}"
        if name not in found:
            found[name] = [name, *max((below(n, (*above, name)) for n in sorted(graph[name])), key=len, default=[])]
        return found[name]

    return max((below(name, ()) for name in sorted(graph)), key=len)


@pytest.mark.parametrize("package", MOST_LEVELS)
def test_a_package_has_few_levels(package: str) -> None:
    chain = longest_chain(children(package))
    assert len(chain) <= MOST_LEVELS[package], " → ".join(chain)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_or_folder_imports_in_a_circle(package: str) -> None:
    folders = {package, *(name.rpartition(".")[0] for name in modules(package) if "." in name)}
    for folder in sorted(folders):
        longest_chain(children(folder))


@pytest.mark.parametrize("package", MOST_LEVELS)
def test_few_files_lie_flat(package: str) -> None:
    flat = [path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
    assert len(flat) <= MOST_FLAT_FILES, flat


@pytest.mark.parametrize("package", PACKAGES)
def test_no_class_name_is_there_twice(package: str) -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for name, tree in modules(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_argument_lists_are_short(package: str) -> None:
    long = []
    for module, tree in modules(package).items():
        if module.startswith("api.cli"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in given)
                if count > MOST_PARAMETERS:
                    long.append(f"{module}.{node.name}: {count}")
    assert long == []


def test_files_are_small() -> None:
    long = {}
    for package in (*PACKAGES, "tests", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            lines = path.read_text("utf-8").count("\n")
            if lines > LONGEST_FILE:
                long[str(path.relative_to(ROOT))] = lines
    assert long == {}


def test_no_two_files_of_tests_are_called_alike() -> None:
    """Test folders are no packages: of two files of one name, pytest collects one and stops at the other."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name for name, count in counts.items() if count > 1} == set()


def test_what_benchmarks_import_is_there() -> None:
    """Nothing else runs all of them: one could not be imported after a move, and nobody saw it."""
    known = {name for package in PACKAGES for name in modules(package)}
    gone = []
    for path in sorted((ROOT / "tests" / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                names = [n.name for n in node.names if f"{node.module}.{n.name}" not in known]
                gone += [f"{path.name}: {node.module}.{n}" for n in names if not hasattr(import_module(node.module), n)]
    assert gone == []


def test_every_data_file_is_in_the_wheel() -> None:
    kinds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]["*"]
    left_out = {
        path.suffix
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py"
        if not any(path.match(kind) for kind in kinds)
    }
    assert left_out <= {".png"}  # a plot that docs show


REFERENCE = re.compile(rf":(?:class|func|meth|mod|data|attr|exc):`~?((?:{'|'.join(PACKAGES)})\.[\w.]+)`")
ARGUMENT = re.compile(r"^ {4}(\w[\w, ]*?)(?: \([^)]*\))?: ", re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_name_what_there_is(package: str) -> None:
    wrong = []
    for module, tree in modules(package).items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            wrong += [f"{module}: {name}" for name in REFERENCE.findall(text) if not exists(name)]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "\nArgs:\n" in text:
                asked = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
                every = ast.walk(node.args)
                given = {each.arg for each in every if isinstance(each, ast.arg)}
                said = {name.strip() for names in ARGUMENT.findall(asked) for name in names.split(",")}
                wrong += [f"{module}.{node.name}: argument {name}" for name in sorted(said - given)]
    assert wrong == []


def exists(dotted: str) -> bool:
    """Whether a module or a folder is called so, or a module holds the name."""
    parts = dotted.split(".")
    if ROOT.joinpath(*parts).is_dir():
        return True
    for length in range(len(parts), 0, -1):
        tree = modules(parts[0]).get(".".join(parts[:length]))
        if tree is not None:
            names = {getattr(node, "name", getattr(node, "id", getattr(node, "attr", None))) for node in ast.walk(tree)}
            return set(parts[length:]) <= names
    return False
