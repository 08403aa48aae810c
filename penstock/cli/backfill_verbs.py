"""`pipe backfill ls | report | resume`: backfills that were begun."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from penstock.builtins import room
from penstock.cli import complete
from penstock.cli.backfill_options import Output
from penstock.cli.backfill_parts import Backfills, at_counter, carry_out, report_on
from penstock.cli.backfill_start import show_report
from penstock.cli.job_find import find_job
from penstock.cli.jobs_ask import go_on
from penstock.cli.jobs_look import list_jobs
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.terminal import Terminal
from penstock.state.job_records import Job

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
html = click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the report as a page.")
fail_on_diff = click.option("--fail-on-diff", is_flag=True, help="End with 4 where the shadow is not clean.")


@click.command("ls", cls=Verb, help="Backfills of the pipelines named, or of all in the project, newest first.")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@as_json
@pass_settings
def ls(settings: Settings, pipelines: tuple[str, ...], only_open: bool, as_json: bool) -> None:
    list_jobs(settings, pipelines, only_open, as_json, "backfill")


@click.command("report", cls=Verb, help="What a backfill has come to so far.")
@click.argument("job")
@html
@fail_on_diff
@as_json
@pass_settings
def report(settings: Settings, job: str, html: Path | None, fail_on_diff: bool, as_json: bool) -> int:
    terminal = Terminal.of_process()

    async def work() -> dict[str, Any]:
        ref, found = await find_job(settings, job)
        return report_on(found, ref.pipeline, html)

    return show_report(asyncio.run(work()), Output(fail_on_diff, html, as_json), terminal)


@click.command(
    "resume",
    cls=Verb,
    help="""Go on with a backfill that rests, or whose process died, where it was.

    A dry run or a shadow is carried out here; a live one by the run that is alive, or here.""",
)
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Of a live one: leave it to the run; without one it waits for the next.")
@click.option("--concurrency", type=click.IntRange(min=0), help="Worker processes; 0: none.  [default: as there is work]")
@html
@fail_on_diff
@as_json
@pass_settings
def resume(
    settings: Settings,
    job: str,
    no_wait: bool,
    concurrency: int | None,
    html: Path | None,
    fail_on_diff: bool,
    as_json: bool,
) -> int:
    terminal = Terminal.of_process()
    _, found = asyncio.run(find_job(settings, job))
    backfills: Backfills = room("backfill")
    if not found.alone:
        status = go_on(settings, job, no_wait, as_json, backfills.file(found))
        asyncio.run(_tidy(settings, found))
        return status

    async def work() -> dict[str, Any]:
        async with at_counter(settings, backfills.file(found)) as counter:
            steps = await counter.steps(counter.desk.against(found), terminal)
            await counter.store.jobs.resume(found.id)
            done = await carry_out(counter, found, steps, concurrency, terminal)
            return report_on(done, counter.pipeline.name, html)

    return show_report(asyncio.run(work()), Output(fail_on_diff, html, as_json), terminal)


async def _tidy(settings: Settings, job: Job) -> None:
    backfills: Backfills = room("backfill")
    async with at_counter(settings, backfills.file(job)) as counter:
        await counter.desk.tidy(job)
