"""Keys that have several texts, and the order of rows of different columns: what one event after the other would leave."""

from __future__ import annotations

from typing import Any

import pytest
from postgres_sink_parts import Bench
from postgres_sink_parts import bench as bench
from sink_parts import changes, commit, events

from connectors.sinks.postgres import PostgresSink
from penstock.errors import BatchError, ComponentError, EnvironmentFault

DELETE = '$event.type == "del"'


@pytest.mark.parametrize(("kind", "texts"), [("numeric", ("1", "1.0")), ("int", ("1", "+01")), ("char(3)", ("x", "x "))])
@pytest.mark.parametrize(("on_conflict", "left"), [("update", 3), ("ignore", 2)])
async def test_rows_of_one_key_under_two_texts_come_in_their_order(
    bench: Bench, kind: str, texts: tuple[str, str], on_conflict: str, left: int
) -> None:
    await bench.sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, a int, b int)")
    sink = await bench.sink(key=["id"], on_conflict=on_conflict)
    one, other = texts
    await sink.write_and_commit(
        events({"id": "5", "a": 1, "b": 1}, {"id": one, "a": 2}, {"id": other, "a": 3, "b": 3}), commit(1)
    )
    assert await bench.sql("SELECT a FROM orders ORDER BY a") == [(1,), (left,)]


@pytest.mark.parametrize(("kind", "value", "text"), [("int", 1, " 01"), ("bool", True, "true"), ("int", 31, "0x1f")])
async def test_a_row_is_deleted_by_another_text_of_its_key(bench: Bench, kind: str, value: Any, text: str) -> None:
    await bench.sql(f"CREATE TABLE orders (id {kind} PRIMARY KEY, a int)")
    sink = await bench.sink(key=["id"], delete=DELETE)
    await sink.write_and_commit(changes(("put", {"id": value, "a": 1}), ("del", {"id": text})), commit(1))
    assert await bench.sql("SELECT * FROM orders") == []


async def test_rows_that_are_appended_keep_their_order_whatever_their_columns(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (n bigserial, v int, note text)")
    sink = await bench.sink()
    await sink.write_and_commit(events({"v": 1, "note": "x"}, {"v": 2}, {"v": 3, "note": "y"}), commit(1))
    assert await bench.sql("SELECT n, v FROM orders ORDER BY n") == [(1, 1), (2, 2), (3, 3)]


async def test_defaults_of_the_database_change_neither_nulls_nor_isolation(bench: Bench) -> None:
    name = bench.database.name
    await bench.sql(
        f"ALTER DATABASE {name} SET array_nulls = off; ALTER DATABASE {name} SET default_transaction_isolation = 'serializable';"
        "CREATE TABLE orders (id int PRIMARY KEY, a text, level text);"
        "CREATE FUNCTION level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.level := current_setting('transaction_isolation'); RETURN NEW; END $$;"
        "CREATE TRIGGER level BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION level()"
    )
    sink = await bench.sink(key=["id"])
    await sink.write_and_commit(events({"id": 1, "a": None}, {"id": 2, "a": "x"}), commit(1))
    assert await bench.sql("SELECT * FROM orders ORDER BY id") == [(1, None, "read committed"), (2, "x", "read committed")]


FOLDED = """
CREATE TYPE folded;
CREATE FUNCTION folded_in(cstring) RETURNS folded AS 'textin' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION folded_out(folded) RETURNS cstring AS 'textout' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE folded (INPUT = folded_in, OUTPUT = folded_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST (folded AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS folded) WITHOUT FUNCTION AS ASSIGNMENT;
"""
"""A type of text whose operators, in `public`, ignore case, as those of citext do."""


def operators() -> str:
    made = ["CREATE FUNCTION folded_cmp(folded, folded) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS"
            " 'SELECT bttextcmp(lower($1::text), lower($2::text))';"]  # fmt: skip
    for number, sign in enumerate(("<", "<=", "=", ">=", ">"), 1):
        made.append(
            f"CREATE FUNCTION folded_{number}(folded, folded) RETURNS bool LANGUAGE sql IMMUTABLE STRICT AS"
            f" 'SELECT lower($1::text) {sign} lower($2::text)';"
            f"CREATE OPERATOR {sign} (LEFTARG = folded, RIGHTARG = folded, PROCEDURE = folded_{number});"
        )
    return "".join(made) + (
        "CREATE OPERATOR CLASS folded_ops DEFAULT FOR TYPE folded USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,"
        " OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 folded_cmp(folded, folded);"
    )


@pytest.mark.parametrize("key", [["id"], ["id", "part"]])
async def test_rows_are_deleted_by_the_comparison_of_their_unique_index(bench: Bench, key: list[str]) -> None:
    await bench.sql(
        f"{FOLDED}{operators()} CREATE TABLE orders (id folded, part int, PRIMARY KEY ({', '.join(key)}));"
        "INSERT INTO orders VALUES ('ABC', 1), ('other', 1)"
    )
    sink = await bench.sink(key=key, delete=DELETE)
    await sink.write_and_commit(changes(("del", {"id": "abc", "part": 1})), commit(1))
    assert await bench.sql("SELECT id::text FROM orders") == [("other",)]


async def test_a_table_is_truncated_behind_rows_whose_checks_are_deferred(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE shops (id int PRIMARY KEY); INSERT INTO shops VALUES (1);"
        "CREATE TABLE orders (id int PRIMARY KEY, shop int REFERENCES shops DEFERRABLE INITIALLY DEFERRED)"
    )
    sink = await bench.sink(key=["id"], truncate='$event.type == "trunc"')
    await sink.write_and_commit(changes(("put", {"id": 1, "shop": 1}), ("trunc", {}), ("put", {"id": 2, "shop": 1})), commit(1))
    assert await bench.sql("SELECT * FROM orders") == [(2, 1)]
    assert list(await refused_of(sink, ("put", {"id": 3, "shop": 9}), ("trunc", {}))) == [0]


async def refused_of(sink: PostgresSink, *found: tuple[str, Any]) -> dict[int, ComponentError]:
    with pytest.raises(BatchError) as caught:
        await sink.write_and_commit(changes(*found), commit(2))
    return dict(caught.value.failed)


async def test_a_sequence_that_is_exhausted_is_no_rows_fault(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (n smallint GENERATED ALWAYS AS IDENTITY (START 32767), id int PRIMARY KEY)")
    sink = await bench.sink(key=["id"])
    with pytest.raises(EnvironmentFault) as caught:
        await sink.write_and_commit(events({"id": 1}, {"id": 2}), commit(1))
    assert caught.value.code == "sink.sequence_exhausted"
    assert await sink.committed() == (1, 0)


async def test_only_a_conflict_of_the_key_is_one_that_on_conflict_decides(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, mail text UNIQUE); INSERT INTO orders VALUES (1, 'x')")
    sink = await bench.sink(key=["id"], on_conflict="error")
    failed = await refused_of(sink, ("put", {"id": 1, "mail": "y"}), ("put", {"id": 2, "mail": "x"}))
    assert {place: error.help for place, error in failed.items()} == {
        0: "on_conflict: update or ignore would take it",
        1: None,
    }


async def test_columns_that_every_table_has_are_not_made(bench: Bench) -> None:
    sink = await bench.sink(key=["id"], create=True)
    failed = await refused_of(sink, ("put", {"id": 1, "xmin": 5}))
    assert {place: error.code for place, error in failed.items()} == {0: "sink.unknown_column"}
