"""Whether the documents say what the program does: ``python -m tests.docs_check [--write] [--run]``.

Every option, command, endpoint, setting and kind stands in README.md or docs/; every `plan` command that is shown is
one that the program has, with options that it has; links lead somewhere, and README to every page. ``--write`` writes
docs/commands.md and the tables of docs/rest.md anew. ``--run`` runs the commands too, but for those in marked blocks::

    <!-- not run: why -->
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from api.cli.main import application
from api.rest.app import create_app
from api.service_settings import ServiceSettings
from planner.contract.options import Option
from planner.exports.registry import targets
from planner.kinds import KINDS, questions

ROOT = Path(__file__).parents[1]
START, END = "<!-- generated: tests/docs_check.py -->", "<!-- end of what is generated -->"
OF_EVERY_COMMAND = {"--help", "--install-completion", "--show-completion"}
LONGEST_RUN_S = 300  # of a command that is shown: one that serves, or takes longer, is marked
_NOT_RUN = re.compile(r"<!-- not run: (.*) -->")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Shown:
    """A command that a page shows; ``why_not``: not run, and why."""

    page: Path
    words: tuple[str, ...]
    why_not: str | None


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the program with its words after ``plan``."""
    group = group or typer.main.get_group(application())
    yield path, group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def options(command: Any) -> set[str]:
    """Names of a command's options."""
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("-")
    } | {"--help"}


def blocks(page: Path) -> Iterator[tuple[str, str | None]]:
    """(text, why it is not run) of each code block, fenced or indented by four."""
    fenced, lines, why = False, list[str](), None
    for line in [*page.read_text("utf-8").splitlines(), ""]:
        marked = _NOT_RUN.fullmatch(line)
        if line.startswith("```"):
            if fenced:
                yield "\n".join(lines), why
                why = None
            fenced, lines = not fenced, []
        elif fenced or line.startswith("    "):
            lines.append(line)
        elif lines:
            yield "\n".join(lines), why
            lines, why = [], None
        elif marked:
            why = marked[1]


def shown() -> Iterator[Shown]:
    """The commands in code blocks: lines that begin with ``plan`` or ``$ plan``, continued by a backslash."""
    for page in pages():
        for text, why in blocks(page):
            for whole in text.replace("\\\n", " ").splitlines():
                line = re.split(r"\s+#\s|\s+<<|\s*\|", whole.strip().removeprefix("$ "))[0].removesuffix("&").strip()
                if line.startswith("plan ") and "…" not in line and "..." not in line:
                    yield Shown(page, tuple(shlex.split(line))[1:], why)


