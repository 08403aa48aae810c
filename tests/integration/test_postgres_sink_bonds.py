"""Rows that need each other, and rows that a function refuses: who is to blame where the table refuses a batch."""

from __future__ import annotations

from typing import Any

import pytest
from postgres_sink_parts import ORDERS, Bench
from postgres_sink_parts import bench as bench
from sink_parts import commit, events, refused

from connectors.sinks.postgres import PostgresSink
from penstock.errors import Fatal
from penstock.event import Event

WHEN = ["NOT DEFERRABLE", "DEFERRABLE INITIALLY IMMEDIATE", "DEFERRABLE INITIALLY DEFERRED"]
MAILS = """
CREATE TABLE shops (id int PRIMARY KEY); INSERT INTO shops VALUES (1);
CREATE TABLE orders (id int PRIMARY KEY, mail text, nick text, price int CHECK (price > 0), shop int REFERENCES shops,
                     UNIQUE (mail) {when}, UNIQUE (nick) {when});
INSERT INTO orders VALUES (1, 'a', 'A', 1), (2, 'b', 'B', 1), (3, 'c', 'C', 1), (4, 'd', 'D', 1)
"""


async def without(sink: PostgresSink, found: list[Event], bad: dict[int, str]) -> None:
    """Exactly these are refused, with these codes, and the others go in."""
    verdicts = await refused(sink, found)
    assert {place: code for place, (code, _) in verdicts.items()} == bad
    await sink.write_and_commit([event for place, event in enumerate(found) if place not in bad], commit(1))


@pytest.mark.parametrize("when", WHEN[1:])
@pytest.mark.parametrize("bad", [{"price": 0}, {"shop": 9}, {"mail": "d"}])
@pytest.mark.parametrize("others", [0, 200])
async def test_rows_that_exchange_unique_values_go_in_though_another_row_is_refused(
    bench: Bench, when: str, bad: dict[str, Any], others: int
) -> None:
    await bench.sql(MAILS.format(when=when))
    sink = await bench.sink(key=["id"])
    rows: list[dict[str, Any]] = [{"id": 1, "mail": "b"}, {"id": 2, "mail": "c"}]
    rows += [{"id": 100 + n, "mail": f"m{n}"} for n in range(others)]
    rows += [{"id": 50, **bad}, {"id": 3, "mail": "a"}]
    code = "sink.conflict" if "mail" in bad else "sink.constraint"
    await without(sink, events(*rows), {others + 2: code})
    assert await bench.sql("SELECT id, mail FROM orders WHERE id < 5 ORDER BY id") == [(1, "b"), (2, "c"), (3, "a"), (4, "d")]


@pytest.mark.parametrize("when", WHEN[1:])
async def test_rows_that_exchange_values_give_way_to_a_row_that_needs_no_other(bench: Bench, when: str) -> None:
    await bench.sql(MAILS.format(when=when))
    sink = await bench.sink(key=["id"])
    rows = [{"id": 1, "mail": "b", "nick": "z"}, {"id": 2, "mail": "a", "nick": "y"}, {"id": 3, "mail": "c", "nick": "z"}]
    await without(sink, events(*rows), {0: "sink.conflict", 1: "sink.conflict"})
    assert await bench.sql("SELECT id, mail, nick FROM orders WHERE id < 4 ORDER BY id") == [
        (1, "a", "A"),
        (2, "b", "B"),
        (3, "c", "z"),
    ]


@pytest.mark.parametrize("when", WHEN[1:])
async def test_of_two_exchanges_that_want_one_value_one_goes_in(bench: Bench, when: str) -> None:
    await bench.sql(MAILS.format(when=when))
    sink = await bench.sink(key=["id"])
    mails = [(1, "b", "z"), (2, "a", "y"), (3, "d", "z"), (4, "c", "x")]
    found = events(*({"id": id, "mail": mail, "nick": nick} for id, mail, nick in mails))
    await without(sink, found, {2: "sink.conflict", 3: "sink.conflict"})
    assert await bench.sql("SELECT mail FROM orders ORDER BY id") == [("b",), ("a",), ("c",), ("d",)]


async def test_values_that_move_along_a_chain_go_in_one_after_the_other_where_the_index_is_immediate(bench: Bench) -> None:
    await bench.sql(MAILS.format(when=WHEN[0]))
    sink = await bench.sink(key=["id"])
    rows = [{"id": 1, "mail": "b"}, {"id": 50, "price": 0}, {"id": 2, "mail": "c"}, {"id": 3, "mail": "x"}]
    await without(sink, events(*rows), {1: "sink.constraint"})
    assert await bench.sql("SELECT id, mail FROM orders WHERE id < 4 ORDER BY id") == [(1, "b"), (2, "c"), (3, "x")]


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("key", [["id"], None])
async def test_rows_that_refer_to_each_other_go_in_though_others_are_refused(
    bench: Bench, when: str, key: list[str] | None
) -> None:
    await bench.sql(f"CREATE TABLE orders (id int PRIMARY KEY, price int CHECK (price > 0), parent int REFERENCES orders {when})")
    config: dict[str, Any] = {"key": key} if key else {}
    sink = await bench.sink(**config)
    rows = [
        {"id": 1, "parent": 3, "price": 1},
        {"id": 2, "parent": 99, "price": 1},
        {"id": 3, "parent": 1, "price": 1},
        {"id": 4, "parent": 1, "price": 0},
        {"id": 5, "parent": 4, "price": 1},
        {"id": 6, "parent": 98, "price": 1},
        {"id": 7, "parent": 7, "price": 1},
    ]
    found = events(*rows)
    bad: set[int] = set()
    while bad != {1, 3, 4, 5}:  # what refers to a bad row is found where the bad one is, or once it is gone
        left = [place for place in range(len(found)) if place not in bad]
        more = {left[place] for place in await refused(sink, [found[place] for place in left])}
        assert more
        bad |= more
        assert bad <= {1, 3, 4, 5}
    await sink.write_and_commit([event for place, event in enumerate(found) if place not in bad], commit(1))
    assert await bench.sql("SELECT id FROM orders ORDER BY id") == [(1,), (3,), (7,)]


