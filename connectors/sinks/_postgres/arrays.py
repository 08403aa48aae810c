"""Arrays: lists of what the elements take, and PostgreSQL's text of an array, whose elements are checked alike.

Source: PostgreSQL manual, "Arrays" (8.15.6, array input and output syntax).
"""

from __future__ import annotations

import re
from typing import Any

from connectors.sinks._postgres.values import BLANKS, Convert, Converters, Unfit, convert, quote

_BACKSLASHED = re.compile(r"\\(.)", re.DOTALL)
_MOST_DIMENSIONS = 6


def array(element: Converters, delimiter: str, *, nested: bool) -> Convert:
    """What writes lists of values that `element` takes.

    :param nested: lists in a list are further dimensions; without, they are values (of jsonb).
    """

    def write(value: list[Any], dimensions: int = _MOST_DIMENSIONS) -> str:
        if not dimensions:
            raise Unfit(f"an array has {_MOST_DIMENSIONS} dimensions at most")
        return "{" + delimiter.join([item(one, dimensions) for one in value]) + "}"

    def item(value: Any, dimensions: int) -> str:
        if value is None:
            return "NULL"
        if nested and isinstance(value, list | tuple):
            if not value:
                raise Unfit("an array holds no empty arrays")
            return write(list(value), dimensions - 1)
        return quote(convert(element, value))

    return write


def array_of_text(check: Convert, delimiter: str) -> Convert:
    """For PostgreSQL's text of an array: each element is checked, and the text goes in as it is."""
    plain = rf'(?:[^{{}}"\\{re.escape(delimiter)}]|\\.)+'
    elements = re.compile(rf'"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{plain})', re.DOTALL)

    def whole(value: str) -> str:
        for found in elements.finditer(value, value.find("{") + 1):
            text = found["quoted"]
            if text is None:
                text = found["plain"].strip(BLANKS)
                if not text or text.upper() == "NULL":
                    continue
            check(_BACKSLASHED.sub(r"\1", text))
        return value

    return whole
