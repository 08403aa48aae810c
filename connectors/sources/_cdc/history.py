"""Whether a server's log still holds what the pipeline has read of it: a server may have been restored, or have lost its changes
to another that took its place.

A log that ends before the checkpoint is told by its end. One that was written on since is told by its timeline: a server that is
restored to a moment, or promoted, begins a new one, and knows where it left the old. What this cannot tell is a log of the same
timeline that has grown beyond the checkpoint: a copy of the files, put back and written to while no run looked.

Source: PostgreSQL manual, "Streaming Replication Protocol" (IDENTIFY_SYSTEM, TIMELINE_HISTORY); "Timelines".
"""

from __future__ import annotations

import msgspec

from connectors.sources._cdc.positions import Start
from connectors.sources._cdc.slot import reset
from connectors.sources._cdc.wire import Wire
from connectors.sources._pg_replication import lsn_text, parse_lsn
from penstock.errors import EnvironmentFault, Transient

DIVERGED = "slot.diverged"
_STANDING = (
    "SELECT pg_catalog.pg_is_in_recovery(), (CASE WHEN pg_catalog.pg_is_in_recovery() "
    "THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END)::pg_catalog.text"
)


class Standing(msgspec.Struct, frozen=True):
    """Where a server is.

    :ivar timeline: of its log; 0 of a stand-by, which may change it while it is read.
    :ivar end: LSN of what can be read of it.
    """

    timeline: int
    end: int

    @property
    def is_standby(self) -> bool:
        return self.timeline == 0


async def standing(wire: Wire) -> Standing:
    """Where the server is now."""
    _, timeline, *_ = await wire.query("IDENTIFY_SYSTEM")
    in_recovery, end = await wire.query(_STANDING)
    return Standing(0 if in_recovery else int(timeline), parse_lsn(end) if end else 0)


async def check_history(wire: Wire, slot: str, pipeline: str, checkpoint: Start) -> Standing:
    """Where the server is, whose log holds everything up to the checkpoint.

    :raises EnvironmentFault: `slot.behind`, `slot.diverged`.
    :raises Transient: `slot.behind`, of a stand-by that may catch up.
    """
    found = await standing(wire)
    if _passes(checkpoint, found.end):
        raise _late(slot, found, checkpoint) if found.is_standby else behind(slot, pipeline, found.end, checkpoint)
    if checkpoint.timeline not in (0, found.timeline) and not found.is_standby:
        left = await _left(wire, found.timeline, checkpoint.timeline)
        if left is None or _passes(checkpoint, left):
            raise _diverged(slot, pipeline, found.timeline, left, checkpoint)
    return found


def behind(slot: str, pipeline: str, end: int, checkpoint: Start) -> EnvironmentFault:
    """:param end: of the log, or of what the slot has given."""
    return EnvironmentFault(
        "slot.behind",
        f"the server of the slot {slot} stands at {lsn_text(end)}, and the pipeline has seen changes up to {_seen(checkpoint)}",
        why="the server's log ends before that: it was restored, or a stand-by took over that lacked the last changes",
        help=f"{reset(pipeline)}: reading begins anew; or `snapshot: {{ mode: when_needed }}`",
    )


async def _left(wire: Wire, timeline: int, old: int) -> int | None:
    """Where this timeline left an older one; None where it does not descend from it."""
    if timeline == 1:
        return None
    _, content = await wire.query(f"TIMELINE_HISTORY {timeline}")
    text = content if isinstance(content, str) else bytes(content).decode(errors="replace")
    for line in text.splitlines():
        number, _, rest = line.partition("\t")
        if number.strip() == str(old):
            return parse_lsn(rest.split()[0])
    return None


def _passes(checkpoint: Start, end: int) -> bool:
    """Whether the checkpoint lies behind this end of a log; one in mid-transaction names the beginning of its commit record."""
    return checkpoint.end > end or (checkpoint.place > 0 and checkpoint.commit >= end)


def _seen(checkpoint: Start) -> str:
    return lsn_text(max(checkpoint.commit, checkpoint.end))


def _late(slot: str, found: Standing, checkpoint: Start) -> Transient:
    return Transient(
        "slot.behind",
        f"the stand-by of the slot {slot} has replayed up to {lsn_text(found.end)}, and the pipeline has seen changes up to "
        f"{_seen(checkpoint)}",
        help="wait until it has caught up",
    )


def _diverged(slot: str, pipeline: str, timeline: int, left: int | None, checkpoint: Start) -> EnvironmentFault:
    old = checkpoint.timeline
    where = "does not descend from it" if left is None else f"left it at {lsn_text(left)}"
    return EnvironmentFault(
        DIVERGED,
        f"the server of the slot {slot} is on timeline {timeline}, and the pipeline has seen changes of timeline {old} up to "
        f"{_seen(checkpoint)}",
        why=f"timeline {timeline} {where}: it was restored, or a stand-by took over that lacked the last changes; "
        "what the pipeline has seen since is not in its tables, and changes of the new timeline would be passed over",
        help=f"{reset(pipeline)}: reading begins anew; or `snapshot: {{ mode: when_needed }}`",
    )
