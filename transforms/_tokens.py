"""The lexical side of jq: what a program names, told apart from what only looks like it.

A name counts where jq would read one: not inside a string, nor as a field (`.env`) or an object key (`{env: 1}`), but inside an
interpolation (`"\\(env)"`). In doubt a program is refused, because whatever this reading overlooked would run.

Source: jq 1.8 manual, and its lexer's treatment of comments and strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from penstock.errors import Permanent

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    | (?P<quote>")
    | (?P<field>\.[A-Za-z_][A-Za-z0-9_]*)
    | (?P<variable>\$\s*(?:[A-Za-z_][A-Za-z0-9_]*::)*[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    | (?P<name>(?:[A-Za-z_][A-Za-z0-9_]*::)*[A-Za-z_][A-Za-z0-9_]*)
    | (?P<format>@[A-Za-z0-9_]+)
    | (?P<other>\?//=?|//=?|[|+\-*/%=!<>]=|.)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_STRING_PART = re.compile(r'[^"\\]+|\\[^(]', re.DOTALL)
_CLOSES = {")": "(", "]": "[", "}": "{", "end": "if"}

_ENVIRONMENT = "programs see no environment variables; write ${NAME} in the pipeline file"
_INPUT = "a program sees one event at a time, as its input"
_END = "to drop an event give no output (`empty`), to fail it use `error`"
_LOG = "to look at values use `pipe try`"
_MODULE = "programs stand alone; define functions with `def`"
_PATHS = "programs do not see the file system"
FORBIDDEN = {
    "env": _ENVIRONMENT,
    "$ENV": _ENVIRONMENT,
    "$__prog_args": _ENVIRONMENT,
    "$__prog_name": _ENVIRONMENT,
    "input": _INPUT,
    "inputs": _INPUT,
    "input_filename": _INPUT,
    "input_line_number": _INPUT,
    "halt": _END,
    "halt_error": _END,
    "debug": _LOG,
    "stderr": _LOG,
    "import": _MODULE,
    "include": _MODULE,
    "modulemeta": _MODULE,
    "get_search_list": _PATHS,
    "get_prog_origin": _PATHS,
    "get_jq_origin": _PATHS,
}
"""Names that a program may not use, each with what to do instead."""

_NUMBERS_FROM_TEXT = frozenset({"tonumber", "fromjson"})


class Token(NamedTuple):
    """One token: its kind (a group of the lexer, or `key` for an object key), text, and offset in the program."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a program uses.

    :ivar event: `$event`; `steps`: `$steps`; `now`: the time.
    :ivar numbers_from_text: it can make numbers of strings.
    """

    event: bool
    steps: bool
    now: bool
    numbers_from_text: bool


def analyse(program: str) -> Facts:
    """Read a program's tokens.

    :raises Permanent: `jq.forbidden` for a name of `FORBIDDEN`, `jq.inexact_integer` for a number that jq would round,
        `jq.syntax` for what cannot be read safely.
    """
    if "\0" in program:
        raise syntax_error(program, program.index("\0"), "a program holds no NUL character")
    names = set()
    for token in tokens_of(program):
        if token.kind in ("name", "variable"):
            name = "".join(token.text.split()).rpartition("::")[2]
            name = f"${name.lstrip('$')}" if token.kind == "variable" else name
            if name in FORBIDDEN:
                message = f"{name} may not be used in a program"
                raise Permanent("jq.forbidden", message, why=place(program, token.at), help=FORBIDDEN[name])
            names.add(name)
        elif token.kind == "number":
            _check_number(program, token)
    return Facts(
        event="$event" in names,
        steps="$steps" in names,
        now="now" in names,
        numbers_from_text=not names.isdisjoint(_NUMBERS_FROM_TEXT),
    )


def place(program: str, at: int) -> str:
    """`line 2, column 5 of the program`, one-based."""
    line_start = program.rfind("\n", 0, at) + 1
    return f"line {program.count(chr(10), 0, at) + 1}, column {at - line_start + 1} of the program"


def syntax_error(program: str, at: int, message: str) -> Permanent:
    return Permanent("jq.syntax", message, why=place(program, at))


def _check_number(program: str, token: Token) -> None:
    if float(token.text) == float("inf") or (token.text.isdigit() and int(float(token.text)) != int(token.text)):
        message = f"jq cannot hold the number {token.text[:60]} exactly"
        raise Permanent("jq.inexact_integer", message, why=place(program, token.at), help='compare as text: tostring == "…"')


def tokens_of(program: str) -> Iterator[Token]:
    """Every token but space, with object keys told apart from names."""
    tokens = list(_lex(program, 0, None)[0])
    open_: list[str] = []
    previous = ""
    for index, token in enumerate(tokens):
        follower = tokens[index + 1].text if index + 1 < len(tokens) else ""
        in_object = bool(open_) and open_[-1] == "{"
        if token.kind == "name" and in_object and previous in ("{", ",") and follower in (":", ",", "}"):
            token = Token("key", token.text, token.at)
        elif token.text in _CLOSES and token.kind in ("other", "name", "close"):
            if open_ and open_[-1] == _CLOSES[token.text]:
                open_.pop()
        elif token.text in ("(", "[", "{", "if") and token.kind in ("other", "name", "open"):
            open_.append(token.text)
        previous = token.text
        yield token


def _lex(program: str, at: int, until: str | None) -> tuple[list[Token], int]:
    """Tokens up to the parenthesis that closes an interpolation (`until`), or to the end; and where that is."""
    found: list[Token] = []
    depth = 0
    while at < len(program):
        match = _TOKEN.match(program, at)
        assert match is not None  # the last alternative takes any character
        kind, text = str(match.lastgroup), match[0]
        if kind == "quote":
            inner, at = _string(program, at)
            found += inner
            continue
        if kind == "space":
            _check_comment(program, at, text)
        else:
            depth += (text == "(") - (text == ")")
            if until is not None and depth < 0:
                return found, match.end()
            found.append(Token(kind, text, at))
        at = match.end()
    return found, at


def _check_comment(program: str, at: int, text: str) -> None:
    if text[0] == "#" and text.rstrip("\r").endswith("\\"):  # jq goes on reading such a comment on the next line
        raise syntax_error(program, at, "a comment may not end with a backslash")


def _string(program: str, start: int) -> tuple[list[Token], int]:
    """The string that begins at `start`: a token for it, then in parentheses those of its interpolations; and where it ends."""
    found = [Token("string", '"', start)]
    at = start + 1
    while at < len(program):
        if program[at] == '"':
            return found, at + 1
        if program.startswith("\\(", at):
            inner, end = _lex(program, at + 2, ")")
            found += [Token("open", "(", at), *inner, Token("close", ")", end)]
            at = end
        else:
            match = _STRING_PART.match(program, at)
            at = match.end() if match else len(program)
    return found, at
