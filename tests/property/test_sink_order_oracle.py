"""`order_by` on real databases: whatever the order and the batches in which changes come, the rows in the end are those of the
newest change of each key."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_parts import MakeDatabase

from connectors.sinks.postgres import PostgresSink
from connectors.sinks.sqlite import SqliteSink
from penstock.clock import SystemClock
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claimant, Commit, Counts
from penstock.spi import Context, Position
from transforms.expressions import compiler

CONFIG: dict[str, Any] = {
    "table": "orders",
    "key": ["id"],
    "order_by": "rev",
    "delete": '$event.type == "delete"',
    "truncate": '$event.type == "truncate"',
}
Rows = list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Change:
    """One of a history: its place there is its order."""

    place: int
    kind: str
    id: int


@dataclass(frozen=True, slots=True)
class Orders:
    """How places are written as values that rise with them."""

    name: str
    postgres: str
    sqlite: str
    write: Callable[[int, random.Random], Any]


def time_of(place: int, chance: random.Random) -> str:
    """The instant of the place, with some offset and some precision."""
    zone = timezone(timedelta(minutes=chance.choice([0, 60, -330, 840])))
    instant = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=place * 250)
    text = instant.astimezone(zone).isoformat(timespec=chance.choice(["milliseconds", "microseconds"]))
    return text.replace("+00:00", chance.choice(["Z", "+00:00"]))


def number_of(place: int, chance: random.Random) -> float:
    """A quarter of the place, a whole one sometimes as an integer."""
    return place // 4 if place % 4 == 0 and chance.random() < 0.5 else place / 4


ORDERS = [
    Orders("integers beyond 2^53", "bigint", "INTEGER", lambda place, chance: 2**60 + place),
    Orders("numbers", "numeric", "NUMERIC", number_of),
    Orders("times", "timestamptz", "TEXT", time_of),
    Orders("texts", "text", "TEXT", lambda place, chance: chr(ord("A") + place) + chance.choice(["", "x", "é"])),
]  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], list[list[Change]]]:
    """A history, and the same in batches, in any order."""
    kinds = st.sampled_from(["put"] * 6 + ["delete"] * 3 + ["truncate"])
    history = [
        Change(place, draw(kinds), draw(st.integers(1, 3))) for place in range(draw(st.integers(1, 14)))
    ]  # fmt: skip
    arriving = draw(st.permutations(history))
    again = draw(st.lists(st.sampled_from(history), max_size=3))  # a replay brings some once more
    cuts = sorted(draw(st.lists(st.integers(0, len(arriving)), max_size=4)))
    batches = [arriving[start:end] for start, end in zip([0, *cuts], [*cuts, len(arriving)], strict=True)]
    return history, [batch for batch in (*batches, again) if batch]


def last_of(history: Sequence[Change]) -> Rows:
    """The rows after the history in its own order."""
    rows: dict[int, str] = {}
    for change in history:
        if change.kind == "truncate":
            rows.clear()
        elif change.kind == "delete":
            rows.pop(change.id, None)
        else:
            rows[change.id] = f"v{change.place}"
    return sorted(rows.items())


def events(batch: Sequence[Change], orders: Orders, chance: random.Random) -> list[Event]:
    found = []
    for n, change in enumerate(batch):
        data: dict[str, Any] = {"rev": orders.write(change.place, chance)}
        if change.kind != "truncate":
            data["id"] = change.id
        if change.kind == "put":
            data["v"] = f"v{change.place}"
        found.append(Event(id=f"e{n}", source="s", type=change.kind, decoded=data, origin=n))
    return found


async def write_all(sink: PostgresSink | SqliteSink, batches: Sequence[Sequence[Change]], orders: Orders) -> None:
    chance = random.Random(1)
    await sink.open(None)
    try:
        await sink.claim(Claimant(1, "orders/sink", "file:in", "k", 100.0))
        for group, batch in enumerate(batches, 1):
            commit = Commit(1, group - 1, group, {"p": Position(bytes([group]))}, Counts(group))
            await sink.write_and_commit(events(batch, orders, chance), commit)
    finally:
        await sink.close()


def context(project: Path) -> Context:
    return Context("orders", "sink", project, project, compiler(), SystemClock(), random.Random(1), Faults())


@pytest.mark.parametrize("orders", ORDERS, ids=lambda orders: orders.name)
@given(found=histories())
@settings(max_examples=30, deadline=None)
def test_in_sqlite_the_rows_are_those_of_the_newest_changes(
    orders: Orders, found: tuple[list[Change], list[list[Change]]]
) -> None:
    history, batches = found
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        db = sqlite3.connect(project / "orders.db")
        db.execute(f"CREATE TABLE orders (id INTEGER PRIMARY KEY, v TEXT, rev {orders.sqlite})")
        db.commit()
        sink = SqliteSink(SqliteSink.Config.model_validate({"path": "orders.db", **CONFIG}), context(project))
        asyncio.run(write_all(sink, batches, orders))
        rows = db.execute("SELECT id, v FROM orders ORDER BY id").fetchall()
        db.close()
    assert rows == last_of(history)


@pytest.mark.parametrize(
    ("orders", "key"),
    [*((orders, "int") for orders in ORDERS), (ORDERS[0], "numeric")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_in_postgres_the_rows_are_those_of_the_newest_changes(
    make_database: MakeDatabase, tmp_path: Path, orders: Orders, key: str
) -> None:
    database = make_database()

    @given(found=histories())
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(found: tuple[list[Change], list[list[Change]]]) -> None:
        history, batches = found
        database.execute(
            "DROP TABLE IF EXISTS orders; DROP SCHEMA IF EXISTS penstock CASCADE; "
            f"CREATE TABLE orders (id {key} PRIMARY KEY, v text, rev {orders.postgres})"
        )
        sink = PostgresSink(PostgresSink.Config.model_validate({"dsn": database.dsn, **CONFIG}), context(tmp_path))
        asyncio.run(write_all(sink, batches, orders))
        assert database.execute("SELECT id::int, v FROM orders ORDER BY id") == last_of(history)

    check()
