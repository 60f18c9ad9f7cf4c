"""Options that a command takes from a file (``--config``): read in its place, as vLLM and SGLang do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from planner.contract.files import mapping_of
from planner.imports.named_files import text_named
from planner.imports.shell import Word
from profiles.errors import InputError
from profiles.values import shown

CONFIG = "--config"


def with_config(words: Sequence[Word], files: Mapping[str, str]) -> list[Word]:
    """``words`` with the options of the file that ``--config`` names in front; those given on the command line, too,
    count there.

    Raises:
        InputError: nobody says what the file holds, or it is no mapping of options.
    """
    at = next((i for i, word in enumerate(words) if word.text == CONFIG or word.text.startswith(f"{CONFIG}=")), None)
    if at is None:
        return list(words)
    attached = words[at].text.partition("=")[2]
    end = at + 1 if attached else at + 2
    name = attached or (words[at + 1].text if at + 1 < len(words) else "")
    text = text_named(files, name)
    if text is None:
        unknown = next((word.unknown for word in words[at:end] if word.unknown), "") or name
        variable = re.fullmatch(r"\$([A-Za-z_]\w*)", unknown)
        raise InputError(
            f"{CONFIG}: {shown(unknown)}: what the file says is not known",
            f"say which it is: --set {variable[1]}=FILE"
            if variable
            else "import the script from the folder of the file, or write its options as flags",
        )
    rest = [*words[:at], *words[end:]]
    given = {_folded(word.text.partition("=")[0]) for word in rest if word.text.startswith("--")}
    read: list[Word] = []
    for key, value in mapping_of(text, f"{CONFIG} {name}", "give options and their values, one a line").items():
        flag = f"--{str(key).replace('_', '-')}"
        if key in ("model", "model_tag") and name and any(not word.text.startswith("-") for word in rest[:1]):
            continue
        if _folded(flag) in given or value is False or value is None:
            continue
        read.append(Word(flag))
        if value is not True:
            read.append(Word(value if isinstance(value, str) else json.dumps(value)))
    first = [word for word in rest[:1] if not word.text.startswith("-")]
    return [*first, *read, *rest[len(first) :]]


def _folded(flag: str) -> str:
    return flag.replace("_", "-").removeprefix("--no-").removeprefix("--")
