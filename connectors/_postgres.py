"""What the PostgreSQL components share: the fields of a connection, and names of tables and columns (Invariant 12).

Names go into SQL only as `quoted`; the connection itself is `penstock.postgres.Session`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from connectors._pg_types import SESSION_SETTINGS
from penstock.config.base import ComponentConfig, ProjectPath, Secret
from penstock.errors import Permanent
from penstock.postgres import Session
from penstock.spi import Context

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

LONGEST_NAME = 63
"""Bytes of an identifier that PostgreSQL keeps; it cuts longer ones silently, so they are refused here."""

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
_PART = r'(?:"(?:[^"\x00]|"")+"|[^\W\d][\w$]*)'
_PARTS = re.compile(_PART)
_TABLE = re.compile(rf"{_PART}(?:\.{_PART})?")


class TableName(NamedTuple):
    """A table as the server knows it: names without quotes."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


class TlsConfig(ComponentConfig):
    """How the connection is encrypted, and how the server shows that it is the right one."""

    mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = Field(
        "verify-full",
        description="`disable`; `prefer`: encrypted where the server offers it; `require`: encrypted, to whatever server; "
        "`verify-ca`: its certificate is signed by `ca`; `verify-full`: and names the host.",
    )
    ca: ProjectPath | None = Field(None, description="Certificates of authorities to trust (PEM). Default: the system's.")
    certificate: ProjectPath | None = Field(None, description="The client's own certificate (PEM).")
    key: ProjectPath | None = Field(None, description="The key of `certificate` (PEM), which only its owner may read.")

    @model_validator(mode="after")
    def _pair(self) -> TlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` go together")
        if self.mode == "verify-ca" and self.ca is None:
            raise ValueError("`verify-ca` needs `ca`; with the system's authorities only `verify-full` proves anything")
        return self


class PostgresFields(ComponentConfig):
    """Fields of everything that connects to PostgreSQL."""

    dsn: Secret = Field(
        description="How to connect: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, or libpq's keywords (`host=… dbname=…`).",
        examples=["${SHOP_DSN}"],
    )
    tls: TlsConfig | None = Field(
        None,
        description="Encryption of the connection; without, what the DSN says (`sslmode=…`).",
        examples=[{"mode": "require"}],
    )


def parse_table(text: str) -> TableName:
    """`table` (in schema public), `schema.table`, `"Odd Name".t`; without quotes in lower case, as in SQL.

    :raises ValueError: the text names no table.
    """
    if not _TABLE.fullmatch(text):
        raise ValueError("a table is named `table` or `schema.table`; other than letters, digits, _ and $ needs double quotes")
    names = [_unquoted(part) for part in _PARTS.findall(text)]
    for name in names:
        if len(name.encode()) > LONGEST_NAME:
            raise ValueError(f"a name has {LONGEST_NAME} bytes at most")
    return TableName("public", names[0]) if len(names) == 1 else TableName(names[0], names[1])


def quoted(*names: str) -> str:
    """Names as a qualified SQL identifier: `"public"."orders"`.

    :raises Permanent: `postgres.invalid_name`, where PostgreSQL cannot have such a name.
    """
    for name in names:
        if not name or "\x00" in name or len(name.encode()) > LONGEST_NAME:
            raise Permanent("postgres.invalid_name", f"{name[:LONGEST_NAME]!r} is no name that PostgreSQL can have")
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)  # Invariant 12


def sql_name(schema: str, table: str) -> str:
    """A table's name as one writes it: in quotes what is not of lower case letters, digits and underscores."""
    return ".".join(name if _PLAIN.fullmatch(name) else quoted(name) for name in (schema, table))


def quoted_list(names: Iterable[str]) -> str:
    """Names of columns, each quoted, with commas between."""
    return ", ".join(quoted(name) for name in names)


def make_session(
    config: PostgresFields,
    context: Context,
    *,
    what: str,
    settings: Mapping[str, str] = SESSION_SETTINGS,
    deadline: float | None = None,
) -> Session:
    """The session of a component, not yet open. With `SESSION_SETTINGS` all values print as `_pg_values` reads them, and SQL has
    to name tables with their schema.

    :param what: how errors name the database, such as `the source's database`.
    :param deadline: seconds that one call may take.
    """
    return Session(
        config.dsn.reveal(),
        what=what,
        application=f"penstock:{context.pipeline}/{context.component}",
        parameters=tls_parameters(config.tls, context),
        settings=settings,
        deadline=deadline,
    )


async def ask(session: Session, work: Callable[[psycopg.Connection[Any]], T]) -> T:
    """`work(connection)`; a connection that is known to be lost is made anew before.

    :raises ComponentError: as `Session.run` and `Session.reopen`.
    """
    if not session.is_open:
        await session.reopen()
    return await session.run(work)


def tls_parameters(tls: TlsConfig | None, context: Context) -> dict[str, str]:
    """libpq's parameters for these fields; none where there are no fields."""
    if tls is None:
        return {}
    paths = {"sslrootcert": tls.ca, "sslcert": tls.certificate, "sslkey": tls.key}
    found = {"sslmode": tls.mode, **{name: str(context.project / path) for name, path in paths.items() if path is not None}}
    if tls.mode == "verify-full" and tls.ca is None:
        found["sslrootcert"] = "system"
    return found


def _unquoted(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def _checked(value: Any) -> Any:
    if isinstance(value, str):
        parse_table(value)
    return value


TableField = Annotated[
    str,
    BeforeValidator(_checked),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["public.orders"]}),
]
"""A field that names a table; `parse_table` reads it."""
