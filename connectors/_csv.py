"""CSV as files have it: fields apart by commas, quoted where they hold commas, quotes or line ends, quotes doubled.

Stands beside the `csv` module of the standard library because that one has a process-wide limit on a field's length, and cannot
say whether a row goes on behind a line end.

Source: RFC 4180; lenient only in that an unquoted field may hold quotes, and that a line may end with a bare line feed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from penstock.errors import Permanent
from penstock.event import encode

_SPECIAL = re.compile('[,"\r\n]').search

START, UNQUOTED, QUOTED, QUOTE_SEEN = range(4)
"""Where in a row a scan stands: at the start of a field, in an unquoted or quoted one, behind a quote inside a quoted one."""


def scan(piece: bytes, state: int) -> int:
    """The state behind `piece`, which holds no line end. A line end ends the row in every state but QUOTED."""
    at, size = 0, len(piece)
    if state < QUOTED and b'"' not in piece:
        return START if piece[-1:] == b"," else (UNQUOTED if size else state)
    while at < size:
        if state == QUOTED:
            at = piece.find(b'"', at)
            if at < 0:
                return QUOTED
            state, at = QUOTE_SEEN, at + 1
        elif state == UNQUOTED:
            at = piece.find(b",", at)
            if at < 0:
                return UNQUOTED
            state, at = START, at + 1
        elif piece[at] == 0x22:
            state, at = QUOTED, at + 1
        else:
            state = UNQUOTED
    return state


def parse_row(row: bytes) -> list[str]:
    """The fields of one row, without its line end.

    :raises Permanent: `decode.invalid_utf8` or `source.csv_quoting`.
    """
    try:
        text = row.decode()
    except UnicodeDecodeError as error:
        raise Permanent("decode.invalid_utf8", f"the row is not UTF-8 (byte {error.start})") from error
    return _parse_quoted(text) if '"' in text else text.split(",")


def _parse_quoted(text: str) -> list[str]:
    fields: list[str] = []
    at = 0
    while True:
        if text[at : at + 1] == '"':
            end = _closing(text, at)
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = text.find(",", at)
            fields.append(text[at:] if end < 0 else text[at:end])
            at = len(text) if end < 0 else end
        if at == len(text):
            return fields
        if text[at] != ",":
            raise Permanent("source.csv_quoting", f"field {len(fields)} goes on behind its closing quote")
        at += 1


def _closing(text: str, opening: int) -> int:
    at = opening + 1
    while True:
        at = text.find('"', at)
        if at < 0:
            raise Permanent("source.csv_quoting", "a quoted field is never closed")
        if text[at + 1 : at + 2] != '"':
            return at
        at += 2


def format_row(values: Sequence[Any]) -> str:
    """One row without its line end. Null is an empty field, an empty string a quoted one; nested values are JSON text.

    :raises Permanent: `encode.not_json`, where a value has no JSON form.
    """
    return ",".join([_format(value) for value in values])


def _format(value: Any) -> str:
    if value is None:
        return ""
    if value.__class__ is int:
        return str(value)
    text = value if isinstance(value, str) else encode(value).decode()
    if not text or _SPECIAL(text):
        return '"' + text.replace('"', '""') + '"'
    return text
