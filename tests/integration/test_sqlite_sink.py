"""The sqlite sink on real files: rows and ledger are one transaction, values are exact, bad rows are named."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sink_parts import commit, events, refused
from sqlite_sink_parts import Bench

from connectors.sinks.sqlite import SqliteConfig, SqliteSink
from penstock.errors import BatchError, ComponentError, EnvironmentFault, Fatal, Fenced, Permanent, Transient, Unavailable
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claimant, Counts, LedgerSink
from penstock.spi import FieldsProgram, Position, Program, View

ORDERS = "CREATE TABLE orders (id TEXT PRIMARY KEY, price REAL NOT NULL CHECK (price > 0), qty INTEGER DEFAULT 7, note)"


class PathExpressions:
    """What a pipeline's columns need here: `$event.id`, and `.name` (refusing where it is missing)."""

    def program(self, text: str, view: View) -> Program:
        raise Permanent("jq.syntax", text)

    def fields(self, fields: Mapping[str, str], view: View) -> FieldsProgram:
        def one(event: Event) -> tuple[Any, ...] | ComponentError:
            try:
                return tuple(event.id if text == "$event.id" else event.data[text[1:]] for text in fields.values())
            except KeyError as error:
                return Permanent("jq.failed", f"no {error}")

        return lambda events: [one(event) for event in events]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, expressions=PathExpressions())
    yield bench
    await bench.close()


async def test_rows_keys_and_checkpoint_go_in_together(bench: Bench) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"])
    assert isinstance(sink, LedgerSink)
    await sink.write_and_commit(events(*({"id": f"o{n}", "price": n + 0.5, "qty": n} for n in range(40))), commit(1, 1, 2))
    assert bench.execute("SELECT * FROM orders ORDER BY rowid") == [(f"o{n}", n + 0.5, n, None) for n in range(40)]
    claim = await sink.claim(Claimant(2, "orders/warehouse", "file:in", "k", 100.0))
    assert (claim.group, claim.positions, claim.counts) == (1, {"p": Position(b"\x01")}, Counts(1))
    assert set(await sink.seen([n.to_bytes(16, "big") for n in (1, 2, 3)])) == {n.to_bytes(16, "big") for n in (1, 2)}


@pytest.mark.parametrize(("on_conflict", "stays"), [("update", 2.0), ("ignore", 1.0)])
async def test_a_row_whose_key_is_there_updates_or_is_ignored(bench: Bench, on_conflict: str, stays: float) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"], on_conflict=on_conflict)
    await sink.write_and_commit(events({"id": "a", "price": 1.0, "note": "n"}, {"id": "a", "price": 2.0}), commit(1))
    assert bench.execute("SELECT * FROM orders") == [("a", stays, 7, "n")]  # what the second lacks stays as it was


async def test_on_conflict_error_names_exactly_the_rows_that_come_second(bench: Bench) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"], on_conflict="error")
    rows = [{"id": name, "price": 1.0} for name in "abcadefb"]
    reason = ("sink.conflict", "table orders refuses the row: UNIQUE constraint failed: orders.id")
    assert await refused(sink, events(*rows)) == {3: reason, 7: reason}
    assert bench.execute("SELECT count(*) FROM orders") == [(0,)]


async def test_without_a_key_rows_are_appended(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id, price)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"id": 1}, {"id": 1}), commit(1))
    assert bench.execute("SELECT id FROM orders") == [(1,), (1,)]


async def test_columns_are_programs_over_the_data_and_the_event(bench: Bench) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"], columns={"id": "$event.id", "price": ".cost"})
    await sink.write_and_commit(events({"cost": 3.0, "unknown": 1}), commit(1))
    assert bench.execute("SELECT id, price FROM orders") == [("e0", 3.0)]
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(events({"cost": 1.0}, {}), commit(2))
    assert {index: error.code for index, error in caught.value.failed.items()} == {1: "jq.failed"}


async def test_bad_rows_are_found_among_good_ones_and_nothing_is_written(bench: Bench) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"])
    rows: list[Any] = [{"id": f"o{n}", "price": 1.0} for n in range(100)]
    rows[13] = {"id": "o13"}
    rows[64] = {"id": "o64", "price": -1.0}
    found = await refused(sink, events(*rows))
    assert found == {
        13: ("sink.constraint", "table orders refuses the row: NOT NULL constraint failed: orders.price"),
        64: ("sink.constraint", "table orders refuses the row: CHECK constraint failed: price > 0"),
    }
    await sink.write_and_commit(events(*(row for n, row in enumerate(rows) if n not in found)), commit(1))
    assert bench.execute("SELECT count(*) FROM orders") == [(98,)]


