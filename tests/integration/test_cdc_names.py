"""Names of tables that are not plain: told apart everywhere, and fit for a URI where they stand in one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from cdc_parts import events_of, make_source, prepare_slot, read, sql

from penstock.spi import Resume
from penstock.testing.servers import Database

TWINS: dict[str, Any] = {"tables": ['a."b.c"', '"a.b".c']}
_PATH = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-F]{2})*")
"""RFC 3986, section 3.3."""


@pytest.fixture
async def twins(database: Database) -> Database:
    """Two tables whose names are the same without quotes."""
    await sql(
        database,
        'CREATE SCHEMA a; CREATE SCHEMA "a.b"; CREATE TABLE a."b.c" (id int PRIMARY KEY);'
        'CREATE TABLE "a.b".c (id int PRIMARY KEY, n int)',
    )
    return database


WRITE = 'BEGIN; INSERT INTO a."b.c" VALUES (1); INSERT INTO "a.b".c VALUES (2), (3); COMMIT'


async def test_the_look_of_a_table_is_not_held_against_another_of_a_like_name(twins: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(twins, tmp_path, schema_change="freeze", **TWINS))
    await sql(twins, WRITE)
    batches = await read(make_source(twins, tmp_path, schema_change="freeze", **TWINS), known)
    assert [event.data for event in events_of(batches)] == [{"id": 1}, {"id": 2, "n": None}, {"id": 3, "n": None}]
    assert batches[-1].end is not None
    assert b'{"a.\\"b.c\\"":{"id":' in batches[-1].end.detail
    assert b'"\\"a.b\\".c":{"id":' in batches[-1].end.detail


async def test_changes_of_tables_with_like_names_are_counted_apart(twins: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(twins, tmp_path, transaction_metadata=True, **TWINS))
    await sql(twins, WRITE)
    *_, end = events_of(await read(make_source(twins, tmp_path, transaction_metadata=True, **TWINS), known))
    assert end.data["tables"] == {'a."b.c"': 1, '"a.b".c': 2}


@pytest.mark.parametrize("name", ['"order items"', '"Bestellungen äöü ☃"', '"a/b?c#d%41"', "plain_1"])
async def test_the_source_of_events_is_a_uri_whatever_the_table_is_called(database: Database, tmp_path: Path, name: str) -> None:
    await sql(database, f"CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} VALUES (1)")
    fields: dict[str, Any] = {"tables": [name], "snapshot": {"mode": "initial"}}
    source = make_source(database, tmp_path, **fields)
    await source.open(Resume(1, {}, once=True))
    given = []
    try:
        async for batch in source.batches():
            given.append(batch)
            await source.ack([batch.token])
    finally:
        await source.close()
    (event,) = events_of(given)
    parts = urlsplit(event.source)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("postgres-cdc", "", "", "")
    assert _PATH.fullmatch(parts.path)
    assert unquote(parts.path) == f"slot_{database.name}/public.{name}"
