"""What `pipe doctor` looks at on the server of a PostgreSQL connector; see `penstock._postgres_checks`."""

from __future__ import annotations

from collections.abc import Sequence

from connectors._pg_types import SESSION_SETTINGS
from connectors._postgres import PostgresFields, make_session
from penstock._postgres_checks import (
    DEADLINE,
    READ_ONLY,
    Check,
    check_clock,
    check_connections,
    check_encryption,
    check_version,
    examine_with,
)
from penstock.spi import Context, Finding


async def examine_server(config: PostgresFields, context: Context, what: str, checks: Sequence[Check]) -> list[Finding]:
    """What every connector asks of its server, then `checks`, on a connection that can write nothing.

    :raises ComponentError: the server cannot be reached.
    """
    settings = {**SESSION_SETTINGS, **READ_ONLY}
    session = make_session(config, context, what=what, settings=settings, deadline=DEADLINE)
    general = [check_version, check_encryption, check_clock(context.clock), check_connections]
    return await examine_with(session, [*general, *checks])
