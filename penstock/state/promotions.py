"""Versions that somebody has let through, for pipelines with `promote: required`. Each method is one transaction."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.clock import Clock
from penstock.state import pipeline_tables
from penstock.state.database import Database
from penstock.state.dialect import Connection
from penstock.state.pipeline_records import Version


@dataclass(frozen=True, slots=True)
class Promotion:
    """Who let a version through, and on what evidence.

    :ivar by: `user@host`; `job`: the shadow that was looked at.
    :ivar differences: how many outputs of it differed, all of them accepted.
    """

    version: str
    at: float
    by: str
    job: str
    differences: int


class Promotions:
    """See the module."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def promote(self, version: Version, by: str, job: str, differences: int) -> Promotion:
        """Let it through; what was said of it before is replaced."""
        promotion = Promotion(version.version, self._clock.now(), by, job, differences)
        await self._database.write(lambda db: _promote(db, version, promotion))
        return promotion

    async def latest(self) -> list[Promotion]:
        """Newest first."""
        return await self._database.look(_latest)

    async def admits(self, version: str) -> bool:
        """Whether it may run: it was promoted, or has run before, or no version of the pipeline ever has."""
        return await self._database.look(lambda db: _admits(db, version))


def _promote(connection: Connection, version: Version, promotion: Promotion) -> None:
    pipeline_tables.keep_version(connection, version)
    connection.execute(
        "INSERT INTO promotions VALUES (?, ?, ?, ?, ?) ON CONFLICT (version) DO UPDATE SET promoted_at = excluded.promoted_at, "
        "promoted_by = excluded.promoted_by, job = excluded.job, differences = excluded.differences",
        (promotion.version, promotion.at, promotion.by, promotion.job, promotion.differences),
    )


def _latest(connection: Connection) -> list[Promotion]:
    query = "SELECT version, promoted_at, promoted_by, job, differences FROM promotions ORDER BY promoted_at DESC, version"
    return [Promotion(*row) for row in connection.execute(query).fetchall()]


def _admits(connection: Connection, version: str) -> bool:
    ran = connection.execute("SELECT count(*), sum(CASE WHEN version = ? THEN 1 ELSE 0 END) FROM epochs", (version,)).fetchone()
    promoted = connection.execute("SELECT 1 FROM promotions WHERE version = ?", (version,)).fetchone()
    return promoted is not None or not ran[0] or bool(ran[1])
