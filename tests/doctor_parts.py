"""What tests of `pipe doctor` share: what was found, and roles that may do little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from penstock.spi import Finding
from penstock.testing.servers import Database


def wrong(findings: Sequence[Finding]) -> dict[str, Finding]:
    """By code, what is not as it should be. No code comes twice."""
    found = [finding for finding in findings if finding.severity != "ok"]
    by_code = {finding.code: finding for finding in found}
    assert len(by_code) == len(found), found
    return by_code


def sound(findings: Sequence[Finding]) -> dict[str, str]:
    """By code, the message of what is as it should be."""
    return {finding.code: finding.message for finding in findings if finding.severity == "ok"}


@contextmanager
def role_of(database: Database, options: str = "") -> Iterator[str]:
    """A role of the test's own; password `x`."""
    name = f"role_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' {options}")
    try:
        yield name
    finally:
        database.execute(f"DROP OWNED BY {name}")
        database.execute(f"DROP ROLE {name}")


def dsn_of(database: Database, role: str) -> str:
    return database.server.dsn(database.name, user=role, password="x")
