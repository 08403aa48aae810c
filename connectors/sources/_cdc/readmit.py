"""Dead letters of changes, replayed: the server has forgotten them, and what the letter keeps is the whole record."""

from __future__ import annotations

from typing import Any

from connectors.sources._cdc import drift
from connectors.sources._cdc.config import PostgresCdcConfig
from penstock.errors import Permanent
from penstock.event import Event, decode, encode

_TOAST = "source.unchanged_toast"
_REPLAY = "pipe dlq replay PIPELINE --code {} --set source.postgres_cdc.{}"


def kept(event: Event) -> bytes:
    """What a dead letter keeps of a change: the record, masked as the event is."""
    return encode(event.record)


def readmitted(event: Event, code: str, config: PostgresCdcConfig) -> Event:
    """The event as it would be given today.

    A change that a schema change kept apart goes on under `schema_change: evolve`; one that lacks a large value with
    `toast: placeholder`, the placeholder in its place. A value that is read again now would not be the change's.

    :raises Permanent: with the code of before, where it is not accepted, or never can be.
    """
    if code == drift.CODE and config.schema_change != "evolve":
        raise _refused(code, "the table's look at that time is not accepted", "schema_change=evolve")
    if code == _TOAST and config.toast != "placeholder":
        raise _refused(code, "the change lacks a large value", "toast=placeholder")
    if code not in (drift.CODE, _TOAST) or event.original is None:
        raise Permanent(code, "the change cannot be told in JSON, and stays as it was kept", help="pipe dlq show ID")
    record: Any = decode(event.original)
    before, after = record["before"], record["after"]
    data = {"before": before, "after": after} if config.include_before else before if record["op"] == "delete" else after
    return event.replace(decoded=data, record=record, original=None)


def _refused(code: str, what: str, field: str) -> Permanent:
    return Permanent(code, what, help=_REPLAY.format(code, field))
