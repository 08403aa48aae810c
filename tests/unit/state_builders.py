"""Builders for tests of the state store: whole values, of which a test names only what it is about."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.faults import Faults
from penstock.ledger import Claim, Claimant, Commit, Counts, Key
from penstock.spi import Position
from penstock.state.records import DeadLetter, Note, Version
from penstock.state.sqlite_store import SqliteStateStore


@dataclass
class HandClock:
    """Wall and monotonic time that move when a test says so; sleeping lets others run and moves on."""

    time: float = 1_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


def make_store(directory: Path, faults: Faults | None = None, busy_timeout: float = 5.0) -> SqliteStateStore:
    return SqliteStateStore(directory / "orders.db", "orders", HandClock(), faults or Faults(), busy_timeout=busy_timeout)


def version(name: str = "v1") -> Version:
    return Version(name, '{"pipeline":"orders"}', {"shop@1": "{}"}, {"grade": "abc"}, 5.0)


def claimant(epoch: int, **changes: Any) -> Claimant:
    values: dict[str, Any] = {"scope": "orders/state", "source": "file:in", "key_space": "k1", "window": 100.0}
    return Claimant(epoch, **(values | changes))


def key(number: int, by: str = "e") -> Key:
    return Key(number.to_bytes(16, "big"), f"{by}{number}".encode().ljust(8, b"-")[:8])


def at(number: int) -> Position:
    return Position(number.to_bytes(4, "big"), b"detail")


def commit(group: int, *numbers: int, epoch: int = 1, previous: int | None = None, **changes: Any) -> Commit:
    values: dict[str, Any] = {
        "positions": {"p": at(max(numbers))} if numbers else {},
        "counts": Counts(received=group, delivered=group),
        "keys": [key(number) for number in numbers],
        "running": float(group),
    }
    return Commit(epoch, group - 1 if previous is None else previous, group, **(values | changes))


def letter(name: str, number: int = 1, **changes: Any) -> DeadLetter:
    values: dict[str, Any] = {
        "id": name, "pipeline": "orders", "version": "v1", "step": "validate-1", "code": "validate.failed",
        "message": f"{name} has no price", "fingerprint": "f1", "partition": "p", "position": at(number).order,
        "source": "file:in", "event_id": name, "type": "order.line", "time": None, "record": b'{"id":1}', "event": b"{}",
        "original": b"raw", "original_length": 3, "original_digest": "d", "reread": False, "owed": ["a", "b"],
        "key": key(number).key, "brought_by": b"12345678", "data_digest": b"data", "first_at": float(number),
        "last_at": float(number),
    }  # fmt: skip
    return DeadLetter(**(values | changes))


def claim_at(number: int, **changes: Any) -> Claim:
    values: dict[str, Any] = {
        "instance": "i", "epoch": 1, "group": 1, "positions": {"p": at(number)}, "counts": Counts(), "sink_states": {},
    }  # fmt: skip
    return Claim(**(values | changes))


def note(group: int, **changes: Any) -> Note:
    return Note(group=group, **changes)
