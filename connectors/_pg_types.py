"""Which converter a PostgreSQL type has: the types that are built in, and those that a database defines.

Snapshot and stream give the same values because both get the types' text under the same `SESSION_SETTINGS`, and convert it with
the same converters. No I/O: the caller runs `TYPES_QUERY` and gives its rows.

| type | value |
| --- | --- |
| `bool` | true, false |
| `int2`, `int4`, `int8`, `oid`, `xid`, `xid8`, `cid` | number |
| `float4`, `float8` | number; `"NaN"`, `"Infinity"`, `"-Infinity"` |
| `numeric` | string with every digit, or the exact number (`numeric: number`) |
| `json`, `jsonb` | the value, integers of any size exact |
| `timestamptz` | RFC 3339 text in UTC with `Z`, fractional digits as printed |
| `timestamp` | ISO 8601 text without a zone |
| `bytea` | Base64 text |
| `hstore` | object of strings and nulls |
| arrays | nested arrays of the elements' values; text where a lower bound is not 1 |
| domains | as the type that they are made from |
| all others (`date`, `interval`, `uuid`, enums, ranges, composites, …) | PostgreSQL's text |

Infinite timestamps, and those of years before 1 or beyond 9999, stay as PostgreSQL prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from connectors import _pg_values as values
from connectors._pg_values import Converter
from penstock.event import decode

NumericMode = Literal["string", "number"]

SESSION_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "client_encoding": "UTF8",
        "DateStyle": "ISO",
        "IntervalStyle": "iso_8601",
        "TimeZone": "UTC",
        "extra_float_digits": "1",
        "bytea_output": "hex",
        "lc_monetary": "C",
        "quote_all_identifiers": "off",
        "search_path": "pg_catalog",
    }
)
"""What every connection sets whose values are converted here: each of these changes the text of some type.

`search_path` and `quote_all_identifiers` decide how `regclass` and its kin print, so that user tables have to be named with
their schema. No value holds a space or a backslash: `options=-c name=value` takes them as they are.
"""

TYPES_QUERY = """
SELECT t.oid::pg_catalog.int8, n.nspname::pg_catalog.text, t.typname::pg_catalog.text, t.typtype::pg_catalog.text,
       CASE WHEN t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc THEN t.typelem ELSE 0 END::pg_catalog.int8,
       t.typbasetype::pg_catalog.int8, t.typdelim::pg_catalog.text
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
"""
"""Every type of the database, a row each, as `TypeCatalog.of` takes them. Works on PostgreSQL 12 to 18."""

_NUMERIC = 1700
_SCALARS: Mapping[int, Converter] = MappingProxyType(
    {
        16: values.boolean,
        17: values.binary,
        20: int,
        21: int,
        23: int,
        26: int,
        28: int,
        29: int,
        114: decode,
        700: values.floating,
        701: values.floating,
        1114: values.timestamp,
        1184: values.timestamp_utc,
        3802: decode,
        5069: int,
    }
)
"""Converters of built-in types by OID, which never changes. Built-in types that are missing here are text."""


class PgType(msgspec.Struct, frozen=True, gc=False):
    """A row of `TYPES_QUERY`, without its OID."""

    schema: str
    name: str
    kind: str
    """`typtype`: `b` base, `c` composite, `d` domain, `e` enum, `m` multirange, `p` pseudo-type, `r` range."""
    element: int
    """OID of an array's element type; 0 where the type is no array."""
    base: int
    """OID of the type that a domain is made from; 0 where the type is no domain."""
    delimiter: str
    """What stands between values of this type in an array."""


class TypeCatalog:
    """The types of one database, as of one moment. Immutable.

    A catalog without rows knows the scalars that are built in, and takes every other type as text.
    """

    __slots__ = ("_types",)

    def __init__(self, types: Mapping[int, PgType] = MappingProxyType({})) -> None:
        self._types = dict(types)

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> TypeCatalog:
        """A catalog of what `TYPES_QUERY` gave."""
        return cls({int(oid): _pg_type(*row) for oid, *row in rows})

    def missing(self, oids: Iterable[int]) -> set[int]:
        """Those that the catalog does not know: types made after it was read. Run the query again, once: what is missing even
        then has been dropped meanwhile, and is taken as text."""
        return {oid for oid in oids if oid not in self._types and oid not in _SCALARS and oid != _NUMERIC}

    def name(self, oid: int) -> str:
        """`schema.name` for messages; the OID in digits, where the type is not known."""
        found = self._types.get(oid)
        return f"{found.schema}.{found.name}" if found else str(oid)

    def converter(self, type_oid: int, *, numeric: NumericMode = "string") -> Converter:
        """The converter of a column's values. A type's modifier (length, precision) is in its text already.

        The converter raises ValueError for text that the type never prints, and `Permanent` (`decode.*`) for a value that JSON
        cannot hold.
        """
        if type_oid == _NUMERIC:
            return values.exact_number if numeric == "number" else values.text
        scalar = _SCALARS.get(type_oid)
        if scalar is not None:
            return scalar
        found = self._types.get(type_oid)
        if found is None:
            return values.text
        if found.base:
            return self.converter(found.base, numeric=numeric)
        if found.element:
            element = self._types.get(found.element)
            delimiter = element.delimiter if element else found.delimiter
            return values.array(self.converter(found.element, numeric=numeric), delimiter.encode())
        if found.name == "hstore" and found.kind == "b":
            return values.hstore
        return values.text


def _pg_type(schema: str, name: str, kind: str, element: Any, base: Any, delimiter: str) -> PgType:
    return PgType(schema, name, kind, int(element), int(base), delimiter)
