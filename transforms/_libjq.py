"""Programs that libjq runs: JSON text in, Python values out.

Every input has passed the strict decoder first, because libjq itself would let through or change what JSON does not allow (NaN,
1e400, lone surrogates). What doubles cannot hold takes the way of `_exact`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jq

from penstock.cloudevents import attributes_json
from penstock.errors import Permanent
from penstock.event import UNSET, Event, decode, encode, too_deep
from penstock.spi import View
from transforms._exact import has_long_number, integers, run_exactly
from transforms._guard import END, guarded
from transforms._paths import data, envelope_json
from transforms._single import is_single
from transforms._tokens import Facts, analyse, place, tokens_of

_PLACE = re.compile(r"\s*(?:at <top-level>)?,? line (\d+), column (\d+)")
_MESSAGE_LIMIT = 200
_VARIABLES: dict[View, dict[str, dict[str, str]]] = {"data": {"event": {}, "steps": {}}, "record": {}, "event": {}}

Input = Callable[[Event, float], bytes]
"""Makes the JSON text that a program reads; the number is the processing time."""


class Compiled:
    """One program, compiled.

    :raises Permanent: `jq.syntax`, `jq.forbidden` or `jq.inexact_integer`, with the place inside the program in `why`.
    """

    __slots__ = ("_facts", "_guarded", "_input", "_program", "_single", "_source")

    def __init__(self, program: str, view: View) -> None:
        self._facts = analyse(program)
        self._single = is_single(list(tokens_of(program)))
        _compile(program, view)
        self._input, prefix = _input_of(view, self._facts)
        self._source = f"{prefix}({program}\n)"
        self._program = jq.compile(self._source)
        self._guarded: Any = None

    def outputs(self, event: Event, now: float) -> list[Any]:
        """All outputs for one event.

        :raises Permanent: `jq.error`, `jq.inexact_integer`, `jq.not_json`, `decode.*`, `encode.*`.
        """
        text = self._input(event, now)
        if has_long_number(text):
            return self._outputs_exactly(text)
        return self._outputs(text)

    def _outputs(self, text: bytes) -> list[Any]:
        try:
            asked = self._program.input_text(text.decode())
            outputs: list[Any] = [asked.first()] if self._single else asked.all()
        except ValueError as error:
            raise _failure(error) from error
        return outputs

    def _outputs_exactly(self, text: bytes) -> list[Any]:
        value = decode(text)
        in_text = self._facts.numbers_from_text
        try:
            found = integers(value, in_text=in_text)
            if found:
                return run_exactly(self._texts, value, found, in_text=in_text)
        except RecursionError as error:
            raise too_deep() from error
        return self._outputs(text)

    def _texts(self, text: str) -> list[str] | None:
        if self._guarded is None:
            self._guarded = jq.compile(guarded(self._source))
        try:
            texts: list[str] = self._guarded.input_text(text).all()
        except ValueError as error:
            raise _failure(error) from error
        return texts[:-1] if texts[-1:] == [END] else None


def fuse(programs: list[str]) -> str:
    """One program whose single output is an array: for each program an array of all its outputs."""
    return "[" + ",".join(f"[{program}\n]" for program in programs) + "]"


def _compile(program: str, view: View) -> None:
    """Compile the program by itself, so that it is whole and its places are its own."""
    try:
        jq.compile(program, args=_VARIABLES[view])
    except ValueError as error:
        raise _syntax(program, str(error)) from error


def _syntax(program: str, text: str) -> Permanent:
    lines = text.splitlines() or [""]
    first = lines[0].removeprefix("jq: error: ")
    match = _PLACE.search(first)
    message = first[: match.start()] if match else first
    message = message.removeprefix("syntax error, ").replace("INVALID_CHARACTER", "character")
    why = None
    if match:
        start = sum(len(line) for line in program.splitlines(keepends=True)[: int(match[1]) - 1])
        why = place(program, start + int(match[2]) - 1)
    unknown = message.startswith(("$event ", "$steps "))
    help = "$event and $steps exist where programs see the data; here attributes are fields of the input" if unknown else None
    return Permanent("jq.syntax", f"jq cannot read the program: {message}"[:_MESSAGE_LIMIT], why=why, help=help)


def _failure(error: ValueError) -> Permanent:
    message = str(error)
    if len(message) > _MESSAGE_LIMIT:
        message = message[: _MESSAGE_LIMIT - 1] + "…"
    return Permanent("jq.error", message)


def _input_of(view: View, facts: Facts) -> tuple[Input, str]:
    """How the input is made, and what goes before the program to unpack it."""
    bare = _BARE[view]
    variables = [name for name, used in (("event", facts.event), ("steps", facts.steps), ("now", facts.now)) if used]
    if not variables:
        return lambda event, now: bare(event), ""
    members = [_MEMBERS[name] for name in variables]

    def wrapped(event: Event, now: float) -> bytes:
        return b'{"data":%b%b}' % (bare(event), b"".join([member(event, now) for member in members]))

    return wrapped, "".join(_BINDINGS[name] for name in variables) + ".data|"


def _data_json(event: Event) -> bytes:
    if event.decoded is UNSET or event.decoded.__class__ is bytes:
        data(event)
    return event.json()


def _record_json(event: Event) -> bytes:
    return _data_json(event) if event.record is UNSET else encode(event.record)


_BARE: dict[View, Callable[[Event], bytes]] = {"data": _data_json, "record": _record_json, "event": envelope_json}
_MEMBERS: dict[str, Input] = {
    "event": lambda event, now: b',"event":' + attributes_json(event),
    "steps": lambda event, now: b',"steps":' + encode(event.steps or {}),
    "now": lambda event, now: b',"now":' + encode(now),
}
_BINDINGS = {
    "event": ".event as $event|",
    "steps": ".steps as $steps|",
    "now": ".now as $__now|def now: $__now;",
}


def not_one_value(name: str, count: int) -> Permanent:
    problem = "no value" if count == 0 else f"{count} values"
    return Permanent(
        "jq.not_one_value",
        f"{name} gives {problem}, not one",
        where=name,
        help="write `// null` where there may be none" if count == 0 else "collect them with [ … ], or take the `first(…)`",
    )
