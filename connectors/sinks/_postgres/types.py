"""Which values a column takes: its type, resolved once from the catalog.

| type | values |
| --- | --- |
| integers, `oid`, `xid`, `xid8` | number without a fraction, text |
| `numeric` | number, text; not more digits behind the point than the column keeps |
| `float4`, `float8` | number, text (also `NaN`, `Infinity`), where it is kept exactly |
| `bool` | true, false, text |
| `text`, `varchar`, `char`, `citext` | text; any other value as its JSON text |
| `json`, `jsonb` | any value |
| `bytea` | Base64 text, bytes |
| `date`, `time`, `timetz`, `timestamp`, `timestamptz` | ISO 8601, PostgreSQL's text; a `timestamp` no offset but Z |
| `hstore` | object, text |
| arrays | (nested) list of what the elements take, PostgreSQL's text |
| domains | as the type that they are made from |
| `interval` | PostgreSQL's text; nothing smaller than the column keeps |
| all others (`uuid`, enums, ranges, composites, …) | PostgreSQL's text, as PostgreSQL reads it |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from connectors.sinks._postgres import arrays, times, values
from connectors.sinks._postgres.values import Converters


class PgType(NamedTuple):
    """A row of `TYPES`, without its OID; see `connectors._pg_types.PgType`. `modifier` is that of a domain's base type."""

    name: str
    kind: str
    element: int
    base: int
    delimiter: str
    modifier: int


TYPES = """
SELECT t.oid::pg_catalog.int8, t.typname::pg_catalog.text, t.typtype::pg_catalog.text,
       CASE WHEN t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc THEN t.typelem ELSE 0 END::pg_catalog.int8,
       t.typbasetype::pg_catalog.int8, t.typdelim::pg_catalog.text, t.typtypmod
FROM pg_catalog.pg_type AS t
"""

_MICROSECONDS = 6
_FULL_PRECISION = 0xFFFF
_ALL_FIELDS = 0x7FFF
_YEAR, _MONTH, _DAY, _HOUR, _MINUTE = 1 << 2, 1 << 1, 1 << 3, 1 << 10, 1 << 11
_SMALLEST_FIELDS: Mapping[int, int] = MappingProxyType(
    {
        _YEAR: 1,
        _MONTH: 2,
        _YEAR | _MONTH: 2,
        _DAY: 3,
        _HOUR: 4,
        _DAY | _HOUR: 4,
        _MINUTE: 5,
        _HOUR | _MINUTE: 5,
        _DAY | _HOUR | _MINUTE: 5,
    }
)
"""By the fields of an interval's modifier (`INTERVAL_MASK` of the server's timestamp.h): the smallest, see `times.interval`."""
_ANY_JSON: Converters = MappingProxyType(dict.fromkeys((str, int, float, bool, dict, list, tuple), values.json))
_TEXT: Converters = MappingProxyType({**_ANY_JSON, str: None})
_AS_TEXT: Converters = MappingProxyType({str: None})
_INTEGER: Converters = MappingProxyType({int: values.integer, float: values.whole, str: values.integer_text})


def _unsigned(bits: int) -> Converters:
    text, number, real = values.unsigned(bits)
    return {str: text, int: number, float: real}