async def test_rows_that_a_trigger_accepts_only_together_go_in_though_another_is_refused(bench: Bench) -> None:
    await bench.sql(
        "CREATE TABLE orders (id int PRIMARY KEY, entry int, amount int CHECK (amount <> 0));"
        "CREATE FUNCTION balanced() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT sum(amount) FROM public.orders WHERE entry = NEW.entry) <> 0"
        " THEN RAISE EXCEPTION 'entry % is not balanced', NEW.entry; END IF; RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER balanced AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION balanced()"
    )
    sink = await bench.sink(key=["id"])
    rows = [(1, 1, 5), (2, 2, 7), (3, 1, -5), (4, 3, 1), (5, 2, -7)]
    found = events(*({"id": id, "entry": entry, "amount": amount} for id, entry, amount in rows))
    await without(sink, found, {3: "sink.constraint"})
    assert await bench.sql("SELECT id FROM orders ORDER BY id") == [(1,), (2,), (3,), (5,)]


async def test_many_that_violate_what_rows_could_satisfy_together_are_found_within_bounds(bench: Bench) -> None:
    await bench.sql("CREATE TABLE orders (id int PRIMARY KEY, parent int REFERENCES orders)")
    sink = await bench.sink(key=["id"])
    verdicts = await refused(sink, events(*({"id": n, "parent": 10_000 + n} for n in range(1000))))
    assert len(verdicts) == 1000
    await sink.close()
    ((tried,),) = await bench.sql("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'orders'")
    assert tried <= (2 * 12 + 64) * 1000  # twice halves of halves, and together


BROKEN = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body}; RETURN NEW; END$$;
CREATE TRIGGER broken BEFORE INSERT ON orders FOR EACH {each} EXECUTE FUNCTION broken()
"""


@pytest.mark.parametrize("config", [{}, {"key": ["id"]}])
async def test_a_trigger_that_names_a_missing_table_refuses_its_rows_and_says_how_it_is_mended(
    bench: Bench, config: dict[str, Any]
) -> None:
    body = "IF NEW.qty = 0 THEN PERFORM 1 FROM nowhere; END IF"
    await bench.sql(ORDERS + ";" + BROKEN.format(body=body, each="ROW"))
    sink = await bench.sink(**config)
    found = events(*({"id": str(n), "price": 1, "qty": n % 7} for n in range(1, 20)))
    verdicts = await refused(sink, found)
    said = 'table public.orders refuses the row: relation "nowhere" does not exist'
    assert verdicts == {6: ("sink.constraint", said), 13: ("sink.constraint", said)}
    await bench.sql("CREATE TABLE nowhere (); ALTER FUNCTION broken() SET search_path = public")
    await sink.write_and_commit(found, commit(1))
    assert await bench.sql("SELECT count(*) FROM orders") == [(19,)]


@pytest.mark.parametrize(
    "body", ["PERFORM nowhere.f()", "PERFORM no_such_function()", "EXECUTE 'SELECT * FROM t' || NEW.id", "PERFORM NEW.nothing"]
)
async def test_whatever_is_missing_for_a_trigger_its_row_is_refused_with_the_place(bench: Bench, body: str) -> None:
    await bench.sql(ORDERS + ";" + BROKEN.format(body=body, each="ROW"))
    sink = await bench.sink(key=["id"])
    verdicts = await refused(sink, events({"id": "a", "price": 1}))
    assert list(verdicts) == [0]


async def test_a_trigger_that_is_broken_for_every_statement_stops_the_run(bench: Bench) -> None:
    await bench.sql(ORDERS + ";" + BROKEN.format(body="PERFORM 1 FROM nowhere", each="STATEMENT"))
    sink = await bench.sink(key=["id"])
    with pytest.raises(Fatal) as caught:
        await sink.write_and_commit(events({"id": "a", "price": 1}), commit(1))
    assert 'relation "nowhere" does not exist' in caught.value.message


async def test_a_type_whose_function_names_a_missing_table_refuses_the_value(bench: Bench) -> None:
    await bench.sql(
        "CREATE FUNCTION known(text) RETURNS bool LANGUAGE plpgsql AS"
        " $$BEGIN IF $1 = 'x' THEN PERFORM FROM nowhere; END IF; RETURN true; END$$;"
        "CREATE DOMAIN code AS text CHECK (public.known(VALUE)); CREATE TABLE orders (id int PRIMARY KEY, c code)"
    )
    sink = await bench.sink(key=["id"])
    verdicts = await refused(sink, events({"id": 1, "c": "a"}, {"id": 2, "c": "x"}))
    assert verdicts == {1: ("sink.value", 'column c: relation "nowhere" does not exist')}
