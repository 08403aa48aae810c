"""Builds that break change data capture on purpose, each in one place: what its crash rounds must be able to catch.

Each function breaks the program in this process, then runs the command. They run in processes of their own only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from connectors.sinks._postgres import ledger
from connectors.sinks._postgres.writer import Writer
from connectors.sources import postgres_cdc
from connectors.sources._cdc.blocks import Blocks
from connectors.sources._cdc.positions import END, Start
from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.cli.main import main
from penstock.errors import ComponentError
from penstock.spi import Batch, Position


def confirms_what_was_read() -> None:
    """What was read is confirmed, before it is anywhere."""
    batches = PostgresCdcSource.batches

    async def confirming(self: PostgresCdcSource) -> AsyncIterator[Batch]:
        async for batch in batches(self):
            await self.ack([batch.token])
            yield batch

    PostgresCdcSource.batches = confirming  # type: ignore[method-assign]
    main()


def resumes_behind_the_transaction() -> None:
    """A run that begins in mid-transaction leaves the rest of it out."""
    start_of = postgres_cdc.start_of

    def behind(found: Position) -> Start:
        start = start_of(found)
        return Start(start.commit, END, start.end) if start.place else start

    postgres_cdc.start_of = behind  # type: ignore[attr-defined]
    main()


def rows_apart_from_checkpoint() -> None:
    """Rows are committed, then the ledger is."""
    write = Writer.write

    def apart(
        self: Writer, connection: Any, ops: Sequence[Any], then: Callable[[], None], **more: Any
    ) -> dict[int, ComponentError]:
        refused = write(self, connection, ops, lambda: None, **more)
        if not refused:
            ledger.within(connection, lambda _: then())
        return refused

    def never(self: Writer, *_: Any) -> bool:
        return False

    Writer.write = apart  # type: ignore[method-assign]
    Writer.write_parts = never  # type: ignore[method-assign]
    main()


def keeps_what_was_rolled_back() -> None:
    """Of a transaction that was streamed, subtransactions that were rolled back are read too."""
    abort = Blocks.abort

    async def forgetful(self: Blocks, found: Any) -> None:
        if found.subxid == found.xid:
            await abort(self, found)

    Blocks.abort = forgetful  # type: ignore[method-assign]
    main()
