"""Names of tables and columns, and the fields of a connection."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from connectors._postgres import PostgresFields, TableName, TlsConfig, parse_table, quoted, quoted_list, tls_parameters
from penstock.errors import Permanent
from penstock.testing.contracts import make_context


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("orders", TableName("public", "orders")),
        ("Shop.Orders", TableName("shop", "orders")),
        ('"Odd Name".t', TableName("Odd Name", "t")),
        ('s."a ""quoted"".one"', TableName("s", 'a "quoted".one')),
        ("été.tab$1", TableName("été", "tab$1")),
    ],
)
def test_a_table_is_named_as_in_sql(text: str, name: TableName) -> None:
    assert parse_table(text) == name


@pytest.mark.parametrize("text", ["", "a.b.c", "a b", "a;drop", '"a', "1a", ".a", "a.", 'a."b\x00"', "x" * 64])
def test_what_names_no_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a table is named|63 bytes"):
        parse_table(text)


def test_names_are_quoted_whatever_they_hold() -> None:
    assert quoted("public", 'a"; DROP TABLE t; --') == '"public"."a""; DROP TABLE t; --"'
    assert quoted_list(["a", "B"]) == '"a", "B"'
    for name in ("", "nul\x00", "é" * 32):
        with pytest.raises(Permanent, match="no name that PostgreSQL can have"):
            quoted(name)


def test_tls_fields_become_parameters_of_libpq(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    assert tls_parameters(None, context) == {}
    assert tls_parameters(TlsConfig(mode="require"), context) == {"sslmode": "require"}
    assert tls_parameters(TlsConfig(), context) == {"sslmode": "verify-full", "sslrootcert": "system"}
    files = TlsConfig(mode="verify-ca", ca="ca.pem", certificate="me.pem", key="/keys/me.key")
    assert tls_parameters(files, context) == {
        "sslmode": "verify-ca",
        "sslrootcert": str(tmp_path / "ca.pem"),
        "sslcert": str(tmp_path / "me.pem"),
        "sslkey": "/keys/me.key",
    }
    for wrong in ({"mode": "verify-ca"}, {"certificate": "me.pem"}):
        with pytest.raises(ValidationError):
            TlsConfig.model_validate(wrong)


def test_a_dsn_is_a_secret() -> None:
    assert "hunter2" not in repr(PostgresFields.model_validate({"dsn": "postgresql://u:hunter2@h/d"}))
