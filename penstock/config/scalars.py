"""What a scalar of YAML 1.2 means (10.3, core schema): `no` is text, `010` is ten."""

from __future__ import annotations

import math
import re
from typing import Any

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


def resolve(text: str) -> Any:
    """A plain scalar's value by the YAML 1.2 core schema.

    :raises ValueError: it is a number that JSON cannot say.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and NaN cannot be used")
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return _integer(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("the number is too large")
        return number
    return text


def joined(value: str) -> str:
    """The text of a quoted scalar, where a character beyond U+FFFF may be written as two escapes, as in JSON.

    :raises UnicodeError: half of such a pair stands alone.
    """
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16")


def _integer(text: str, base: int = 10) -> int:
    if len(text) > 1000:
        raise ValueError("the number has more than 1,000 digits")
    return int(text, base)
