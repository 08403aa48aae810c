"""`pipe backfill PIPELINE`: a dry run or a shadow over a range of event time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from penstock.cli import complete
from penstock.cli.backfill_live import Delivery, deliver_live, live_lines
from penstock.cli.backfill_parts import Counter, at_counter, carry_out, report_on
from penstock.cli.backfill_render import report_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.rates import rate_of
from penstock.cli.sender import sender
from penstock.cli.terminal import Terminal
from penstock.cli.times import find_zone, parse_time
from penstock.clock import rfc3339
from penstock.errors import ExitStatus, UsageError

MODES = ("dry_run", "shadow", "live")


@dataclass(frozen=True, slots=True)
class Output:
    """What to print, and when that is a failure."""

    fail_on_diff: bool
    html: Path | None
    as_json: bool


@click.command(
    "start",
    cls=Verb,
    help="""Send the events of a range of time through the pipeline's steps again, as the journal has them.

    \\b
    dry_run  counts what would become of them: outcomes, dead letters by cause, time in each step, some outputs.
    shadow   compares with what the run made of them then: proves a changed file, or --against another one.
    live     delivers them, to the sinks that did not have them before.

    The first two touch no sink and no ledger. A live one is carried out by the run that is alive, beside its live work, or here
    where there is none; a sink that could overwrite newer rows with older ones needs `order_by` in its file, or --overwrite.

    Times are event times; a range is half-open, [from, to). It is a stored job: killed, it goes on where it was (pipe backfill
    resume). With --fail-on-diff a shadow that finds anything ends with 4.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.option("--from", "start", required=True, metavar="TIME", help="First event time: 2026-11-01, -2h, yesterday, RFC 3339.")
@click.option("--to", "end", required=True, metavar="TIME", help="Event time to stop before.")
@click.option("--mode", type=click.Choice(MODES), default="dry_run", show_default=True, help="What to do.")
@click.option("--against", metavar="FILE|VERSION", default="", help="Try the steps of this file or stored version instead.")
@click.option("--filter", "condition", metavar="JQ", default="", help="Only events for which it is true: '.data.total >= 100'.")
@click.option("--ignore", multiple=True, metavar="PATH", help="A place whose differences do not count: '.data.ts'.")
@click.option("--limit", type=click.IntRange(min=1), help="Look at about so many events, spread over the range.")
@click.option("--rate", metavar="N/s", help="No more events than that: 1000/s.")
@click.option("--concurrency", type=click.IntRange(min=0), help="Worker processes; 0: none.  [default: as there is work]")
@click.option("--sink", "sinks", multiple=True, metavar="NAME", help="Of a live one: to this sink alone, such as a new one.")
@click.option("--redeliver", is_flag=True, help="Of a live one: also what the sinks had before.")
@click.option("--overwrite", is_flag=True, help="Of a live one: older events may overwrite newer rows.")
@click.option("--no-wait", is_flag=True, help="Of a live one: leave it to the run; without one it waits for the next.")
@click.option("--fail-on-diff", is_flag=True, help="End with 4 where the shadow is not clean.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the report as a page, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@pass_settings
def start(
    settings: Settings,
    pipeline: str,
    start: str,
    end: str,
    mode: str,
    against: str,
    condition: str,
    ignore: tuple[str, ...],
    limit: int | None,
    rate: str | None,
    concurrency: int | None,
    sinks: tuple[str, ...],
    redeliver: bool,
    overwrite: bool,
    no_wait: bool,
    fail_on_diff: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    if mode != "live" and (sinks or redeliver or overwrite or no_wait):
        raise UsageError("usage.invalid", "--sink, --redeliver, --overwrite and --no-wait are of a live one", help="--mode live")
    if mode == "live" and (against or html is not None or concurrency is not None):
        raise UsageError(
            "usage.invalid",
            "--against, --html and --concurrency are not of a live one",
            why="it runs the pipeline as it runs now, and its `workers` say how many processes there are",
        )
    if mode != "shadow" and (fail_on_diff or ignore):
        raise UsageError("usage.invalid", "--fail-on-diff and --ignore are of a shadow", help="--mode shadow")
    terminal = Terminal.of_process()
    asked: dict[str, Any] = {
        "mode": mode,
        "against": against,
        "filter": condition,
        "ignore": [_place(path) for path in ignore],
        "limit": limit or 0,
        "rate": rate_of(rate),
        **_range(start, end, settings, terminal),
    }

    if mode == "live":
        asked |= {"sinks": list(sinks), "redeliver": redeliver}
        return deliver_live(settings, pipeline, asked, Delivery(overwrite, not no_wait, as_json), terminal)

    async def work() -> dict[str, Any]:
        async with at_counter(settings, pipeline) as counter:
            return await _carry_out(counter, asked, concurrency, html, terminal)

    report = asyncio.run(work())
    return show_report(report, Output(fail_on_diff, html, as_json), terminal)


async def _carry_out(
    counter: Counter, asked: dict[str, Any], concurrency: int | None, html: Path | None, terminal: Terminal
) -> dict[str, Any]:
    steps = await counter.steps(asked["against"], terminal)
    job = await counter.desk.create(steps, asked, sender())
    job = await carry_out(counter, job, steps, concurrency, terminal)
    return report_on(job, counter.pipeline.name, html)


def show_report(report: dict[str, Any], output: Output, terminal: Terminal) -> int:
    """:return: the exit status."""
    if output.as_json:
        terminal.show_json(report)
    elif report["mode"] == "live":
        terminal.show(*live_lines(report, terminal.style))
    else:
        terminal.show(*report_lines(report, terminal.style, terminal.width))
    if output.html is not None:
        terminal.say(f"the page is {output.html}")
    different = report.get("verdict", "clean") != "clean"
    return int(ExitStatus.FOUND if output.fail_on_diff and different else ExitStatus.DONE)


def _range(start: str, end: str, settings: Settings, terminal: Terminal) -> dict[str, float]:
    """Both ends, echoed in UTC."""
    zone, now = find_zone(settings.tz), datetime.now(UTC)
    first, last = parse_time(start, now, zone).timestamp(), parse_time(end, now, zone).timestamp()
    terminal.say(f"events from {rfc3339(first)} to before {rfc3339(last)}")
    return {"start": first, "end": last}


def _place(path: str) -> str:
    if not path.startswith(".") or len(path) < 2:
        raise UsageError("usage.bad_path", f"{path!r} is no place in an event", help="as in jq: --ignore .data.ts")
    return path
