"""What an error of PostgreSQL, or of the way to it, means to the engine.

Source: PostgreSQL manual, appendix A, "PostgreSQL Error Codes". Where a connection is refused, libpq gives the server's words
without the code, so that these are looked at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from penstock.errors import ComponentError, EnvironmentFault, Fatal, Permanent, Transient, Unavailable

if TYPE_CHECKING:
    import psycopg

_AGAIN = frozenset({"40001", "40P01", "55P03", "57014", "53200", "53300", "25006"})
_NO_SPACE = frozenset({"53100", "58030"})
_PASSWORD_IN_URI = re.compile(r"(://[^:/@\s]*):[^@\s]*@|(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)
_REFUSALS = re.compile(
    r"authentication failed|does not exist|no pg_hba\.conf entry|pg_hba\.conf rejects|permission denied|not permitted to log in"
    r"|no password supplied|certificate|does not support SSL|SSL error|not currently accepting connections|invalid sslmode",
    re.IGNORECASE,
)
_CUT = re.compile(r"SSL SYSCALL error|SSL error: unexpected eof|connection reset|broken pipe", re.IGNORECASE)
"""A handshake that was cut, as a proxy or a server does that goes away: nobody has refused anything, whatever libpq says of it,
or of what it tried next."""


def classify(error: psycopg.Error, what: str) -> ComponentError:
    """What the engine should do about an error of psycopg.

    :param what: how the message names the database.
    """
    state = error.sqlstate
    if state is None:
        return _without_state(error, what)
    if state in _NO_SPACE:
        return Unavailable("postgres.no_space", f"{what} has no space left", why=_text(error), help="make space on its disk")
    if state in _AGAIN or state[:2] == "08" or state[:3] == "57P":
        return Transient(_transient_code(state), f"{what} could not do it now: {_text(error)}", why=f"SQLSTATE {state}")
    if state[:2] in ("22", "23"):
        return _refused_row(error, what, state)
    if state[:2] == "28" or state in ("3D000", "42501"):
        return EnvironmentFault(
            "postgres.refused", f"{what} refuses: {_text(error)}", why=f"SQLSTATE {state}", help=_remedy(state)
        )
    return Fatal("postgres.failed", f"{what} refused a statement: {_text(error)}", why=f"SQLSTATE {state}", help=_hint(error))


def invalid_dsn(what: str) -> EnvironmentFault:
    """A DSN that libpq cannot read."""
    return EnvironmentFault(
        "postgres.invalid_dsn",
        f"the dsn of {what} cannot be read",
        help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters percent-encoded, or host=… dbname=…",
    )


def _without_state(error: psycopg.Error, what: str) -> ComponentError:
    """The connection failed, or psycopg itself refused."""
    from psycopg import InterfaceError, OperationalError

    text = _text(error)
    if not isinstance(error, OperationalError | InterfaceError):
        return Fatal("postgres.failed", f"{what} was given what it cannot take: {text}")
    if _REFUSALS.search(text) and not _CUT.search(text):
        return EnvironmentFault(
            "postgres.refused",
            f"{what} refuses the connection",
            why=text,
            help="check user, password, database, TLS and pg_hba.conf",
        )
    return Transient("postgres.unreachable", f"{what} cannot be reached", why=text)


def _transient_code(state: str) -> str:
    if state in ("40001", "40P01"):
        return "postgres.conflict"
    if state == "55P03":
        return "postgres.locked"
    return "postgres.canceled" if state == "57014" else "postgres.unreachable"


def _refused_row(error: psycopg.Error, what: str, state: str) -> Permanent:
    column, constraint = error.diag.column_name, error.diag.constraint_name
    place = f" (column {column})" if column else f" (constraint {constraint})" if constraint else ""
    code = "postgres.constraint" if state[:2] == "23" else "postgres.invalid_value"
    why = f"SQLSTATE {state}" + (f": {error.diag.message_detail}" if error.diag.message_detail else "")
    return Permanent(code, f"{what} refuses the row: {_text(error)}{place}", why=why, help=_hint(error))


def _remedy(state: str) -> str:
    if state == "42501":
        return "GRANT what is missing to the pipeline's user: GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE … TO USER"
    if state == "3D000":
        return "CREATE DATABASE …, or correct the dsn"
    return "check user and password in the dsn, and pg_hba.conf"


def _hint(error: psycopg.Error) -> str | None:
    return error.diag.message_hint


def _text(error: psycopg.Error) -> str:
    """The message on one line, passwords masked (Invariant 9)."""
    text = error.diag.message_primary or str(error)
    return " ".join(_PASSWORD_IN_URI.sub(r"\1\2***", text).split())
