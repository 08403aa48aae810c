"""The states of a replication slot, each with what to do about it: nothing that was lost is passed over (Invariant 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from connectors.sources._cdc.config import SlotFields
from connectors.sources._pg_replication import lsn_text, parse_lsn
from penstock.errors import EnvironmentFault

if TYPE_CHECKING:
    import psycopg

_SLOT = "SELECT pg_catalog.to_jsonb(s) FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = %s"
_WITH_OPTIONS = 150000
_WITH_ORIGIN = 160000
_WITH_FAILOVER = 170000
_END_READER = """
SELECT pg_catalog.pg_terminate_backend(a.pid)
FROM pg_catalog.pg_replication_slots AS s JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.active_pid
WHERE s.slot_name = %s AND a.backend_type = 'walsender'
"""
_READER = "SELECT application_name FROM pg_catalog.pg_stat_activity WHERE pid = %s"

_BLOCKERS = """
SELECT a.pid, a.application_name, pg_catalog.date_trunc('second', a.xact_start)::pg_catalog.text
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = ANY (pg_catalog.pg_blocking_pids(%s)) ORDER BY a.xact_start
"""


class Slot(msgspec.Struct, frozen=True):
    """A row of pg_replication_slots, of whichever version."""

    name: str
    plugin: str | None
    kind: str
    database: str | None
    active_pid: int | None
    confirmed: int
    wal_status: str | None
    invalidated: str | None
    """Why the server gave it up; None where it did not."""


def read_slot(connection: psycopg.Connection[Any], name: str) -> Slot | None:
    """None where there is none."""
    row = connection.execute(_SLOT, (name,)).fetchone()
    if row is None:
        return None
    found: dict[str, Any] = row[0]
    reason = found.get("invalidation_reason") or ("a conflict with recovery" if found.get("conflicting") else None)
    lost = found.get("wal_status") == "lost"
    return Slot(
        name=name,
        plugin=found["plugin"],
        kind=found["slot_type"],
        database=found["database"],
        active_pid=found["active_pid"],
        confirmed=parse_lsn(found["confirmed_flush_lsn"]) if found["confirmed_flush_lsn"] else 0,
        wal_status=found.get("wal_status"),
        invalidated=reason or ("wal_removed" if lost else None),
    )


def reader_of(connection: psycopg.Connection[Any], pid: int) -> str:
    """Who holds a slot, in words."""
    row = connection.execute(_READER, (pid,)).fetchone()
    return f"pid {pid}" + (f" ({row[0]})" if row and row[0] else "")


def end_reader(connection: psycopg.Connection[Any], slot: str) -> None:
    """End the connection that reads this slot, if there is one.

    :raises psycopg.errors.InsufficientPrivilege: it is another role's.
    """
    connection.execute(_END_READER, (slot,))


def waited_for(connection: psycopg.Connection[Any], pid: int) -> str | None:
    """Whom this connection, which makes a slot, waits for to end; None where for nobody."""
    rows = connection.execute(_BLOCKERS, (pid,)).fetchall()
    found = [f"pid {number}" + (f" ({name})" if name else "") + f", since {since}" for number, name, since in rows]
    return ", ".join(found) or None


def check_slot(slot: Slot, database: str, pipeline: str, checkpoint: int | None) -> None:
    """:param checkpoint: from where the pipeline reads on; None where it has none.
    :raises EnvironmentFault: `slot.unfit`, `slot.lost`, `slot.ahead`.
    """
    if slot.plugin != "pgoutput" or slot.database != database:
        what = f"plugin {slot.plugin}, database {slot.database}" if slot.plugin else f"it is {slot.kind}"
        raise EnvironmentFault(
            "slot.unfit",
            f"the slot {slot.name} is not one of pgoutput in database {database}: {what}",
            help="choose another `slot.name`",
        )
    if slot.invalidated:
        raise EnvironmentFault(
            "slot.lost",
            f"the server has given up the slot {slot.name}: {slot.invalidated}",
            why="changes since its last confirmation can no longer be read",
            help=f"{drop(slot.name)}; then {reset(pipeline)}: reading begins anew, without what was lost",
        )
    if checkpoint is not None and slot.confirmed > checkpoint:
        raise ahead(slot, pipeline, checkpoint)


def ahead(slot: Slot, pipeline: str, checkpoint: int) -> EnvironmentFault:
    return EnvironmentFault(
        "slot.ahead",
        f"the slot {slot.name} stands at {lsn_text(slot.confirmed)}, behind it are changes that the pipeline has not seen: its "
        f"checkpoint is {lsn_text(checkpoint)}",
        why="it was made anew, or another consumer has confirmed changes in it",
        help=f"{reset(pipeline)}: reading goes on at the slot, without what lies between",
    )


def made_later(publication: str, slot: str, pipeline: str) -> EnvironmentFault:
    return EnvironmentFault(
        "publication.made_later",
        f"the publication {publication} was made after changes that the slot {slot} still holds",
        why="the server decodes a change with the publications that there were when it was made",
        help=f"{drop(slot)}; then {reset(pipeline)}: reading begins anew, without the changes in between",
    )


def missing(name: str, pipeline: str, checkpoint: int | None) -> EnvironmentFault:
    if checkpoint is None:
        return EnvironmentFault(
            "slot.missing",
            f"there is no replication slot {name}",
            help=f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput'); or `slot: {{ create: auto }}`",
        )
    return EnvironmentFault(
        "slot.missing",
        f"the replication slot {name} is gone, and the pipeline's checkpoint is {lsn_text(checkpoint)}",
        why="it was dropped, or lost with a failover: changes since the checkpoint cannot be read",
        help=f"{reset(pipeline)}: a new slot is made, without what was lost",
    )


def creation(name: str, fields: SlotFields, version: int, *, snapshot: Literal["nothing", "export"] = "nothing") -> str:
    """The replication command that makes the slot on a server of this version.

    :param snapshot: `export`: its answer names a snapshot to be imported, which lives as long as the connection.
    :raises EnvironmentFault: `slot.no_failover`, before PostgreSQL 17.
    """
    if fields.failover and version < _WITH_FAILOVER:
        raise EnvironmentFault(
            "slot.no_failover",
            f"a server of version {version // 10000} has no failover slots, and `slot.failover` asks for one",
            help="leave `slot.failover` out, or use PostgreSQL 17 or newer",
        )
    temporary = " TEMPORARY" if fields.temporary else ""
    if version < _WITH_OPTIONS:
        options = "NOEXPORT_SNAPSHOT" if snapshot == "nothing" else "EXPORT_SNAPSHOT"
    else:
        options = f"(SNAPSHOT '{snapshot}'{', FAILOVER true' if fields.failover else ''})"
    return f'CREATE_REPLICATION_SLOT "{name}"{temporary} LOGICAL pgoutput {options}'


def in_the_way(name: str) -> EnvironmentFault:
    return EnvironmentFault(
        "slot.unfit",
        f"there is a slot {name}, and `slot.temporary` would make one of its own",
        help=f"choose another `slot.name`, or, where nothing is to be read from it any more: {drop(name)}",
    )


def origin_options(origin: Literal["any", "none"], version: int) -> list[tuple[str, str]]:
    """What START_REPLICATION is told of origins.

    :raises EnvironmentFault: `source.no_origin`, before PostgreSQL 16.
    """
    if origin == "any":
        return []
    if version < _WITH_ORIGIN:
        raise EnvironmentFault(
            "source.no_origin",
            f"a server of version {version // 10000} cannot leave out what came to it by replication",
            help="leave `origin` out, or use PostgreSQL 16 or newer",
        )
    return [("origin", "none")]


def drop(name: str) -> str:
    return f"SELECT pg_drop_replication_slot('{name}')"


def reset(pipeline: str) -> str:
    return f"pipe checkpoint reset {pipeline} --all"
