"""Bad rows: each is found among its neighbours, with its column or constraint, and nothing is written."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from postgres_sink_parts import Bench
from postgres_sink_parts import bench as bench
from sink_parts import changes, commit, events, refused

from penstock.errors import BatchError

TABLE = """
CREATE TABLE shops (id int PRIMARY KEY);
INSERT INTO shops VALUES (1);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE orders (
    id int PRIMARY KEY, shop int REFERENCES shops, price numeric(8,2) NOT NULL CONSTRAINT price_is_fair CHECK (price < 1000),
    code varchar(5), small int2, at timestamptz, mail text UNIQUE, body jsonb, count positive, raw bytea,
    EXCLUDE USING btree (code WITH =) WHERE (code = 'x')
);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.code = 'stop' THEN RAISE EXCEPTION 'no % here', NEW.code; END IF;
    IF NEW.code = 'own' THEN RAISE EXCEPTION 'mine' USING ERRCODE = 'MY001'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION refuse();
INSERT INTO orders (id, price, mail) VALUES (-1, 1, 'taken');
"""
LONG = "".join(map(chr, random.Random(1).choices(range(33, 4000), k=6000)))
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"price": None}, "sink.constraint", "column price"),
    ({"price": 1000}, "sink.constraint", "constraint price_is_fair"),
    ({"price": "1.005"}, "sink.value", "column price: 1.005 has more digits than the 2 that the column keeps"),
    ({"price": 1.005}, "sink.value", "column price: 1.005 has more digits"),
    ({"price": 10**7}, "sink.value", "column price: numeric field overflow"),
    ({"price": "dear"}, "sink.value", 'column price: invalid input syntax for type numeric: "dear"'),
    ({"price": {"eur": 1}}, "sink.value", "column price: an object does not fit the column's type"),
    ({"shop": 2}, "sink.constraint", "constraint orders_shop_fkey"),
    ({"shop": True}, "sink.value", "column shop: true or false does not fit"),
    ({"shop": 1.5}, "sink.value", "column shop: 1.5 is no integer"),
    ({"code": "123456"}, "sink.value", "column code: the text has 6 characters, 5 at most fit"),
    ({"code": "a\0b"}, "sink.value", "column code: the text holds a NUL character"),
    ({"code": "\ud800"}, "sink.value", "column code: the text holds half of a surrogate pair"),
    ({"code": "stop"}, "sink.constraint", "no stop here"),
    ({"code": "own"}, "sink.constraint", "mine"),
    ({"small": 32768}, "sink.value", "column small: "),
    ({"at": "yesterday"}, "sink.value", "column at: 'yesterday' is no time (RFC 3339)"),
    ({"at": "2026-02-30T00:00:00Z"}, "sink.value", "column at: date/time field value out of range"),
    ({"at": "2026-02-20T00:00:00.1234567Z"}, "sink.value", "column at: 2026-02-20T00:00:00.1234567Z has more than 6 digits"),
    ({"mail": "taken"}, "sink.conflict", "constraint orders_mail_key"),
    ({"mail": LONG}, "sink.constraint", "index row"),
    ({"body": {"a": "\0"}}, "sink.value", "column body: "),
    ({"body": float("nan")}, "sink.value", "column body: the data holds NaN"),
    ({"count": 0}, "sink.constraint", "constraint positive_check"),
    ({"raw": "no base64!"}, "sink.value", "column raw: the text is no Base64"),
    ({"nothing": 1}, "sink.unknown_column", "table public.orders has no column nothing"),
    ({"id": None}, "sink.missing_key", "the event has no id"),
]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "price": 1 + n / 4, "mail": f"m{n}"} for n in range(count)]


@pytest.mark.parametrize(
    "config", [{"key": ["id"]}, {"key": ["id"], "on_conflict": "error"}, {"key": ["id"], "on_conflict": "ignore"}]
)
@pytest.mark.parametrize("count", [1, 100])
async def test_each_bad_row_is_named_alone_and_among_others(bench: Bench, count: int, config: dict[str, Any]) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(**config)
    for bad, code, said in BAD:
        found: list[dict[str, Any]] = rows(count)
        found[count // 2] |= bad
        verdicts = await refused(sink, events(*found))
        assert list(verdicts) == [count // 2], bad
        assert (verdicts[count // 2][0], said in verdicts[count // 2][1]) == (code, True), (bad, verdicts)
    assert await bench.sql("SELECT count(*) FROM orders") == [(1,)]


@pytest.mark.parametrize("key", [None, ["id"]])
async def test_many_bad_rows_in_a_thousand_are_all_found_at_once(bench: Bench, key: list[str] | None) -> None:
    await bench.sql(TABLE)
    config: dict[str, Any] = {"key": key} if key else {}
    sink = await bench.sink(**config)
    bad: dict[int, dict[str, Any]] = {
        5: {"price": None},
        6: {"price": 5000},
        300: {"shop": 9},
        301: {"shop": 9},
        998: {"code": "stop"},
        999: {"small": 1 << 20},
    }
    found = [row | bad.get(place, {}) for place, row in enumerate(rows(1000))]
    verdicts = await refused(sink, events(*found))
    assert sorted(verdicts) == sorted(bad)
    await sink.write_and_commit(events(*(row for place, row in enumerate(found) if place not in bad)), commit(1))
    assert await bench.sql("SELECT count(*) FROM orders") == [(995,)]


async def test_a_thousand_bad_rows_that_the_server_does_not_place_are_halved(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"])
    verdicts = await refused(sink, events(*(row | {"shop": 9} for row in rows(1000))))
    assert len(verdicts) == 1000
    await sink.close()
    ((tried,),) = await bench.sql("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'orders'")
    assert tried <= 13 * 1000  # in parts, the whole, and halves of halves down to one


async def test_on_conflict_error_names_exactly_the_rows_that_come_second(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"], on_conflict="error")
    found = [{"id": number, "price": 1} for number in (1, 2, 3, 1, 4, 5, 6, 2, -1)]
    verdicts = await refused(sink, events(*found))
    said = 'table public.orders refuses the row: duplicate key value violates unique constraint "orders_pkey"'
    assert {place: code for place, (code, _) in verdicts.items()} == dict.fromkeys((3, 7, 8), "sink.conflict")
    assert all(message.startswith(said) for _, message in verdicts.values())


async def test_values_of_other_columns_are_in_no_message(bench: Bench) -> None:
    await bench.sql(TABLE)
    sink = await bench.sink(key=["id"])
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(
            events({"id": 1, "price": 5000, "mail": "canary"}, {"id": 2, "price": None, "mail": "canary"}), commit(1)
        )
    assert "canary" not in "".join(error.render() for error in caught.value.failed.values())


async def test_what_has_no_row_is_named(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY,"
        "twice int GENERATED ALWAYS AS (id * 2) STORED)"
    )
    sink = await bench.sink(key=["id"])
    bad = [5, [1], {}, {"ID": 1}, {"id": 1, 'x"; DROP TABLE orders; --': 1}, {"n": 1}, {"id": 1, "n": 1}, {"id": 1, "twice": 2}]
    verdicts = await refused(sink, events(*bad, {"id": 7}))
    assert {place: code for place, (code, _) in verdicts.items()} == {
        0: "sink.not_an_object",
        1: "sink.not_an_object",
        2: "sink.unknown_column",
        3: "sink.unknown_column",
        4: "sink.unknown_column",
        5: "sink.generated_column",
        6: "sink.generated_column",
        7: "sink.generated_column",
    }
    await sink.write_and_commit(events({"id": 7}), commit(1))
    assert await bench.sql("SELECT id, twice FROM orders") == [(7, 14)]


async def test_deletions_and_truncations_that_are_refused_are_named(bench: Bench) -> None:
    await bench.sql(TABLE + "INSERT INTO orders (id, price, shop) VALUES (5, 1, 1)")
    sink = await bench.sink(
        table="shops",
        key=["id"],
        delete='$event.type == "d"',
        truncate='if $event.type == "t" then true, true else $event.type == "T" end',
    )
    found = changes(
        ("i", {"id": 9}), ("d", {"id": 1}), ("d", {"id": "x"}), ("d", {"name": 1}), ("d", None), ("t", None), ("T", None)
    )
    verdicts = await refused(sink, found)
    assert {place: code for place, (code, _) in verdicts.items()} == {
        3: "sink.missing_key",
        4: "sink.not_an_object",
        5: "sink.not_one_value",
    }
    verdicts = await refused(sink, [*found[:3], found[6]])
    assert {place: code for place, (code, _) in verdicts.items()} == {1: "sink.constraint", 2: "sink.value", 3: "sink.truncate"}
    assert verdicts[2][1] == 'column id: invalid input syntax for type integer: "x"'


async def test_rows_that_policies_refuse_are_named_and_the_others_go_in(bench: Bench) -> None:
    await bench.sql(
        "CREATE ROLE clerk LOGIN PASSWORD 'p'; CREATE SCHEMA penstock AUTHORIZATION clerk;"
        "CREATE TABLE orders (id int PRIMARY KEY, shop int); GRANT ALL ON orders TO clerk;"
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON orders USING (shop = 1)"
    )
    try:
        dsn = psycopg.conninfo.make_conninfo(bench.database.dsn, user="clerk", password="p")
        sink = await bench.sink(dsn=dsn, key=["id"])
        found = [{"id": n, "shop": 2 if n == 20 else 1} for n in range(50)]
        verdicts = await refused(sink, events(*found))
        assert {place: code for place, (code, _) in verdicts.items()} == {20: "sink.constraint"}
        await sink.write_and_commit(events(*found[:20]), commit(1))
        assert await bench.sql("SELECT count(*) FROM orders") == [(20,)]
    finally:
        await bench.close()
        await bench.sql("DROP OWNED BY clerk CASCADE; DROP ROLE clerk")


@pytest.mark.parametrize("key", [None, ["id"]])
@pytest.mark.parametrize(
    ("kind", "good", "bad"), [("tsquery", "a", "a b"), ("jsonpath", "$.a", "$.["), ("regclass", "pg_class", "nosuch")]
)
async def test_a_wrong_query_path_or_name_is_its_events_fault(
    bench: Bench, kind: str, good: str, bad: str, key: list[str] | None
) -> None:
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, q {kind})")
    sink = await bench.sink(key=key)
    verdicts = await refused(sink, events({"id": 1, "q": good}, {"id": 2, "q": bad}))
    assert {place: (code, message.startswith("column q: ")) for place, (code, message) in verdicts.items()} == {
        1: ("sink.value", True)
    }


async def test_a_row_that_refers_to_a_later_one_goes_in_though_another_is_refused(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, parent int REFERENCES orders DEFERRABLE INITIALLY DEFERRED)")
    sink = await bench.sink(key=["id"])
    found = events({"id": 1, "parent": 2}, {"id": 2, "parent": 4}, {"id": 3, "parent": 99}, {"id": 4, "parent": None})
    verdicts = await refused(sink, found)
    assert {place: code for place, (code, _) in verdicts.items()} == {2: "sink.constraint"}
    await sink.write_and_commit([found[0], found[1], found[3]], commit(1))
    assert await bench.sql("SELECT id FROM orders ORDER BY id") == [(1,), (2,), (4,)]
