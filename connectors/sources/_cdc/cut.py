"""From events to a batch: which of them `where` lets pass, and where the batch may be divided."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from connectors.sources._cdc.positions import position
from connectors.sources._cdc.transactions import is_end
from penstock.errors import ComponentError, Permanent
from penstock.event import Event
from penstock.spi import Position, Program


def selected(
    where: Program | None, events: list[Event], rejects: dict[int, ComponentError]
) -> tuple[list[Event], dict[int, ComponentError]]:
    """The events that `where` lets pass, and by index among these what is wrong with some of them.

    :param rejects: what is wrong already, by index into `events`.
    """
    if where is None or not events:
        return events, rejects
    passed: list[Event] = []
    refused: dict[int, ComponentError] = {}
    for index, (event, outputs) in enumerate(zip(events, where(events), strict=True)):
        fault = rejects.get(index)
        if fault is None and not is_end(event):
            fault = _verdict(outputs)
            if fault is None and not _holds(outputs):
                continue
        if fault is not None:
            refused[len(passed)] = fault
        event.origin = len(passed)
        passed.append(event)
    return passed, refused


def cutter(
    events: Sequence[Event],
    marks: Sequence[tuple[bytes, int]],
    base: int,
    looks: msgspec.Raw | None = None,
    timeline: int = 0,
) -> Callable[[int], Position]:
    """`Batch.cut` for events of the stream.

    :param marks: ends of transactions and keepalives among them, as order and LSN.
    :param base: the LSN to go on from before the first mark.
    :param looks, timeline: as `position` takes them.
    """

    def cut(count: int) -> Position:
        at = events[count - 1].position
        before = bisect_left(marks, (at, 0))
        return position(at, marks[before - 1][1] if before else base, looks, timeline)

    return cut


def _holds(outputs: Any) -> bool:
    return bool(outputs) and outputs[0] is not None and outputs[0] is not False


def _verdict(outputs: list[Any] | ComponentError) -> ComponentError | None:
    if isinstance(outputs, ComponentError):
        return outputs
    if len(outputs) > 1:
        return Permanent(
            "source.where_outputs",
            f"`where` gave {len(outputs)} values for one change",
            help="say which counts: any(…), all(…) or first(…)",
        )
    return None
