"""Structured, batch and binary mode: what goes in and out, what is refused, and what the CloudEvents SDK makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary_event, from_structured_event

from penstock import cloudevents as ce
from penstock import cloudevents_binary as binary
from penstock.errors import Permanent
from penstock.event import Event

FULL = Event(
    "a b",
    "file:orders.jsonl",
    "order.line",
    "2010-12-01T08:26:00Z",
    "536365",
    raw=b'{"n":9007199254740993,"x":1.10}',
    partitionkey="17850",
    datacontenttype="application/json",
    dataschema="registry:shop.order_line/1",
    extensions={"tenant": "Düsseldorf 100%", "retry": True, "count": -3},
)


def structured(**members: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t"} | members).encode()


def test_a_structured_event_is_one_line_that_keeps_the_text_of_its_data() -> None:
    assert (
        ce.to_structured(FULL)
        == (
            '{"specversion":"1.0","id":"a b","source":"file:orders.jsonl","type":"order.line","time":"2010-12-01T08:26:00Z",'
            '"subject":"536365","partitionkey":"17850","datacontenttype":"application/json",'
            '"dataschema":"registry:shop.order_line/1","tenant":"Düsseldorf 100%","retry":true,"count":-3,'
            '"data":{"n":9007199254740993,"x":1.10}}'
        ).encode()
    )


def test_reading_a_structured_event_gives_the_same_event_back() -> None:
    again = ce.from_structured(ce.to_structured(FULL))

    assert (again.raw, again.data) == (FULL.raw, {"n": 9007199254740993, "x": 1.1})
    assert ce.to_structured(again) == ce.to_structured(FULL)


def test_data_with_line_ends_between_its_tokens_is_written_on_one_line() -> None:
    assert ce.to_structured(Event("1", "s", "t", raw=b'{\r\n "a\\n": 1\n}')).endswith(b'"data":{   "a\\n": 1 }}')


@pytest.mark.parametrize(
    ("event", "member"),
    [
        (Event("1", "s", "t"), {}),
        (Event("1", "s", "t", decoded=None), {"data": None}),
        (Event("1", "s", "t", decoded=b"\x00\xff", datacontenttype="image/png"), {"data_base64": "AP8="}),
        (Event("1", "s", "t", decoded="hello", datacontenttype="text/plain"), {"data": "hello"}),
        (Event("1", "s", "t", decoded={"a": 2**70}), {"data": {"a": 2**70}}),
    ],
)
def test_each_kind_of_data_has_its_member_and_comes_back(event: Event, member: dict[str, Any]) -> None:
    text = ce.to_structured(event)

    assert {k: v for k, v in json.loads(text).items() if k.startswith("data") and k != "datacontenttype"} == member
    assert ce.from_structured(text).decoded == event.decoded
    assert ce.to_structured(ce.from_structured(text)) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"[]", "cloudevents.not_an_event"),
        (b"{", "decode.invalid_json"),
        (b'{"id":"\xff"}', "decode.invalid_utf8"),
        (structured(specversion="0.3"), "cloudevents.unsupported_version"),
        (structured(specversion=None), "cloudevents.unsupported_version"),
        (structured(id=None), "cloudevents.missing_attribute"),
        (structured(id=""), "cloudevents.invalid_attribute"),
        (structured(source=3), "cloudevents.invalid_attribute"),
        (structured(time="2010-12-01T08:26:00"), "cloudevents.invalid_attribute"),
        (structured(time="2010-02-30T08:26:00Z"), "cloudevents.invalid_attribute"),
        (structured(Tenant="x"), "cloudevents.invalid_attribute"),
        (structured(aaaaaaaaaaaaaaaaaaaaa="x"), "cloudevents.invalid_attribute"),
        (structured(nested={}), "cloudevents.invalid_attribute"),
        (structured(big=2**31), "cloudevents.invalid_attribute"),
        (structured(data_base64="?"), "cloudevents.invalid_data"),
        (structured(data_base64=3), "cloudevents.invalid_data"),
        (structured(data_base64="AP8=", data=1), "cloudevents.invalid_data"),
    ],
)
def test_what_is_no_cloudevent_is_refused(text: bytes, code: str) -> None:
    with pytest.raises(Permanent) as caught:
        ce.from_structured(text)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("extensions", "name"), [({"Tenant": "x"}, "Tenant"), ({"id": "x"}, "id"), ({"data": "x"}, "data"), ({"f": 1.5}, "f")]
)
def test_an_extension_that_the_specification_forbids_is_not_written(extensions: dict[str, Any], name: str) -> None:
    for write in (ce.to_structured, binary.to_binary):
        with pytest.raises(Permanent, match=repr(name)) as caught:
            write(Event("1", "s", "t", extensions=extensions))
        assert caught.value.code == "cloudevents.invalid_attribute"


def test_a_lone_surrogate_cannot_be_written() -> None:
    for write in (ce.to_structured, binary.to_binary):
        with pytest.raises(Permanent):
            write(Event("1", "s", "t", subject="\ud800"))


def test_a_batch_is_an_array_of_structured_events() -> None:
    text = ce.to_batch([FULL, Event("2", "s", "t")])

    assert json.loads(text) == [json.loads(ce.to_structured(FULL)), json.loads(ce.to_structured(Event("2", "s", "t")))]
    assert ce.to_batch(ce.from_batch(text)) == text
    assert ce.from_batch(ce.to_batch([])) == []


def test_a_bad_event_in_a_batch_is_named() -> None:
    with pytest.raises(Permanent) as caught:
        ce.from_batch(b"[" + structured() + b"," + structured(id=None) + b"]")

    assert (caught.value.code, caught.value.where) == ("cloudevents.missing_attribute", "event 1 of the batch")
    with pytest.raises(Permanent, match="array"):
        ce.from_batch(structured())


def test_binary_mode_puts_attributes_into_percent_encoded_headers() -> None:
    assert binary.to_binary(FULL) == (
        {
            "ce-specversion": "1.0",
            "ce-id": "a%20b",
            "ce-source": "file:orders.jsonl",
            "ce-type": "order.line",
            "ce-time": "2010-12-01T08:26:00Z",
            "ce-subject": "536365",
            "ce-partitionkey": "17850",
            "ce-dataschema": "registry:shop.order_line/1",
            "ce-tenant": "D%C3%BCsseldorf%20100%25",
            "ce-retry": "true",
            "ce-count": "-3",
            "content-type": "application/json",
        },
        FULL.raw,
    )


def test_binary_mode_comes_back_with_extensions_as_strings() -> None:
    headers, body = binary.to_binary(FULL)

    again = binary.from_binary({name.title(): value for name, value in headers.items()}, body)

    assert again == ce.from_structured(ce.to_structured(FULL)).replace(
        extensions={"tenant": "Düsseldorf 100%", "retry": "true", "count": "-3"}
    )


def test_binary_mode_announces_bytes_and_says_nothing_of_missing_data() -> None:
    assert binary.to_binary(Event("1", "s", "t", decoded=b"\x00"))[0]["content-type"] == "application/octet-stream"
    assert binary.to_binary(Event("1", "s", "t", decoded=[1])) == (
        {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "content-type": "application/json"},
        b"[1]",
    )
    assert "content-type" not in binary.to_binary(Event("1", "s", "t"))[0]
    assert binary.to_binary(Event("1", "s", "t", decoded="hé", datacontenttype="text/plain"))[1] == "hé".encode()


@pytest.mark.parametrize("name", ["ce-data", "CE-DataContentType"])
def test_headers_cannot_say_what_the_body_says(name: str) -> None:
    with pytest.raises(Permanent) as caught:
        binary.from_binary({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", name: "x"}, b"")

    assert caught.value.code == "cloudevents.invalid_attribute"


def test_a_header_that_is_quoted_is_unquoted_and_one_that_is_not_utf8_refused() -> None:
    headers = {"ce-specversion": "1.0", "ce-id": '"a \\"b\\""', "ce-source": "s", "ce-type": "t"}

    assert binary.from_binary(headers, b"").id == 'a "b"'
    with pytest.raises(Permanent, match="not UTF-8"):
        binary.from_binary(headers | {"ce-subject": "%FF"}, b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2010-12-01T08:26:00Z", True),
        ("2010-12-01t08:26:00.123456789+05:30", True),
        ("2016-12-31T23:59:60Z", True),
        ("2012-02-29T00:00:00Z", True),
        ("2000-02-29T00:00:00Z", True),
        ("2010-02-29T00:00:00Z", False),
        ("1900-02-29T00:00:00Z", False),
        ("2010-04-31T00:00:00Z", False),
        ("2010-12-31T00:00:00Z", True),
        ("2010-13-01T00:00:00Z", False),
        ("2010-12-00T00:00:00Z", False),
        ("0000-01-01T00:00:00Z", False),
        ("2010-12-01T08:26:00+0100", False),
        ("2010-12-01", False),
        ("2010-12-01 08:26:00Z", False),
        ("2010-12-01T24:00:00Z", False),
        ("2010-12-01T08:26:00+24:00", False),
        ("2010-12-01T08:26:00Z\n", False),
        ("２０１０-12-01T08:26:00Z", False),
    ],
)
def test_times_are_rfc_3339(text: str, expected: bool) -> None:
    assert ce.is_time(text) is expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2010-12-01t08:26:00.25+05:30", 1291172160.25),
        ("2016-12-31T23:59:60Z", 1483228800),
        ("2016-12-31T15:59:60.5-08:00", 1483228800.5),
        ("9999-12-31T23:59:59.9999999Z", 253402300799.9999999),
        ("0001-01-01T00:00:00+23:59", -62135683140),
    ],
)
def test_a_time_has_its_seconds_since_1970(text: str, seconds: float) -> None:
    assert ce.timestamp(text) == seconds


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (None, True),
        ("application/json", True),
        ("application/vnd.shop.order+json; charset=utf-8", True),
        ("text/json", True),
        ("text/plain", False),
        ("application/jsonlines", False),
    ],
)
def test_media_types_of_json_are_recognised(media_type: str | None, expected: bool) -> None:
    assert ce.is_json_type(media_type) is expected


def test_the_sdk_reads_both_modes_alike() -> None:
    headers, body = binary.to_binary(FULL)
    by_headers = from_binary_event(HTTPMessage(headers, body))
    by_body = from_structured_event(HTTPMessage({"content-type": ce.MEDIA_TYPE}, ce.to_structured(FULL)))

    assert by_headers.get_data() == by_body.get_data() == {"n": 9007199254740993, "x": 1.1}
    assert by_body.get_attributes() == by_headers.get_attributes() | {"retry": True, "count": -3}
