"""New events from old ones, the fast way."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from penstock.cloudevents import is_json_type
from penstock.event import UNSET, Event


def with_data(event: Event, data: Any) -> Event:
    """The event with other data, which is JSON whatever it was before."""
    made = replace(event, decoded=data, raw=None)
    if made.datacontenttype is not None and not is_json_type(made.datacontenttype):
        made.datacontenttype = None
    return made


def with_text(event: Event, text: bytes) -> Event:
    """The event with other data, given as JSON text."""
    made = with_data(event, UNSET)
    made.raw = text
    return made
