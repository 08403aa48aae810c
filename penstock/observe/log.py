"""Logs: one line an incident, never one an event. For people on a terminal, JSON everywhere else.

Whoever has something to say makes an `Incident`; where it goes is decided once, at the edge (`open_log`). Every text is escaped,
so that nothing in an event or a file name can forge a line or steer a terminal. Secrets do not get here: they show themselves as
`***` (Invariant 9).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TextIO

from penstock.clock import Clock, rfc3339
from penstock.errors import ConfigurationError, Location, PenstockError
from penstock.observe.text import printable

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

_COLORS = {"debug": "2", "info": "36", "warning": "33", "error": "1;31"}


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that the people who operate a pipeline want to know.

    :ivar code: stable and dotted, as an error's: `shutdown.timeout`.
    :ivar message: one line, no secrets.
    :ivar pipeline: whose, where it belongs to one.
    """

    level: Level
    code: str
    message: str
    help: str | None = None
    pipeline: str | None = None
    where: str | None = None
    why: str | None = None


Log = Callable[[Incident], None]


def from_error(error: PenstockError, pipeline: str | None = None) -> list[Incident]:
    """What an error is in a log: one incident, or one for each mistake of a configuration."""
    problems = error.problems if isinstance(error, ConfigurationError) else [error]
    return [Incident("error", e.code, e.message, e.help, pipeline, _place(e.where), e.why) for e in problems]


def _place(where: Location | str | None) -> str | None:
    return None if where is None else str(where)


@dataclass(frozen=True, slots=True)
class TextLog:
    """Lines for people: `warning shutdown.timeout orders: what happened (what to do)`.

    :ivar write: is given one complete line, without its end. A progress display passes a function that prints above itself.
    """

    write: Callable[[str], None]
    level: Level = "info"
    color: bool = False

    def __call__(self, incident: Incident) -> None:
        if LEVELS.index(incident.level) < LEVELS.index(self.level):
            return
        head = f"{incident.level}[{incident.code}]"
        if self.color:
            head = f"\x1b[{_COLORS[incident.level]}m{head}\x1b[0m"
        parts = [head + ":"]
        if incident.pipeline is not None:
            parts.append(f"{printable(incident.pipeline)}:")
        parts.append(printable(incident.message))
        extras = [printable(text) for text in (incident.where, incident.why, incident.help) if text]
        self.write(" · ".join([" ".join(parts), *extras]))


@dataclass(frozen=True, slots=True)
class JsonLog:
    """One JSON object a line: `time`, `level`, `code`, `message`, and `pipeline`, `where`, `why`, `help` where there is one."""

    write: Callable[[str], None]
    clock: Clock
    level: Level = "info"

    def __call__(self, incident: Incident) -> None:
        if LEVELS.index(incident.level) < LEVELS.index(self.level):
            return
        entry = {"time": rfc3339(self.clock.now()), "level": incident.level, "code": incident.code, "message": incident.message}
        for name in ("pipeline", "where", "why", "help"):
            if (value := getattr(incident, name)) is not None:
                entry[name] = value
        self.write(json.dumps(entry).replace("\x7f", "\\u007f"))  # ASCII without controls: nothing forges a line


def stream_writer(stream: TextIO) -> Callable[[str], None]:
    """Writes whole lines to a stream, each at once."""

    def write(line: str) -> None:
        stream.write(line + "\n")
        stream.flush()

    return write
