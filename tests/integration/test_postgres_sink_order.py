"""The postgres sink with `order_by`: an older row or deletion changes nothing, whenever it comes, and this is counted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from postgres_sink_parts import Bench
from postgres_sink_parts import bench_of_each as bench_of_each
from pydantic import ValidationError
from sink_parts import changes, commit, events, refused

from connectors._postgres import TableName
from connectors.sinks._postgres.config import PostgresSinkConfig
from connectors.sinks._postgres.tombstones import name_of
from connectors.sinks.postgres import PostgresSink
from penstock.clock import SystemClock
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Claimant
from penstock.spi import Context
from transforms.expressions import compiler

TABLE = "CREATE TABLE orders (id int PRIMARY KEY, v text, rev bigint)"
MIRROR: dict[str, Any] = {
    "key": ["id"],
    "order_by": "rev",
    "delete": '$event.type == "delete"',
    "truncate": '$event.type == "truncate"',
}
TOMBSTONES = 'penstock."penstock_tombstones_public.orders"'


@pytest.fixture
def build_sink(tmp_path: Path) -> Callable[..., PostgresSink]:
    def build(**config: Any) -> PostgresSink:
        values = {"dsn": "postgresql://h/d", "table": "orders"} | config
        context = Context("orders", "warehouse", tmp_path, tmp_path, compiler(), SystemClock(), random.Random(1), Faults())
        return PostgresSink(PostgresSinkConfig.model_validate(values), context)

    return build


def row(id: int, rev: Any, v: str | None = None) -> dict[str, Any]:
    return {"id": id, "v": v or f"v{rev}", "rev": rev}


def put(id: int, rev: int) -> tuple[str, Any]:
    return "put", row(id, rev)


def gone(id: int, rev: int) -> tuple[str, Any]:
    return "delete", {"id": id, "rev": rev}


async def test_an_older_row_loses_whether_it_comes_in_the_same_batch_or_in_another(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"], order_by="rev")
    await sink.write_and_commit(events(row(1, 5), row(2, 1), row(1, 3), row(1, 4), row(2, 2)), commit(1))
    assert await bench.sql("SELECT * FROM orders ORDER BY id") == [(1, "v5", 5), (2, "v2", 2)]
    assert sink.stale == 2
    await sink.write_and_commit(events(row(1, 4), row(2, 3), row(3, 0)), commit(2))
    assert await bench.sql("SELECT * FROM orders ORDER BY id") == [(1, "v5", 5), (2, "v3", 3), (3, "v0", 0)]
    assert sink.stale == 3


async def test_of_two_rows_with_the_same_order_the_later_arrival_counts(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"], order_by="rev")
    await sink.write_and_commit(events(row(1, 5, "a"), row(1, 5, "b")), commit(1))
    assert await bench.sql("SELECT v FROM orders") == [("b",)]
    await sink.write_and_commit(events(row(1, 5, "c")), commit(2))
    assert await bench.sql("SELECT v FROM orders") == [("c",)]
    assert sink.stale == 0


async def test_a_row_that_had_no_order_is_older_than_any(bench: Bench) -> None:
    await bench.sql(TABLE + "; INSERT INTO orders VALUES (1, 'old', NULL)")
    sink = await bench.sink(key=["id"], order_by="rev")
    await sink.write_and_commit(events(row(1, -(2**62))), commit(1))
    assert await bench.sql("SELECT rev FROM orders") == [(-(2**62),)]


async def test_a_deletion_leaves_a_tombstone_that_older_rows_do_not_pass_and_a_newer_one_removes(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(put(1, 1), gone(1, 5), put(2, 1), gone(3, 9)), commit(1))
    await sink.write_and_commit(changes(put(1, 4), put(3, 8), gone(1, 3)), commit(2))
    assert await bench.sql("SELECT id FROM orders") == [(2,)]
    assert await bench.sql(f'SELECT k1, "order" FROM {TOMBSTONES} ORDER BY k1') == [(1, 5), (3, 9)]
    assert sink.stale == 3
    await sink.write_and_commit(changes(put(1, 6)), commit(3))
    assert await bench.sql("SELECT id, rev FROM orders ORDER BY id") == [(1, 6), (2, 1)]
    assert await bench.sql(f"SELECT k1 FROM {TOMBSTONES}") == [(3,)]


async def test_a_deletion_that_is_older_than_its_row_changes_nothing(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(put(1, 5)), commit(1))
    await sink.write_and_commit(changes(gone(1, 4)), commit(2))
    assert await bench.sql("SELECT id, rev FROM orders") == [(1, 5)]
    assert await bench.sql(f"SELECT * FROM {TOMBSTONES}") == []
    assert sink.stale == 1


async def test_a_truncation_spares_newer_rows_and_keeps_older_ones_away(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(put(1, 1), put(2, 9), gone(3, 2), gone(4, 8)), commit(1))
    await sink.write_and_commit(changes(("truncate", {"rev": 5}), put(1, 4), put(3, 3), put(5, 6), gone(6, 4)), commit(2))
    assert await bench.sql("SELECT id FROM orders ORDER BY id") == [(2,), (5,)]
    assert await bench.sql(f"SELECT k1 FROM {TOMBSTONES}") == [(4,)]
    assert sink.stale == 3
    await sink.write_and_commit(changes(("truncate", {"rev": 3})), commit(3))
    assert sink.stale == 4
    await sink.write_and_commit(changes(("truncate", {"rev": 20}), put(7, 20)), commit(4))
    assert await bench.sql("SELECT id FROM orders") == [(7,)]
    assert await bench.sql('SELECT "table", "order" FROM penstock.penstock_truncations') == [("public.orders", "20")]


async def test_tombstones_are_given_up_after_their_time(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR, tombstones="1h")
    await sink.write_and_commit(changes(gone(1, 1), gone(2, 1), gone(3, 1)), commit(1))
    await bench.sql(f"UPDATE {TOMBSTONES} SET removed_at = removed_at - interval '1 hour' WHERE k1 < 3")
    await sink.write_and_commit(changes(gone(4, 1)), commit(2))
    assert await bench.sql(f"SELECT k1 FROM {TOMBSTONES} ORDER BY k1") == [(3,), (4,)]


async def test_without_their_time_tombstones_stay(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(gone(1, 1)), commit(1))
    await bench.sql(f"UPDATE {TOMBSTONES} SET removed_at = removed_at - interval '10 years'")
    await sink.write_and_commit(changes(gone(4, 1)), commit(2))
    assert await bench.sql(f"SELECT k1 FROM {TOMBSTONES} ORDER BY k1") == [(1,), (4,)]


async def test_a_program_is_kept_in_a_column_of_the_sinks_own(bench: Bench) -> None:
    sink = await bench.sink(key=["id"], order_by="$event.time", create=True)
    times = ["2026-01-01T12:00:00.5Z", "2026-01-01T14:00:00.25+02:00", "2026-01-01T12:00:00.51Z"]
    found = [
        Event(id=f"e{n}", source="s", type="t", time=time, decoded={"id": 1, "v": str(n)}, origin=n)
        for n, time in enumerate(times)
    ]
    await sink.write_and_commit([found[0], found[1]], commit(1))
    instant = datetime(2026, 1, 1, 12, 0, 0, 500_000, UTC)
    assert await bench.sql("SELECT v, penstock_order FROM orders") == [("0", instant)]
    await sink.write_and_commit([found[2], found[0]], commit(2))
    assert await bench.sql("SELECT v FROM orders") == [("2",)]
    assert sink.stale == 2


ORDERS: list[tuple[str, list[Any]]] = [
    ("bigint", [2**53, 2**53 + 1, 2**63 - 1]),
    ("numeric", [-1, "0.1", 0.2, 2**53, 2**53 + 1, "1e30", 10**40]),
    ("double precision", [-1.5, 0, 1e-300, 2.0**60]),
    ("timestamptz", [
        "2026-01-01T00:00:00+14:00", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.1z",
        "2026-01-01 01:00:00.11+01", "2025-12-31T19:00:00.12-05:00",
    ]),
    ("timestamp", ["2025-12-31T23:59:59.9999", "2026-01-01T00:00:00", "2026-01-01T00:00:00.1Z"]),
    ("date", ["0999-01-01", "2026-01-01"]),
    ("pg_lsn", ["0/0", "0/FFFFFFF", "0/10000000", "1/0", "9/1", "A/0", "FFFFFFFF/FFFFFFFF"]),
    ("text", ["10", "9", "Z", "a", "é", "￿", "\U0001f600"]),
    ("varchar(40)", ["10", "9", "Z", "a"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rising"), ORDERS)
async def test_orders_compare_by_the_type_of_their_column_exactly(bench: Bench, kind: str, rising: list[Any]) -> None:
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, v text, rev {kind})")
    sink = await bench.sink(key=["id"], order_by="rev")
    group = 0
    for older, newer in itertools.pairwise(rising):
        for together in (True, False):
            await bench.sql("TRUNCATE orders")
            for first, second in ((older, newer), (newer, older)):
                batches = [[first, second]] if together else [[first], [second]]
                for batch in batches:
                    group += 1
                    await sink.write_and_commit(events(*(row(1, rev, str(rev)) for rev in batch)), commit(group))
                assert await bench.sql("SELECT v FROM orders") == [(str(newer),)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", None), ("bigint", True), ("bigint", "x"), ("bigint", 1.5), ("numeric", "NaN"), ("numeric", "Infinity"),
        ("numeric", [1]), ("double precision", "NaN"), ("double precision", 2**53 + 1), ("timestamptz", "infinity"),
        ("timestamptz", "yesterday"), ("timestamptz", "2026-01-01T00:00:00.1234567Z"), ("timestamptz", 5),
        ("date", "-infinity"), ("text", 5), ("text", True), ("text", "2026-01-01T00:00:00Z"), ("text", {"a": 1}),
        ("text", "0/16B3748"), ("pg_lsn", "x"),
    ],
)  # fmt: skip
async def test_what_cannot_be_compared_is_its_events_fault_and_nothing_is_guessed(bench: Bench, kind: str, value: Any) -> None:
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, v text, rev {kind})")
    sink = await bench.sink(key=["id"], order_by="rev")
    failed = await refused(sink, events(row(1, value, "v"), {"id": 2, "v": "v"}))
    assert {index: code for index, (code, _) in failed.items()} == {0: "sink.order", 1: "sink.order"}


async def test_deletions_of_keys_that_are_equal_in_several_texts_find_each_other(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (a numeric, b text, v text, rev int, PRIMARY KEY (a, b))")
    sink = await bench.sink(key=["a", "b"], order_by="rev", delete='$event.type == "delete"')

    def at(key: str, rev: int) -> dict[str, Any]:
        return {"a": key, "b": "x", "v": key, "rev": rev}

    await sink.write_and_commit(changes(("put", at("1.0", 1)), ("put", at("1.00", 3)), ("put", at("1", 2))), commit(1))
    assert await bench.sql("SELECT v, rev FROM orders") == [("1.00", 3)]
    await sink.write_and_commit(changes(("delete", at("1.000", 5)), ("delete", at("1", 4)), ("put", at("1.0", 4))), commit(2))
    assert await bench.sql("SELECT v, rev FROM orders") == []
    await sink.write_and_commit(changes(("put", at("1", 4))), commit(3))
    assert await bench.sql("SELECT v, rev FROM orders") == []


async def test_events_that_leave_required_columns_out_obey_the_order_too(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, must int NOT NULL, v text, rev bigint)")
    sink = await bench.sink(**MIRROR)
    whole = {"id": 1, "must": 1, "v": "a", "rev": 5}
    await sink.write_and_commit(changes(("put", whole), ("put", whole | {"id": 2})), commit(1))
    found = [("put", {"id": 1, "v": "old", "rev": 4}), ("put", {"id": 2, "v": "new", "rev": 6})]
    await sink.write_and_commit(changes(*found), commit(2))
    assert await bench.sql("SELECT id, v, rev FROM orders ORDER BY id") == [(1, "a", 5), (2, "new", 6)]
    assert sink.stale == 1


async def test_bad_rows_are_isolated_and_what_was_tried_is_not_counted_twice(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, v text CHECK (v <> 'bad'), rev bigint)")
    sink = await bench.sink(**MIRROR)
    found = changes(put(1, 5), put(1, 4), ("put", row(2, 1, "bad")), gone(3, 3), put(3, 2))
    assert set(await refused(sink, found)) == {2}
    assert (sink.stale, await bench.sql("SELECT * FROM orders")) == (0, [])
    await sink.write_and_commit([*found[:2], *found[3:]], commit(1))
    assert await bench.sql("SELECT id, rev FROM orders") == [(1, 5)]
    assert sink.stale == 2


async def test_rows_that_the_server_wants_one_after_the_other_are_counted_once(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id numeric PRIMARY KEY, v text, rev bigint)")
    sink = await bench.sink(key=["id"], order_by="rev")
    found = [{"id": key, "v": key, "rev": rev} for key, rev in (("1", 3), ("1.0", 2), ("1.00", 4), ("2", 1), ("2", 0))]
    await sink.write_and_commit(events(*found), commit(1))
    assert await bench.sql("SELECT v FROM orders ORDER BY id") == [("1.00",), ("2",)]
    assert sink.stale == 2


async def test_the_columns_program_of_the_order_is_asked_of_deletions_too(bench: Bench) -> None:
    await bench.sql(TABLE)
    columns = {"id": ".key", "v": ".value", "rev": ".at.n"}
    sink = await bench.sink(**MIRROR | {"columns": columns})
    found = [("put", {"key": 1, "value": "a", "at": {"n": 3}}), ("delete", {"key": 1, "at": {"n": 2}}), ("delete", {"key": 1})]
    assert await refused(sink, changes(*found)) == {
        2: ("sink.order", "nothing says whether the event is older or newer than another: it has no rev")
    }
    await sink.write_and_commit(changes(*found[:2]), commit(1))
    assert await bench.sql("SELECT * FROM orders") == [(1, "a", 3)]


async def test_a_table_without_the_sinks_column_says_how_to_add_it(bench: Bench) -> None:
    await bench.sql(TABLE)
    with pytest.raises(EnvironmentFault) as caught:
        await bench.sink(key=["id"], order_by="$event.time")
    assert caught.value.code == "sink.unknown_column"
    assert 'ALTER TABLE "public"."orders" ADD COLUMN penstock_order timestamptz' in (caught.value.help or "")
    await bench.sql('ALTER TABLE "public"."orders" ADD COLUMN penstock_order timestamptz')
    await bench.sink(key=["id"], order_by="$event.time")


@pytest.mark.parametrize("kind", ["jsonb", "real", "uuid", "citext_like", "boolean", "interval", "char(4)"])
async def test_a_column_that_cannot_order_rows_is_refused_at_once(bench: Bench, kind: str) -> None:
    await bench.sql("CREATE DOMAIN citext_like AS text")
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, rev {kind})")
    with pytest.raises(EnvironmentFault) as caught:
        await bench.sink(key=["id"], order_by="rev")
    assert caught.value.code == "sink.order_type"


async def test_tombstones_of_another_key_or_type_are_refused_with_what_they_hold(bench: Bench) -> None:
    await bench.sql(TABLE)
    await bench.sink(**MIRROR)
    await bench.sql("ALTER TABLE orders ALTER COLUMN id TYPE bigint")
    with pytest.raises(EnvironmentFault) as caught:
        await bench.sink(epoch=2, **MIRROR)
    assert caught.value.code == "sink.tombstones"
    assert (
        caught.value.why == f'"penstock"{TOMBSTONES.removeprefix("penstock")} holds integer, bigint; id, rev are bigint, bigint'
    )
    await bench.sql(f"ALTER TABLE {TOMBSTONES} ALTER COLUMN k1 TYPE bigint")
    await bench.sink(epoch=2, **MIRROR)


async def test_tombstones_that_another_pipeline_left_count_for_one_that_deletes_nothing(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**MIRROR)
    await sink.write_and_commit(changes(gone(1, 5)), commit(1))
    other = await bench.sink(key=["id"], order_by="rev", claim=False)
    await other.claim(Claimant(1, "others/sink", "file:in", "k", 100.0))
    await other.write_and_commit(events(row(1, 4), row(2, 4)), commit(1))
    assert await bench.sql("SELECT id FROM orders") == [(2,)]
    assert other.stale == 1


async def test_a_deletion_before_there_is_a_table_is_refused_for_it_could_not_be_remembered(bench: Bench) -> None:
    sink = await bench.sink(**MIRROR, create=True)
    assert await refused(sink, changes(gone(1, 5))) == {
        0: ("sink.missing_table", "the deletion cannot be remembered: there is no table yet")
    }
    await sink.write_and_commit(changes(gone(1, 5), put(1, 4), put(2, 1)), commit(1))
    assert await bench.sql("SELECT id, rev FROM orders") == [(2, Decimal(1))]


async def test_data_that_has_the_sinks_column_itself_is_refused(bench: Bench) -> None:
    await bench.sql(TABLE + "; ALTER TABLE orders ADD penstock_order numeric")
    sink = await bench.sink(key=["id"], order_by=".rev")
    failed = await refused(sink, events(row(1, 1) | {"penstock_order": 3}))
    assert failed[0][0] == "sink.order"


def test_a_long_name_of_a_table_keeps_the_tombstones_name_short_and_its_own() -> None:
    names = {name_of(TableName("a" * 60, "é" * 30 + end)) for end in "xy"}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"key": None}, "order_by needs a key"),
        ({"on_conflict": "ignore"}, "order_by goes with on_conflict: update"),
        ({"order_by": "id"}, "a column of the key"),
        ({"columns": {"id": ".id"}}, "order_by names a column that is not under columns: rev"),
        ({"order_by": ".rev", "columns": {"id": ".id", "penstock_order": ".a"}}, "the sink fills penstock_order itself"),
        ({"tombstones": "90d"}, "tombstones goes with order_by and delete"),
        ({"order_by": None, "tombstones": "90d", "delete": "."}, "tombstones goes with order_by and delete"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PostgresSinkConfig.model_validate(
            {"dsn": "postgresql://h/d", "table": "orders", "key": ["id"], "order_by": "rev"} | config
        )


@pytest.mark.parametrize(
    ("config", "overwrites"),
    [
        ({"key": ["id"]}, True),
        ({"key": ["id"], "order_by": "rev"}, False),
        ({"key": ["id"], "on_conflict": "ignore"}, False),
        ({"key": ["id"], "on_conflict": "error"}, False),
        ({"key": ["id"], "on_conflict": "ignore", "delete": ".gone"}, True),
        ({}, False),
        ({"truncate": ".gone"}, True),
        (MIRROR, False),
    ],
)
def test_the_sink_says_whether_an_older_event_could_take_a_newer_ones_place(
    build_sink: Callable[..., PostgresSink], config: dict[str, Any], overwrites: bool
) -> None:
    assert build_sink(**config).overwrites is overwrites


async def test_a_table_that_is_made_after_a_schema_remembers_deletions_that_come_first(bench: Bench) -> None:
    schemas = bench.project / "schemas" / "row"
    schemas.mkdir(parents=True)
    (schemas / "1.json").write_text('{"properties": {"id": {"type": "integer"}, "v": {"type": "string"}}}')
    sink = await bench.sink(**MIRROR | {"order_by": "$event.time"}, create=True, schema="row@1")

    def at(second: int, kind: str, id: int) -> Event:
        data = {"id": id} | ({"v": "v"} if kind == "put" else {})
        return Event(id="e", source="s", type=kind, time=f"2026-01-01T00:00:0{second}Z", decoded=data, origin=0)

    await sink.write_and_commit([at(5, "delete", 1)], commit(1))
    await sink.write_and_commit([at(4, "put", 1), at(4, "put", 2)], commit(2))
    assert await bench.sql("SELECT id, v FROM orders") == [(2, "v")]
    assert sink.stale == 1
    assert await bench.sql("SELECT pg_typeof(penstock_order)::text FROM orders") == [("timestamp with time zone",)]


async def test_events_without_an_order_make_no_table(bench: Bench) -> None:
    sink = await bench.sink(**MIRROR, create=True)
    assert await refused(sink, events({"id": 1, "v": "a"})) == {
        0: ("sink.order", "nothing says whether the event is older or newer than another: it has no rev")
    }
    assert await bench.sql("SELECT to_regclass('public.orders')") == [(None,)]
