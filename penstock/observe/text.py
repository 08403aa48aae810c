"""Text from outside, made safe to show: an event must not be able to move a terminal's cursor or to forge a line of a log."""

from __future__ import annotations

import re

# C0 and C1 controls and DEL steer terminals; U+2028/9 end lines; bidirectional and invisible marks make text lie about itself.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x00": "\\0"}


def printable(text: str, *, keep: str = "") -> str:
    """The text with everything that a terminal or a log would act upon written as an escape (`\\x1b`, `\\u202e`).

    :param keep: characters that stay as they are, such as a line end in a text of several lines.
    """
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), text)


def _escape(character: str) -> str:
    short = _SHORT.get(character)
    if short is not None:
        return short
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable_json(text: bytes) -> bytes:
    """JSON text with the same characters as `\\uXXXX`: the same document, harmless on a terminal.

    The text must be valid JSON; between its tokens line ends, tabs and spaces stay.
    """
    shown = text.decode("utf-8", "surrogatepass")
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in "\n\r\t" else f"\\u{ord(match[0]):04x}", shown).encode()


def shorten(text: str, length: int) -> str:
    """At most `length` characters, the last one being `…` where something was left out."""
    return text if len(text) <= length else text[: max(0, length - 1)] + "…"
