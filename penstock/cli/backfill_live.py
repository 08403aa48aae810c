"""`pipe backfill --mode live`: past events delivered, by the run that is alive, or here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from penstock.cli import numbers
from penstock.cli.backfill_native import native_lines
from penstock.cli.backfill_options import Delivery
from penstock.cli.backfill_parts import at_counter, begin, report_on
from penstock.cli.dlq_render import hint_lines
from penstock.cli.job_bar import job_bar
from penstock.cli.job_follow import Seeing, exit_status
from penstock.cli.lazy import Settings
from penstock.cli.running import make_log, only_warnings
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock
from penstock.engine.carry_out import open_state
from penstock.engine.overwriting import overwrite_needed, overwriting_sinks
from penstock.engine.run import RunOptions
from penstock.errors import ExitStatus
from penstock.faults import Faults
from penstock.observe.text import printable
from penstock.state.job_records import Job

Report = Mapping[str, Any]
_SAID = {
    "delivered": "delivered",
    "filtered": "filtered",
    "deduplicated": "deduplicated",
    "dead_lettered": "dead-lettered",
    "held": "had by every sink before",
    "letters": "left to their dead letters",
    "repeated": "repetitions",
    "left_out": "left out by the filter",
}


def deliver_live(
    settings: Settings, name: str, asked: Mapping[str, Any], delivery: Delivery, as_json: bool, terminal: Terminal
) -> int:
    """:return: the exit status.
    :raises UsageError: what was asked for cannot be (`backfill.admission`).
    :raises EnvironmentFault: `sink.overwrites`, where it was not asked for (rule 11).
    """
    job, report = asyncio.run(_deliver(settings, name, asked, delivery, terminal))
    if as_json:
        terminal.show_json(report)
    elif not delivery.no_wait:
        terminal.say(*live_lines(report, terminal.err_style))
    else:
        hints = [(f"pipe backfill report {job.id}", "how far it is"), (f"pipe backfill cancel {job.id}", "ends it")]
        total = numbers.plural(job.progress.total or 0, "event")
        terminal.say(
            f"{printable(report['pipeline'])}: job {job.id} backfills about {total}", *hint_lines(hints, terminal.err_style)
        )
    return int(ExitStatus.DONE if delivery.no_wait else exit_status(job, bool(report["dead_lettered"])))


async def _deliver(
    settings: Settings, name: str, asked: Mapping[str, Any], delivery: Delivery, terminal: Terminal
) -> tuple[Job, dict[str, Any]]:
    log = only_warnings(make_log(settings, terminal))  # why a job failed, the command says itself
    options = RunOptions(clock=SystemClock(), faults=Faults.from_environment(), log=log)
    async with at_counter(settings, name, native=asked["source"] == "native") as counter:
        pipeline = counter.pipeline
        steps = await counter.steps(asked["against"], terminal)
        async with open_state(pipeline, options) as (store, assembly):
            wanted = set(asked["sinks"] or assembly.sinks) & {sink.name for sink in steps.sinks}
            named = {name: sink for name, sink in assembly.sinks.items() if name in wanted}
            asking = [] if delivery.overwrite else overwriting_sinks(named)
            if asking:
                raise overwrite_needed(asking)
            job = await begin(counter, steps, asked, terminal)
            if not delivery.no_wait:
                try:
                    with job_bar(terminal, "backfill") as show:
                        job = await Seeing(pipeline, store, options, terminal, show).through(job)
                finally:
                    await counter.desk.tidy(job)
        return job, report_on(job, pipeline.name, None)


def live_lines(report: Report, style: Style) -> list[str]:
    """What became of them."""
    parts = [(report[name], f"{numbers.count(report[name])} {said}") for name, said in _SAID.items()]
    said = ", ".join(style.yellow(text) if "dead-" in text else text for count, text in parts if count)
    name = style.bold(printable(report["pipeline"]))
    steps = f", through the steps of {printable(report['against'])}" if report["against"] else ""
    head = f"{name}: {numbers.plural(report['read'], 'event')} of the range{steps}: {said or 'none'}"
    return [head, *native_lines(report, style)]
