"""Which columns were a table's key, where the stream does not tell: with REPLICA IDENTITY FULL all columns look the same.

The server says what the key is now, and a change may be older than that: a column may have another name by now, or be gone, and
the primary key with it. The stream sends columns in the order of their numbers, which stay when a column is renamed or dropped:
so a column that is unknown by its name is found between its neighbours.

A primary key that was dropped or replaced while its columns stayed is not noticed: the one that there is now counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from connectors.sources._pgoutput_messages import Relation
from penstock.errors import Permanent

COLUMNS_QUERY = """
SELECT a.attname::pg_catalog.text, a.attisdropped,
       COALESCE(a.attnum = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1]), false) AND NOT a.attisdropped,
       a.attgenerated::pg_catalog.text <> ''
FROM pg_catalog.pg_attribute AS a
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = %s AND a.attnum > 0 ORDER BY a.attnum
"""


class NumberedColumn(NamedTuple):
    """A column of a table as it is now: a row of `COLUMNS_QUERY`, which has them in the order of their numbers."""

    name: str
    dropped: bool
    key: bool
    generated: bool


class Key(msgspec.Struct, frozen=True):
    """Columns whose change makes a delete and an insert.

    :ivar doubtful: columns of which nobody can tell any more whether they were among them.
    """

    names: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()


NO_KEY = Key()


def key_of(relation: Relation, columns: Sequence[NumberedColumn], before: Key | None) -> Key:
    """The primary key of a table as a change has it.

    :param columns: as the table is now; none where it was dropped.
    :param before: what was found for it earlier in the run.
    """
    sent = [column.name for column in relation.columns]
    names = _names_then(sent, columns)
    key = [place for place, column in enumerate(columns) if column.key and (column.name in sent or not column.generated)]
    if key and all(place in names for place in key):
        return Key(tuple(names[place] for place in key))
    there = {name for place, name in names.items() if not columns[place].dropped}
    lost = tuple(name for name in sent if name not in there)
    if lost and before is not None and before.names and set(before.names) <= set(sent):
        return before
    return Key((), lost)


def _names_then(sent: Sequence[str], columns: Sequence[NumberedColumn]) -> dict[int, str]:
    """What columns were called, by their place among `columns`, as far as their order tells."""
    places = {column.name: place for place, column in enumerate(columns) if not column.dropped}
    names: dict[int, str] = {}
    after, unknown = -1, list[str]()
    for name in (*sent, None):
        if name is not None and name not in places:
            unknown.append(name)
            continue
        place = len(columns) if name is None else places[name]
        free = [n for n in range(after + 1, place) if columns[n].dropped or not (columns[n].generated or columns[n].name in sent)]
        if len(free) == len(unknown):
            names.update(zip(free, unknown, strict=True))
        unknown.clear()
        if name is not None:
            names[place], after = name, place
    return names


def unknown_key(title: str, doubtful: Sequence[str]) -> Permanent:
    """Of an update whose old and new row may have different keys."""
    return Permanent(
        "source.unknown_key",
        f"the update changes {', '.join(doubtful)}, and nobody can tell any more whether that was the key",
        where=f"table {title}",
        why="the table was altered since; a changed key makes a delete and an insert",
        help="what it was before stands in the letter's `before`: pipe dlq show ID",
    )
