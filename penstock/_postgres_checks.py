"""What `pipe doctor` looks at on every PostgreSQL server, whatever the pipeline uses it for.

A check is a function of a connection that gives findings. `examine_with` runs checks on a session whose transactions the server
keeps read-only (`READ_ONLY`), so that none of them can change anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.clock import Clock
from penstock.errors import ComponentError
from penstock.postgres import Session
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

Check = Callable[["psycopg.Connection[Any]"], Iterable[Finding]]

READ_ONLY: Mapping[str, str] = MappingProxyType({"default_transaction_read_only": "on", "lock_timeout": "2s"})
"""Settings of an examining session."""

DEADLINE = 30.0
"""Seconds for one check."""

OLDEST, NEWEST = 12, 18
"""Versions that Penstock is made for."""

LEAST_CONNECTIONS = 3
"""Connections that a component may want at once."""

MOST_SKEW = 1.0
"""Seconds between two clocks that are worth a word."""

_TRIPS = 3
_PROVES = ("verify-ca", "verify-full")
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_ROOM = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL)::int,
       current_setting('max_connections')::int
       - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int
                                          + coalesce(current_setting('reserved_connections', true), '0')::int END,
       r.rolconnlimit, d.datconnlimit,
       (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user)::int,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())::int
FROM pg_roles AS r, pg_database AS d WHERE r.rolname = current_user AND d.datname = current_database()
"""
_WRITES = "SELECT reset_val = 'on', pg_is_in_recovery() FROM pg_settings WHERE name = 'default_transaction_read_only'"

_SCHEMA = """
SELECT has_database_privilege(current_database(), 'CREATE'),
       (SELECT has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace AS n
        WHERE n.nspname = %s),
       (SELECT string_agg(DISTINCT quote_ident(pg_get_userbyid(c.relowner)), ', ') FROM pg_class AS c
        JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relkind = 'r' AND starts_with(c.relname, 'penstock_')
              AND NOT pg_has_role(c.relowner, 'USAGE')),
       (SELECT bool_or(NOT has_table_privilege(c.oid, p)) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS p
        WHERE n.nspname = %s AND c.relkind = 'r' AND starts_with(c.relname, 'penstock_'))
"""


class Who(NamedTuple):
    """The connection's role and database, as SQL writes them."""

    role: str
    database: str


