"""What components write to the log: their name stands with it, and nobody floods it."""

from __future__ import annotations

from penstock.observe.component_log import LINES, PERIOD, ComponentLog
from penstock.observe.log import Incident
from penstock.spi import Notes
from penstock.testing.clock import FakeClock


async def test_a_line_names_pipeline_and_component() -> None:
    incidents: list[Incident] = []
    log: Notes = ComponentLog(incidents.append, FakeClock(), "shop", "source")
    log("table.changed", "public.orders has a column more", level="warning", why="ALTER TABLE", help="look")
    log("table.read", "all of it")
    assert incidents == [
        Incident("warning", "table.changed", "public.orders has a column more", "look", "shop", "source", "ALTER TABLE"),
        Incident("info", "table.read", "all of it", None, "shop", "source", None),
    ]


async def test_what_repeats_is_left_out_and_counted_by_code() -> None:
    incidents: list[Incident] = []
    clock = FakeClock()
    log = ComponentLog(incidents.append, clock, "shop", "source")
    for n in range(LINES + 7):
        log("a.b", f"line {n}")
    log("c.d", "another code")
    assert [incident.message for incident in incidents] == [*(f"line {n}" for n in range(LINES)), "another code"]
    await clock.advance(PERIOD)
    log("a.b", "later")
    log("a.b", "again")
    assert [incident.message for incident in incidents[LINES + 1 :]] == [
        "later (and 7 more lines of this code before, which were left out)",
        "again",
    ]
