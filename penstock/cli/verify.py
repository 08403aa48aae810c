"""`pipe verify PIPELINE`: is every event of a range accounted for, from the source to the sinks?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import complete
from penstock.cli.bar import bar
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_named
from penstock.cli.stores import StoreRef, reading
from penstock.cli.terminal import Terminal
from penstock.cli.times import parse_range
from penstock.cli.verify_render import report_lines
from penstock.clock import SystemClock, rfc3339
from penstock.config.stored import Around
from penstock.engine.assemble import Surroundings
from penstock.errors import ExitStatus
from penstock.faults import Faults

Tell = Callable[[str, int, int | None], None]


class Verifying(Protocol):
    """What the command uses of verifications (`verify.verifier.Verifier`)."""

    async def verify(self, start: float, end: float, sinks: tuple[str, ...], tell: Tell, *, source: bool) -> dict[str, Any]: ...


@click.command(
    "verify",
    cls=Verb,
    help="""Reconcile source, journal, dead letters and sinks over a range of event time: every event is accounted for, or named.

    An event of the source has its line in the journal. What was delivered is in its sinks; what failed has its dead letter.
    Changes nothing, and may run beside a live run. Ends with 4 where something is missing.

    Times are event times; a range is half-open, [from, to).""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.option("--from", "start", required=True, metavar="TIME", help="First event time: 2026-11-01, -2h, yesterday, RFC 3339.")
@click.option("--to", "end", required=True, metavar="TIME", help="Event time to stop before.")
@click.option("--sink", "sinks", multiple=True, metavar="NAME", help="Look into this sink alone; may be given several times.")
@click.option("--no-source", is_flag=True, help="Do not read the source again.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@pass_settings
def verify(
    settings: Settings, pipeline: str, start: str, end: str, sinks: tuple[str, ...], no_source: bool, as_json: bool
) -> int:
    terminal, declared = Terminal.of_process(), load_named(settings, pipeline)
    first, last = parse_range(start, end, settings.tz, datetime.now(UTC))
    terminal.say(f"events from {rfc3339(first)} to before {rfc3339(last)}")

    async def work() -> dict[str, Any]:
        around = Around(declared.file, declared.project, declared.state, settings.environment(), declared)
        surroundings = Surroundings(SystemClock(), random.Random(), Faults())
        async with reading(StoreRef(declared.name, declared.state, server=declared.state_server)) as store:
            verifier: Verifying = room("verify")(declared, store, around, surroundings)
            with bar(terminal, "journal", talks=False) as show:
                return await verifier.verify(
                    first, last, sinks, lambda stage, done, total: show(done, total, what=stage), source=not no_source
                )

    report = asyncio.run(work())
    if as_json:
        terminal.show_json(report)
    else:
        terminal.show(*report_lines(report, terminal.style, terminal.width))
    return int(ExitStatus.DONE if report["accounted"] else ExitStatus.FOUND)
