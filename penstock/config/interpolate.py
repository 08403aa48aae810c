"""`${VAR}`, `${VAR:default}` and `${file:/path}` in values; `$${` is a plain `${`. Nothing else is special: jq's `$x` stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from penstock.errors import ConfigProblem

MAX_SECRET_FILE = 1 << 16

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(slots=True)
class Interpolator:
    """Replaces references in text.

    :ivar used: names of the variables that were asked for, for messages.
    """

    environment: Mapping[str, str]
    project: Path
    used: set[str] = field(default_factory=set)

    def __call__(self, text: str) -> str:
        """:raises ConfigProblem: `config.undefined_variable`, `config.bad_reference`, `config.unreadable_file`."""
        return _REFERENCE.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        name, colon, default = match[1].partition(":")
        if not match[2]:
            raise ConfigProblem(
                "config.bad_reference", f"the reference ${{{name[:40]} has no closing brace", help="$${ for a plain ${"
            )
        if name == "file" and colon:
            return self._file(default)
        if not _NAME.fullmatch(name):
            raise ConfigProblem(
                "config.bad_reference",
                f"'${{{name}}}' is no reference",
                help="${VAR}, ${VAR:default} or ${file:/path}; $${ for a plain ${",
            )
        self.used.add(name)
        value = self.environment.get(name)
        if value is not None:
            return value
        if colon:
            return default
        near = get_close_matches(name, self.environment, n=1)
        hint = f"set it, or give a default: ${{{name}:value}}"
        raise ConfigProblem(
            "config.undefined_variable",
            f"the environment variable {name} is not set",
            help=f"did you mean ${{{near[0]}}}? Else {hint}" if near else hint,
        )

    def _file(self, name: str) -> str:
        path = self.project / name
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_FILE + 1)
            if len(content) > MAX_SECRET_FILE:
                raise ConfigProblem("config.unreadable_file", f"{path} is larger than {MAX_SECRET_FILE >> 10} KiB")
            return content.decode().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigProblem(
                "config.unreadable_file", f"{path} cannot be read", why=reason, help="check path and permissions"
            ) from error
