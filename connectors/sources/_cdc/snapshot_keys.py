"""By what rows of a table are told apart and cut into chunks: a unique index, and the SQL that follows its order.

Bounds of chunks are stored: a key with a masked column is no key here (Invariant 9).

Bounds are compared as the index does: with its operators and collations, wherever they are defined. Nothing of that may run what
somebody else wrote with the rights of the pipeline's user. A value is cast to the type that a domain is of, for its CHECK may
call any function of the domain's owner. An index is passed over where a domain stands inside of a type (an array of them, say),
or where functions that order it belong to a role that is neither a superuser nor the pipeline's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import quoted

if TYPE_CHECKING:
    import psycopg

_KEYS = """
SELECT i.indexrelid::int8, i.indisreplident, i.indisprimary, a.attnotnull AND s.safe AND f.trusted, a.attname::text,
       a.atttypid::int8, format_type(a.atttypid, a.atttypmod),
       CASE WHEN b.base = a.atttypid THEN format_type(a.atttypid, a.atttypmod) ELSE format_type(b.base, -1) END,
       CASE WHEN l.oid <> a.attcollation THEN quote_ident(m.nspname) || '.' || quote_ident(l.collname) ELSE '' END,
       coalesce(quote_ident(m.nspname) || '.' || quote_ident(l.collname), ''),
       CASE WHEN o.opcdefault AND t.typnamespace = 'pg_catalog'::regnamespace OR t.typtype = 'e' THEN '{}' ELSE f.operators END
FROM pg_index AS i
CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indcollation::oid[], i.indclass::oid[]) WITH ORDINALITY
    AS k(number, coll, class, place)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
JOIN pg_opclass AS o ON o.oid = k.class
LEFT JOIN pg_collation AS l ON l.oid = k.coll LEFT JOIN pg_namespace AS m ON m.oid = l.collnamespace
CROSS JOIN LATERAL (
    WITH RECURSIVE d(oid, kind, of) AS (
        SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = a.atttypid
        UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM d JOIN pg_type AS t ON t.oid = d.of WHERE d.kind = 'd')
    SELECT oid FROM d WHERE kind <> 'd') AS b(base)
JOIN pg_type AS t ON t.oid = b.base
CROSS JOIN LATERAL (
    WITH RECURSIVE p(oid) AS (
        SELECT b.base
        UNION SELECT x.oid FROM p JOIN pg_type AS t ON t.oid = p.oid CROSS JOIN LATERAL (
            SELECT t.typelem WHERE t.typelem <> 0
            UNION ALL SELECT c.atttypid FROM pg_attribute AS c
            WHERE c.attrelid = t.typrelid AND c.attnum > 0 AND NOT c.attisdropped
            UNION ALL SELECT r.rngsubtype FROM pg_range AS r
            WHERE r.rngtypid = t.oid OR to_jsonb(r)->>'rngmultitypid' = t.oid::text) AS x(oid))
    SELECT NOT EXISTS (SELECT FROM p JOIN pg_type AS t ON t.oid = p.oid WHERE t.typtype = 'd')) AS s(safe)
CROSS JOIN LATERAL (
    SELECT array_agg(quote_ident(n.nspname) || '.' || p.oprname ORDER BY w.amopstrategy),
           bool_and(r.rolsuper OR r.rolname = current_user)
    FROM pg_amop AS w JOIN pg_operator AS p ON p.oid = w.amopopr JOIN pg_namespace AS n ON n.oid = p.oprnamespace
    JOIN pg_proc AS q ON q.oid = p.oprcode JOIN pg_roles AS r ON r.oid = q.proowner
    WHERE w.amopfamily = o.opcfamily AND w.amoplefttype = o.opcintype AND w.amoprighttype = o.opcintype
      AND w.amoppurpose = 's') AS f(operators, trusted)
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND (i.indimmediate OR i.indisprimary) AND k.place <= i.indnkeyatts
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid, k.place
"""
_SIGNS = ("<", "<=", "=", ">=", ">")


class KeyColumn(msgspec.Struct, frozen=True):
    """A column of a key.

    :ivar type: with its modifier.
    :ivar cast: the type to which a bound is cast.
    :ivar collation: of the index, where that is not the column's.
    :ivar sorted_by: the collation of the index in any case; empty where the type has none.
    :ivar operators: of the index, of `<`, `<=`, `=`, `>=`, `>`; none where they are those that the server takes by itself.
    """

    name: str
    type_oid: int
    type: str
    cast: str = ""
    collation: str = ""
    sorted_by: str = ""
    operators: tuple[str, ...] = ()

    @property
    def sql(self) -> str:
        return quoted(self.name) + (f" COLLATE {self.collation}" if self.collation else "")

    @property
    def order(self) -> str:
        return self.sql + (f" USING {self._operator('<')}" if self.operators else "")

    def compare(self, sign: str, parameter: int) -> str:
        """The column against a parameter."""
        return f"{self.sql} {self._operator(sign)} {self.bound(parameter)}"

    def bound(self, parameter: int) -> str:
        return f"${parameter}::{self.cast}"

    def _operator(self, sign: str) -> str:
        return f"OPERATOR({self.operators[_SIGNS.index(sign)]})" if self.operators else sign


def find_keys(connection: psycopg.Connection[Any], oid: int, identity: str) -> list[tuple[KeyColumn, ...]]:
    """What tells rows apart, and does not change without the stream saying so, the best first: the replica identity's own index,
    where it has one; else the primary key, or whatever is unique and never NULL.

    :param identity: as in pg_class.relreplident. By default an update tells the old values of the primary key, and of no other.
    """
    rows = connection.execute(_KEYS, (oid,)).fetchall()
    has_primary = any(primary for _, _, primary, *_ in rows)
    keys = []
    for _, index in groupby(rows, key=lambda row: row[0]):
        found = list(index)
        _, replica, primary, *_ = found[0]
        told = replica if identity == "i" else primary or identity != "d" or not has_primary
        if told and all(usable for _, _, _, usable, *_ in found):
            keys.append(
                tuple(
                    KeyColumn(name, oid, kind, cast, collation, sorted_by, tuple(operators))
                    for _, _, _, _, name, oid, kind, cast, collation, sorted_by, operators in found
                )
            )
    return keys


def compare(key: Sequence[KeyColumn], sign: str, first: int) -> str:
    """Keys that are `>` or `<=` parameters, of which the first is given."""
    column, *others = key
    if not others:
        return column.compare(sign, first)
    if not any(column.operators for column in key):
        left = ", ".join(column.sql for column in key)
        right = ", ".join(column.bound(first + n) for n, column in enumerate(key))
        return f"({left}) {sign} ({right})"
    outer = column.compare(sign[0] + "=", first)
    return f"({outer} AND ({column.compare(sign[0], first)} OR {compare(others, sign, first + 1)}))"


def ordering(key: Sequence[KeyColumn]) -> str:
    """What stands behind ORDER BY."""
    return ", ".join(column.order for column in key)