async def test_what_has_no_row_is_named(bench: Bench) -> None:
    bench.execute(ORDERS)
    sink = await bench.sink(key=["id"])
    data = [{"id": "a", "price": 1, "x": 1, 'y"; DROP TABLE orders': 2}, {"price": 1}, {"id": None, "price": 1}, [1], {}, "text"]
    assert await refused(sink, events(*data)) == {
        0: ("sink.unknown_column", 'table orders has no column x, y"; DROP TABLE orders'),
        1: ("sink.missing_key", "the event has no id, which the table's key needs"),
        2: ("sink.missing_key", "the event has no id, which the table's key needs"),
        3: ("sink.not_an_object", "the data is no object, so it has no columns"),
        4: ("sink.unknown_column", "the data is an empty object: there is no column to write"),
        5: ("sink.not_an_object", "the data is no object, so it has no columns"),
    }


async def test_values_that_no_column_can_hold_exactly_are_refused_with_the_column(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (i INTEGER, r REAL, t TEXT, n)")
    sink = await bench.sink()
    data = [
        {"i": 2**63}, {"n": 2**70}, {"r": 2**53 + 1}, {"i": "007"}, {"r": "1e3"}, {"i": float("nan")}, {"t": float("inf")},
        {"n": [float("nan")]}, {"n": b"bytes"}, {"t": "\ud800"}, {"i": " 12"}, {"r": "0.12345678901234567"},
    ]  # fmt: skip
    found = await refused(sink, events(*data[:9], *data[10:]))
    assert {index: code for index, (code, _) in found.items()} == dict.fromkeys(range(11), "sink.value")
    assert [message.partition(":")[0] for _, (_, message) in sorted(found.items())] == [
        f"column {name}" for name in ("i", "n", "r", "i", "r", "i", "t", "n", "n", "i", "r")
    ]
    assert (await refused(sink, events(data[9])))[0][0] == "sink.constraint"


async def test_values_that_fit_come_back_exactly(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (i INTEGER, r REAL, t TEXT, n)")
    sink = await bench.sink()
    data: list[dict[str, Any]] = [
        {"i": 2**63 - 1, "r": 2**53, "t": "a\0b", "n": None},
        {"i": -(2**63), "r": 0.1, "t": 2**53 + 1, "n": {"a": [1, 2**70]}},
        {"i": True, "r": 1.5, "t": 0.1 + 0.2, "n": "007"},
        {"i": "abc", "r": "12", "t": False, "n": [1.5]},
    ]
    await sink.write_and_commit(events(*data), commit(1))
    assert bench.execute("SELECT * FROM orders") == [
        (2**63 - 1, float(2**53), "a\0b", None),
        (-(2**63), 0.1, "9007199254740993", '{"a":[1,1180591620717411303424]}'),
        (1, 1.5, "0.30000000000000004", "007"),
        ("abc", 12.0, "0", "[1.5]"),
    ]


async def test_create_makes_the_table_after_the_first_event_that_fits(bench: Bench) -> None:
    sink = await bench.sink(key=["id"], create=True)
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(
            events({"id": "a", "no name": 1}, {"id": "b", "n": 1, "f": 1.5, "x": None, "o": {}}), commit(1)
        )
    assert list(caught.value.failed) == [0]
    await sink.write_and_commit(events({"id": "b", "n": 1, "f": 1.5, "x": None, "o": {}}), commit(1))
    assert bench.execute("SELECT sql FROM sqlite_master WHERE name = 'orders'") == [
        ('CREATE TABLE "orders" ("id" TEXT NOT NULL, "n" INTEGER, "f" REAL, "x" , "o" TEXT, PRIMARY KEY ("id"))',)
    ]
    assert bench.execute("SELECT * FROM orders") == [("b", 1, 1.5, None, "{}")]
    again = await bench.sink(key=["id"], create=True, epoch=2)
    assert await again.committed() == (2, 1)


async def test_a_column_added_while_running_is_found(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"id": 1}), commit(1))
    bench.execute("ALTER TABLE orders ADD COLUMN late")
    await sink.write_and_commit(events({"id": 2, "late": 3}), commit(2))
    assert bench.execute("SELECT * FROM orders") == [(1, None), (2, 3)]


async def test_the_key_of_a_table_that_changes_again_and_again_is_looked_at_anew(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id PRIMARY KEY)")
    sink = await bench.sink(key=["id"])
    for number in range(1, 30):
        bench.execute(f"ALTER TABLE orders ADD COLUMN late{number}")
        await sink.write_and_commit(events({"id": number, f"late{number}": number}), commit(number))
    assert bench.execute("SELECT count(*), sum(late1), sum(late29) FROM orders") == [(29, 1, 29)]


async def test_a_missing_table_names_create_and_leaves_the_database_alone(bench: Bench) -> None:
    for prepare in (None, "CREATE TABLE other (a)"):
        if prepare:
            bench.execute(prepare)
        with pytest.raises(EnvironmentFault) as caught:
            await bench.sink()
        assert (caught.value.code, "create: true" in str(caught.value.help)) == ("sink.missing_table", True)
        assert bench.path.exists() == (prepare is not None)
    assert bench.execute("SELECT name FROM sqlite_master") == [("other",)]


