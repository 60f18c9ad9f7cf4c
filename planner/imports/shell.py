"""Shell text → the commands that it runs, with what is known of their words.

A part of the shell's grammar (POSIX, Shell Command Language, §2): words with quotes and escapes, comments, lines that
continue, assignments and parameters with their defaults, lists, pipes, redirections and here-documents. What a word
takes from elsewhere (an unset variable, ``$(…)``) stays unknown and is named by whoever needs the word; nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from planner.imports.arithmetic import computed
from profiles.errors import InputError
from profiles.values import shown

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(rf"({_NAME})=(.*)", re.DOTALL)
_READ = re.compile(rf"\$\{{?({_NAME})")
_SET = re.compile(rf"(?<![\w.$-])({_NAME})=")
_COMPUTED = re.compile(r"\$\(\(([^)]*)\)\)")
_ARRAY = re.compile(rf"({_NAME})(\+?)=\(")
_ELEMENTS = re.compile(rf"\{{({_NAME})\[[@*]\]\}}")
_OWN_FOLDER = re.compile(r"dirname\b.*(?:\$0|BASH_SOURCE)", re.DOTALL)
"""How scripts ask for the folder that they lie in."""
_SPLIT = "\0"
"""Between words that an expansion without quotes falls into."""
_PARAMETER = re.compile(rf"\{{({_NAME})(?:(:?[-=+?])([^}}]*))?\}}|({_NAME})|([0-9@*#?$!-])")
_REDIRECTION = re.compile(r"[0-9]*(?:<<-?|>>|<<<|>\||>&|<&|&>>?|<>|>|<)")
_OPENS = {"if": "fi", "for": "done", "while": "done", "until": "done", "select": "done", "case": "esac", "{": "}"}
_OPENS |= {"function": "}"}
_BETWEEN = ("then", "else", "elif", "do", "!", "time")

MOST_WORDS = 20_000


@dataclass(frozen=True)
class Word:
    """One word; ``unknown``: what of it nobody can tell without running the script, empty where all is known."""

    text: str
    unknown: str = ""


@dataclass(frozen=True)
class Command:
    """One simple command.

    Attributes:
        words: program and arguments.
        environment: variables that it is given, exported ones among them.
        line: on which it begins, from 1.
        inside: the keyword of the block that it is in (``for``), empty outside of any; of ``case`` with what it asks.
        here: the text of its here-document; ``writes``: the file that its output goes to, ``appends``: at its end.
    """

    words: tuple[Word, ...]
    environment: Mapping[str, str]
    line: int
    inside: str = ""
    here: str | None = None
    writes: str | None = None
    appends: bool = False


@dataclass
class _Script:
    text: str
    variables: dict[str, str]
    at: int = 0
    line: int = 1
    exported: dict[str, str] = field(default_factory=dict)
    here: list[tuple[str, bool, bool]] = field(default_factory=list)  # (delimiter, indented, expanded), still to come
    arrays: dict[str, list[Word]] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()

    def assign(self, name: str, word: Word, value: str, *, sure: bool) -> None:
        """A variable gets a value; none that is known, where nobody can tell it or whether it is assigned at all. What
        the user says of a variable stands."""
        if name in self.pinned:
            return
        if _OWN_FOLDER.search(word.unknown):
            word, value = Word("."), "."
        if word.unknown or (not sure and self.variables.get(name) != value):
            self.variables.pop(name, None)
            self.exported.pop(name, None)
            return
        self.variables[name] = value
        if name in self.exported:
            self.exported[name] = value


def commands(text: str, given: Mapping[str, str] | None = None) -> list[Command]:
    """The commands of a script in its order, those of functions and blocks among them.

    Args:
        given: variables that the user knows the values of.

    Raises:
        InputError: a quote, a parameter or a here-document that does not end; naming the line.
    """
    known = dict(given or {})
    script = _Script(text.replace("\r\n", "\n"), {"PWD": ".", **known}, exported=dict(known), pinned=frozenset(known))
    found: list[Command] = []
    blocks: list[tuple[str, str]] = []
    pending: list[Word] = []
    begins, writes, appends = 1, None, False
    for count, (kind, word, line) in enumerate(_tokens(script)):
        if count > MOST_WORDS:
            raise InputError(f"script: has more than {MOST_WORDS:,} words", "give the part that starts the engines")
        if kind == "word" and word is not None:
            if not pending:
                begins = line
            pending.append(word)
        elif kind in ("writes", "appends") and word is not None:
            writes, appends = word.text, kind == "appends"
        elif kind == "here" and word is not None:
            if found:
                found[-1] = replace(found[-1], here=word.text)
        else:
            command = _command(script, pending, begins, blocks)
            if command is not None:
                found.append(replace(command, writes=writes, appends=appends))
            pending, writes, appends = [], None, False
    return found


def names_in(text: str) -> set[str]:
    """The variables that a script reads or sets."""
    computed_with = (name for inside in _COMPUTED.findall(text) for name in re.findall(_NAME, inside))
    return {*_READ.findall(text), *_SET.findall(text), *computed_with}


def _command(script: _Script, words: list[Word], line: int, blocks: list[tuple[str, str]]) -> Command | None:
    """The command that ``words`` are; None where they only assign, or open or close a block."""
    while words and not words[0].unknown:
        first = words[0].text
        if first in _OPENS:
            asks = f" {words[1].unknown or words[1].text}" if first == "case" and len(words) > 1 else ""
            blocks.append((first + asks, _OPENS[first]))
            words = words[1:] if first in ("if", "while", "until", "{") else []
        elif blocks and first == blocks[-1][1]:
            blocks.pop()
            words = []
        elif first in _BETWEEN:
            words = words[1:]
        elif first.endswith("()") or (len(words) > 1 and words[1].text == "()"):
            words = []
        else:
            break
    environment = dict(script.exported)
    sure = all(keyword in ("{", "function") for keyword, _ in blocks)
    assigned: list[tuple[str, Word, str]] = []
    while words and (match := _ASSIGNMENT.fullmatch(words[0].text)):
        assigned.append((match[1], words[0], match[2]))
        words = words[1:]
    if not words:
        for name, word, value in assigned:
            script.assign(name, word, value, sure=sure)
        return None
    if words[0].text in ("export", "declare", "local", "readonly", "typeset"):
        for word in words[1:]:
            match = _ASSIGNMENT.fullmatch(word.text)
            if match:
                script.exported.setdefault(match[1], "")
                script.assign(match[1], word, match[2], sure=sure)
            elif not match and word.text in script.variables:
                script.exported[word.text] = script.variables[word.text]
        return None
    inside = blocks[-1][0] if blocks and blocks[-1][0] != "{" else ""
    own = {name: value for name, word, value in assigned if not word.unknown}
    return Command(tuple(words), environment | own, line, inside)


def _tokens(script: _Script) -> Iterator[tuple[str, Word | None, int]]:
    """("word", the word), ("writes" or "appends", the file), ("here", the text), ("end", None), each with its line."""
    text = script.text
    while script.at < len(text):
        here = text[script.at]
        if here == "\\" and text[script.at + 1 : script.at + 2] == "\n":
            script.at += 2
            script.line += 1
        elif here in " \t\r":
            script.at += 1
        elif here == "#":
            script.at = _line_end(script)
        elif here == "\n":
            yield "end", None, script.line
            script.at += 1
            script.line += 1
            for delimiter, indented, expanded in script.here:
                yield "here", Word(_here_document(script, delimiter, indented, expanded)), script.line
            script.here.clear()
        elif found := _REDIRECTION.match(text, script.at):
            script.at = found.end()
            yield from _redirected(script, found.group())
        elif here in ";&|":
            yield "end", None, script.line
            script.at += 1
        elif array := _ARRAY.match(text, script.at):
            script.at = array.end()
            elements = _elements(script)
            script.arrays[array[1]] = [*(script.arrays.get(array[1], []) if array[2] else []), *elements]
        elif here in "()":
            if text.startswith("()", script.at):
                yield "word", Word("()"), script.line
                script.at += 2
            else:
                yield "end", None, script.line
                script.at += 1
        else:
            line = script.line
            for word in _words(script):
                yield "word", word, line
    yield "end", None, script.line


def _elements(script: _Script) -> list[Word]:
    """The words of an array, up to its bracket."""
    found: list[Word] = []
    begins = script.line
    while script.at < len(script.text):
        here = script.text[script.at]
        if here == ")":
            script.at += 1
            return found
        if here == "#":
            script.at = _line_end(script)
        elif here in " \t\r\n;&|<>(":
            script.line += here == "\n"
            script.at += 1
        elif here == "\\" and script.text[script.at + 1 : script.at + 2] == "\n":
            script.at += 2
            script.line += 1
        else:
            found += _words(script)
    raise InputError(f"script line {begins}: an array does not end", "close it with )")


def _line_end(script: _Script) -> int:
    end = script.text.find("\n", script.at)
    return len(script.text) if end < 0 else end


def _redirected(script: _Script, operator: str) -> Iterator[tuple[str, Word | None, int]]:
    """The target of a redirection is no word of the command."""
    while script.text[script.at : script.at + 1] in (" ", "\t"):
        script.at += 1
    start = script.at
    if start >= len(script.text) or script.text[start] in "\n;&|()":
        return
    words = _words(script)
    if not words:
        return
    target = words[0]
    plain = operator.lstrip("0123456789")
    if plain in ("<<", "<<-"):
        quoted = script.text[start] in "'\"\\"
        script.here.append((target.text, plain == "<<-", not quoted))
    elif plain in (">", ">>", ">|") and not operator[0].isdigit() and not target.unknown:
        yield "appends" if plain == ">>" else "writes", target, script.line


def _here_document(script: _Script, delimiter: str, indented: bool, expanded: bool) -> str:
    lines: list[str] = []
    begins = script.line
    while script.at < len(script.text):
        end = _line_end(script)
        line = script.text[script.at : end]
        script.at = min(end + 1, len(script.text))
        script.line += 1
        if (line.lstrip("\t") if indented else line) == delimiter:
            text = "\n".join(lines) + "\n"
            return _expanded(script, text).text if expanded else text
        lines.append(line.lstrip("\t") if indented else line)
    raise InputError(
        f"script line {begins}: the here-document does not end with {shown(delimiter)}", "close it, or leave it out"
    )


def _expanded(script: _Script, text: str) -> Word:
    """``text`` with its parameters replaced, as between double quotes."""
    inner = replace(script, text=text, at=0, line=script.line)
    out: list[str] = []
    unknown = ""
    while inner.at < len(text):
        if text[inner.at] == "\\" and text[inner.at + 1 : inner.at + 2] in ("$", "`", "\\", "\n"):
            out.append(text[inner.at + 1].replace("\n", ""))
            inner.at += 2
        elif text[inner.at] in "$`":
            part, missing = _parameter(inner)
            out.append(part)
            unknown = unknown or missing
        else:
            out.append(text[inner.at])
            inner.at += 1
    return Word("".join(out), unknown)


def _words(script: _Script) -> list[Word]:
    """The word that begins here; several, or none, where an expansion without quotes falls into words."""
    text, out, unknown, begins, quoted = script.text, [], "", script.line, False
    for name in ("$", '"$'):
        array = _ELEMENTS.match(text, script.at + len(name)) if text.startswith(name, script.at) else None
        if array is not None and array[1] in script.arrays:
            script.at = array.end() + (len(name) - 1)
            return list(script.arrays[array[1]])
    while script.at < len(text):
        here = text[script.at]
        if here in " \t\n\r;&|()<>":
            break
        if here == "\\":
            following = text[script.at + 1 : script.at + 2]
            script.line += following == "\n"
            out.append("" if following == "\n" else following)
            script.at += 2
        elif here == "'":
            end = text.find("'", script.at + 1)
            if end < 0:
                raise _open_quote(begins)
            out.append(text[script.at + 1 : end])
            quoted = True
            script.line += text.count("\n", script.at, end)
            script.at = end + 1
        elif here == '"':
            inner, end = _double_quoted(script, begins)
            out.append(inner.text)
            quoted = True
            unknown = unknown or inner.unknown
            script.line += text.count("\n", script.at, end)
            script.at = end + 1
        elif here in "$`":
            part, missing = _parameter(script)
            assigns = bool(_ASSIGNMENT.fullmatch("".join(out)))
            out.append(part if assigns else re.sub(r"\s+", _SPLIT, part))
            unknown = unknown or missing
        else:
            out.append(here)
            script.at += 1
    if unknown or quoted:
        parts = "".join(out).split(_SPLIT)
        return [Word(part, unknown) for part in parts]
    return [Word(part) for part in "".join(out).split(_SPLIT) if part]


def _open_quote(line: int) -> InputError:
    return InputError(f"script line {line}: a quote does not end", "close it")


def _double_quoted(script: _Script, begins: int) -> tuple[Word, int]:
    """(what is between the quotes, where they end)."""
    at, text = script.at + 1, script.text
    while at < len(text) and text[at] != '"':
        if text.startswith("$(", at):
            at = _closing(text, at + 1, begins)
        at += 2 if text[at : at + 1] == "\\" else 1
    if at >= len(text):
        raise _open_quote(begins)
    inner = text[script.at + 1 : at]
    found = _expanded(script, re.sub(r'\\"', '"', inner))
    return found, at


def _closing(text: str, at: int, line: int) -> int:
    """Where the bracket that opens at ``at`` closes."""
    depth = 0
    for index in range(at, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise InputError(f"script line {line}: $( does not end", "close it")


def _parameter(script: _Script) -> tuple[str, str]:
    """(the value of the expansion that begins here, what is unknown of it)."""
    text, at = script.text, script.at
    if text[at] == "`":
        end = text.find("`", at + 1)
        if end < 0:
            raise _open_quote(script.line)
        script.at = end + 1
        return "", text[at : script.at]
    if text.startswith("$(", at):
        script.at = _closing(text, at + 1, script.line) + 1
        whole = text[at : script.at]
        if whole.startswith("$((") and whole.endswith("))"):
            inside = _expanded(script, whole[3:-2])
            result = None if inside.unknown else computed(inside.text, script.variables)
            return ("", whole) if result is None else (str(result), "")
        return "", whole
    match = _PARAMETER.match(text, at + 1)
    if match is None:
        if text.startswith("${", at):
            end = text.find("}", at)
            if end < 0:
                raise InputError(f"script line {script.line}: ${{ does not end", "close it")
            script.at = end + 1
            return "", text[at : script.at]
        script.at += 1
        return "$", ""
    script.at = match.end()
    name, operator, word = match[1] or match[4], match[2] or "", match[3] or ""
    if name is None:
        return "", match.group() if match.group() == "$" else f"${match[5]}"
    value = script.variables.get(name)
    if operator.lstrip(":") == "+":
        return (word, "") if value else ("", "")
    if value is None or (operator.startswith(":") and not value):
        if operator.lstrip(":") in ("-", "="):
            return _default(script, word)
        return "", f"${name}"
    return value, ""


def _default(script: _Script, word: str) -> tuple[str, str]:
    if "$" in word or "`" in word:
        found = _expanded(script, word)
        return found.text, found.unknown
    return word.strip("\"'"), ""
