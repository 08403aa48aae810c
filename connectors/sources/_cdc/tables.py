"""What a table of the change stream means to the pipeline: whether it is read, which columns, how its events are named."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote

import msgspec

from connectors._postgres import parse_table, sql_name
from connectors.sources._cdc.config import Operation, PostgresCdcConfig
from connectors.sources._cdc.keys import Key
from connectors.sources._cdc.mask import Masks, masked_key
from connectors.sources._pgoutput_messages import Relation, ReplicaIdentity

_SAFE = "!$&'()*+,;=:@"
"""What a segment of a path may hold besides letters, digits and `-._~`: RFC 3986, section 3.3."""


def source_of(slot: str) -> str:
    """What `source` of all events of a slot begins with. A URI, as CloudEvents 1.0.2 has it; schemes have no underscores."""
    return f"postgres-cdc:{slot}"


class Table(msgspec.Struct):
    """A table as events name it."""

    schema: str
    name: str
    source: str
    """`source` of its events."""
    types: dict[str, str]
    """`type` of its events by operation; what is not read is missing."""
    key: tuple[str, ...]
    """Columns whose change makes a delete and an insert, where the stream does not tell: those of the primary key, with
    REPLICA IDENTITY FULL."""
    doubtful: tuple[str, ...] = ()
    """Columns that may have been among them: nobody can tell any more."""

    @property
    def title(self) -> str:
        """Its name in SQL: no two tables have the same."""
        return sql_name(self.schema, self.name)


class Selection:
    """Which tables, columns and operations a configuration reads."""

    def __init__(self, config: PostgresCdcConfig, slot: str) -> None:
        self._tables = frozenset(parse_table(text) for text in config.tables)
        self._schemas = frozenset(config.schemas)
        self._columns = None if config.columns is None else frozenset(config.columns)
        self._excluded = frozenset(config.exclude_columns)
        self._operations: tuple[Operation, ...] = config.operations
        self._slot = slot
        self.masks = Masks(config.mask, config.mask_key)

    def reads(self, schema: str, name: str) -> bool:
        """Whether changes of this table become events; without `tables` and `schemas`, those of every published one."""
        if not self._tables and not self._schemas:
            return True
        return (schema, name) in self._tables or schema in self._schemas

    def wanted(self, relation: Relation) -> Collection[str] | None:
        """For `Decoder`: the columns that are decoded."""
        if not self.reads(relation.schema, relation.name):
            return ()
        if self._columns is not None:
            return self._columns
        if self._excluded:
            return [column.name for column in relation.columns if column.name not in self._excluded]
        return None

    def source(self, schema: str, name: str) -> str:
        """`source` of the events of a table: its name in SQL, so that no two tables have the same, in percent-encoding."""
        return f"{source_of(self._slot)}/{quote(sql_name(schema, name), safe=_SAFE)}"

    def table(self, relation: Relation, key: Key) -> Table:
        """:param key: the columns of the primary key, where the replica identity is FULL.

        :raises EnvironmentFault: `source.masked_key`.
        """
        reads = self.reads(relation.schema, relation.name)
        if reads:
            self._refuse_masked(relation, key.names if relation.identity is ReplicaIdentity.FULL else relation.key)
        wanted = self.wanted(relation)
        return Table(
            relation.schema,
            relation.name,
            self.source(relation.schema, relation.name),
            {operation: f"{relation.name}.{operation}" for operation in self._operations} if reads else {},
            key.names if wanted is None or set(key.names) <= set(wanted) else (),
            key.doubtful,
        )

    def _refuse_masked(self, relation: Relation, key: tuple[str, ...]) -> None:
        """Keys may change while they are read: what they are at the start is looked at before."""
        same = self.masks.undistinguished(key)
        if same:
            raise masked_key(sql_name(relation.schema, relation.name), same)
