"""Files of variables for `--env-file`: `NAME=value` a line, `export` allowed, quotes as in a shell, `#` begins a comment."""

from __future__ import annotations

import re
from pathlib import Path

from penstock.errors import ConfigProblem, ConfigurationError, Location, UsageError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_BARE = re.compile(r"([^'\"]*?)\s*(?:(?<=\s)#.*)?")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def read_env_file(file: Path) -> dict[str, str]:
    """The variables of a file; a later line overrules an earlier one. Nothing in values is interpolated.

    :raises ConfigurationError: with every line that is none, never showing its value (Invariant 9).
    :raises UsageError: `env_file.unreadable`.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except OSError as error:
        raise UsageError("env_file.unreadable", f"cannot read {file}", why=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UsageError("env_file.unreadable", f"cannot read {file}", why=f"byte {error.start} is not UTF-8") from error
    variables: dict[str, str] = {}
    problems: list[ConfigProblem] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        value = _value(match[2]) if match else None
        if match is None or value is None:
            where = Location(str(file), number)
            problems.append(ConfigProblem("env_file.invalid", "this line sets no variable", where=where, help="NAME=value"))
        else:
            variables[match[1]] = value
    if problems:
        raise ConfigurationError(problems)
    return variables


def _value(text: str) -> str | None:
    if match := _SINGLE.fullmatch(text):
        return match[1]
    if match := _DOUBLE.fullmatch(text):
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1])
    match = _BARE.fullmatch(text)
    return match[1] if match else None
