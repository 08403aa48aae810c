"""CloudEvents 1.0 in binary mode, in and out: attributes in headers, the data as the body.

What a message may not say is refused with its attribute's name, never repaired.

Source: CloudEvents 1.0.2, HTTP protocol binding, section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from penstock.cloudevents import ATTRIBUTES, check_extension, event_of, invalid, is_json_type
from penstock.event import UNSET, Event, decode

_HEADER_SAFE = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


def to_binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers (`ce-id`, …, `content-type`) and body. Without data there is neither body nor content type; data without a media
    type is announced as `application/json`, or `application/octet-stream` where it is bytes.

    :raises Permanent: `cloudevents.invalid_attribute`, `encode.not_json`.
    """
    headers = {"ce-specversion": "1.0"}
    for name in ATTRIBUTES:
        value = getattr(event, name)
        if value is not None and name != "datacontenttype":
            headers[f"ce-{name}"] = _to_header(name, value)
    for name, value in (event.extensions or {}).items():
        check_extension(name, value)
        headers[f"ce-{name}"] = _to_header(name, str(value).lower() if isinstance(value, bool) else str(value))
    body, content_type = _body(event)
    if content_type is not None:
        headers["content-type"] = content_type
    return headers, body


def _body(event: Event) -> tuple[bytes, str | None]:
    data = event.decoded
    if event.raw is None and data is UNSET:
        return b"", event.datacontenttype
    if event.raw is None and isinstance(data, bytes):
        return data, event.datacontenttype or "application/octet-stream"
    if isinstance(data, str) and not is_json_type(event.datacontenttype):
        return _text("data", data), event.datacontenttype
    return event.json(), event.datacontenttype or "application/json"


def _to_header(name: str, value: str) -> str:
    return quote(_text(name, value), safe=_HEADER_SAFE)


def _text(name: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise invalid(name, "holds a lone surrogate, which no text can carry") from error


def from_binary(headers: Mapping[str, str], body: bytes) -> Event:
    """One event from headers and body. Extension values come as strings, as the binding says. A body of a JSON media type is
    decoded, of any other it stays bytes; an empty one is no data.

    :raises Permanent: as `from_structured`.
    """
    attributes: dict[str, Any] = {}
    for header, value in headers.items():
        name = header.lower()
        if name == "content-type":
            attributes["datacontenttype"] = value
        elif name in ("ce-data", "ce-datacontenttype"):
            raise invalid(name[3:], f"has no header {name}: the body and content-type say it")
        elif name.startswith("ce-"):
            attributes[name[3:]] = _from_header(name[3:], value)
    if not body:
        return event_of(attributes, UNSET, None)
    if is_json_type(attributes.get("datacontenttype")):
        return event_of(attributes, decode(body), body)
    return event_of(attributes, body, None)


def _from_header(name: str, value: str) -> str:
    value = value.strip(" \t")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise invalid(name, "is percent-encoded, but not UTF-8") from error
