"""What `pipe doctor` looks at where the state of a pipeline is kept. Makes nothing; a store of an older format is brought up to
date, as by every verb that reads it.
"""

from __future__ import annotations

from pathlib import Path

from penstock._postgres_checks import (
    DEADLINE,
    READ_ONLY,
    check_clock,
    check_connections,
    check_encryption,
    check_schema,
    check_version,
    check_writable,
    examine_with,
)
from penstock.clock import Clock
from penstock.config.secret import Secret
from penstock.errors import ComponentError, EnvironmentFault
from penstock.places import look_at_file, look_at_room
from penstock.postgres import Session
from penstock.spi import Finding
from penstock.state.pipeline_records import Note
from penstock.state.postgres_database import WHAT, schema_of
from penstock.state.records import count_unsettled
from penstock.state.store import StateStore


async def examine_server(server: Secret, pipeline: str, clock: Clock) -> list[Finding]:
    """Whether a store can be kept in this database.

    :raises ComponentError: it cannot be reached.
    """
    application = f"penstock:{pipeline}/doctor"
    session = Session(server.reveal(), what=WHAT, application=application, settings=READ_ONLY, deadline=DEADLINE)
    general = [check_version, check_encryption, check_clock(clock), check_connections, check_writable]
    return await examine_with(session, [*general, check_schema(schema_of(pipeline), "state.no_grant", "state.schema")])


def examine_directory(directory: Path, pipeline: str) -> list[Finding]:
    """Whether a store can be kept in this directory."""
    return [look_at_file(directory / f"{pipeline}.db", "state.place", "the state store"), look_at_room(directory, "state.room")]


async def examine_store(store: StateStore, pipeline: str) -> tuple[list[Finding], Note | None]:
    """What the store says of the pipeline; None where it has never run."""
    try:
        await store.open(create=False)
        note, letters, holder = await store.read_note(), await store.letter_counts(), await store.holder()
        pause = await store.signals.paused()
    except EnvironmentFault as fault:
        if fault.code == "state.missing":
            return [Finding("ok", "state", "the pipeline has not run yet")], None
        return [Finding.of(fault)], None
    except ComponentError as error:
        return [Finding.of(error)], None
    finally:
        await store.close()
    alive = "is not running" if holder is None else f"is running, process {holder}" if holder else "is running"
    found = [Finding("ok", "state", f"the store can be read; the pipeline {alive}")]
    if pause is not None:
        found.append(Finding("warning", "state.paused", "the pipeline is paused", pause.why, f"pipe resume {pipeline}"))
    open_letters = count_unsettled(letters)
    if open_letters:
        said = f"{open_letters:,} dead letter{'s are' if open_letters > 1 else ' is'} open"
        found.append(Finding("warning", "state.dead_letters", said, help=f"pipe dlq groups {pipeline}"))
    return found, note
