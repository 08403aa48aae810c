"""What is done beside the stream does not end a run for nothing; what a connection brings with it is kept."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cdc_parts import ORDERS, make_source, prepare_slot, sql

from connectors.sources._cdc import publication as cdc_publication
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.publication import prepare_publication
from connectors.sources._cdc.watch import Watch, Watched
from connectors.sources._cdc.wire import Target, Wire
from penstock.clock import SystemClock
from penstock.errors import EnvironmentFault, Transient
from penstock.postgres import Session
from penstock.spi import Resume
from penstock.testing.servers import Database


def config_of(database: Database, **fields: Any) -> PostgresCdcConfig:
    return PostgresCdcConfig.model_validate_json(json.dumps({"dsn": database.dsn, "tables": [], **fields}))


class Meanwhile:
    """A connection beside which something is done before the statements that have this text."""

    def __init__(self, connection: psycopg.Connection[Any], text: str, action: Callable[[], object]) -> None:
        self._connection = connection
        self._text = text
        self._action = action

    def execute(self, query: Any, *arguments: Any) -> Any:
        if self._text in str(query):
            self._action()
        return self._connection.execute(query, *arguments)

    @property
    def info(self) -> psycopg.ConnectionInfo:
        return self._connection.info


@pytest.mark.parametrize("change", ["DROP TABLE s.staging", "CREATE TABLE s.new (id int PRIMARY KEY)"])
async def test_tables_that_come_and_go_while_the_publication_is_looked_at_lack_nothing(database: Database, change: str) -> None:
    await sql(database, "CREATE SCHEMA s; CREATE TABLE s.keep (id int); CREATE TABLE s.staging (id int)")
    config = config_of(database, schemas=["s"])
    with psycopg.connect(database.dsn, autocommit=True) as client:
        prepare_publication(client, config, "all_of_s", fresh=True)
        done: list[str] = []
        beside: Any = Meanwhile(
            client, cdc_publication._PUBLISHED, lambda: done or done.append(change) or database.execute(change)
        )
        prepare_publication(beside, config, "all_of_s", fresh=False)
    assert done == [change]


async def test_a_publication_that_goes_while_its_tables_are_listed_is_missing_and_lacks_none(database: Database) -> None:
    await sql(database, "CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE orders")
    with psycopg.connect(database.dsn, autocommit=True) as client:
        beside: Any = Meanwhile(client, cdc_publication._PUBLISHED, lambda: database.execute("DROP PUBLICATION p"))
        with pytest.raises(EnvironmentFault) as caught:
            prepare_publication(beside, config_of(database, tables=["orders"]), "p", fresh=False)
    assert (caught.value.code, caught.value.message) == ("publication.missing", "there is no publication p")
    assert caught.value.help == 'CREATE PUBLICATION "p" FOR TABLE "public"."orders" WITH (publish_via_partition_root = true)'


async def test_a_table_of_a_schema_that_is_not_published_is_lacking(database: Database) -> None:
    await sql(
        database, "CREATE SCHEMA s; CREATE TABLE s.t (id int); CREATE TABLE s.u (id int); CREATE PUBLICATION p FOR TABLE s.t"
    )
    with psycopg.connect(database.dsn, autocommit=True) as client, pytest.raises(EnvironmentFault) as caught:
        prepare_publication(client, config_of(database, schemas=["s"]), "p", fresh=False)
    assert (caught.value.code, caught.value.message) == ("publication.tables", "the publication p lacks tables of schema s")


async def test_partitions_can_be_named_where_their_root_cannot_be_published(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql(database, "CREATE TABLE t (id int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)")
    config = config_of(database, tables=["t1"])
    with psycopg.connect(database.dsn, autocommit=True) as client:
        with pytest.raises(EnvironmentFault) as caught:
            prepare_publication(client, config, "parts", fresh=True)
        assert caught.value.code == "source.no_table"
        monkeypatch.setattr(cdc_publication, "_WITH_ROOTS", 10_000_000)  # as if the server were older
        prepare_publication(client, config, "parts", fresh=True)
        assert client.execute(
            "SELECT tablename, pubviaroot FROM pg_publication_tables JOIN pg_publication USING (pubname)"
        ).fetchall() == [("t1", False)]


async def test_a_schema_whose_tables_come_and_go_is_read_on(database: Database, tmp_path: Path) -> None:
    await sql(database, "CREATE SCHEMA s; CREATE TABLE s.keep (id int PRIMARY KEY)")
    fields: dict[str, Any] = {"tables": [], "schemas": ["s"], "status_interval": "10ms"}
    known = await prepare_slot(make_source(database, tmp_path, **fields))
    stop = threading.Event()
    churn = asyncio.create_task(asyncio.to_thread(come_and_go, database.dsn, stop))
    source = make_source(database, tmp_path, **fields)
    try:
        await source.open(Resume(1, known))
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5), aclosing(source.batches()) as batches:
                async for batch in batches:
                    await source.ack([batch.token])
        assert source.health() is None
    finally:
        stop.set()
        await churn
        await source.close()


def come_and_go(dsn: str, stop: threading.Event) -> None:
    with psycopg.connect(dsn, autocommit=True) as client:
        while not stop.is_set():
            client.execute("CREATE TABLE s.staging (id int)")
            client.execute("DROP TABLE s.staging")


class Lost(Session):
    """Refuses the first beat, and is lost then."""

    def __init__(self) -> None:
        super().__init__("", what="the source database", application="test")
        self.asked = 0

    @property
    def is_open(self) -> bool:
        return True

    async def run(self, work: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise EnvironmentFault("postgres.refused", "permission denied")
        raise Transient("source.disconnected", "the connection was lost")


async def test_a_heartbeat_that_fails_in_whatever_way_ends_nothing(database: Database) -> None:
    watch = Watch(Watched("p", "slot", "publication", config_of(database, schemas=["s"])), Lost(), SystemClock())
    await watch._beat("one")
    await watch._beat("two")
    assert watch.health() == "no heartbeat could be written: source.disconnected: the connection was lost"


async def test_options_of_the_dsn_hold_for_the_connection_to_the_slot(database: Database) -> None:
    await sql(database, ORDERS)
    wire = await Wire.connect(
        Target(f"{database.dsn}?options=-c%20application_name%3Dx%20-c%20work_mem%3D77kB", "penstock:p/s", {})
    )
    try:
        assert await wire.query("SHOW work_mem") == ("77kB",)
        assert await wire.query("SHOW DateStyle") == ("ISO, MDY",)
    finally:
        await wire.close()
