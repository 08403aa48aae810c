"""Any event survives structured and binary mode, and the CloudEvents SDK reads and writes the same."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from hypothesis import given
from hypothesis import strategies as st

from penstock import cloudevents as ce
from penstock import cloudevents_binary as binary
from penstock.event import Event

# The SDK's binding strips nothing, ours strips blanks and quotes around a header value as the binding demands; both are
# percent-encoded on the way out, so any text may be tried.
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(ce.is_extension_name)
times = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat().replace("+00:00", "Z"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn, extension_values: st.SearchStrategy[Any] = texts) -> Event:
    return Event(
        draw(texts),
        draw(texts),
        draw(texts),
        draw(st.none() | times),
        draw(st.none() | texts),
        partitionkey=draw(st.none() | texts),
        dataschema=draw(st.none() | texts),
        decoded=draw(st.dictionaries(texts, json_values, min_size=1, max_size=4)),
        datacontenttype="application/json",
        extensions=draw(st.dictionaries(names, extension_values, max_size=3)) or None,
    )


def same(one: Event, other: Event) -> bool:
    return ce.attributes_json(one) == ce.attributes_json(other) and one.data == other.data


@given(events(texts | st.booleans() | st.integers(-(2**31), 2**31 - 1)))
def test_structured_mode_round_trips_and_the_sdk_agrees(event: Event) -> None:
    text = ce.to_structured(event)

    assert same(ce.from_structured(text), event)
    theirs = from_structured_event(HTTPMessage({}, text))
    assert theirs.get_data() == event.data
    assert ce.from_structured(to_structured_event(timed(theirs, event)).body).data == event.data


@given(events())
def test_binary_mode_round_trips_and_the_sdk_agrees(event: Event) -> None:
    headers, body = binary.to_binary(event)

    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert same(binary.from_binary(headers, body), event)
    theirs = from_binary_event(HTTPMessage(headers, body))
    assert (theirs.get_data(), theirs.get_id(), theirs.get_subject()) == (event.data, event.id, event.subject)
    message = to_binary_event(timed(theirs, event))
    assert same(binary.from_binary(message.headers, message.body), event)


def timed(theirs: BaseCloudEvent, event: Event) -> BaseCloudEvent:
    """The SDK gives an event without time the present one; take it away again."""
    if event.time is None:
        theirs.get_attributes().pop("time", None)
    return theirs


@given(
    st.datetimes(timezones=st.timezones() | st.just(UTC)),
    st.sampled_from("Tt"),
    st.sampled_from("Zz"),
    st.text("0123456789", max_size=12),
)
def test_every_moment_is_a_time_and_has_its_own_seconds(moment: datetime, middle: str, zulu: str, fraction: str) -> None:
    offset = moment.utcoffset() or timedelta()
    moment = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset // timedelta(minutes=1))))
    text = moment.isoformat().replace("T", middle).replace("+00:00", zulu)
    if fraction:
        text = text[:19] + "." + fraction + text[19:]

    assert ce.is_time(text)
    assert ce.timestamp(text) == pytest.approx(moment.timestamp() + float(f"0.{fraction or 0}"), abs=1e-4, rel=0)


@given(st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", fullmatch=True))
def test_a_time_is_one_that_the_standard_library_reads_or_a_leap_second(text: str) -> None:
    plain = re.sub(r"\.\d+", "", text)
    if plain[16:19] == ":60":
        plain = f"{plain[:16]}:59{plain[19:]}"
    try:
        datetime.fromisoformat(plain)
        real = plain.endswith("Z") or int(plain[-2:]) < 60
    except ValueError:
        real = False
    assert ce.is_time(text) is real
