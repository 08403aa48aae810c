"""The jq seam (`penstock.spi.Expressions`): program text in, a callable over a batch out.

Plain paths and literals are resolved natively, everything else by libjq, integers exactly or not at all. Programs are
deterministic but for `now`, which is the time at which the batch is processed.

A result that is NaN becomes null and an infinite one the largest double, as jq prints them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.errors import ComponentError, Permanent
from penstock.event import Event
from penstock.spi import Expressions, FieldsProgram, Program, View
from transforms._libjq import Compiled, fuse, not_one_value
from transforms._paths import Getter, native

JQ_STARTS = (".", "$", '"', "(", "[", "{", "if ")
"""How a field's text begins where it is jq; any other is a literal."""


def compiler(now: Callable[[], float] = time.time) -> Expressions:
    """The compiler of programs.

    :param now: seconds since 1970, what `now` gives in programs.
    """
    return _Compiler(now)


@dataclass(frozen=True, slots=True)
class _Compiler:
    now: Callable[[], float]

    def program(self, text: str, view: View) -> Program:
        getter = native(text, view)
        if getter is not None:
            return _NativeProgram(getter)
        return _JqProgram(Compiled(text, view), self.now)

    def fields(self, fields: Mapping[str, str], view: View) -> FieldsProgram:
        names = list(fields)
        getters: list[Getter | None] = []
        programs: dict[int, Compiled] = {}
        for place, (name, text) in enumerate(fields.items()):
            getter = _literal(text) if not text.startswith(JQ_STARTS) else native(text, view)
            getters.append(getter)
            if getter is None:
                programs[place] = _checked(name, text, view)
        natives = [getter for getter in getters if getter is not None]
        if not programs:
            return _NativeFields(natives)
        fused = Compiled(fuse([fields[names[place]] for place in programs]), view)
        return _FusedFields(names, getters, programs, fused, self.now)


def _literal(text: str) -> Getter:
    return lambda event: text


def _checked(name: str, text: str, view: View) -> Compiled:
    try:
        return Compiled(text, view)
    except Permanent as error:
        error.where = name
        raise


@dataclass(frozen=True, slots=True)
class _NativeProgram:
    getter: Getter

    def __call__(self, events: Sequence[Event], /) -> list[list[Any] | ComponentError]:
        getter = self.getter
        results: list[list[Any] | ComponentError] = []
        for event in events:
            try:
                results.append([getter(event)])
            except Permanent as error:
                results.append(error)
        return results


@dataclass(frozen=True, slots=True)
class _JqProgram:
    compiled: Compiled
    now: Callable[[], float]

    def __call__(self, events: Sequence[Event], /) -> list[list[Any] | ComponentError]:
        outputs, now = self.compiled.outputs, self.now()
        results: list[list[Any] | ComponentError] = []
        for event in events:
            try:
                results.append(outputs(event, now))
            except Permanent as error:
                results.append(error)
        return results


@dataclass(frozen=True, slots=True)
class _NativeFields:
    getters: list[Getter]

    def __call__(self, events: Sequence[Event], /) -> list[tuple[Any, ...] | ComponentError]:
        getters = self.getters
        results: list[tuple[Any, ...] | ComponentError] = []
        for event in events:
            try:
                results.append(tuple([getter(event) for getter in getters]))
            except Permanent as error:
                results.append(error)
        return results


@dataclass(frozen=True, slots=True)
class _FusedFields:
    """Fields of which some need libjq: these are one program, `fused`, with an array of outputs for each."""

    names: list[str]
    getters: list[Getter | None]
    programs: dict[int, Compiled]
    fused: Compiled
    now: Callable[[], float]

    def __call__(self, events: Sequence[Event], /) -> list[tuple[Any, ...] | ComponentError]:
        now = self.now()
        results: list[tuple[Any, ...] | ComponentError] = []
        for event in events:
            try:
                results.append(self._values(event, now))
            except Permanent as error:
                results.append(error)
        return results

    def _values(self, event: Event, now: float) -> tuple[Any, ...]:
        try:
            found = iter(self.fused.outputs(event, now)[0])
        except Permanent:
            found = iter(self._one_by_one(event, now))
        values = []
        for place, getter in enumerate(self.getters):
            if getter is not None:
                values.append(getter(event))
                continue
            outputs = next(found)
            if len(outputs) != 1:
                raise not_one_value(self.names[place], len(outputs))
            values.append(outputs[0])
        return tuple(values)

    def _one_by_one(self, event: Event, now: float) -> list[list[Any]]:
        """What the fused program cannot say: which field fails."""
        found = []
        for place, program in self.programs.items():
            try:
                found.append(program.outputs(event, now))
            except Permanent as error:
                error.where = self.names[place]
                raise
        return found
