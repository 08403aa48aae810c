"""CloudEvents 1.0 on the wire: structured and batched mode, in and out. (Binary mode is `cloudevents_binary`.)

Numbers of the data are exact both ways, because its JSON text is carried over as it is. What a message may not say is refused
with its attribute's name, never repaired. An event's position, steps and record do not travel.

Source: CloudEvents 1.0.2, JSON event format.
"""

from __future__ import annotations

import base64
import binascii
import re
from calendar import monthrange
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from penstock.errors import Permanent
from penstock.event import EXTENSION_NAME, UNSET, Event, decode, encode

MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"
ATTRIBUTES = ("id", "source", "type", "time", "subject", "partitionkey", "datacontenttype", "dataschema")
"""The attributes that are fields of `Event`; every other one is in `Event.extensions`."""

_REQUIRED = frozenset({"id", "source", "type"})
_RESERVED = frozenset((*ATTRIBUTES, "specversion", "data", "database64"))
_JSON_TYPE = re.compile(r"[a-z0-9.!#$&^_+-]+/(?:[a-z0-9.!#$&^_+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_TIME = re.compile(
    r"(?!0000)(\d{4})-(0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8]|(29|30|31))[Tt](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?"
    r"(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
"""RFC 3339, section 5.6; the third group is a day that not every month has."""
_SECONDS = re.compile(r"(.{17})(\d\d(?:\.\d+)?)(.+)")
_INTEGER_LIMIT = 1 << 31

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Attributes(msgspec.Struct, omit_defaults=True, gc=False):
    id: str
    source: str
    type: str
    time: str | None = None
    subject: str | None = None
    partitionkey: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None


def is_time(text: str) -> bool:
    """Whether the text is an RFC 3339 date-time, with an offset and a day that exists. A leap second (`:60`) is one too."""
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    return match[3] is None or int(match[3]) <= monthrange(int(match[1]), int(match[2]))[1]


def timestamp(time: str) -> float:
    """Seconds since 1970 of a text that `is_time`; a leap second is the first one of the next minute, as it is in POSIX."""
    try:
        return msgspec.convert(time, datetime).timestamp()
    except msgspec.ValidationError:  # a leap second, or a fraction that rounds up to the year 10000
        start, seconds, offset = _SECONDS.fullmatch(time).groups()  # type: ignore[union-attr]  # every time has this form
        return msgspec.convert(f"{start}00{offset}", datetime).timestamp() + float(seconds)


def computed_attribute(name: str, value: Any) -> str | None:
    """A value that a program gave, as a core attribute: text, or an integer, which becomes text as keys often are; None, where
    there is to be none.

    :raises Permanent: `event.invalid_attribute`, `event.invalid_time`, `event.missing_attribute`.
    """
    if value is None:
        if name in _REQUIRED:
            raise Permanent("event.missing_attribute", f"{name} would be null; every event needs one", where=name)
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise Permanent("event.invalid_attribute", f"{name} must be a non-empty string, it is {_shown(value)}", where=name)
    if name == "time" and not is_time(value):
        raise Permanent(
            "event.invalid_time",
            f"time must be RFC 3339 with an offset, it is {_shown(value)}",
            where=name,
            help="2026-11-01T12:00:00Z, for example",
        )
    return value


def _shown(value: Any) -> str:
    text = encode(value).decode()
    return text if len(text) <= 60 else text[:59] + "…"


def is_extension_name(name: str) -> bool:
    """Whether an extension attribute may be called this: 1 to 20 of a-z and 0-9, and no attribute of the core specification."""
    return EXTENSION_NAME.fullmatch(name) is not None and name not in _RESERVED


def is_json_type(datacontenttype: str | None) -> bool:
    """Whether the data of that media type is JSON; no type means JSON."""
    return datacontenttype is None or _JSON_TYPE.fullmatch(datacontenttype) is not None


def check_extension(name: str, value: Any) -> None:
    """:raises Permanent: `cloudevents.invalid_attribute`, where name or value (string, boolean, 32-bit integer) may not be so."""
    if not is_extension_name(name):
        raise invalid(name, "is not a valid name: 1 to 20 characters a-z and 0-9")
    if isinstance(value, (str, bool)):
        return
    if not isinstance(value, int) or not -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        raise invalid(name, "must be a string, a boolean or an integer of 32 bits")


def invalid(name: str, problem: str) -> Permanent:
    """What to say of an attribute that no event may have so."""
    return Permanent("cloudevents.invalid_attribute", f"the attribute {name!r} {problem}")


def attributes_json(event: Event) -> bytes:
    """The structured event without its data, on one line.

    :raises Permanent: `cloudevents.invalid_attribute`, `encode.not_json`.
    """
    head = encode(
        _Attributes(
            event.id,
            event.source,
            event.type,
            event.time,
            event.subject,
            event.partitionkey,
            event.datacontenttype,
            event.dataschema,
        )
    )
    text = b'{"specversion":"1.0",' + head[1:]
    if not event.extensions:
        return text
    for name, value in event.extensions.items():
        check_extension(name, value)
    return text[:-1] + b"," + encode(event.extensions)[1:]


def to_structured(event: Event) -> bytes:
    """The event as one line of JSON; data of bytes becomes `data_base64`, missing data no member at all.

    `raw` is taken at its word: whoever set it vouches that it is JSON.

    :raises Permanent: `cloudevents.invalid_attribute`, `encode.not_json`.
    """
    head = attributes_json(event)
    raw = event.raw
    if raw is None:
        data = event.decoded
        if data is UNSET:
            return head
        if isinstance(data, bytes):
            return head[:-1] + b',"data_base64":"' + base64.b64encode(data) + b'"}'
        raw = event.json()
    if b"\n" in raw or b"\r" in raw:
        raw = raw.replace(b"\r", b" ").replace(b"\n", b" ")  # between tokens only: JSON strings hold no bare line ends
    return head[:-1] + b',"data":' + raw + b"}"


def from_structured(text: bytes) -> Event:
    """One event from its JSON format; its data keeps its text in `raw`.

    :raises Permanent: `decode.*`, `cloudevents.not_an_event`, `.unsupported_version`, `.missing_attribute`, `.invalid_attribute`
        or `.invalid_data`.
    """
    members = decode(text)
    if not isinstance(members, dict):
        raise Permanent("cloudevents.not_an_event", "a CloudEvent is a JSON object")
    data, raw = UNSET, None
    if "data_base64" in members:
        data = _from_base64(members)
    elif "data" in members:
        data, raw = members.pop("data"), bytes(_members(text)["data"])
    return event_of(members, data, raw)


def _from_base64(members: dict[str, Any]) -> bytes:
    text = members.pop("data_base64")
    if "data" in members:
        raise Permanent("cloudevents.invalid_data", "the event has both data and data_base64")
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise Permanent("cloudevents.invalid_data", "data_base64 is not Base64", why=str(error)) from error


def event_of(attributes: dict[str, Any], data: Any, raw: bytes | None) -> Event:
    """From what a message says: its attributes, `specversion` among them, and its data. Raises as `from_structured`."""
    version = attributes.pop("specversion", None)
    if version != "1.0":
        raise Permanent("cloudevents.unsupported_version", f"specversion must be '1.0', not {version!r}")
    known: dict[str, Any] = {}
    for name in ATTRIBUTES:
        value = attributes.pop(name, None)
        if value is not None:
            known[name] = _attribute(name, value)
        elif name in _REQUIRED:
            raise Permanent("cloudevents.missing_attribute", f"the event has no attribute {name!r}")
    extensions = {name: value for name, value in attributes.items() if value is not None}
    for name, value in extensions.items():
        check_extension(name, value)
    return Event(**known, raw=raw, decoded=data, extensions=extensions or None)


def _attribute(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(name, "must be a non-empty string")
    if name == "time" and not is_time(value):
        raise invalid(name, f"must be an RFC 3339 time, not {value[:60]!r}")
    return value


def to_batch(events: Iterable[Event]) -> bytes:
    """A JSON array of structured events.

    :raises Permanent: as `to_structured`.
    """
    return b"[" + b",".join(map(to_structured, events)) + b"]"


def from_batch(text: bytes) -> list[Event]:
    """The events of a JSON array, all or none.

    :raises Permanent: as `from_structured`; `where` counts the event, from 0.
    """
    if not isinstance(decode(text), list):
        raise Permanent("cloudevents.not_an_event", "a batch of CloudEvents is a JSON array")
    events = []
    for index, element in enumerate(_elements(text)):
        try:
            events.append(from_structured(bytes(element)))
        except Permanent as error:
            error.where = f"event {index} of the batch"
            raise
    return events
