"""How far a slot is behind, in bytes and seconds, by one clock."""

from __future__ import annotations

from collections import deque

from connectors.sources._pg_replication import parse_lsn

LAG_QUERY = """
SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
        ELSE pg_catalog.pg_current_wal_flush_lsn() END)::pg_catalog.text,
       s.confirmed_flush_lsn::pg_catalog.text, s.restart_lsn::pg_catalog.text,
       pg_catalog.to_jsonb(s) ->> 'wal_status', (pg_catalog.to_jsonb(s) ->> 'safe_wal_size')::pg_catalog.int8
FROM pg_catalog.pg_replication_slots AS s WHERE s.slot_name = %s
"""
"""The arguments of `Lag.sample` behind the clock's. PostgreSQL 12 has neither `wal_status` nor `safe_wal_size`."""
_KEPT = 4096


class Lag:
    """Samples of where the server and the slot stand.

    Seconds are those since the server passed the first LSN that is not confirmed, as far as this run has watched: the clocks of
    two machines are not compared.

    :ivar bytes: WAL behind the confirmed LSN; None before the first sample.
    :ivar held: WAL that the server keeps for the slot.
    :ivar held_at_first: `held` of the first sample.
    :ivar status: `wal_status`; None before PostgreSQL 13.
    :ivar safe: bytes of WAL after which the server may give up the slot; None where it never does.
    """

    def __init__(self) -> None:
        self.bytes: int | None = None
        self.held = 0
        self.held_at_first: int | None = None
        self.seconds = 0.0
        self.status: str | None = None
        self.safe: int | None = None
        self._passed: deque[tuple[float, int]] = deque(maxlen=_KEPT)

    def sample(
        self, now: float, server: str, confirmed: str, restart: str | None, status: str | None = None, safe: int | None = None
    ) -> None:
        """What `LAG_QUERY` gave, at this moment of the monotonic clock."""
        written, durable = parse_lsn(server), parse_lsn(confirmed)
        self.bytes = max(0, written - durable)
        self.held = max(0, written - parse_lsn(restart)) if restart else 0
        self.held_at_first = self.held if self.held_at_first is None else self.held_at_first
        self.status, self.safe = status, safe
        self._passed.append((now, written))
        while self._passed and self._passed[0][1] <= durable:
            self._passed.popleft()
        self.seconds = now - self._passed[0][0] if self._passed else 0.0

    def exceeds(self, bound: int) -> bool:
        """Whether the slot holds back more than the bound; where it did so at first, more by another bound, so that a run which
        begins far behind can catch up: what is held back goes down in steps, and up in between."""
        first = self.held_at_first or 0
        return self.held > (bound if first <= bound else first + bound)

    @property
    def endangered(self) -> bool:
        """Whether the server is about to give up the slot: what is left is less than a fifth of what is allowed."""
        if self.status == "unreserved":
            return True
        return self.safe is not None and self.safe < (self.held + self.safe) // 5
