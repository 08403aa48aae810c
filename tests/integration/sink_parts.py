"""What tests of the sinks that are ledgers share: events, commits, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock.errors import BatchError, Permanent
from penstock.event import Event
from penstock.ledger import Commit, Counts, Key, LedgerSink
from penstock.spi import Position


def events(*data: Any) -> list[Event]:
    return changes(*(("t", value) for value in data))


def changes(*found: tuple[str, Any]) -> list[Event]:
    """Events whose types are these."""
    return [Event(id=f"e{n}", source="s", type=kind, decoded=value, origin=n) for n, (kind, value) in enumerate(found)]


def commit(group: int, *keys: int, epoch: int = 1, previous: int | None = None) -> Commit:
    return Commit(
        epoch, group - 1 if previous is None else previous, group, {"p": Position(bytes([group]))}, Counts(group),
        [Key(key.to_bytes(16, "big"), b"12345678") for key in keys], float(group),
    )  # fmt: skip


async def write(sink: LedgerSink, found: Sequence[Event]) -> None:
    """As the group behind what is committed."""
    epoch, group = await sink.committed()
    await sink.write_and_commit(found, commit(group + 1, epoch=epoch))


async def refused(sink: LedgerSink, found: Sequence[Event]) -> dict[int, tuple[str, str]]:
    """Of events that are refused: codes and messages by index. Nothing is written."""
    before = await sink.committed()
    with pytest.raises(BatchError) as caught:
        await write(sink, found)
    assert caught.value.nothing_delivered
    assert await sink.committed() == before
    assert all(isinstance(error, Permanent) for error in caught.value.failed.values())
    return {index: (error.code, error.message) for index, error in caught.value.failed.items()}