async def test_a_table_that_does_not_suit_the_configuration_is_refused_at_open(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id TEXT, total AS (1))")
    for config, code in (
        ({"key": ["id"]}, "sink.no_unique_key"),
        ({"key": ["nr"]}, "sink.unknown_column"),
        ({"columns": {"id": "$event.id", "total": ".t"}}, "sink.unknown_column"),
    ):
        with pytest.raises(EnvironmentFault) as caught:
            await bench.sink(**config)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "config",
    [
        {"table": "penstock_x"}, {"table": "sqlite_x"}, {"order_by": ".time"}, {"on_conflict": "ignore"},
        {"key": ["id"], "columns": {"a": ".a"}}, {"key": []}, {"tabel": "x"},
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqliteConfig(**({"path": "a.db", "table": "t"} | config))


async def test_a_fenced_run_delivers_nothing(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id)")
    old, _ = await bench.sink(), await bench.sink(epoch=2)
    with pytest.raises(Fenced):
        await old.write_and_commit(events({"id": 1}), commit(1))
    assert bench.execute("SELECT * FROM orders") == []


async def test_a_repeated_key_stops_the_run_and_undoes_its_rows(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"id": 1}), commit(1, 1))
    with pytest.raises(Fatal, match="already holds"):
        await sink.write_and_commit(events({"id": 1}), commit(2, 1))
    assert bench.execute("SELECT * FROM orders") == [(1,)]


@pytest.mark.parametrize("point", ["inside_sink_write", "inside_commit"])
async def test_a_fault_inside_the_transaction_leaves_neither_rows_nor_checkpoint(bench: Bench, point: str) -> None:
    bench.execute("CREATE TABLE orders (id)")

    def fail(name: str) -> None:
        raise Transient("fault.injected", name)

    bench.faults = Faults({point: [(1, fail)]})
    sink = await bench.sink()
    with pytest.raises(Transient):
        await sink.write_and_commit(events({"id": 1}), commit(1, 1))
    assert bench.execute("SELECT * FROM orders") == []
    assert await sink.committed() == (1, 0)
    await sink.write_and_commit(events({"id": 1}), commit(1, 1))
    assert bench.execute("SELECT * FROM orders") == [(1,)]


async def fill_disk(sink: SqliteSink, pages: int) -> None:
    """SQLite reports its page limit just as it reports a full disk."""
    await sink._database.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall())


async def test_a_full_disk_is_unavailable_and_the_same_commit_goes_in_when_space_returns(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id)")
    sink = await bench.sink()
    await fill_disk(sink, 1)
    with pytest.raises(Unavailable) as caught:
        await sink.write_and_commit(events({"id": "x" * 100_000}), commit(1, 1))
    assert (caught.value.code, await sink.committed()) == ("sink.no_space", (1, 0))
    await fill_disk(sink, 1 << 30)
    await sink.write_and_commit(events({"id": "x" * 100_000}), commit(1, 1))
    assert bench.execute("SELECT length(id) FROM orders") == [(100_000,)]


async def test_a_column_that_ignores_conflicts_does_not_swallow_rows(bench: Bench) -> None:
    bench.execute("CREATE TABLE orders (id TEXT UNIQUE ON CONFLICT IGNORE)")
    sink = await bench.sink()
    assert list(await refused(sink, events({"id": "a"}, {"id": "a"}))) == [1]


async def test_a_ledger_of_version_1_is_migrated_beside_its_rows(bench: Bench) -> None:
    bench.path.parent.mkdir()
    db = sqlite3.connect(bench.path)
    db.executescript((Path(__file__).parents[1] / "golden" / "sqlite_sink_v1.sql").read_text())
    db.close()
    sink = await bench.sink(table="lines", key=["id"], claim=False)
    claim = await sink.claim(
        Claimant(2, "orders/warehouse", "file:in", "k1", 100.0, instance="1" * 32, run_id="r2", issued={1: "", 2: "r2"})
    )
    assert (claim.epoch, claim.group, claim.positions) == (1, 1, {"p": Position(b"\0\0\0\2", b"detail")})
    assert set(await sink.seen([n.to_bytes(16, "big") for n in (1, 2, 3)])) == {n.to_bytes(16, "big") for n in (1, 2)}
    await sink.write_and_commit(events({"id": 3, "name": "three"}), commit(2, 3, epoch=2))
    assert bench.execute("SELECT name FROM lines ORDER BY id") == [("one",), ("two",), ("three",)]
    assert bench.execute("SELECT epoch, run_id FROM penstock_ledgers") == [(2, "r2")]
    assert bench.execute("SELECT value FROM penstock_meta") == [("3",)]
