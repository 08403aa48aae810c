"""Values of PostgreSQL as JSON: what the golden captures cannot show."""

from __future__ import annotations

from typing import Any

import pytest

from connectors import _pg_values as values
from connectors._pg_types import SESSION_SETTINGS, PgType, TypeCatalog
from penstock.errors import Permanent
from penstock.event import encode

NUMERIC, TEXT, XML = 1700, 25, 142


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("-12", "-12"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("12.5", "12.5"),
        ("12.50", "12.5"),
        ("-0.00", "-0.0"),
        ("1234567890123.45", "1234567890123.45"),
        ("0.1234567890123456", "0.1234567890123456"),
        ("12345678901234567890.00", "12345678901234567890"),
        ("NaN", '"NaN"'),
        ("-Infinity", '"-Infinity"'),
    ],
)
def test_a_numeric_as_number_keeps_its_value(text: str, number: str) -> None:
    assert encode(TypeCatalog().converter(NUMERIC, numeric="number")(text.encode())).decode() == number


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("12345678901234567890.5", "decode.number_inexact"),
        ("0.12345678901234567890", "decode.number_inexact"),
        ("1" + "0" * 400 + ".5", "decode.number_inexact"),
        ("9" * 5000, "decode.number_out_of_range"),
    ],
)
def test_a_numeric_that_a_number_would_round_is_refused(text: str, code: str) -> None:
    with pytest.raises(Permanent) as raised:
        TypeCatalog().converter(NUMERIC, numeric="number")(text.encode())
    assert raised.value.code == code


def test_a_numeric_is_text_with_every_digit_unless_told_otherwise() -> None:
    assert TypeCatalog().converter(NUMERIC)(b"0.12345678901234567890") == "0.12345678901234567890"


def test_arrays_and_domains_pass_the_choice_for_numeric_on() -> None:
    types = TypeCatalog.of(
        [
            (1700, "pg_catalog", "numeric", "b", 0, 0, ","),
            (1231, "pg_catalog", "_numeric", "b", 1700, 0, ","),
            (90001, "public", "prices", "d", 0, 1231, ","),
        ]
    )
    assert types.converter(90001, numeric="number")(b"{1.5,NULL,2}") == [1.5, None, 2]
    assert types.converter(90001)(b"{1.5}") == ["1.5"]


def test_types_that_nobody_knows_are_text() -> None:
    assert TypeCatalog().converter(XML)(b"<a/>") == "<a/>"
    assert TypeCatalog().missing([16, NUMERIC, XML, 90001]) == {XML, 90001}


def test_types_have_names_for_messages() -> None:
    types = TypeCatalog({7: PgType("public", "mood", "e", 0, 0, ",")})
    assert (types.name(7), types.name(8)) == ("public.mood", "8")


def test_only_a_base_type_called_hstore_is_one() -> None:
    kinds = {kind: PgType("public", "hstore", kind, 0, 0, ",") for kind in "be"}
    assert TypeCatalog({7: kinds["b"]}).converter(7)(b'"a"=>"1"') == {"a": "1"}
    assert TypeCatalog({7: kinds["e"]}).converter(7)(b"a") == "a"


def test_hstore_escapes_quotes_and_backslashes() -> None:
    assert values.hstore(b'"a\\"b"=>"c\\\\d", "e, "=>NULL, ""=>"NULL"') == {'a"b': "c\\d", "e, ": None, "": "NULL"}
    assert values.hstore(b"") == {}


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (values.boolean, b"true"),
        (values.binary, b"abc"),
        (values.binary, b"\\xf"),
        (values.binary, b"\\xgg"),
        (values.exact_number, b"1e5"),
        (values.exact_number, b""),
        (values.hstore, b"a=>1"),
        (values.hstore, b'"a"=>"1",'),
        (values.array(int), b"1,2"),
        (values.array(int), b"{1,2"),
        (values.array(int), b"{1,2}x"),
        (values.array(int), b"{1;2}"),
        (values.array(int), b"{1,}"),
        (values.array(int), b"{" * 5000),
        (values.array(values.text), b'{"a}'),
    ],
)
def test_text_that_a_type_never_prints_is_refused(read: Any, text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  whatever it says
        read(text)


def test_the_session_settings_go_into_a_connection_string_as_they_are() -> None:
    assert all(value and not set(value) & set(" \\'") for value in SESSION_SETTINGS.values())
