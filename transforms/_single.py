"""Which programs surely give one output, or fail: these need not be asked for a second one, which saves a twelfth of their cost.

The reading is conservative: a program is single only where every token is known to keep it so. Commas separate the fields of an
object or the elements of an array that is being built; anywhere else they make several outputs.

Source: jq 1.8 manual.
"""

from __future__ import annotations

from collections.abc import Sequence

from transforms._tokens import Token

_NAMES = frozenset(
    "tostring tonumber length floor ceil round sqrt abs fabs ascii_downcase ascii_upcase ltrimstr rtrimstr trim ltrim rtrim "
    "startswith endswith split join test not keys add min max type tojson fromjson utf8bytelength has contains inside sort "
    "sort_by group_by unique unique_by reverse to_entries from_entries with_entries map any all flatten explode implode "
    "todate fromdate fromdateiso8601 todateiso8601 now true false null and or if then elif else end tojson min_by max_by".split()
)
_OPERATORS = frozenset("| + - * / % == != < > <= >= // ( ) [ ] { } : , . ;".split())
_BEFORE_VALUE = frozenset("| + - * / % == != < > <= >= // ( [ { : , ; and or if then elif else".split()) | {""}
_PAIRS = {")": "(", "]": "[", "}": "{"}


def is_single(tokens: Sequence[Token]) -> bool:
    """Whether the program gives exactly one output for every input that it does not fail on."""
    open_: list[str] = []
    previous = ""
    for token in tokens:
        text = token.text
        if token.kind == "name" and text not in _NAMES:
            return False
        if token.kind == "other" and text not in _OPERATORS:
            return False
        if token.kind in ("other", "open", "close"):
            if (text, previous) in ((".", "."), ("]", "[")):  # recursion, iteration
                return False
            if text == "," and (not open_ or open_[-1] not in ("{", "array")):
                return False
            if text in ("(", "{") or text == "[":
                open_.append("array" if text == "[" and previous in _BEFORE_VALUE else text)
            elif text in _PAIRS and open_:
                open_.pop()
        previous = text
    return True
