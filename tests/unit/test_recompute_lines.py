from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recompute_parts import line_of

from penstock.cloudevents import from_structured, to_structured
from penstock.errors import Permanent
from penstock.event import UNSET, Event
from penstock.journal.lines import decode_line

TEXT = st.text(min_size=1, max_size=5).filter(lambda text: text.isprintable())
OPTIONAL = st.none() | TEXT
DATA = st.sampled_from(
    [b"null", b"1", b"9007199254740993", b'{"a": [1.50, {"b":null}]}', b'"\\u00e9"', b"[ 1 ,2 ]", None, b"\x00not json"]
)


@given(
    identity=TEXT,
    data=DATA,
    time=st.sampled_from([None, "2026-03-01T12:00:00Z", "2016-12-31T23:59:60+01:00"]),
    optional=st.tuples(OPTIONAL, OPTIONAL, OPTIONAL, OPTIONAL),
    extensions=st.sampled_from([None, {"traceparent": "x"}, {"n": 5, "flag": True}]),
)
def test_an_event_is_read_from_its_line_as_any_cloudevent_is(
    identity: str, data: bytes | None, time: str | None, optional: tuple[Any, ...], extensions: dict[str, Any] | None
) -> None:
    event = Event(identity, "s", "t", time, None, None, UNSET, None, None, None, extensions)
    event.subject, event.partitionkey, event.datacontenttype, event.dataschema = optional
    if data == b"\x00not json":
        event.decoded = data
    else:
        event.raw = data
    read, expected = line_of(event).filled(), from_structured(to_structured(event))
    expected.position = read.position
    assert (read.raw, read.data) == (expected.raw, expected.data)
    assert read.replace(decoded=None) == expected.replace(decoded=None)


@pytest.mark.parametrize("event", [b"{}", b'{"specversion":"0.3","id":"1","source":"s","type":"t"}', b"[]"])
def test_what_is_no_cloudevent_is_refused(event: bytes) -> None:
    text = b'{"at":"2026-03-01T12:00:00Z","partition":"p","version":"v","outcome":"delivered","event":%b}' % event
    with pytest.raises(Permanent) as caught:
        decode_line(text).filled()
    assert caught.value.code.startswith("cloudevents.")
