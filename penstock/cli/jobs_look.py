"""`pipe jobs ls | show`: stored jobs, looked at."""

from __future__ import annotations

import asyncio

import click

from penstock.cli import complete
from penstock.cli.job_find import find_job
from penstock.cli.jobs_render import detail_lines, job_document, job_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.stores import each_store, reading
from penstock.cli.terminal import Terminal
from penstock.clock import SystemClock
from penstock.errors import ExitStatus
from penstock.state.job_records import Job
from penstock.state.store import StateStore

LISTED = 50

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("ls", cls=Verb, help="Jobs of the pipelines named, or of all in the project, newest first.")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@as_json
@pass_settings
def ls(settings: Settings, pipelines: tuple[str, ...], only_open: bool, as_json: bool) -> None:
    list_jobs(settings, pipelines, only_open, as_json)


def list_jobs(settings: Settings, pipelines: tuple[str, ...], only_open: bool, as_json: bool, kind: str | None = None) -> None:
    """:param kind: those alone; None: of every kind."""
    terminal, now = Terminal.of_process(), SystemClock().now()
    refs = find_stores(settings, pipelines)

    async def look(store: StateStore) -> list[tuple[Job, bool]]:
        found = await (store.jobs.open_ones() if only_open else store.jobs.latest(LISTED))
        alive = any(job.open and not job.alone for job in found) and await store.holder() is not None
        return [(job, alive) for job in found]

    none: list[tuple[Job, bool]] = []
    kept = asyncio.run(each_store(refs, look, none))
    jobs = [(pipeline, job, alive) for pipeline, found in kept for job, alive in found if kind in (None, job.kind)]
    jobs.sort(key=lambda each: -each[1].created_at)
    if as_json:
        terminal.show_json({"items": [job_document(*each) for each in jobs], "next": None})
    elif jobs:
        terminal.show(*job_lines(jobs, now, terminal.style, terminal.width))
    else:
        terminal.say("no jobs")


@click.command("show", cls=Verb, help="One job: what it is to do, how far it is, what it came to, why it failed.")
@click.argument("job")
@as_json
@pass_settings
def show(settings: Settings, job: str, as_json: bool) -> int:
    terminal, now = Terminal.of_process(), SystemClock().now()

    async def work() -> tuple[str, Job, bool]:
        ref, found = await find_job(settings, job)
        async with reading(ref) as store:
            return ref.pipeline, found, found.open and await store.holder() is not None

    pipeline, found, alive = asyncio.run(work())
    if as_json:
        terminal.show_json(job_document(pipeline, found, alive))
    else:
        terminal.show(*detail_lines(pipeline, found, alive, now, terminal.style))
    return int(ExitStatus.DONE)
