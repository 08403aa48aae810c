"""The `python` transform: a function of the user's own computes new data.

The function is given values that nobody else holds, so it may change them. What it returns is written as JSON at once: a mistake
is found at the step that made it, and later steps see what a sink would.
"""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from penstock.config.base import ComponentConfig
from penstock.errors import ComponentError, Fatal, Permanent, Transient
from penstock.event import UNSET, Event, decode, encode
from penstock.spi import Context, Result
from transforms._functions import find
from transforms._outputs import with_text

_MESSAGE_LIMIT = 500
_RAISED = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)
"""What a function may raise without ending more than its event. Only an interrupt goes through."""


class PythonConfig(ComponentConfig):
    """Fields of the `python` transform.

    The function takes the data (JSON values; bytes where the data is no JSON) and returns new data, `None` to filter the event,
    or a list: one event for each item. Dates, UUIDs, decimals and dataclasses in what it returns become JSON text and objects.
    """

    shorthand: ClassVar[str | None] = "call"

    call: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$",
        description="`module:function`, found in the project's directory or among the installed packages. Where it has a second "
        "parameter `event` (with `batch`, `events`), it is given the event too; where it has a parameter `idempotency_key` (with "
        "`batch`, `idempotency_keys`), the step's key for the event, or None. It may be async.",
        examples=["shop.steps:enrich"],
    )
    batch: bool = Field(
        False,
        description="Call the function with a list of data; it returns a list of as many results. If it raises, it is called "
        "again for each alone, to find the one that is to blame.",
    )


class Python:
    """Calls a function of yours: data in, data out."""

    name: ClassVar[str] = "python"
    Config: ClassVar[type[PythonConfig]] = PythonConfig

    def __init__(self, config: PythonConfig, context: Context) -> None:
        self._name = config.call
        self._batch = config.batch
        self._project = context.project.resolve()
        names = ("events", "idempotency_keys") if config.batch else ("event", "idempotency_key")
        self._function = find(config.call, context.project, *names)

    def version_parts(self) -> Mapping[str, str]:
        """Digest of the function's module."""
        return {f"python:{self._name}": self._function.digest}

    def apply(self, events: Sequence[Event], /) -> list[Result] | Awaitable[list[Result]]:
        return self._apply_all(events, [None] * len(events))

    def apply_keyed(self, events: Sequence[Event], keys: Sequence[str], /) -> list[Result] | Awaitable[list[Result]]:
        """See `penstock.spi.Keyed`."""
        return self._apply_all(events, keys)

    def _apply_all(self, events: Sequence[Event], keys: Sequence[str | None]) -> list[Result] | Awaitable[list[Result]]:
        if self._function.is_async:
            return self._apply_batch_async(events, keys) if self._batch else self._apply_async(events, keys)
        if self._batch:
            return self._apply_batch(events, keys)
        return [self._one(event, key) for event, key in zip(events, keys, strict=True)]

    def _one(self, event: Event, key: str | None) -> Result:
        try:
            return self._result(event, self._call(take(event), event, key))
        except _RAISED as error:  # supervision point: the user's code
            return self._failure(error)

    async def _apply_async(self, events: Sequence[Event], keys: Sequence[str | None]) -> list[Result]:
        results: list[Result] = []
        for event, key in zip(events, keys, strict=True):
            try:
                results.append(self._result(event, await self._call(take(event), event, key)))
            except _RAISED as error:  # supervision point: the user's code
                results.append(self._failure(error))
        return results

    def _apply_batch(self, events: Sequence[Event], keys: Sequence[str | None]) -> list[Result]:
        try:
            return self._results(events, self._call([take(event) for event in events], list(events), list(keys)))
        except _RAISED as error:  # supervision point: the user's code
            shared = self._shared_failure(error, events)
        return shared or [result for n, event in enumerate(events) for result in self._apply_batch([event], [keys[n]])]

    async def _apply_batch_async(self, events: Sequence[Event], keys: Sequence[str | None]) -> list[Result]:
        try:
            return self._results(events, await self._call([take(event) for event in events], list(events), list(keys)))
        except _RAISED as error:  # supervision point: the user's code
            shared = self._shared_failure(error, events)
        return shared or [
            result for n, event in enumerate(events) for result in await self._apply_batch_async([event], [keys[n]])
        ]

    def _shared_failure(self, error: BaseException, events: Sequence[Event]) -> list[Result]:
        """The failure of every event of a batch; none where each has to be tried alone."""
        if len(events) > 1 and not isinstance(error, (Transient, Fatal)) and not _is_own_cancellation(error):
            return []
        return [self._failure(error)] * len(events)

    def _call(self, data: Any, event: Any, key: Any) -> Any:
        function = self._function
        if not (function.wants_event or function.wants_key):
            return function.call(data)
        named = {}
        if function.wants_event:
            named["events" if self._batch else "event"] = event
        if function.wants_key:
            named["idempotency_keys" if self._batch else "idempotency_key"] = key
        return function.call(data, **named)

    def _results(self, events: Sequence[Event], returned: Any) -> list[Result]:
        if not isinstance(returned, list) or len(returned) != len(events):
            what = f"a list of {len(returned)}" if isinstance(returned, list) else type(returned).__name__
            raise self._bad_result(f"{what} for a batch of {len(events)}; there must be one result for each, or None")
        results: list[Result] = []
        for event, each in zip(events, returned, strict=True):
            try:
                results.append(self._result(event, each))
            except Permanent as error:
                results.append(error)
        return results

    def _result(self, event: Event, returned: Any) -> Result:
        if returned is None:
            return None
        if isinstance(returned, list):
            return [self._event(event, each) for each in returned] or None
        return self._event(event, returned)

    def _event(self, event: Event, data: Any) -> Event:
        try:
            text = encode(data)
        except Permanent as error:
            if inspect.iscoroutine(data):
                data.close()
                raise self._bad_result("a coroutine; say `async def`, or await it") from error
            raise self._bad_result(f"{type(data).__name__}, which cannot be written as JSON", why=error.message) from error
        return with_text(event, text)

    def _bad_result(self, what: str, why: str | None = None) -> Permanent:
        return Permanent("python.bad_result", f"{self._name} returned {what}", why=why)

    def _failure(self, error: BaseException) -> ComponentError:
        if isinstance(error, ComponentError):
            return error
        if isinstance(error, MemoryError) or _is_own_cancellation(error):
            raise error
        return Permanent("python.raised", _message(error), why=f"raised at {self._place(error)}")

    def _place(self, error: BaseException) -> str:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        file = Path(frame.filename)
        if file.is_relative_to(self._project):
            file = file.relative_to(self._project)
        return f"{file}:{frame.lineno} in {frame.name}"


def _is_own_cancellation(error: BaseException) -> bool:
    """Whether the run itself is being ended, rather than something that the function waited for."""
    task = asyncio.current_task() if isinstance(error, asyncio.CancelledError) else None
    return task is not None and task.cancelling() > 0


def _message(error: BaseException) -> str:
    """Type and text, as far as the exception has one."""
    try:
        text = str(error)
    except Exception as failed:  # supervision point: the user's code
        text = f"(its text cannot be made: {type(failed).__name__})"
    message = f"{type(error).__name__}: {text}"
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"


def take(event: Event) -> Any:
    """The event's data for somebody who may change it: the event keeps the text and decodes it again when asked."""
    if event.decoded.__class__ is bytes:
        return event.decoded
    if event.steps is not None or event.record is not UNSET:  # these may hold parts of the decoded data
        return decode(event.json())
    data = event.data
    event.json()
    event.decoded = UNSET
    return data
