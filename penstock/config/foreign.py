"""Programs in the spelling of another system: refused with ours, since here they would be silent nulls or obscure mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Foreign(NamedTuple):
    """A foreign spelling.

    :ivar what: what it is; `instead`: what to write.
    :ivar offset: where it begins in the program.
    """

    what: str
    instead: str
    offset: int


_PATTERNS = (
    (
        re.compile(r"(?<![\w.\"\])])\.trigger\.(data|body)\b"),
        "input is the event's data already",
        "write `.x` for `.trigger.data.x`",
    ),
    (
        re.compile(r"(?<![\w.\"\])$])\.steps(\.\w+|\[[^\]]*\])\.output\b"),
        "earlier outputs are in $steps",
        "write `$steps.NAME` for `.steps.NAME.output`",
    ),
    (re.compile(r"(?<![\w.$@])this\.\w+"), "`this.` is Bloblang", "jq says `.field`"),
)
_MAPPING = re.compile(r"^\s*root(\.\w+)*\s*=(?!=)", re.MULTILINE)
_CALL = re.compile(r"(?<![\w$@])(\w+)\((\s*|\"+)\)")
"""A call with nothing in its parentheses, which jq does not have, or with one string alone."""
_BLOBLANG = {
    "content": "`.` is the data",
    "deleted": "`empty` gives no output, which filters the event",
    "format_json": "jq says `tojson`",
    "json": 'jq says `.field` for `json("field")`',
    "lowercase": "jq says `ascii_downcase`",
    "meta": 'write `$event.NAME` for `meta("NAME")`',
    "metadata": 'write `$event.NAME` for `metadata("NAME")`',
    "number": "jq says `tonumber`",
    "parse_json": "jq says `fromjson`",
    "string": "jq says `tostring`",
    "timestamp_unix": "jq says `now`",
    "uppercase": "jq says `ascii_upcase`",
}
_ONE_STRING = frozenset({"json", "meta", "metadata"})
_TEMPLATE = re.compile(r"\{\{-?\s*(if|range|with|end|\.|\w+\s+\.)")
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|#[^\n]*', re.DOTALL)
_JQ_STARTS = (".", "$", '"', "(", "[", "{", "if ")


def foreign_spellings(text: str, *, literal: bool = False) -> list[Foreign]:
    """What is foreign in a jq program, the first of each kind, in their order.

    :param literal: the field takes literals too: one that does not begin like jq can only hold a template.
    """
    template = _TEMPLATE.search(text)
    if template:
        return [Foreign("this is a Go template", 'jq says `.field`, or "text \\(.field)" in a string', template.start())]
    if literal and not text.startswith(_JQ_STARTS):
        return []
    code = _STRING_OR_COMMENT.sub(lambda found: ('"' if found[0][0] == '"' else " ") * len(found[0]), text)
    mapping = _MAPPING.search(code)
    if mapping:
        return [Foreign("this is a Bloblang mapping", "jq builds an object: `{total: (.price * .qty)}`", mapping.start())]
    return sorted([*_in_other_words(code), *_calls(code)], key=lambda found: found.offset)


def _in_other_words(code: str) -> Iterator[Foreign]:
    for pattern, what, instead in _PATTERNS:
        match = pattern.search(code)
        if match:
            yield Foreign(what, instead, match.start())


def _calls(code: str) -> Iterator[Foreign]:
    for match in _CALL.finditer(code):
        name, argument = match[1], match[2].strip()
        if name in _ONE_STRING or (name in _BLOBLANG and not argument):
            yield Foreign(f"`{name}()` is Bloblang", _BLOBLANG[name], match.start())
            return
        if not argument:
            yield Foreign(f"`{name}()` is not jq", "a function without arguments is called without parentheses", match.start())
            return
