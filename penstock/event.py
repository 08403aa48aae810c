"""Event: a CloudEvents 1.0 envelope whose data is decoded only when somebody looks at it.

Events are values: a step that changes one makes a new one (`replace`). The only thing that changes in place is the cache of the
decoded data. Numbers are exact: an integer of any size survives decoding and encoding; what JSON cannot say (NaN, 1e400, lone
surrogates, invalid UTF-8) is refused, never approximated (Invariant 13).

Source: CloudEvents 1.0.2, core specification and JSON event format.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from penstock.errors import Permanent

UNSET: Any = msgspec.UNSET
EXTENSION_NAME = re.compile(r"[a-z0-9]{1,20}")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""One escape of a string: a whole surrogate pair, half of one (group 1), or any other."""
_NO_NUMBER = frozenset({str, int, bool, type(None), msgspec.Raw})
_NOT_A_NUMBER = re.compile(rb"-?(?:nan|inf)", re.IGNORECASE)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Event(msgspec.Struct, gc=False):
    """One event. `source` + `id` identify it; everything else says what happened.

    The data is held as JSON text (`raw`), as Python values (`decoded`), or both; `data` and `json()` convert on demand.
    Data that is not JSON is `bytes` in `decoded`, with its `datacontenttype`.
    """

    id: str
    source: str
    type: str
    time: str | None = None
    """RFC 3339 text, kept as it came."""
    subject: str | None = None
    raw: bytes | None = None
    """The data as JSON text, where it is known. Whoever replaces the data drops it."""
    decoded: Any = UNSET
    partitionkey: str | None = None
    """CloudEvents partitioning extension: events with the same key keep their order."""
    datacontenttype: str | None = None
    """None means JSON."""
    dataschema: str | None = None
    extensions: dict[str, Any] | None = None
    position: bytes = b""
    """Where the source read it: sorts in source order within its partition, and is never another event's, also where what is read
    again has changed. Empty for sources without positions."""
    origin: int = 0
    """Index, within its batch, of the received event that this one was made from."""
    steps: dict[str, Any] | None = None
    """Outputs of earlier named steps that a later program asks for (`$steps`)."""
    record: Any = UNSET
    """What `event:` programs see, where that is more than the data (a change with before and after, a message with headers)."""
    original: bytes | None = None
    """The record's own bytes, where `raw` is not just these (a CSV line, a compressed message)."""

    @property
    def data(self) -> Any:
        """The data as Python values. Do not change it in place.

        :raises Permanent: `decode.*`, where the text is not exact JSON.
        """
        data = self.decoded
        if data is UNSET:
            data = self.decoded = None if self.raw is None else decode(self.raw)
        return data

    def json(self) -> bytes:
        """The data as JSON text on one line; `null` where there is none.

        :raises Permanent: `encode.*`, where the data holds something JSON cannot say, or is no JSON at all.
        """
        raw = self.raw
        if raw is None:
            if self.decoded.__class__ is bytes:  # Invariant 13: the encoder would make Base64 of it, and nobody could tell
                kind = self.datacontenttype or "a type that nobody named"
                raise Permanent("encode.not_json", f"the data is no JSON, but {len(self.decoded)} bytes of {kind}")
            raw = self.raw = encode(None if self.decoded is UNSET else self.decoded)
        return raw

    def replace(self, **changes: Any) -> Event:
        """A copy with some fields changed; a change of `decoded` drops `raw`, and one of `raw` drops `decoded`."""
        if "decoded" in changes:
            changes.setdefault("raw", None)
        elif "raw" in changes:
            changes["decoded"] = UNSET
        return msgspec.structs.replace(self, **changes)


def decode(text: bytes) -> Any:
    """JSON text to Python values, exactly.

    :raises Permanent: `decode.empty`, `decode.invalid_utf8`, `decode.lone_surrogate`, `decode.too_deep`,
        `decode.number_out_of_range` or `decode.invalid_json`.
    """
    try:
        return _decode(text)
    except UnicodeDecodeError as error:
        raise _not_utf8(text, error) from error
    except RecursionError as error:
        raise too_deep() from error
    except msgspec.ValidationError as error:
        raise Permanent("decode.number_out_of_range", "a number is too large to be kept", why=str(error)) from error
    except msgspec.DecodeError as error:
        raise _malformed(text, error) from error


def too_deep() -> Permanent:
    """Data that cannot be walked recursively."""
    return Permanent("decode.too_deep", "the document is nested too deeply", why="it has several hundred levels or more")


def _not_utf8(text: bytes, error: UnicodeDecodeError) -> Permanent:
    try:
        text.decode()
    except UnicodeDecodeError as located:  # the decoder's own place counts from the beginning of a string
        error = located
    return Permanent("decode.invalid_utf8", f"the text is not UTF-8 (byte {error.start})")


def _malformed(text: bytes, error: Exception) -> Permanent:
    if not text.strip():
        return Permanent("decode.empty", "the record is empty", help="a JSON document was expected")
    for escape in _ESCAPE.finditer(text):
        if escape[1] is not None:
            return Permanent(
                "decode.lone_surrogate",
                f"a string holds half of a surrogate pair: {escape[0].decode()} (byte {escape.start()})",
                why="it stands for no character, so that no UTF-8 text can hold it",
                help="have it written as U+FFFD, or whole, where the record is made",
            )
    if _NOT_A_NUMBER.match(text, _byte_of(error)):
        return Permanent("decode.invalid_json", "the record holds NaN or infinity, which JSON cannot say", why=str(error))
    return Permanent("decode.invalid_json", "the record is not valid JSON", why=str(error))


def _byte_of(error: Exception) -> int:
    found = re.search(r"\(byte (\d+)\)", str(error))
    return int(found[1]) if found else 0


def encode(value: Any) -> bytes:
    """Python values to JSON text on one line, exactly.

    :raises Permanent: `encode.not_json`, where a value has no JSON form (NaN, infinity, a lone surrogate, a foreign type).
    """
    try:
        text = _encode(value)
        finite = b"null" not in text or _finite(
            value
        )  # msgspec writes NaN and infinity as null; nulls are rare, so look only then
    except RecursionError as error:
        raise Permanent("encode.not_json", "the data cannot be written as JSON: it is nested too deeply") from error
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise Permanent("encode.not_json", f"the data cannot be written as JSON: {error}") from error
    if not finite:
        raise Permanent("encode.not_json", "the data holds NaN or infinity, which JSON cannot say")
    return text


def _finite(value: Any) -> bool:
    """Whether no number in it is NaN or infinite."""
    pending = [value]
    while pending:
        item = pending.pop()
        kind = item.__class__
        if kind in _NO_NUMBER:
            continue
        if kind is dict:
            pending.extend(item.values())
        elif kind is list or kind is tuple:
            pending.extend(item)
        elif kind is float:
            if not math.isfinite(item):
                return False
        else:  # a dataclass, a set, an enum…: what they hold
            plain = msgspec.to_builtins(item)
            if plain.__class__ is not kind:
                pending.append(plain)
    return True
