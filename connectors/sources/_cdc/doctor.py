"""What `pipe doctor` looks at for a `postgres_cdc` source: server and role, tables, publication, slot. Nothing is changed.

Collaborators: `_cdc.doctor_tables`, `_cdc.doctor_publication`, `_cdc.doctor_snapshots`, `_cdc.doctor_slot`; what every connector
asks of a server stands in `penstock._postgres_checks`. Where a run would stop, the finding has the code of the run's error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors._postgres import tls_parameters
from connectors._postgres_doctor import examine_server
from connectors.sources._cdc.config import OPERATIONS, PostgresCdcConfig, default_name
from connectors.sources._cdc.doctor_publication import check_age, check_missing, check_publication, find_publication
from connectors.sources._cdc.doctor_slot import check_failover, check_held, check_limits, check_standing
from connectors.sources._cdc.doctor_snapshots import check_keys, check_signals
from connectors.sources._cdc.doctor_tables import Reading, check_grants, check_names, check_rows, tables_of
from connectors.sources._cdc.history import check_history
from connectors.sources._cdc.positions import start_of, stream_of
from connectors.sources._cdc.publication import check_columns, check_server
from connectors.sources._cdc.slot import read_slot
from connectors.sources._cdc.wire import WHAT, Target, Wire
from penstock._postgres_checks import settings, who
from penstock.errors import ComponentError, EnvironmentFault
from penstock.spi import Context, Finding, Position

if TYPE_CHECKING:
    import psycopg

_ROLE = """
SELECT r.rolreplication OR r.rolsuper,
       (SELECT quote_ident(m.rolname) FROM pg_roles AS m WHERE m.rolname IN ('rds_replication') LIMIT 1),
       coalesce((SELECT pg_has_role(m.oid, 'USAGE') FROM pg_roles AS m WHERE m.rolname = 'rds_replication'), false)
FROM pg_roles AS r WHERE r.rolname = current_user
"""
_SLOTS = """
SELECT (SELECT count(*) FROM pg_replication_slots)::int, current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_stat_replication)::int, current_setting('max_wal_senders')::int,
       (SELECT string_agg(slot_name::text, ', ' ORDER BY slot_name) FROM pg_replication_slots WHERE NOT active)
"""
_ANY_STANDBY = re.compile(r"(?<![\w\"])\*(?![\w\"])")
_STANDBY_DECODES = 160_000


async def examine(config: PostgresCdcConfig, context: Context, checkpoint: Mapping[str, Position]) -> list[Finding]:
    """See `penstock.spi.Examined`.

    :raises ComponentError: the server cannot be reached.
    """
    doctor = _Doctor(config, context, checkpoint)
    checks = [doctor.server, doctor.role, doctor.room, doctor.timeouts, doctor.standbys]
    found = await examine_server(
        config, context, WHAT, [*checks, doctor.tables, doctor.publication, doctor.snapshots, doctor.slot]
    )
    if not any(finding.severity == "error" and finding.code in _CANNOT_REPLICATE for finding in found):
        connected = await replication_connection(doctor.target)
        found += connected
        if connected[0].severity == "ok":
            found += await doctor.history()
    return [*found, *check_spill(context.project / config.spill.directory)] if config.streaming != "off" else found


def check_spill(directory: Path) -> Iterator[Finding]:
    """Whether the directory of transactions in progress is there, or can be made, by the user who asks."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written" if there.is_dir() else "is no directory"
        help = "name another in `spill.directory`; or `streaming: off`"
        why = "transactions in progress wait there for their commit"
        yield Finding("error", "source.spill", f"{there} {what}", why, help)


_CANNOT_REPLICATE = ("source.no_replication", "source.wal_senders")


async def replication_connection(target: Target) -> list[Finding]:
    """Whether a replication connection comes about: another line of pg_hba.conf, another limit, another protocol for proxies."""
    try:
        wire = await Wire.connect(target)
    except ComponentError as error:
        help = "pg_hba.conf, and whatever stands before the server (a connection pool passes no replication), have to allow it"
        return [Finding("error", "source.no_replication_connection", str(error), error.why, help)]
    await wire.close()
    return [Finding("ok", "source.replication_connection", "a replication connection can be made")]


