"""`pipe backfill ls | report | pause | resume | cancel`: backfills that were begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.backfill_parts import Backfills, at_counter, carry_out, report_on
from penstock.cli.backfill_start import Output, show_report
from penstock.cli.job_bar import pace_text
from penstock.cli.job_find import find_job
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.stores import each_store, reading
from penstock.cli.table import Column, table
from penstock.cli.terminal import Terminal
from penstock.state.job_book import JobBook
from penstock.state.job_records import Job

KIND = "backfill"
LISTED = 50

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
html = click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the report as a page.")
fail_on_diff = click.option("--fail-on-diff", is_flag=True, help="End with 4 where the shadow is not clean.")


@click.command("ls", cls=Verb, help="Backfills of the pipelines named, or of all in the project, newest first.")
@click.argument("pipelines", nargs=-1, shell_complete=complete.pipelines)
@as_json
@pass_settings
def ls(settings: Settings, pipelines: tuple[str, ...], as_json: bool) -> None:
    terminal = Terminal.of_process()
    refs, none = find_stores(settings, list(pipelines)), list[Job]()
    kept = asyncio.run(each_store(refs, lambda store: store.jobs.latest(LISTED), none))
    jobs = [(pipeline, job) for pipeline, found in kept for job in found if job.kind == KIND]
    jobs.sort(key=lambda each: -each[1].created_at)
    if as_json:
        terminal.show_json({"items": [job_document(pipeline, job) for pipeline, job in jobs], "next": None})
    elif jobs:
        columns = [
            Column("job"),
            Column("pipeline", shrinks=True),
            Column("state"),
            Column("done", "right"),
            Column("pace", yields=True),
            Column("begun", yields=True),
            Column("by", yields=True),
        ]
        terminal.show(*table(columns, [_row(*each) for each in jobs], terminal.style, terminal.width))
    else:
        terminal.say("no backfill was begun")


def _row(pipeline: str, job: Job) -> tuple[str, ...]:
    progress = job.progress
    done = numbers.count(progress.done) + (f" of {numbers.count(progress.total)}" if progress.total is not None else "")
    pace = pace_text(job) if job.state == "running" else ""
    return job.id, pipeline, job.state, done, pace, numbers.utc_minute(job.created_at), job.created_by


def job_document(pipeline: str, job: Job) -> dict[str, Any]:
    """What `--json` prints of a job."""
    error = job.error
    return {
        "job": job.id,
        "pipeline": pipeline,
        "kind": job.kind,
        "state": job.state,
        "done": job.progress.done,
        "total": job.progress.total,
        "counts": dict(job.progress.counts),
        "created_at": job.created_at,
        "created_by": job.created_by,
        "ended_at": job.ended_at,
        "error": None if error is None else {"code": error.code, "message": error.message, "why": error.why, "help": error.help},
    }


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


@click.command("pause", cls=Verb, help="Let a backfill rest; pipe backfill resume goes on with it.")
@click.argument("job")
@pass_settings
def pause(settings: Settings, job: str) -> None:
    _ask(settings, job, lambda book, identity: book.pause(identity), "rests as soon as its process has seen it")


@click.command("cancel", cls=Verb, help="End a backfill. What it has come to stays on record.")
@click.argument("job")
@pass_settings
def cancel(settings: Settings, job: str) -> None:
    _ask(settings, job, lambda book, identity: book.cancel(identity), "is cancelled")


def _ask(settings: Settings, prefix: str, ask: Callable[[JobBook, str], Coroutine[Any, Any, Job]], said: str) -> None:
    terminal = Terminal.of_process()

    async def work() -> Job:
        ref, found = await find_job(settings, prefix)
        async with reading(ref) as store:
            return await ask(store.jobs, found.id) if found.open else found

    job = asyncio.run(work())
    terminal.say(f"job {job.id} {said if job.open or job.state == 'cancelled' else f'is {job.state} already'}")


@click.command(
    "resume",
    cls=Verb,
    help="Go on with a backfill that rests, or whose process died, where it was. It is carried out here.",
)
@click.argument("job")
@click.option("--concurrency", type=click.IntRange(min=0), help="Worker processes; 0: none.  [default: as there is work]")
@html
@fail_on_diff
@as_json
@pass_settings
def resume(settings: Settings, job: str, concurrency: int | None, html: Path | None, fail_on_diff: bool, as_json: bool) -> int:
    terminal = Terminal.of_process()

    async def work() -> dict[str, Any]:
        _, found = await find_job(settings, job)
        backfills: Backfills = room("backfill")
        async with at_counter(settings, backfills.file(found)) as counter:
            steps = await counter.steps(counter.desk.against(found), terminal)
            await counter.store.jobs.resume(found.id)
            done = await carry_out(counter, found, steps, concurrency, terminal)
            return report_on(done, counter.pipeline.name, html)

    return show_report(asyncio.run(work()), Output(fail_on_diff, html, as_json), terminal)
