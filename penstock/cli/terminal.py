"""The two streams: results go to stdout, talk goes to stderr; colors only where somebody sees them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from penstock.errors import PenstockError
from penstock.observe.text import printable, printable_json


@dataclass(frozen=True, slots=True)
class Style:
    """Colors, or none at all."""

    color: bool = False

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def bold(self, text: str) -> str:
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        return self._paint("2", text)

    def red(self, text: str) -> str:
        return self._paint("1;31", text)

    def minus(self, text: str) -> str:
        """Red, and not bold: what a diff takes away."""
        return self._paint("31", text)

    def green(self, text: str) -> str:
        return self._paint("32", text)

    def yellow(self, text: str) -> str:
        return self._paint("33", text)

    def cyan(self, text: str) -> str:
        return self._paint("36", text)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where output goes.

    :ivar width: columns of the terminal; None where stdout is none, and nothing need be shortened. `err_width` likewise.
    :ivar interactive: somebody watches stderr; `asks`: and can answer.
    """

    out: TextIO
    err: TextIO
    style: Style
    err_style: Style
    width: int | None
    err_width: int | None
    interactive: bool
    asks: bool = False

    @classmethod
    def of_process(cls) -> Terminal:
        """This process's streams. NO_COLOR, TERM=dumb and pipes mean no colors; the latter two no progress display either."""
        color, dumb = not os.environ.get("NO_COLOR"), _is_dumb(os.environ)
        out_is, err_is = sys.stdout.isatty() and not dumb, sys.stderr.isatty() and not dumb
        columns = shutil.get_terminal_size((100, 24)).columns
        return cls(
            sys.stdout,
            sys.stderr,
            Style(color and out_is),
            Style(color and err_is),
            columns if sys.stdout.isatty() else None,
            columns if sys.stderr.isatty() else None,
            err_is,
            sys.stdin.isatty(),
        )

    def show(self, *lines: str) -> None:
        """Results. The caller has made outside text printable."""
        for line in lines:
            self.out.write(line + "\n")

    def show_all(self, lines: Iterable[str]) -> None:
        self.show(*lines)

    def say(self, *lines: str) -> None:
        """Talk."""
        self.out.flush()
        for line in lines:
            self.err.write(line + "\n")
        self.err.flush()

    def show_json(self, value: Any) -> None:
        """One JSON document on one line."""
        import msgspec

        self.show_json_text(msgspec.json.encode(value))

    def show_json_text(self, text: bytes) -> None:
        """JSON text that is ready, made harmless for terminals."""
        self.out.write(printable_json(text).decode() + "\n")

    def say_error(self, error: PenstockError) -> None:
        """All parts of an error, on stderr."""
        self.say(paint_error(printable(error.render(), keep="\n"), self.err_style))


def complete_streams() -> None:
    """Give a process whose caller closed one of its three streams the null device there: no file that it opens later may have
    that number, and be written to as if it were a terminal. Call first; `sys.__stdout__` goes on to say that it was closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115  # a descriptor


def _is_dumb(environment: Mapping[str, str]) -> bool:
    return environment.get("TERM", "") in ("dumb", "")


_HEAD = re.compile(r"^(error|warning)(\[[^\]\n]*\]:)", re.MULTILINE)
_LABEL = re.compile(r"^(  (?:-->|why:|help:))", re.MULTILINE)


def paint_error(text: str, style: Style) -> str:
    """A rendered error with its labels colored."""
    if not style.color:
        return text
    text = _HEAD.sub(lambda match: (style.red if match[1] == "error" else style.yellow)(match[0]), text)
    return _LABEL.sub(lambda match: style.cyan(match[0]), text)
