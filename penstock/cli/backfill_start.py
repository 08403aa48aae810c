"""`pipe backfill PIPELINE`: a dry run, a shadow or a live delivery of a range of event time."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from penstock.cli import backfill_options as options
from penstock.cli import complete
from penstock.cli.backfill_live import deliver_live, live_lines
from penstock.cli.backfill_options import Delivery, Events, Output, Speed, Trial
from penstock.cli.backfill_parts import Counter, at_counter, begin, carry_out, report_on
from penstock.cli.backfill_render import report_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.rates import rate_of
from penstock.cli.terminal import Terminal
from penstock.errors import ExitStatus


@click.command(
    "start",
    cls=Verb,
    help="""Send the events of a range of time through the pipeline's steps again, as the journal has them; with --source native
    as the source itself has them now.

    \b
    dry_run  counts what would become of them: outcomes, dead letters by cause, time in each step, some outputs.
    shadow   compares with what the run made of them then: proves a changed file, or --against another one.
    live     delivers them, to the sinks that did not have them before.

    The first two touch no sink and no ledger. A live one is carried out by the run that is alive, beside its live work, or here
    where there is none; with --against what other steps make goes to today's sinks, by name. A sink that could overwrite newer
    rows with older ones needs `order_by` in its file, or --overwrite.

    Times are event times; a range is half-open, [from, to). It is a stored job: killed, it goes on where it was (pipe backfill
    resume). With --fail-on-diff a shadow that finds anything ends with 4.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@options.events
@options.trial
@options.speed
@options.delivery
@options.output
@pass_settings
def start(
    settings: Settings, pipeline: str, events: Events, trial: Trial, speed: Speed, delivery: Delivery, output: Output
) -> int:
    options.check(trial, speed, delivery, output)
    terminal = Terminal.of_process()
    asked: dict[str, Any] = {
        "mode": trial.mode,
        "source": events.source,
        "against": trial.against,
        "filter": events.condition,
        "ignore": trial.places,
        "limit": events.limit or 0,
        "rate": rate_of(speed.rate),
        **events.range(settings, terminal),
    }
    if trial.mode == "live":
        asked |= {"sinks": list(delivery.sinks), "redeliver": delivery.redeliver}
        return deliver_live(settings, pipeline, asked, delivery, output.as_json, terminal)

    async def work() -> dict[str, Any]:
        async with at_counter(settings, pipeline, native=events.source == "native") as counter:
            return await _carry_out(counter, asked, speed.concurrency, output, terminal)

    return show_report(asyncio.run(work()), output, terminal)


async def _carry_out(
    counter: Counter, asked: dict[str, Any], concurrency: int | None, output: Output, terminal: Terminal
) -> dict[str, Any]:
    steps = await counter.steps(asked["against"], terminal)
    job = await begin(counter, steps, asked, terminal)
    job = await carry_out(counter, job, steps, concurrency, terminal)
    return report_on(job, counter.pipeline.name, output.html)


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
