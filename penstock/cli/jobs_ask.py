"""`pipe jobs pause | resume | cancel`: what people want of a stored job. Its carrier follows within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import click

from penstock.cli.job_bar import job_bar
from penstock.cli.job_find import find_job
from penstock.cli.job_follow import Seeing, exit_status
from penstock.cli.jobs_render import done_text, job_document, state_of
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_named
from penstock.cli.stores import StoreRef, reading
from penstock.cli.terminal import Terminal
from penstock.clock import SystemClock
from penstock.engine.run import RunOptions
from penstock.errors import ExitStatus, UsageError
from penstock.faults import Faults
from penstock.state.job_records import Job
from penstock.state.store import StateStore

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
Ask = Callable[[StateStore, str], Awaitable[Job]]


@click.command("pause", cls=Verb, help="Let a job rest behind the portion that is under way. Live work goes on.")
@click.argument("job")
@as_json
@pass_settings
def pause(settings: Settings, job: str, as_json: bool) -> int:
    return _ask(settings, job, lambda store, identity: store.jobs.pause(identity), as_json)


@click.command("cancel", cls=Verb, help="End a job behind the portion that is under way. What it has done stays.")
@click.argument("job")
@as_json
@pass_settings
def cancel(settings: Settings, job: str, as_json: bool) -> int:
    return _ask(settings, job, lambda store, identity: store.jobs.cancel(identity), as_json)


@click.command(
    "resume",
    cls=Verb,
    help="""Go on with a job that rests. A run that is alive does it; else it is carried out here.

    A job whose run has ended goes on with the next one, or here.""",
)
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Leave it to the run; without one it waits for the next.")
@as_json
@pass_settings
def resume(settings: Settings, job: str, no_wait: bool, as_json: bool) -> int:
    return go_on(settings, job, no_wait, as_json)


def go_on(settings: Settings, job: str, no_wait: bool, as_json: bool, file: str | None = None) -> int:
    """Resume a job that a run carries out. :return: the exit status.

    :param file: of the pipeline, where the job knows it; else it is looked for by its name.
    :raises UsageError: `job.alone`, where no run does.
    """
    terminal = Terminal.of_process()
    ref, found, alive = asyncio.run(_asked(settings, job, lambda store, identity: store.jobs.resume(identity)))
    if not found.open or found.asked != "run" or no_wait or alive:
        return _tell(terminal, ref, found, alive, as_json)
    if found.alone:
        raise UsageError("job.alone", f"job {found.id} is a {found.kind} of its own", help=f"pipe {found.kind} resume {found.id}")
    done = asyncio.run(_through(settings, ref, found, file or ref.pipeline, terminal))
    _tell(terminal, ref, done, done.open, as_json)
    return int(exit_status(done, found=bool(done.progress.counts.get("dead_lettered"))))


async def _through(settings: Settings, ref: StoreRef, job: Job, name: str, terminal: Terminal) -> Job:
    pipeline = load_named(settings, name)
    options = RunOptions(clock=SystemClock(), faults=Faults.from_environment())
    async with reading(ref) as store:
        with job_bar(terminal, job.kind) as show:
            return await Seeing(pipeline, store, options, terminal, show).through(job)


def _ask(settings: Settings, prefix: str, ask: Ask, as_json: bool) -> int:
    ref, job, alive = asyncio.run(_asked(settings, prefix, ask))
    return _tell(Terminal.of_process(), ref, job, alive, as_json)


async def _asked(settings: Settings, prefix: str, ask: Ask) -> tuple[StoreRef, Job, bool]:
    """The job as it stands then, and whether a run is alive."""
    ref, found = await find_job(settings, prefix)
    async with reading(ref) as store:
        job = await ask(store, found.id)
        return ref, job, job.open and await store.holder() is not None


def _tell(terminal: Terminal, ref: StoreRef, job: Job, alive: bool, as_json: bool) -> int:
    if as_json:
        terminal.show_json(job_document(ref.pipeline, job, alive))
    else:
        waits = " until the next run" if job.open and job.asked != "pause" and not (alive or job.alone) else ""
        state = state_of(job, alive)
        terminal.say(f"{ref.pipeline}: job {job.id}, {job.kind}: {state}{waits}, {done_text(job)} done")
    return int(ExitStatus.DONE)