class _Doctor:
    """The checks of one source."""

    def __init__(self, config: PostgresCdcConfig, context: Context, checkpoint: Mapping[str, Position]) -> None:
        self.config = config
        self.pipeline = context.pipeline
        self.slot_name = default_name(context.pipeline, config.slot.name, "slot")
        self.publication_name = default_name(context.pipeline, config.publication.name, "publication")
        _, found = stream_of(checkpoint, self.slot_name)
        self.start = None if found is None else start_of(found)
        self.checkpoint = None if self.start is None else self.start.end
        application = f"penstock:{context.pipeline}/doctor"
        self.application = f"penstock:{context.pipeline}/{context.component}"
        self.target = Target(config.dsn.reveal(), application, tls_parameters(config.tls, context))

    def server(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether its WAL can be decoded."""
        try:
            check_server(connection)
        except EnvironmentFault as fault:
            yield Finding.of(fault)
        else:
            memory = int(settings(connection, "logical_decoding_work_mem").get("logical_decoding_work_mem", "0"))
            note = f"; larger transactions than {memory / 1024:,.0f} MiB are spilled or streamed" if memory else ""
            yield Finding("ok", "source.wal_level", f"wal_level is logical{note}")
        (standby,) = connection.execute("SELECT pg_is_in_recovery()").fetchone() or (False,)
        if standby:
            decodes = connection.info.server_version >= _STANDBY_DECODES
            yield Finding(
                "warning" if decodes else "error",
                "source.standby",
                "the server is a standby" + ("" if decodes else ", and decodes changes from PostgreSQL 16 on only"),
                "publication and heartbeats are written on the primary, and how far the slot is behind cannot be told",
                "connect to the primary: a dsn with several hosts and target_session_attrs=read-write finds it",
            )

    def role(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether it may replicate."""
        may, granted_by, has_it = connection.execute(_ROLE).fetchone() or (False, None, False)
        role = who(connection).role
        if may or has_it:
            yield Finding("ok", "source.replication", f"{role} may replicate")
            return
        help = f"GRANT {granted_by} TO {role}" if granted_by else f"ALTER ROLE {role} REPLICATION"
        yield Finding("error", "source.no_replication", f"{role} may not replicate", "the role lacks REPLICATION", help)

    def room(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether the server has a slot and a sender left."""
        slots, most_slots, senders, most_senders, idle = connection.execute(_SLOTS).fetchone() or (0, 1, 0, 1, None)
        slot = read_slot(connection, self.slot_name)
        if slot is None and slots >= most_slots:
            yield Finding(
                "error",
                "source.replication_slots",
                f"all {most_slots} replication slots of the server are in use",
                f"nobody reads these: {idle}" if idle else None,
                f"ALTER SYSTEM SET max_replication_slots = {most_slots + 10}, then restart; or drop one that is not needed: "
                "SELECT pg_drop_replication_slot('…')",
            )
        if (slot is None or slot.active_pid is None) and senders >= most_senders:
            yield Finding(
                "error",
                "source.wal_senders",
                f"all {most_senders} WAL senders of the server are in use",
                help=f"ALTER SYSTEM SET max_wal_senders = {most_senders + 10}, then restart",
            )
        if slots < most_slots and senders < most_senders:
            said = f"{slots} of {most_slots} replication slots and {senders} of {most_senders} WAL senders are in use"
            yield Finding("ok", "source.room", said)

    def timeouts(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether the server hears from a run before it takes it for dead."""
        timeout = int(settings(connection, "wal_sender_timeout").get("wal_sender_timeout", "0")) / 1000
        interval = self.config.status_interval
        if timeout and interval > timeout / 2:
            yield Finding(
                "error" if interval >= timeout else "warning",
                "source.wal_sender_timeout",
                f"status_interval ({interval:g} s) is too long for the server's wal_sender_timeout ({timeout:g} s)",
                "a connection that is silent for that long is cut",
                f"status_interval: {timeout * 250:.0f}ms; or "
                f"ALTER ROLE {who(connection).role} SET wal_sender_timeout = '{interval * 4:.0f}s'",
            )
        else:
            yield Finding(
                "ok", "source.wal_sender_timeout", f"status messages every {interval:g} s, wal_sender_timeout {timeout:g} s"
            )

    def standbys(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether commits of the server wait for this pipeline, as for a synchronous standby."""
        names = settings(connection, "synchronous_standby_names").get("synchronous_standby_names", "")
        if _ANY_STANDBY.search(names) or self.application in names:
            yield Finding(
                "warning",
                "source.synchronous_standby",
                "commits on the server wait for this pipeline, as for a synchronous standby",
                f"synchronous_standby_names is {names}, which holds for the replication connections of slots too",
                "ALTER SYSTEM SET synchronous_standby_names = 'NAME OF THE STANDBY, …'; SELECT pg_reload_conf()",
            )

    def tables(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether they can be published and read."""
        found = tables_of(connection, self.config)
        publication = find_publication(connection, self.publication_name)
        yield from check_names(connection, self.config, found)
        reading = Reading(self.config, OPERATIONS if publication is None else publication.operations)
        yield from check_grants(connection, found, reading)
        yield from check_rows(found, reading)
        try:
            check_columns(connection, self.config, self.publication_name)
        except EnvironmentFault as fault:
            yield Finding.of(fault)

    async def history(self) -> list[Finding]:
        """Whether the server's log is that of which the pipeline has read, up to where it has."""
        if self.start is None or self.config.slot.temporary:
            return []
        wire = await Wire.connect(self.target)
        try:
            found = await check_history(wire, self.slot_name, self.pipeline, self.start)
        except ComponentError as error:
            return [Finding.of(error)]
        finally:
            await wire.close()
        which = "of a stand-by" if found.is_standby else f"on timeline {found.timeline}"
        return [Finding("ok", "slot.history", f"the server's log, {which}, holds all that the pipeline has seen")]

    def snapshots(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether rows can be read, and asked for."""
        config = self.config
        yield from check_keys(connection, config, tables_of(connection, config), fresh=self.checkpoint is None)
        publication = find_publication(connection, self.publication_name)
        yield from check_signals(connection, config, frozenset() if publication is None else publication.tables)

    def publication(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether it publishes them."""
        found = tables_of(connection, self.config)
        name, slot = self.publication_name, read_slot(connection, self.slot_name)
        publication = find_publication(connection, name)
        if publication is None:
            fresh = slot is None and self.checkpoint is None
            yield from check_missing(connection, self.config, name, found, fresh=fresh)
            return
        yield from check_publication(publication, self.config, found)
        if slot is not None and slot.database == connection.info.dbname:
            yield from check_age(connection, name, self.slot_name, self.pipeline)

    def slot(self, connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        """Whether it can be read on, and is kept."""
        slot = read_slot(connection, self.slot_name)
        fields = self.config.slot
        if fields.temporary:
            yield Finding("ok", "slot", "each run makes a slot, which ends with it")
            return
        create = fields.create != "never"
        yield from check_standing(connection, slot, self.slot_name, self.pipeline, self.checkpoint, create=create)
        if fields.failover:
            yield from check_failover(connection, self.slot_name, fields)
        if slot is not None:
            yield from check_held(connection, self.config, self.slot_name)
        yield from check_limits(connection, self.config)
