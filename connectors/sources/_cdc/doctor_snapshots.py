"""What `pipe doctor` finds out about snapshots of a `postgres_cdc` source: tables that no key cuts into chunks, and the table by
which snapshots are asked for. No row of either is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from connectors._postgres import TableName, parse_table, quoted, sql_name
from connectors.sources._cdc.begin import no_key
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.doctor_tables import Named, fitting
from connectors.sources._cdc.snapshot_keys import find_keys
from connectors.sources._cdc.snapshot_signals import signals_missing
from connectors.sources._cdc.snapshot_tables import unmasked
from penstock._postgres_checks import who
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

_IDENTITY = "SELECT relreplident::text FROM pg_class WHERE oid = %s"
_SIGNALS = """
SELECT c.oid, has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       (SELECT coalesce(jsonb_object_agg(a.attname, t.typcategory), '{}')
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1
                 AND a.attname = 'id' AND a.attnotnull)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_COLUMNS = ("id", "kind", "arguments")
_ARRAY = "A"


def check_keys(
    connection: psycopg.Connection[Any], config: PostgresCdcConfig, tables: Sequence[Named], *, fresh: bool
) -> Iterator[Finding]:
    """Tables whose snapshots cannot go on where they were interrupted, and what that means for each.

    :param fresh: the pipeline has no checkpoint.
    """
    keyless, mode = config.snapshot.keyless, config.snapshot.mode
    if mode == "never" and keyless == "fail":
        return  # who asks for one is told
    for table in fitting(tables):
        (identity,) = connection.execute(_IDENTITY, (table.oid,)).fetchone() or ("d",)
        key, masked = unmasked(find_keys(connection, table.oid, identity), config.mask)
        if key:
            continue
        fault = no_key(TableName(table.schema, table.name), masked)
        if keyless == "fail":
            if fresh:
                yield Finding.of(fault)
            else:
                means = "a snapshot of it that is asked for is refused"
                yield Finding("warning", fault.code, fault.message, means, fault.help)
        else:
            means = {
                "skip": "`keyless: skip`: snapshots leave out its rows",
                "at_least_once": "`keyless: at_least_once`: a snapshot reads it in one go, and all over again after a crash; "
                "rows that are read beside the stream may come behind changes of them",
            }[keyless]
            yield Finding("warning", fault.code, fault.message, means, (fault.help or "").partition("; or ")[0])


def check_signals(
    connection: psycopg.Connection[Any], config: PostgresCdcConfig, published: frozenset[TableName]
) -> Iterator[Finding]:
    """Whether the table of `signals` is there, has the columns, and may be read. It need not be published: it is asked.

    :param published: what the publication has.
    """
    if config.signals is None:
        return
    name = parse_table(config.signals.table)
    row = connection.execute(_SIGNALS, name).fetchone()
    if row is None:
        yield Finding.of(signals_missing(name, "it is not there"))
        return
    _, visible, readable, columns, unique = row
    role, title = who(connection).role, sql_name(*name)
    wrong = [column for column in _COLUMNS if column not in columns]
    if wrong:
        yield Finding.of(signals_missing(name, f"it has no column {', '.join(wrong)}"))
    elif columns["arguments"] != _ARRAY:
        yield Finding.of(signals_missing(name, "its column arguments is no text[]"))
    elif not (visible and readable):
        usage = "" if visible else f"GRANT USAGE ON SCHEMA {quoted(name.schema)} TO {role}; "
        grant = f"{usage}GRANT SELECT ON {quoted(*name)} TO {role}"
        yield Finding("error", "signals.table", f"{role} may not read {title}, by which snapshots are asked for", None, grant)
    else:
        yield from _check_use(config, name, title, unique=unique, published=name in published)


def _check_use(config: PostgresCdcConfig, name: TableName, title: str, *, unique: bool, published: bool) -> Iterator[Finding]:
    if not unique:
        yield Finding(
            "warning",
            "signals.id",
            f"nothing makes `id` of {title} unique",
            "a row whose id was taken before is passed over: it asks for nothing",
            f"ALTER TABLE {quoted(*name)} ADD PRIMARY KEY (id)",
        )
    if published and (name in {parse_table(text) for text in config.tables} or name.schema in config.schemas):
        yield Finding(
            "warning",
            "signals.published",
            f"rows of {title}, by which snapshots are asked for, are events, too",
            "it is among the tables that are read; the pipeline looks at it by a query, for which that is not needed",
            f"leave it out of `tables`; or ALTER PUBLICATION … DROP TABLE {quoted(*name)}",
        )
    yield Finding("ok", "signals.table", f"the table {title} can be looked at")