def commands_page() -> str:
    """docs/commands.md: every command with its options, from the program itself."""
    lines = [
        "# Commands",
        "",
        "Written by `python -m tests.docs_check --write` from the program; `--help` says the same.",
    ]
    for path, command in commands():
        if hasattr(command, "commands") and path:
            continue
        words = " ".join(["plan", *path])
        lines += ["", f"## {words}", "", _plain(command.help)]
        rows = [
            f"| `{', '.join((*each.opts, *each.secondary_opts))}` | {_plain(each.help)} |"
            for each in command.params
            if each.param_type_name == "option" and not each.hidden and each.help
        ]
        if rows:
            lines += ["", "| option | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _plain(text: str | None) -> str:
    """Help as one line of Markdown."""
    return re.sub(r"\s+", " ", (text or "").replace("\b", "")).strip().replace("|", "\\|").replace("<", "&lt;")


def rest_tables() -> str:
    """The endpoints and the kinds, from the application and the registry."""
    lists = {("get", kind.route) for kind in KINDS.values()}
    rows = ["| endpoint | what |", "|---|---|"]
    for route, methods in create_app().openapi()["paths"].items():
        if not route.startswith("/v1/schemas/") and not _of_one_kind(route):
            methods = {method: what for method, what in methods.items() if (method, route) not in lists}
            rows += [f"| `{method.upper()} {route}` | {_plain(what['summary'])} |" for method, what in methods.items()]
    rows += [
        "| `GET /v1/KIND`, `/v1/KIND/{id}`, `/v1/KIND/{id}/explanation` | The same as for documents, of one kind |"
    ]
    rows += ["| `GET /v1/schemas/NAME` | JSON Schema of a kind or of its request |", ""]
    rows += ["| kind | document | request | schema version |", "|---|---|---|---|"]
    rows += [f"| `{k.name}` | {k.title} | `{k.request_name}` | {k.version} |" for k in questions()]
    rows += ["", "| option | variable | default | what |", "|---|---|---|---|"]
    for name, field in ServiceSettings.model_fields.items():
        said = next(
            (each.said(field.description) for each in field.metadata if isinstance(each, Option)), field.description
        )
        default = "" if field.default is None else json.dumps(field.default).strip('"')
        option = f"`--{name.replace('_', '-')}`" if any(isinstance(each, Option) for each in field.metadata) else ""
        rows.append(f"| {option} | `SHARDWRIGHT_{name.upper()}` | {default} | {_plain(said)} |")
    return "\n".join(rows)


def targets_table() -> str:
    """What `plan export --to` takes, from the registry."""
    rows = ["| target | of kind | writes | speaks | rung |", "|---|---|---|---|---|"]
    for (name, kind), target in sorted(targets().items(), key=lambda each: (each[0][1], each[0][0])):
        rows.append(f"| `{name}` | {kind} | {target.writes} | {target.release} | {target.rung} |")
    return "\n".join(rows)


def _of_one_kind(route: str) -> bool:
    """Whether it is the route of a document, which is the same for every kind."""
    return any(route.startswith(f"{kind.route}/") for kind in KINDS.values())


def generated() -> dict[Path, str]:
    """Pages as they should be."""
    tables = {"rest.md": rest_tables(), "launchers.md": targets_table()}
    pages = {ROOT / "docs" / "commands.md": commands_page()}
    for name, table in tables.items():
        page = ROOT / "docs" / name
        before, _, after = page.read_text("utf-8").partition(START)
        pages[page] = f"{before}{START}\n\n{table}\n\n{END}{after.partition(END)[2]}"
    return pages


def unsaid() -> list[str]:
    """What the pages do not mention."""
    text = "\n".join(page.read_text("utf-8") for page in pages())
    missing = []
    for path, command in commands():
        if path and f"plan {' '.join(path)}" not in text:
            missing.append(f"command: plan {' '.join(path)}")
        missing += [
            f"option: plan {' '.join(path)} {name}".replace("  ", " ")
            for name in sorted(name for name in options(command) - OF_EVERY_COMMAND if name.startswith("--"))
            if not re.search(rf"{re.escape(name)}(?![\w-])", text)
        ]
    missing += [
        f"endpoint: {route}"
        for route in sorted(create_app().openapi()["paths"])
        if route not in text and not route.startswith("/v1/schemas/") and not _of_one_kind(route)
    ]
    missing += [f"kind: {name}" for name in KINDS if f"`{name}`" not in text]
    return missing


def wrong() -> list[str]:
    """Commands shown that the program does not have, or options that they do not have."""
    known = dict(commands())
    found = []
    for each in shown():
        words = list(each.words)
        path: tuple[str, ...] = ()
        while words and (*path, words[0]) in known:
            path = (*path, words.pop(0))
        has = options(known[path])
        used = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        bad = [name for name in used if name not in has]
        if bad or (not path and words and not words[0].startswith("-")):
            found.append(f"{each.page.name}: plan {' '.join(each.words)}: {', '.join(bad) or words[0]} is not known")
    return found


def dead_links() -> list[str]:
    """Links to files or headings that are not there, paths that NOTICE names and the tree lacks, and pages of docs/
    that README does not link to."""
    texts = {page: page.read_text("utf-8") for page in (*pages(), ROOT / "CONTRIBUTING.md")}
    found = []
    for page, text in texts.items():
        for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            to = (page.parent / target).resolve() if target else page
            if not to.exists() or (heading and heading not in _anchors(texts[to])):
                found.append(f"{page.name}: the link to {target}{'#' * bool(heading)}{heading} leads nowhere")
    linked = re.findall(r"\]\((docs/[^)#\s]+)", texts[ROOT / "README.md"])
    found += [f"README.md: no link to docs/{page.name}" for page in pages()[1:] if f"docs/{page.name}" not in linked]
    said = re.findall(r"^((?:\w+/)+[\w.]*) —", (ROOT / "NOTICE").read_text("utf-8"), re.MULTILINE)
    return found + [f"NOTICE: {path} is not there" for path in said if not (ROOT / path).exists()]


def _anchors(text: str) -> set[str]:
    """What links to the headings of a page end in, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _run(command: Shown, folder: str) -> subprocess.CompletedProcess[str]:
    """Runs it in ``folder``. Raises TimeoutExpired where it does not end."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from api.cli.main import main; sys.exit(main())", *command.words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_RUN_S,
    )


def failing() -> Iterator[str]:
    """Runs what is shown, each page in one folder of its own; a refusal (exit 3) that a page shows is an answer."""
    for page in pages():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "examples").symlink_to(ROOT / "examples")
            for each in (command for command in shown() if command.page == page):
                if each.why_not is not None:
                    print(f"not run: plan {' '.join(each.words)} ({each.why_not})", flush=True)
                    continue
                try:
                    ran = _run(each, folder)
                except subprocess.TimeoutExpired:
                    yield f"{page.name}: plan {' '.join(each.words)}: did not end in {LONGEST_RUN_S} s; mark its block"
                    continue
                print(f"exit {ran.returncode}: plan {' '.join(each.words)}", flush=True)
                if ran.returncode not in (0, 3):
                    yield f"{page.name}: plan {' '.join(each.words)}: exit {ran.returncode}: {ran.stderr.strip()}"


def main(arguments: list[str]) -> int:
    stale = [path for path, text in generated().items() if not path.is_file() or path.read_text("utf-8") != text]
    if "--write" in arguments:
        for path in stale:
            path.write_text(generated()[path], "utf-8")
        stale = []
    problems = [f"{path.name}: is not what the program says; run python -m tests.docs_check --write" for path in stale]
    problems += [*unsaid(), *wrong(), *dead_links()]
    if "--run" in arguments:
        problems += failing()
    for problem in problems:
        print(problem)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
