"""Parked lanes and waiting retries, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.cli import numbers
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style
from penstock.clock import rfc3339
from penstock.state.records import ParkedLane, Retries

LANES = 5
"""Parked lanes that are shown one by one."""
_SHORT_ID = 10


def retry_lines(retries: Retries, now: float) -> list[str]:
    """Only where something waits."""
    if retries.next_at is None:
        return []
    seconds = retries.next_at - now
    due = f"next in {numbers.duration(seconds)}, at {numbers.utc(retries.next_at)}" if seconds > 0 else "next is due"
    return [f"  {numbers.count(retries.waiting)} wait for a retry, the {due}"]


def lane_lines(number: int, lanes: Sequence[ParkedLane], style: Style, width: int | None) -> list[str]:
    """Only where lanes are held: those with most behind their head."""
    if not number:
        return []
    more = f", of which {len(lanes)} are shown" if number > len(lanes) else ""
    columns = [
        Column("LANE", shrinks=True),
        Column("PARTITION", yields=True),
        Column("HEAD", paint=style.cyan),
        Column("BEHIND IT", "right"),
    ]
    rows = [(lane.lane, lane.partition, lane.head[:_SHORT_ID], numbers.count(lane.behind)) for lane in lanes]
    return [f"  {numbers.plural(number, 'lane')} parked{more}", *table(columns, rows, style, width, "    ")]


def parked_document(number: int, lanes: Sequence[ParkedLane]) -> dict[str, Any]:
    """`lanes` counts all; `longest` are those with most behind their head."""
    longest = [{"partition": lane.partition, "lane": lane.lane, "head": lane.head, "behind": lane.behind} for lane in lanes]
    return {"lanes": number, "longest": longest}


def retries_document(retries: Retries) -> dict[str, Any]:
    """How many dead letters wait for a retry, and when the first of these is due."""
    return {"waiting": retries.waiting, "next_at": None if retries.next_at is None else rfc3339(retries.next_at)}


def held_document(lane: ParkedLane | None) -> dict[str, Any] | None:
    """The lane that a letter holds or waits in: the letter that holds it, and how many are behind that one."""
    return None if lane is None else {"head": lane.head, "behind": lane.behind}


def held_words(lane: ParkedLane, letter: str) -> str:
    """The same for people.

    :param letter: id of the letter that is shown.
    """
    whose = "held by this one" if lane.head == letter else f"held by {lane.head[:_SHORT_ID]}"
    return f"{lane.lane}  ({whose}, {numbers.count(lane.behind)} behind it)"
