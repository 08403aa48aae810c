"""The replication connection where nobody answers."""

from __future__ import annotations

import asyncio

import pytest

from connectors.sources._cdc.wire import Target, Wire


async def test_a_connection_that_is_given_up_before_it_stands_is_closed_at_once() -> None:
    """Whoever keeps the error keeps nothing of it. A server waits a minute for half a connection, and drops no database."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server, asyncio.timeout(10):
        port = server.sockets[0].getsockname()[1]
        target = Target(f"host=127.0.0.1 port={port} user=u password=p dbname=d sslmode=disable", "test", {})
        connecting = asyncio.create_task(Wire.connect(target))
        await asked.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await connecting
        await left.wait()
    assert caught.value is not None
