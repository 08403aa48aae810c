"""What `pipe doctor` finds out about the replication slot of a `postgres_cdc` source, and what the server may do to it.

Source: PostgreSQL manual, pg_replication_slots; "Replication", "Sending Servers".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from connectors.sources._cdc.config import PostgresCdcConfig, SlotFields
from connectors.sources._cdc.slot import Slot, check_slot, creation, missing, reader_of
from penstock._postgres_checks import settings
from penstock.errors import EnvironmentFault
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

_HELD = """
SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       s.restart_lsn)::int8,
       to_jsonb(s)->>'wal_status', (to_jsonb(s)->>'safe_wal_size')::int8
FROM pg_replication_slots AS s WHERE s.slot_name = %s
"""
_FAILOVER = "SELECT to_jsonb(s)->>'failover' = 'true' FROM pg_replication_slots AS s WHERE s.slot_name = %s"
_GIB = 1 << 30
_MIB = 1 << 20


def check_standing(
    connection: psycopg.Connection[Any], slot: Slot | None, name: str, pipeline: str, checkpoint: int | None, *, create: bool
) -> Iterator[Finding]:
    """Whether the slot is there, and the pipeline can go on with it.

    :param checkpoint: from where the pipeline reads on; None where it has none.
    :param create: a run may make it.
    """
    if slot is None:
        if checkpoint is not None or not create:
            yield Finding.of(missing(name, pipeline, checkpoint))
        else:
            yield Finding("ok", "slot.missing", f"the slot {name} is made at the first run")
        return
    try:
        check_slot(slot, connection.info.dbname, pipeline, checkpoint)
    except EnvironmentFault as fault:
        yield Finding.of(fault)
        return
    if slot.active_pid is not None:
        yield _read_by(slot, reader_of(connection, slot.active_pid), pipeline)
    else:
        yield Finding("ok", "slot", f"the slot {name} is there, and nobody reads it")


def _read_by(slot: Slot, who: str, pipeline: str) -> Finding:
    if f"penstock:{pipeline}/" in who:
        return Finding("ok", "slot", f"the slot {slot.name} is read by a run of this pipeline, {who}")
    return Finding(
        "error",
        "slot.busy",
        f"the slot {slot.name} is in use by {who}",
        "one connection at a time can read a slot",
        f"stop it, or: SELECT pg_terminate_backend({slot.active_pid}); or choose another `slot.name`",
    )


def check_failover(connection: psycopg.Connection[Any], name: str, fields: SlotFields) -> Iterator[Finding]:
    """Whether stand-bys keep a copy of the slot, as was asked for."""
    try:
        creation(name, fields, connection.info.server_version)
    except EnvironmentFault as fault:
        yield Finding.of(fault)
        return
    row = connection.execute(_FAILOVER, (name,)).fetchone()
    if row is not None and not row[0]:
        database = connection.info.dbname.replace("'", "\\'")
        yield Finding(
            "warning",
            "slot.not_failover",
            f"the slot {name} was made without `failover`: no stand-by keeps a copy of it",
            "after a failover it is gone, and with it changes",
            f"psql \"dbname='{database}' replication=database\" -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER true)'",
        )
    elif row is not None:
        yield Finding("ok", "slot.failover", f"stand-bys may keep a copy of the slot {name}")


def check_held(connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str) -> Iterator[Finding]:
    """How much WAL an existing slot holds back, and how near it is to being given up."""
    held, status, left = connection.execute(_HELD, (name,)).fetchone() or (None, None, None)
    if held is None or status == "lost":
        return
    bound = config.lag_bound
    if bound is not None and held > bound:
        yield Finding(
            "warning",
            "slot.lag",
            f"the slot {name} holds back {_size(held)} of WAL, more than max_slot_lag ({_size(bound)})",
            help="run the pipeline, and look at what slows it down: pipe status",
        )
    elif status == "unreserved" or (left is not None and left < (held + left) // 3):
        yield Finding(
            "error" if status == "unreserved" else "warning",
            "slot.near_limit",
            f"the slot {name} holds back {_size(held)} of WAL, and is given up {f'after {_size(left)} more' if left else 'soon'}",
            "max_slot_wal_keep_size bounds what the server keeps for it",
            "run the pipeline now; or ALTER SYSTEM SET max_slot_wal_keep_size = "
            f"'{max(1, 4 * held // _GIB)}GB'; SELECT pg_reload_conf()",
        )
    else:
        yield Finding("ok", "slot.lag", f"the slot {name} holds back {_size(held)} of WAL")


def check_limits(connection: psycopg.Connection[Any], config: PostgresCdcConfig) -> Iterator[Finding]:
    """What the server does with a slot that falls behind, or that nobody reads."""
    found = settings(connection, "max_slot_wal_keep_size", "idle_replication_slot_timeout")
    yield from _check_keep(int(found.get("max_slot_wal_keep_size", "-1")) * _MIB, config)
    idle = int(found.get("idle_replication_slot_timeout", "0"))
    if idle > 0:
        yield Finding(
            "warning",
            "slot.idle_timeout",
            f"the server gives up slots that nobody reads for {idle:,} s",
            "a pipeline that stands still for longer loses its slot, and with it changes",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf()",
        )


def _check_keep(keep: int, config: PostgresCdcConfig) -> Iterator[Finding]:
    bound = config.lag_bound
    if keep < 0 and bound is None:
        yield Finding(
            "warning",
            "slot.wal_unlimited",
            "a pipeline that stands still makes the server keep WAL until its disk is full",
            "max_slot_wal_keep_size is -1, and no max_slot_lag raises an alarm before",
            "max_slot_lag: 10GiB; or, to give up the slot rather than the disk: "
            "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf()",
        )
    elif 0 <= keep < max(_GIB, bound or 0):
        least = max(_GIB, 2 * (bound or 0))
        yield Finding(
            "warning",
            "slot.wal_limit",
            f"the server gives up the slot when it is {_size(keep)} behind"
            + (f", before max_slot_lag ({_size(bound)}) raises an alarm" if bound is not None and keep < bound else ""),
            "what was not read by then is lost to the pipeline",
            f"ALTER SYSTEM SET max_slot_wal_keep_size = '{-(-least // _GIB)}GB'; SELECT pg_reload_conf()",
        )
    else:
        said = "until its disk is full" if keep < 0 else f"up to {_size(keep)}"
        alarm = "" if bound is None else f"; an alarm is raised at {_size(bound)}"
        yield Finding("ok", "slot.wal_limit", f"the server keeps WAL for the slot {said}{alarm}")


def _size(number: int) -> str:
    for size, unit in ((_GIB, "GiB"), (_MIB, "MiB"), (1 << 10, "KiB")):
        if number >= size:
            return f"{number / size:,.1f} {unit}".replace(".0 ", " ")
    return f"{number} bytes"
