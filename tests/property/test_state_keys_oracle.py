"""Dedup keys against a plain dictionary: whatever the keys, their order, and the pace of the clock."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.faults import Faults
from penstock.ledger import Claimant, Commit, Counts, Key
from penstock.state import key_tables
from penstock.state.dialect import Connection
from penstock.state.ledger_tables import LEDGER_SCHEMA, LedgerTables
from penstock.state.migration import migrate
from penstock.state.postgres_connection import PostgresConnection
from penstock.testing.servers import PostgresServer

WINDOW = 10.0
groups = st.lists(
    st.tuples(st.floats(0, 25, allow_nan=False), st.sets(st.integers(0, 2**128 - 1) | st.integers(0, 40), max_size=12)),
    max_size=12,
)


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    database = postgres.create_database("keys_oracle")
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        yield connection
    postgres.drop_database(database.name)


def prepared(db: Connection) -> LedgerTables:
    migrate(db, [LEDGER_SCHEMA], Faults())
    ledger = LedgerTables("p/l")
    ledger.claim(db, Claimant(1, "p/l", "s", "k", WINDOW))
    return ledger


@settings(deadline=None, max_examples=60)
@given(groups)
@example([(0.0, {3}), (4.0, {2}), (7.0, {1}), (4.0, {0})])  # its generation is over between two that begin
def test_a_key_is_held_for_its_window_and_for_at_most_half_a_window_more(steps: list[tuple[float, set[int]]]) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        check(db, prepared(db), steps)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=groups)
def test_so_it_is_in_postgresql(server: psycopg.Connection[Any], steps: list[tuple[float, set[int]]]) -> None:
    server.execute("DROP SCHEMA IF EXISTS fresh CASCADE; CREATE SCHEMA fresh; SET search_path = fresh")
    db = PostgresConnection(server)
    check(db, prepared(db), steps)


def check(db: Connection, ledger: LedgerTables, steps: list[tuple[float, set[int]]]) -> None:
    now = 0.0
    since: dict[int, tuple[float, bytes]] = {}
    for group, (pause, numbers) in enumerate(steps, start=1):
        now += pause
        held = ledger.seen(db, [n.to_bytes(16, "big") for n in sorted(since)])
        keys = [
            Key(n.to_bytes(16, "big"), group.to_bytes(8, "big")) for n in sorted(numbers) if n.to_bytes(16, "big") not in held
        ]
        ledger.commit(db, Commit(1, group - 1, group, {}, Counts(), keys, now))
        since |= {int.from_bytes(one.key, "big"): (now, one.brought_by) for one in keys}
        found = ledger.seen(db, [n.to_bytes(16, "big") for n in since])
        must = {n.to_bytes(16, "big"): by for n, (at, by) in since.items() if now - at < WINDOW}
        assert must.items() <= found.items()
        assert all(found[n.to_bytes(16, "big")] == by for n, (_, by) in since.items() if n.to_bytes(16, "big") in found)
        if keys:  # expiry is looked at when keys come in
            assert all(now - since[int.from_bytes(one, "big")][0] < 1.5 * WINDOW for one in found)
        live = key_tables.generations(db, 1)
        assert len(live) <= 3
        assert key_tables.high_water(live) == max(found, default=b"")