_BOOLEAN: Converters = MappingProxyType({bool: lambda value: "t" if value else "f", str: values.boolean_text})
_BYTES: Converters = MappingProxyType({str: values.binary, bytes: lambda value: "\\x" + value.hex()})
_FLOAT4: Converters = MappingProxyType({float: values.single, int: values.single_from_integer, str: values.single_from_text})
_FLOAT8: Converters = MappingProxyType({float: values.real, int: values.double_from_integer, str: values.double_from_text})
_FIXED: Mapping[int, Converters] = MappingProxyType(
    {
        16: _BOOLEAN,
        17: _BYTES,
        18: {str: values.char},
        19: {str: values.name},
        **dict.fromkeys((20, 21, 23), _INTEGER),
        **dict.fromkeys((26, 28, 29), _unsigned(32)),
        5069: _unsigned(64),
        25: _TEXT,
        114: _ANY_JSON,
        700: _FLOAT4,
        701: _FLOAT8,
        790: {str: values.money},
        1082: {str: times.matched(times.DATE, 0, "date (YYYY-MM-DD)")},
        3802: _ANY_JSON,
    }
)
_TIMES: Mapping[int, tuple[re.Pattern[str], str]] = MappingProxyType(
    {
        1083: (times.TIME, "time of day (HH:MM:SS)"),
        1114: (times.TIMESTAMP, "time without an offset (YYYY-MM-DDTHH:MM:SS, also with Z)"),
        1184: (times.TIMESTAMPTZ, "time (RFC 3339)"),
        1266: (times.TIMETZ, "time of day with an offset"),
    }
)
_WITH_DATE = frozenset((1114, 1184))
_BPCHAR, _VARCHAR, _INTERVAL, _NUMERIC = 1042, 1043, 1186, 1700
_BIT, _VARBIT = 1560, 1562
_JSON_TYPES = frozenset((114, 3802))

_READ_BY_SERVER = frozenset((17, 114, 3802))
"""Types whose text in an array's text is PostgreSQL's: no Base64, no text that would become JSON."""


def converters(oid: int, modifier: int, types: Mapping[int, PgType]) -> Converters:
    """What a column takes.

    :param modifier: `atttypmod`: length, precision; -1 without one.
    :param types: what `TYPES` gave, by OID.
    """
    fixed = _FIXED.get(oid)
    if fixed is not None:
        return fixed
    if oid in _TIMES:
        pattern, what = _TIMES[oid]
        check = times.matched(pattern, _MICROSECONDS if modifier < 0 else modifier, what)
        return {str: times.utc(check) if modifier < 0 and oid in _WITH_DATE else check}
    if oid in (_BPCHAR, _VARCHAR):
        return _TEXT if modifier < 0 else _limited(modifier - 4)
    if oid in (_BIT, _VARBIT) and modifier >= 0:
        return {str: values.bits(modifier, varying=oid == _VARBIT)}
    if oid == _NUMERIC:
        return _numeric(modifier)
    if oid == _INTERVAL:
        precision = _FULL_PRECISION if modifier < 0 else modifier & _FULL_PRECISION
        smallest = _SMALLEST_FIELDS.get(modifier >> 16 & _ALL_FIELDS, 0) if modifier >= 0 else 0
        return {str: times.interval(min(precision, _MICROSECONDS), smallest)}
    return _defined(types.get(oid), modifier, types)


def _defined(found: PgType | None, modifier: int, types: Mapping[int, PgType]) -> Converters:
    if found is None:
        return _AS_TEXT
    if found.base:
        return converters(found.base, found.modifier, types)
    if found.element:
        element = types.get(found.element)
        base = _base(found.element, types)
        delimiter = element.delimiter if element else found.delimiter
        elements = converters(found.element, modifier, types)
        write = arrays.array(elements, delimiter, nested=base not in _JSON_TYPES)
        check = None if base in _READ_BY_SERVER else elements.get(str)
        return {
            list: write,
            tuple: lambda value: write(list(value)),
            str: arrays.array_of_text(check, delimiter) if check else None,
        }
    if found.name == "hstore" and found.kind == "b":
        return {dict: values.hstore, str: None}
    return _TEXT if found.name == "citext" else _AS_TEXT


def _base(oid: int, types: Mapping[int, PgType]) -> int:
    found = types.get(oid)
    return _base(found.base, types) if found is not None and found.base else oid


def _limited(length: int) -> Converters:
    check = values.at_most(length)
    return {**dict.fromkeys(_ANY_JSON, lambda value: check(values.json(value))), str: check}


def _numeric(modifier: int) -> Converters:
    if modifier < 0:
        return {str: None, int: values.integer, float: values.real}
    text, integer, real = values.scaled(((modifier - 4 & 0x7FF) ^ 0x400) - 0x400)
    return {str: text, int: integer, float: real}
