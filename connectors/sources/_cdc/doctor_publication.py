"""What `pipe doctor` finds out about the publication of a `postgres_cdc` source, or about making one.

Source: PostgreSQL manual, CREATE PUBLICATION and "Logical Replication", "Column Lists" and "Row Filters".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import TableName, quoted
from connectors.sources._cdc.config import OPERATIONS, PostgresCdcConfig
from connectors.sources._cdc.doctor_tables import Named, Part, fitting
from connectors.sources._cdc.publication import prepare_publication
from connectors.sources._cdc.slot import drop, reset
from penstock._postgres_checks import who
from penstock.errors import EnvironmentFault
from penstock.spi import Finding

if TYPE_CHECKING:
    import psycopg

_PUBLICATION = "SELECT to_jsonb(p) FROM pg_publication AS p WHERE p.pubname = %s"
_PUBLISHED = "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s"
_ENTRIES = """
SELECT r.prrelid,
       coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
                 WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)), '{}'),
       pg_get_expr(r.prqual, r.prrelid)
FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE p.pubname = %s
"""
_YOUNGER = """
SELECT least(age(p.xmin), (SELECT min(age(r.xmin)) FROM pg_publication_rel AS r WHERE r.prpubid = p.oid)) <= age(s.catalog_xmin)
FROM pg_publication AS p, pg_replication_slots AS s WHERE p.pubname = %s AND s.slot_name = %s
"""
_MAY_CREATE = """
SELECT has_database_privilege(current_database(), 'CREATE'), rolsuper FROM pg_roles WHERE rolname = current_user
"""
_WITH_COLUMNS = 150_000


class Publication(msgspec.Struct, frozen=True):
    """A publication as it is.

    :ivar tables: what its changes are published as.
    :ivar entries: columns (none: all) and row filter by the table's oid, of those that were added by name.
    """

    name: str
    operations: frozenset[str]
    by_root: bool
    tables: frozenset[TableName]
    entries: dict[int, tuple[list[str], str | None]]

    @property
    def sql(self) -> str:
        return quoted(self.name)


def find_publication(connection: psycopg.Connection[Any], name: str) -> Publication | None:
    """None where there is none."""
    row = connection.execute(_PUBLICATION, (name,)).fetchone()
    if row is None:
        return None
    entries = []
    if connection.info.server_version >= _WITH_COLUMNS:
        entries = connection.execute(_ENTRIES, (name,)).fetchall()
    return Publication(
        name,
        frozenset(operation for operation in OPERATIONS if row[0].get(f"pub{operation}")),
        bool(row[0].get("pubviaroot")),
        frozenset(TableName(*each) for each in connection.execute(_PUBLISHED, (name,))),
        {oid: (columns, condition) for oid, columns, condition in entries},
    )


def check_missing(
    connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str, tables: Sequence[Named], *, fresh: bool
) -> Iterator[Finding]:
    """Of a publication that is not there: whether the first run makes it.

    :param fresh: there is neither slot nor checkpoint.
    """
    there = config.model_copy(update={"tables": tuple(table.sql for table in fitting(tables))})
    if not (there.tables or there.schemas):
        return  # that none of them can be read says enough
    fault = _missing(connection, there, name, fresh=fresh)
    if fault.code != "publication.missing" or config.publication.create == "never" or not fresh:
        yield Finding.of(fault)
        return
    may_create, is_super = connection.execute(_MAY_CREATE).fetchone() or (False, False)
    name_of, why = who(connection), "the publication is made at the first run"
    foreign = [table for table in fitting(tables) if not table.owned]
    if not may_create:
        help = f"GRANT CREATE ON DATABASE {name_of.database} TO {name_of.role}"
        yield Finding("error", "publication.may_not_create", f"{name_of.role} may not create a publication", why, help)
    if (foreign or config.schemas) and not is_super:
        owners = sorted({table.owner for table in foreign})
        what = f"owns {', '.join(owners)}'s tables" if foreign else "is a superuser, as schemas need"
        help = f"as a superuser{' or ' + owners[0] if len(owners) == 1 and not config.schemas else ''}: {fault.help}"
        yield Finding(
            "error", "publication.may_not_create", f"only who {what} can publish them, and {name_of.role} does not", why, help
        )
    if may_create and (is_super or not (foreign or config.schemas)):
        yield Finding("ok", "publication.missing", f"the publication {name} is made at the first run")


def _missing(connection: psycopg.Connection[Any], config: PostgresCdcConfig, name: str, *, fresh: bool) -> EnvironmentFault:
    """What a run that may make nothing would say."""
    never = config.model_copy(update={"publication": config.publication.model_copy(update={"create": "never"})})
    try:
        prepare_publication(connection, never, name, fresh=fresh)
    except EnvironmentFault as fault:
        return fault
    return EnvironmentFault("publication.missing", f"there was no publication {name}, and now there is", help="look again")


def check_publication(found: Publication, config: PostgresCdcConfig, tables: Sequence[Named]) -> Iterator[Finding]:
    """Whether it publishes what the configuration reads."""
    findings = [*_check_tables(found, tables), *_check_operations(found, config)]
    for table in fitting(tables):
        for oid, part in [(table.oid, None), *((part.oid, part) for part in table.parts)]:
            if oid in found.entries and (part is not None or table.kind == "p"):
                findings += _check_entry(found, table, part or table, *found.entries[oid])
    yield from findings
    if not any(finding.severity == "error" for finding in findings):
        yield Finding(
            "ok", "publication", f"the publication {found.name} has the tables and {', '.join(sorted(found.operations))}"
        )


def _check_tables(found: Publication, tables: Sequence[Named]) -> Iterator[Finding]:
    lacking = [table for table in fitting(tables) if TableName(table.schema, table.name) not in found.tables]
    by_parts = [
        table
        for table in lacking
        if table.kind == "p" and not found.by_root and any(TableName(p.schema, p.name) in found.tables for p in table.parts)
    ]
    if by_parts:
        yield Finding(
            "error",
            "publication.partition_root",
            f"the publication {found.name} publishes {_titles(by_parts)} under the names of partitions",
            "changes that come under the name of a partition are not those of the table that is read",
            f"ALTER PUBLICATION {found.sql} SET (publish_via_partition_root = true)",
        )
    absent = [table for table in lacking if table not in by_parts]
    if absent:
        yield Finding(
            "error",
            "publication.tables",
            f"the publication {found.name} lacks {_titles(absent)}",
            "changes made before a table is added are not published",
            f"ALTER PUBLICATION {found.sql} ADD TABLE {', '.join(table.sql for table in absent)}",
        )


def _check_operations(found: Publication, config: PostgresCdcConfig) -> Iterator[Finding]:
    lacking = [operation for operation in config.operations if operation not in found.operations]
    if lacking:
        every = [operation for operation in OPERATIONS if operation in found.operations or operation in lacking]
        yield Finding(
            "error",
            "publication.operations",
            f"the publication {found.name} does not publish {', '.join(lacking)}",
            help=f"ALTER PUBLICATION {found.sql} SET (publish = '{', '.join(every)}'), or fewer `operations`",
        )


def _check_entry(
    found: Publication, table: Named, part: Named | Part, columns: Sequence[str], condition: str | None
) -> Iterator[Finding]:
    again = f"ALTER PUBLICATION {found.sql} DROP TABLE {part.sql}; ALTER PUBLICATION {found.sql} ADD TABLE {part.sql}"
    changing = {"update", "delete"} & found.operations
    for each in table.parts if columns and changing else ():
        unnamed = [name for name in each.key if name not in columns]
        if each.identity == "f" or unnamed:
            what = "REPLICA IDENTITY FULL" if each.identity == "f" else f"{', '.join(unnamed)} in its replica identity"
            yield Finding(
                "error",
                "publication.columns",
                f"the publication {found.name} has a list of columns for {part.title}, and {each.title} has {what}",
                f"UPDATE and DELETE on it fail for everybody while {what.split(' in ')[0]} is not in the list",
                f"{again}; and choose the columns here: columns: [{', '.join(columns)}]",
            )
            break
    else:
        if columns:
            message = f"the publication {found.name} leaves out columns of {part.title}: it has {', '.join(columns)} only"
            yield Finding("warning", "publication.columns", message, "columns that are added later are left out too", again)
    if condition is not None:
        message = f"the publication {found.name} leaves out rows of {part.title}: only those WHERE {condition}"
        yield Finding("warning", "publication.row_filter", message, "other changes never reach the pipeline", again)


def check_age(connection: psycopg.Connection[Any], publication: str, slot: str, pipeline: str) -> Iterator[Finding]:
    """As far as transaction ids tell: whether the slot begins before the publication or the latest table in it.

    The slot's catalog_xmin is a lower bound of where it stands, so that this may be said of a publication that is old enough.
    """
    row = connection.execute(_YOUNGER, (publication, slot)).fetchone()
    if row is not None and row[0]:
        yield Finding(
            "warning",
            "publication.after_slot",
            f"the publication {publication} was made or changed after the point at which the slot {slot} begins to decode",
            "changes from before are not published, and where there was no publication yet they cannot be decoded",
            f"where reading fails: {drop(slot)}; then {reset(pipeline)}: reading begins anew, without the changes before",
        )


def _titles(tables: Sequence[Named]) -> str:
    return ", ".join(table.title for table in tables)
