"""`${VAR}`, `${VAR:default}` and `${file:/path}` in values; `$${` is a plain `${`. Nothing else is special: jq's `$x` stays.

Replaced text is not looked through again, so that no variable can bring in another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from penstock.config.suggest import nearest
from penstock.errors import ConfigProblem

MAX_SECRET_FILE = 1 << 16

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMS = "${VAR}, ${VAR:default} or ${file:/path}; $${ for a plain ${"


class Interpolated(NamedTuple):
    """A text with its references replaced.

    :ivar values: what came from variables and files, and is shown to nobody (Invariant 9); defaults stand in the file.
    :ivar names: what it refers to: `VAR`, `file:/path`.
    """

    text: str
    values: list[str]
    names: list[str]


@dataclass(frozen=True, slots=True)
class Interpolator:
    """Replaces references in text. Paths of files are relative to the project."""

    environment: Mapping[str, str]
    project: Path

    def __call__(self, text: str) -> Interpolated:
        """:raises ConfigProblem: `config.undefined_variable`, `config.bad_reference`, `config.unreadable_file`."""
        values: list[str] = []
        names: list[str] = []
        replaced = _REFERENCE.sub(lambda match: self._replace(match, values, names), text)
        return Interpolated(replaced, values, names)

    def _replace(self, match: re.Match[str], values: list[str], names: list[str]) -> str:
        if match[1] is None:
            return "${"
        name, colon, default = match[1].partition(":")
        is_file = name == "file" and bool(colon)
        _check(name, default, is_file=is_file, is_closed=bool(match[2]))
        names.append(match[1] if is_file else name)
        if is_file:
            value: str | None = self._file(default)
        else:
            value = self.environment.get(name)
        if value is None and not colon:
            raise self._undefined(name)
        if value is None:
            return default
        values.append(value)
        if not _is_unicode(value):
            raise ConfigProblem("config.not_utf8", f"the value of ${{{match[1]}}} is not UTF-8")
        return value

    def _undefined(self, name: str) -> ConfigProblem:
        close = nearest(name, self.environment)
        hint = f"set it, or give a default: ${{{name}:value}}"
        return ConfigProblem(
            "config.undefined_variable",
            f"the environment variable {name} is not set",
            help=f"did you mean ${{{close}}}? Else {hint}" if close else hint,
        )

    def _file(self, name: str) -> str:
        path = self.project / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_FILE + 1)
            text = content.decode()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8, or the path is none"
            raise ConfigProblem(
                "config.unreadable_file", f"{path} cannot be read", why=reason, help="check path and permissions"
            ) from error
        if len(content) > MAX_SECRET_FILE:
            raise ConfigProblem("config.unreadable_file", f"{path} is larger than {MAX_SECRET_FILE >> 10} KiB")
        return text.removesuffix("\n").removesuffix("\r")


def _check(name: str, default: str, *, is_file: bool, is_closed: bool) -> None:
    if not is_closed:
        raise ConfigProblem(
            "config.bad_reference", f"the reference ${{{name[:40]} has no closing brace", help="$${ for a plain ${"
        )
    if not is_file and not _NAME.fullmatch(name):
        raise ConfigProblem("config.bad_reference", f"'${{{name[:40]}}}' is no reference", help=_FORMS)
    if "${" in default:
        raise ConfigProblem("config.bad_reference", "a reference inside a reference is not replaced", help=_FORMS)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of the environment that are not UTF-8 come as lone surrogates
        return False
    return True
