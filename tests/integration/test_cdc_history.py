"""A server that was restored or promoted: what the pipeline has seen and the server has not is never passed over."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from cdc_parts import ORDERS, SECONDS, make_source, positions, prepare_slot, read, sql, take_all, told
from cdc_snapshot_parts import Ledger, drive
from server_parts import StartPostgres

from connectors.sources._cdc.positions import Start, order, position, start_of
from penstock.errors import EnvironmentFault
from penstock.spi import Batch, Position, Resume
from penstock.testing.servers import Database, PostgresServer


class Cluster:
    """A server that can be put back to where it was."""

    def __init__(self, server: PostgresServer, copy: Path) -> None:
        self.server, self.copy = server, copy

    async def keep(self) -> None:
        await asyncio.to_thread(self.server.stop)
        await self._copy(self.server.data, self.copy)
        await asyncio.to_thread(self.server.start)

    async def restore(self, *, promoted: bool = False) -> None:
        await asyncio.to_thread(self.server.stop, "immediate")
        await self._copy(self.copy, self.server.data)
        await self.start(promoted=promoted)

    async def start(self, *, promoted: bool) -> None:
        """As a stand-by that takes over, on a timeline of its own, where `promoted`."""
        if promoted:
            signal = self.server.data / "standby.signal"
            await asyncio.to_thread(subprocess.run, ["cp", "-p", self.server.data / "PG_VERSION", signal], check=True)
        await asyncio.to_thread(self.server.start)
        if promoted:
            await asyncio.to_thread(self.server.execute, "SELECT pg_promote()")

    @staticmethod
    async def _copy(one: Path, other: Path) -> None:
        await asyncio.to_thread(subprocess.run, ["rm", "-rf", other], check=True)
        await asyncio.to_thread(subprocess.run, ["cp", "-a", one, other], check=True)


@pytest.fixture
async def cluster(start_postgres: StartPostgres, tmp_path: Path) -> Cluster:
    server = await asyncio.to_thread(start_postgres, 18, durable=False, settings={"hot_standby": "on"})
    return Cluster(server, tmp_path / "copy")


async def begin(cluster: Cluster, directory: Path) -> tuple[Database, dict[str, Position]]:
    """A pipeline that has read a change that the kept copy lacks."""
    shop = await asyncio.to_thread(cluster.server.create_database, "shop")
    await sql(shop, ORDERS)
    known = await prepare_slot(make_source(shop, directory))
    await cluster.keep()
    await sql(shop, "INSERT INTO orders SELECT n, 'first', repeat('x', 500) FROM generate_series(1, 200) AS n")
    batches = await read(make_source(shop, directory), known, ack=True)
    assert len(told(batches)) == 200
    return shop, {**known, **positions(batches)}


async def refusal(database: Database, directory: Path, known: Mapping[str, Position]) -> EnvironmentFault:
    source = make_source(database, directory)
    with pytest.raises(EnvironmentFault) as caught:
        await source.open(Resume(1, known))
    await source.close()
    return caught.value


async def test_a_server_that_was_put_back_is_behind(cluster: Cluster, tmp_path: Path) -> None:
    shop, known = await begin(cluster, tmp_path)
    await cluster.restore()
    await sql(shop, "INSERT INTO orders VALUES (1000, 'second', '')")
    error = await refusal(shop, tmp_path, known)
    assert (error.code, error.help) == (
        "slot.behind",
        "pipe checkpoint reset test --all: reading begins anew; or `snapshot: { mode: when_needed }`",
    )


async def rows(shop: Database) -> list[int]:
    return [number for (number,) in await sql(shop, "SELECT id FROM orders ORDER BY id")]


async def test_where_it_is_needed_a_server_that_was_put_back_is_read_anew(cluster: Cluster, tmp_path: Path) -> None:
    shop, known = await begin(cluster, tmp_path)
    await cluster.restore()
    await sql(shop, "INSERT INTO orders VALUES (1000, 'second', '')")
    ledger, fields = Ledger(positions=dict(known)), {"snapshot": {"mode": "when_needed"}}
    await drive(make_source(shop, tmp_path, **fields), [ledger], 2)
    assert [event.data["id"] for event in ledger.events] == await rows(shop) == [1000]
    for number in (3, 4):  # what comes now is behind the checkpoint of before, and is read nevertheless
        await sql(shop, f"INSERT INTO orders VALUES ({number}, 'third', '')")
        await drive(make_source(shop, tmp_path, **fields), [ledger], number)
    assert [event.data["id"] for event in ledger.events] == [1000, 3, 4]
    assert set(ledger.positions) == {"slot_shop", "slot_shop#2", "snapshot:public.orders"}
    assert ledger.positions["slot_shop"] == known["slot_shop"]
    assert ledger.positions["slot_shop#2"].order < known["slot_shop"].order
    await cluster.restore()
    await drive(make_source(shop, tmp_path, **fields), [ledger], 5)
    await sql(shop, "INSERT INTO orders VALUES (6, 'fourth', '')")
    await drive(make_source(shop, tmp_path, **fields), [ledger], 6)
    assert [event.data["id"] for event in ledger.events] == [1000, 3, 4, 6]


async def test_a_server_that_is_put_back_under_a_run_is_behind(cluster: Cluster, tmp_path: Path) -> None:
    shop, known = await begin(cluster, tmp_path)
    source = make_source(shop, tmp_path)
    await source.open(Resume(1, known))
    given: list[Batch] = []
    try:
        async with asyncio.timeout(SECONDS):
            reading = asyncio.create_task(take_all(source.batches(), given))
            await cluster.restore()
            await asyncio.gather(reading, return_exceptions=True)
            with pytest.raises(EnvironmentFault) as caught:
                await take_all(source.batches(), given)
    finally:
        await source.close()
    assert caught.value.code == "slot.behind"


async def test_a_timeline_that_left_before_the_checkpoint_has_diverged(cluster: Cluster, tmp_path: Path) -> None:
    shop, known = await begin(cluster, tmp_path)
    await cluster.restore(promoted=True)
    await sql(shop, "INSERT INTO orders VALUES (1000, 'second', '')")
    assert (await refusal(shop, tmp_path, known)).code == "slot.behind"
    await sql(shop, "SELECT pg_switch_wal(); INSERT INTO orders VALUES (1001, 'second', '')")
    error = await refusal(shop, tmp_path, known)
    assert (error.code, error.message.split(", and")[0]) == ("slot.diverged", "the server of the slot slot_shop is on timeline 2")
    needed = make_source(shop, tmp_path, snapshot={"mode": "when_needed"}, count=500)
    await needed.open(Resume(2, known, once=True))
    assert [len(table.progress.key) for table in needed._snapshots._tables] == [1]
    await needed.close()


async def test_a_timeline_that_left_behind_the_checkpoint_is_read_on(cluster: Cluster, tmp_path: Path) -> None:
    shop, known = await begin(cluster, tmp_path)
    await asyncio.to_thread(cluster.server.stop)
    await cluster.start(promoted=True)
    await sql(shop, "INSERT INTO orders VALUES (1000, 'second', '')")
    batches = await read(make_source(shop, tmp_path), known, ack=True)
    assert [data["id"] for _, data in told(batches)] == [1000]
    slot = "slot_shop"
    assert (start_of(known[slot]).timeline, start_of(positions(batches)[slot]).timeline) == (1, 2)


def test_positions_of_before_have_no_timeline() -> None:
    old = Position(order(5, 0), b'{"version":1,"end":5}')
    assert start_of(old) == Start(5, 0, 5)
    assert position(order(5, 0), 5).detail == old.detail
    assert start_of(position(order(5, 0), 5, None, 3)) == Start(5, 0, 5, 3)
