"""Lines that are made column by column say what they say when each is made alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.event import Event
from penstock.journal.columns import check_column, event_columns, lines_of, same_envelopes
from penstock.journal.lines import Envelopes, check_plain

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(['a",', '",', '"', "\\", ",", 'x","y'])
DATA = st.sampled_from([b"{}", b'{"a":1}', b"[1,2]", b'"\\n"', b"1.0"])
TIMES = st.sampled_from(["2025-10-01T00:00:00Z", "2025-10-01T00:00:00.5+02:00"])
ALL = 0xFFFFFFFF


@st.composite
def batches(draw: st.DrawFn) -> list[Event]:
    """As most are: of one source and type, all with a time or none."""
    source, kind, timed = draw(NAMES), draw(NAMES), draw(st.booleans())
    return [
        Event(draw(NAMES), source, kind, time=draw(TIMES) if timed else None, raw=draw(DATA), origin=origin)
        for origin in range(draw(st.integers(1, 6)))
    ]


@given(batches())
def test_the_events_of_a_batch_are_as_each_alone(events: list[Event]) -> None:
    columns = event_columns(events)
    assert columns is not None
    assert lines_of(columns, len(events)) == [Envelopes().of(event) for event in events]


@given(
    batches(),
    st.integers(0, 5),
    st.sampled_from(
        [
            {"source": "other\0"},
            {"type": "other\0"},
            {"time": "1999-01-01T00:00:00Z"},
            {"time": None},
            {"subject": "s"},
            {"partitionkey": "k"},
            {"datacontenttype": "application/json"},
            {"dataschema": "s:1"},
            {"extensions": {"a": "b"}},
            {"raw": None},
            {"raw": b"[1,\n2]"},
        ]
    ),
)
def test_what_differs_from_the_others_is_never_written_as_they_are(
    events: list[Event], place: int, changes: dict[str, object]
) -> None:
    place %= len(events)
    events[place] = events[place].replace(**changes)
    columns = event_columns(events)
    if columns is not None:
        assert lines_of(columns, len(events)) == [Envelopes().of(event) for event in events]


@given(st.lists(st.tuples(DATA, st.integers(0, ALL))))
def test_check_values_are_as_each_alone(outputs: list[tuple[bytes, int]]) -> None:
    event = Event("1", "s", "t")
    texts, masks = [text for text, _ in outputs], [mask for _, mask in outputs]
    assert check_column(texts, masks) == [check_plain(event, event, mask, text) for text, mask in outputs]


def test_an_output_with_another_attribute_has_not_the_same_envelope() -> None:
    event = Event("1", "s", "t", time="2025-10-01T00:00:00Z")
    assert same_envelopes([event.replace(raw=b"{}")], [event])
    for name in ("id", "source", "type", "time", "subject", "partitionkey", "datacontenttype", "dataschema"):
        assert not same_envelopes([event.replace(**{name: "other"})], [event])
    assert not same_envelopes([event.replace(extensions={"a": "b"})], [event])


def test_a_batch_without_events_has_no_lines() -> None:
    assert event_columns([]) == []
    assert lines_of([b"{", [], b"}"], 0) == []
