"""How far a slot is behind, in bytes and seconds, by one clock."""

from __future__ import annotations

from collections import deque

from connectors.sources._pg_replication import parse_lsn

LAG_QUERY = """
SELECT pg_catalog.pg_current_wal_flush_lsn()::pg_catalog.text, s.confirmed_flush_lsn::pg_catalog.text,
       s.restart_lsn::pg_catalog.text
FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = %s
"""
_KEPT = 4096


class Lag:
    """Samples of where the server and the slot stand.

    Seconds are those since the server passed the first LSN that is not confirmed, as far as this run has watched: the clocks of
    two machines are not compared.

    :ivar bytes: WAL behind the confirmed LSN; None before the first sample.
    :ivar held: WAL that the server keeps for the slot.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self.held = 0
        self.seconds = 0.0
        self._passed: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def sample(self, now: float, server: str, confirmed: str, restart: str | None) -> None:
        """What `LAG_QUERY` gave, at this moment of the monotonic clock."""
        written, durable = parse_lsn(server), parse_lsn(confirmed)
        self.bytes = max(0, written - durable)
        self.held = max(0, written - parse_lsn(restart)) if restart else 0
        self._passed.append((now, written))
        while self._passed and self._passed[0][1] <= durable:
            self._passed.popleft()
        self.seconds = now - self._passed[0][0] if self._passed else 0.0
