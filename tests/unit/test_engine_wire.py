"""What goes to a worker and back: exactly what went in, whatever numbers it holds."""

from __future__ import annotations

import pytest

from penstock.engine.tally import Tally
from penstock.engine.wire import Reply, Request, decode_reply, decode_request, encode_reply, encode_request, packed
from penstock.event import UNSET, Event

NUMBERS = [2**63, -(2**63), 2**64 - 1, 2**64, -(2**64), 10**40, 1.5, 10**40 + 0.5]


@pytest.mark.parametrize("number", NUMBERS)
def test_records_and_data_keep_every_number(number: float) -> None:
    event = packed(Event("a", "s", "t", decoded={"n": number}, record={"op": "insert", "after": {"n": number}}))
    (got,) = decode_request(encode_request(Request(0.0, True, [event]))).events
    assert (got.data, got.record) == ({"n": number}, {"op": "insert", "after": {"n": number}})


def test_an_event_without_a_record_has_none_on_the_other_side() -> None:
    (got,) = decode_request(encode_request(Request(0.0, False, [packed(Event("a", "s", "t", raw=b"1"))]))).events
    assert (got.record is UNSET, got.data) == (True, 1)


def test_what_comes_back_carries_no_record() -> None:
    """`event:` has been filled: nobody asks for it any more."""
    reply = Reply.of([Event("a", "s", "t", decoded={"n": 10**40}, record={"n": 10**40})], None, Tally())
    ((got,), routes) = decode_reply(encode_reply(reply)).into(Tally())
    assert (got.data, got.record is UNSET, routes) == ({"n": 10**40}, True, None)
