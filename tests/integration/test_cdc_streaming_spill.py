"""Large transactions that the server streams, on disk until they are replayed: bounded, gone on with, and nothing left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from cdc_parts import confirmed, events_of, make_source, positions, prepare_slot, read, sql
from cdc_streaming_parts import LARGE, left, reading, spilled, streamed
from cdc_streaming_parts import large as large

from connectors.sources._cdc.spill import SpillDirectory
from connectors.sources._pg_replication import parse_lsn
from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.errors import EnvironmentFault, Transient, Unavailable
from penstock.spi import Batch
from penstock.testing.servers import Database


async def take_all(batches: AsyncIterator[Batch], given: list[Batch]) -> None:
    async for batch in batches:
        given.append(batch)


async def test_nothing_is_confirmed_in_mid_replay_and_status_goes_out_meanwhile(large: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(large, tmp_path))
    await sql(large, LARGE.format(1, 2000))
    before = parse_lsn(await confirmed(large))
    source = make_source(large, tmp_path, count=10, status_interval="10ms")
    async with reading(source, known) as batches:
        while not (batch := await anext(batches)).events:
            await source.ack([batch.token])
        assert batch.token is None
        query = (
            "SELECT reply_time::text, flush_lsn::text FROM pg_stat_replication WHERE application_name = 'penstock:test/source'"
        )
        ((first, _),) = await sql(large, query)
        while (row := (await sql(large, query))[0])[0] == first:
            await source.ack([(await anext(batches)).token])
        assert parse_lsn(row[1]) <= int.from_bytes(batch.events[0].position[:8], "big")
    assert before <= parse_lsn(await confirmed(large)) <= int.from_bytes(batch.events[0].position[:8], "big")
    assert left(tmp_path) == []


async def test_what_was_confirmed_beside_a_transaction_in_progress_takes_nothing_of_it_away(
    large: Database, tmp_path: Path
) -> None:
    known = await prepare_slot(make_source(large, tmp_path))
    with psycopg.connect(large.dsn) as client:
        await asyncio.to_thread(client.execute, LARGE.format(1, 2000))
        await sql(large, "INSERT INTO orders VALUES (-1)")
        before = await read(make_source(large, tmp_path), known, ack=True)
        assert [event.data["id"] for event in events_of(before)] == [-1]
        assert await streamed(large)
        await asyncio.to_thread(client.execute, LARGE.format(2001, 2500))
        await asyncio.to_thread(client.commit)
    after = await read(make_source(large, tmp_path, count=500), positions(before))
    assert [event.data["id"] for event in events_of(after)] == list(range(1, 2501))
    assert parse_lsn(await confirmed(large)) > parse_lsn(events_of(before)[0].record["lsn"])


async def test_a_run_that_ends_in_mid_replay_leaves_no_file(large: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(large, tmp_path))
    await sql(large, LARGE.format(1, 2000))
    async with reading(make_source(large, tmp_path, count=10), known) as batches:
        while not (await anext(batches)).events:
            pass
        assert len(spilled(tmp_path)) == 1
    assert left(tmp_path) == []


async def test_a_file_that_is_cut_short_is_noticed_and_sent_again(large: Database, tmp_path: Path) -> None:
    known = await prepare_slot(make_source(large, tmp_path))
    await sql(large, LARGE.format(1, 9000))
    source = make_source(large, tmp_path, count=100)
    given: list[Batch] = []
    async with reading(source, known) as batches:
        given.append(await anext(batches))
        while not given[-1].events:
            given.append(await anext(batches))
        (file,) = spilled(tmp_path)
        os.truncate(file, file.stat().st_size - 100)
        with pytest.raises(Transient) as caught:
            await take_all(batches, given)
        assert caught.value.code == "source.spill_damaged"
        assert 100 < len(events_of(given)) < 9000
        async for batch in source.batches():
            given.append(batch)
            if len(events_of(given)) == 9000:
                break
    assert [event.data["id"] for event in events_of(given)] == list(range(1, 9001))


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    large: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await prepare_slot(make_source(large, tmp_path))
    await sql(large, LARGE.format(1, 2000))
    source = make_source(large, tmp_path, count=100)
    with monkeypatch.context() as patched:
        patched.setattr(SpillDirectory, "_file", lambda self, xid: Path("/dev/full"))
        async with reading(source, known) as batches:
            given: list[Batch] = []
            with pytest.raises(Unavailable) as caught:
                await take_all(batches, given)
            patched.undo()
            async for batch in source.batches():
                given.append(batch)
                if len(events_of(given)) == 2000:
                    break
    assert caught.value.code == "source.spill_disk"
    assert [event.data["id"] for event in events_of(given)] == list(range(1, 2001))
    assert left(tmp_path) == []


async def test_a_directory_that_could_not_be_made_is_made_later(
    large: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql(large, "INSERT INTO orders VALUES (0)")
    source = make_source(large, tmp_path, count=500, snapshot={"mode": "initial"})
    with monkeypatch.context() as patched:
        patched.setattr(SpillDirectory, "_make", _refuse)
        async with reading(source, {}) as batches:
            given: list[Batch] = []
            await sql(large, LARGE.format(1, 2000))
            with pytest.raises(Unavailable):
                await take_acknowledged(source, batches, given, 2001)
            patched.undo()
            await take_acknowledged(source, source.batches(), given, 2001)
    assert [event.data["id"] for event in events_of(given)] == list(range(2001))


async def take_acknowledged(source: PostgresCdcSource, batches: AsyncIterator[Batch], given: list[Batch], count: int) -> None:
    """Until there are so many events."""
    async for batch in batches:
        given.append(batch)
        await source.ack([batch.token])
        if len(events_of(given)) == count:
            return


def _refuse(self: SpillDirectory) -> Path:
    raise Unavailable("source.spill_disk", "the disk is full")


async def test_a_transaction_beyond_the_bound_stops_the_run_and_names_what_to_do(large: Database, tmp_path: Path) -> None:
    await prepare_slot(make_source(large, tmp_path))
    await sql(large, LARGE.format(1, 9000))
    with pytest.raises(EnvironmentFault) as caught:
        await read(make_source(large, tmp_path, spill={"max": "100KiB"}))
    assert caught.value.code == "source.spill_full"
    assert "bytes up to now: more than `spill.max` (100KiB)" in caught.value.message
    assert "`streaming: off`" in (caught.value.help or "")
    assert left(tmp_path) == []
    whole = await read(make_source(large, tmp_path, streaming="off", count=500))
    assert len(events_of(whole)) == 9000


async def test_another_source_of_the_process_goes_on_while_one_reads_a_large_transaction(large: Database, tmp_path: Path) -> None:
    await sql(large, "CREATE TABLE small (id int PRIMARY KEY)")
    fields = {"tables": ["public.small"], "slot": {"name": f"small_{large.name}"}, "publication": {"name": "small"}}
    await prepare_slot(make_source(large, tmp_path))
    await prepare_slot(make_source(large, tmp_path, **fields))
    await sql(large, LARGE.format(1, 300_000))
    latencies: list[float] = []
    async with (
        reading(make_source(large, tmp_path, count=500)) as batches,
        reading(make_source(large, tmp_path, **fields)) as others,
    ):
        counting = asyncio.ensure_future(count_to(batches, 300_000))
        while not counting.done():
            await sql(large, f"INSERT INTO small VALUES ({len(latencies)})")
            began = asyncio.get_running_loop().time()
            while not (await anext(others)).events:
                pass
            latencies.append(asyncio.get_running_loop().time() - began)
        await counting
    assert len(latencies) > 5
    # the first ones wait until the server has decoded the large transaction for this slot too
    assert max(latencies[5:]) < 1.0, f"{max(latencies):.3f} s at most, of {len(latencies)}"


async def count_to(batches: AsyncIterator[Batch], count: int) -> None:
    while count > 0:
        count -= len((await anext(batches)).events)
