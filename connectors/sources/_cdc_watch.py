"""What is done beside the stream: the slot's lag is sampled, and heartbeats are written."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from connectors._postgres import ask
from connectors.sources._cdc_config import HeartbeatFields
from connectors.sources._cdc_lag import LAG_QUERY, Lag
from penstock.clock import Clock
from penstock.errors import ComponentError
from penstock.postgres import Session

_BEAT = "SELECT pg_catalog.pg_logical_emit_message(false, 'penstock', 'heartbeat')"


class Watched(msgspec.Struct, frozen=True):
    """What is watched, and how often.

    :ivar interval: seconds between two looks.
    :ivar bound: bytes of WAL that the slot may hold back.
    """

    slot: str
    interval: float
    heartbeat: HeartbeatFields | None
    bound: int | None


class Watch:
    """The slot, looked at from a second connection: `run` is a task of its own."""

    def __init__(self, watched: Watched, session: Session, clock: Clock) -> None:
        self._watched = watched
        self._session = session
        self._clock = clock
        self._lag = Lag()
        self._fault: str | None = None

    async def run(self) -> None:
        """Sample and beat for ever. What cannot be asked now is told by `health` and asked again."""
        watched, clock = self._watched, self._clock
        heartbeat = watched.heartbeat
        pause = min(watched.interval, heartbeat.interval if heartbeat else watched.interval)
        beat = clock.monotonic()
        while True:
            try:
                if heartbeat is not None and clock.monotonic() >= beat:
                    beat = clock.monotonic() + heartbeat.interval
                    await ask(self._session, lambda c: c.execute(_BEAT))
                await self._sample()
                self._fault = None
            except ComponentError as error:
                self._fault = f"the slot {watched.slot} cannot be watched: {error.code}: {error}"
            await clock.sleep(pause)

    async def _sample(self) -> None:
        row = await ask(self._session, lambda c: c.execute(LAG_QUERY, (self._watched.slot,)).fetchone())
        if row is not None:
            self._lag.sample(self._clock.monotonic(), *row)

    def gauges(self) -> Mapping[str, float]:
        """Lag of the slot, once it was sampled."""
        if self._lag.bytes is None:
            return {}
        return {"slot_lag_bytes": float(self._lag.bytes), "slot_lag_seconds": self._lag.seconds}

    def health(self) -> str | None:
        """A slot that is too far behind, or cannot be watched."""
        bound, held = self._watched.bound, self._lag.held
        if bound is not None and held > bound:
            return f"slot.lag: the slot {self._watched.slot} holds back {held:,} bytes of WAL, more than max_slot_lag ({bound:,})"
        return self._fault
