"""What is done beside the stream: the slot's lag is sampled, heartbeats are written, and the publication is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from connectors._postgres import ask
from connectors.sources._cdc.config import PostgresCdcConfig
from connectors.sources._cdc.lag import LAG_QUERY, Lag
from connectors.sources._cdc.publication import prepare_publication
from connectors.sources._cdc.slot import drop, reset
from penstock.clock import Clock
from penstock.errors import ComponentError, EnvironmentFault
from penstock.postgres import Session

if TYPE_CHECKING:
    import psycopg

_BEAT = "SELECT pg_catalog.pg_logical_emit_message(false, 'penstock', %s::pg_catalog.text)"
_SIGNATURE, _FLUSH = "boolean, text, text", ", boolean"
_WITH_FLUSH = 170000


class Watched(msgspec.Struct, frozen=True):
    """What is watched."""

    pipeline: str
    slot: str
    publication: str
    config: PostgresCdcConfig


class Watch:
    """The slot, looked at from a second connection: `run` is a task of its own, which ends only with a reason to end the run."""

    def __init__(self, watched: Watched, session: Session, clock: Clock) -> None:
        self._watched = watched
        self._session = session
        self._clock = clock
        self._lag = Lag()
        self._fault: str | None = None

    async def run(self) -> None:
        """Sample and beat for ever. What cannot be asked now is told by `health` and asked again.

        :raises EnvironmentFault: `slot.lag`, `publication.*`, `source.no_table`: the run cannot go on as it is declared.
        """
        heartbeat, clock = self._watched.config.heartbeat, self._clock
        interval = self._watched.config.status_interval
        pause = min(interval, heartbeat.interval if heartbeat else interval)
        beat = clock.monotonic()
        while True:
            lacking = None
            self._fault = None
            try:
                lacking = await self._look()
            except ComponentError as error:
                self._fault = f"the slot {self._watched.slot} cannot be watched: {error.code}: {error}"
            if heartbeat is not None and clock.monotonic() >= beat:
                beat = clock.monotonic() + heartbeat.interval
                await self._beat(heartbeat.message)
            if lacking is not None:
                raise lacking
            self._refuse_lag()
            await clock.sleep(pause)

    async def _look(self) -> EnvironmentFault | None:
        """Take a sample; what the publication lacks by now, whose changes would be missing and nothing would show it."""
        watched = self._watched
        row = await ask(self._session, lambda c: c.execute(LAG_QUERY, (watched.slot,)).fetchone())
        if row is not None:
            self._lag.sample(self._clock.monotonic(), *row)
        config, publication = watched.config, watched.publication
        return await ask(self._session, _caught(lambda c: prepare_publication(c, config, publication, fresh=False)))

    async def _beat(self, message: str) -> None:
        """A heartbeat that could not be written is told, and tried again: it ends nothing."""
        signature = _SIGNATURE
        try:
            signature = await ask(self._session, lambda c: _SIGNATURE + _FLUSH * (c.info.server_version >= _WITH_FLUSH))
            await ask(self._session, lambda c: c.execute(_BEAT, (message,)))
        except ComponentError as error:
            self._fault = f"no heartbeat could be written: {error.code}: {error}"
            if isinstance(error, EnvironmentFault):
                self._fault += f"; GRANT EXECUTE ON FUNCTION pg_logical_emit_message({signature}) TO the pipeline's user"

    def _refuse_lag(self) -> None:
        config, lag = self._watched.config, self._lag
        if not config.stops_at_lag or config.lag_bound is None or not lag.exceeds(config.lag_bound):
            return
        pipeline, slot = self._watched.pipeline, self._watched.slot
        raise EnvironmentFault(
            "slot.lag",
            self._behind(),
            why="`max_slot_lag` says to stop: sinks are slower than the tables change, or fail",
            help=f"pipe run {pipeline} --set source.postgres_cdc.max_slot_lag.action=unhealthy goes on where it stopped; "
            f"until then the server keeps the WAL, and gives it up with the slot alone: {drop(slot)}; then {reset(pipeline)}",
        )

    def gauges(self) -> Mapping[str, float]:
        """How far the slot is behind, once it was looked at."""
        lag = self._lag
        if lag.bytes is None:
            return {}
        found = {"slot_lag_bytes": float(lag.bytes), "slot_lag_seconds": lag.seconds, "slot_held_bytes": float(lag.held)}
        return found if lag.safe is None else {**found, "slot_safe_bytes": float(lag.safe)}

    def health(self) -> str | None:
        """A slot that is too far behind, in danger, or cannot be watched; heartbeats that cannot be written."""
        if self._too_far():
            return f"slot.lag: {self._behind()}"
        if self._lag.endangered:
            return f"slot.near_limit: {self._near()}"
        return self._fault

    def _too_far(self) -> bool:
        bound = self._watched.config.lag_bound
        return bound is not None and self._lag.held > bound

    def _behind(self) -> str:
        held, bound = self._lag.held, self._watched.config.lag_bound
        return f"the slot {self._watched.slot} holds back {held:,} bytes of WAL, more than max_slot_lag ({bound:,})"

    def _near(self) -> str:
        lag = self._lag
        soon = f"after {lag.safe:,} more" if lag.safe is not None and lag.safe > 0 else "at the next checkpoint"
        return (
            f"the slot {self._watched.slot} holds back {lag.held:,} bytes of WAL, and the server gives it up {soon} "
            f"(wal_status {lag.status}): ALTER SYSTEM SET max_slot_wal_keep_size to more, SELECT pg_reload_conf()"
        )


def _caught(check: Callable[[psycopg.Connection[Any]], None]) -> Callable[[psycopg.Connection[Any]], EnvironmentFault | None]:
    """What the check raises, as a value: errors of the connection are another matter."""

    def caught(connection: psycopg.Connection[Any]) -> EnvironmentFault | None:
        try:
            check(connection)
        except EnvironmentFault as fault:
            return fault
        return None

    return caught