async def examine_with(session: Session, checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks. One that the server refuses says so, and the others go on.

    :raises ComponentError: the server cannot be reached, or was lost.
    """
    found: list[Finding] = []
    await session.open()
    try:
        for check in checks:
            try:
                found += await session.run(lambda connection, check=check: list(check(connection)))  # type: ignore[misc]  # one thread
            except ComponentError as error:
                if not session.is_open:
                    raise
                found.append(Finding("warning", "doctor.unchecked", f"could not be looked at: {error}", error.why, error.help))
    finally:
        await session.close()
    return found


def who(connection: psycopg.Connection[Any]) -> Who:
    """Quoted."""
    row = connection.execute("SELECT quote_ident(current_user), quote_ident(current_database())").fetchone()
    return Who(*(row or ("?", "?")))


def settings(connection: psycopg.Connection[Any], *names: str) -> dict[str, str]:
    """Those of them that the server knows, in the unit of `pg_settings.setting`."""
    sql = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
    return dict(connection.execute(sql, (list(names),)).fetchall())


def check_version(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether the server is of a version that Penstock is made for."""
    info = connection.info
    major = info.server_version // 10_000
    name = f"PostgreSQL {info.parameter_status('server_version') or major}, database {info.dbname}, user {info.user}"
    if major < OLDEST:
        yield Finding("error", "postgres.version", f"{name}: too old", help=f"use PostgreSQL {OLDEST} to {NEWEST}")
    elif major > NEWEST:
        yield Finding("warning", "postgres.version", f"{name}: newer than any that this version was tested with")
    else:
        yield Finding("ok", "postgres.version", name)


def check_encryption(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether what goes over a network is encrypted, and the server proves who it is."""
    info = connection.info
    mode = info.get_parameters().get("sslmode", "prefer")
    yield encryption(_is_local(info.host, info.hostaddr), bool(connection.pgconn.ssl_in_use), mode, info.host)


def encryption(local: bool, encrypted: bool, mode: str, host: str) -> Finding:
    """What to say of a connection.

    :param mode: libpq's `sslmode`.
    """
    code, help = "postgres.encryption", "tls: { mode: verify-full }, with `ca` where the system does not know the authority"
    if encrypted and mode in _PROVES:
        return Finding("ok", code, f"the connection is encrypted, and the server proves who it is ({mode})")
    if local:
        return Finding("ok", code, "the connection stays on this machine")
    if not encrypted:
        return Finding(
            "warning", code, f"the connection to {host} is not encrypted", "whoever is on the way reads password and data", help
        )
    why = f"sslmode is {mode}: " + (
        "the next connection may be in clear text" if mode in ("prefer", "allow") else "anybody can pass for the server"
    )
    return Finding("warning", code, f"the connection to {host} is encrypted, but nothing proves who answers", why, help)


def check_clock(clock: Clock) -> Check:
    """How far the server's clock is from this machine's; half of the fastest of three round trips is what remains unknown."""

    def check(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        trips = []
        for _ in range(_TRIPS):
            began, at = clock.monotonic(), clock.now()
            row = connection.execute(_NOW).fetchone()
            took = clock.monotonic() - began
            trips.append((took, (row[0] if row else at) - (at + took / 2)))
        took, skew = min(trips)
        if abs(skew) - took / 2 > MOST_SKEW:
            yield Finding(
                "warning",
                "postgres.clock",
                f"the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
                "times of events are the server's; ranges of time and delays are reckoned with this machine's",
                "synchronise both clocks: chronyc tracking, or timedatectl, shows which one is wrong",
            )
        else:
            yield Finding("ok", "postgres.clock", f"answers within {max(0.1, took * 1000):.1f} ms; the clocks agree")

    return check


def check_connections(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether there is room for the connections of a run beside those that are open."""
    row = connection.execute(_ROOM).fetchone()
    if row is None:
        return
    used, most, of_role, of_database, by_role, in_database = row
    name = who(connection)
    rooms = [(most - used, f"max_connections leaves {most}", f"ALTER SYSTEM SET max_connections = {most + 50}, then restart")]
    if of_role >= 0:
        rooms.append((of_role - by_role, f"the role may have {of_role}", f"ALTER ROLE {name.role} CONNECTION LIMIT -1"))
    if of_database >= 0:
        left = of_database - in_database
        rooms.append((left, f"the database takes {of_database}", f"ALTER DATABASE {name.database} CONNECTION LIMIT -1"))
    left, why, help = min(rooms)
    if left + 1 < LEAST_CONNECTIONS:  # this one is counted among those that are used
        yield Finding(
            "warning", "postgres.connections", f"room for {max(0, left + 1)} connections; a component takes up to 3", why, help
        )
    else:
        yield Finding("ok", "postgres.connections", f"{used} of {most} connections are in use")


def check_writable(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether transactions may write."""
    row = connection.execute(_WRITES).fetchone()
    read_only, standby = row or (False, False)
    name = who(connection)
    if standby:
        yield Finding(
            "error",
            "postgres.standby",
            "the server is a standby, on which nothing can be written",
            help="connect to the primary: a dsn with several hosts and target_session_attrs=read-write finds it",
        )
    elif read_only:
        yield Finding(
            "error",
            "postgres.read_only",
            "transactions of this user are read-only",
            "default_transaction_read_only is on",
            f"ALTER ROLE {name.role} IN DATABASE {name.database} SET default_transaction_read_only = off",
        )
    else:
        yield Finding("ok", "postgres.writable", "transactions may write")


def check_schema(name: str, code: str, sound: str) -> Check:
    """Whether a schema of Penstock's own is there to be used, or can be made.

    :param code: where it is not; `sound`: where it is.
    """
    schema = '"' + name.replace('"', '""') + '"'

    def check(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
        row = connection.execute(_SCHEMA, (name, name, name)).fetchone()
        may_create, usable, owners, closed = row or (False, None, None, None)
        at = who(connection)
        if usable is None and not may_create:
            help = f"CREATE SCHEMA {schema} AUTHORIZATION {at.role}; or GRANT CREATE ON DATABASE {at.database} TO {at.role}"
            yield Finding("error", code, f"{at.role} may not create the schema {schema}", help=help)
        elif usable is False:
            help = f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {at.role}"
            yield Finding("error", code, f"{at.role} may not use the schema {schema}", help=help)
        elif owners:
            yield Finding(
                "error" if closed else "warning",
                code,
                f"tables of the schema {schema} belong to {owners}",
                f"{at.role} {'may not write to them' if closed else 'cannot alter them when a new version of Penstock has to'}",
                f"GRANT {owners} TO {at.role}",
            )
        else:
            said = "can be made" if usable is None else "is there and may be used"
            yield Finding("ok", sound, f"the schema {schema} {said}")

    return check


def _is_local(host: str, address: str) -> bool:
    if host.startswith(("/", "@")) or not (host or address):
        return True
    try:
        return ipaddress.ip_address(address or host).is_loopback
    except ValueError:
        return host == "localhost"
