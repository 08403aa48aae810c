"""`pipe dlq replay`: dead letters through the pipeline again, as a stored job."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import click

from penstock.builtins import room
from penstock.cli import complete, numbers
from penstock.cli.dlq_filters import Filters, letter_filters, only
from penstock.cli.dlq_render import hint_lines
from penstock.cli.dlq_settle import choose
from penstock.cli.job_bar import job_bar
from penstock.cli.job_follow import Seeing, exit_status
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_named
from penstock.cli.rates import rate_of
from penstock.cli.running import make_log, only_warnings
from penstock.cli.sender import sender
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import open_state
from penstock.engine.ledgers import STATE
from penstock.engine.run import RunOptions
from penstock.errors import ExitStatus, UsageError
from penstock.faults import Faults
from penstock.observe.text import printable
from penstock.state.job_records import Job, JobProgress
from penstock.state.records import LetterQuery
from penstock.state.store import StateStore


class Replayed(Protocol):
    """What a replay reports (`dlq.replay.ReplaySummary`)."""

    job: str
    selected: int
    delivered: int
    filtered: int
    deduplicated: int
    failed_again: int
    settled: int
    left: int
    unknown_ledgers: Mapping[str, int]
    unanswered: int
    behind: int


class Replays(Protocol):
    """What the command uses of replays (`dlq.replay.Replays`)."""

    async def create(self, query: LetterQuery, how: Mapping[str, Any], by: str) -> Job: ...
    async def hurry(self, by: str) -> Job: ...
    async def dry_run(self, query: LetterQuery, how: Mapping[str, Any], told: Callable[[JobProgress], None]) -> Replayed: ...
    def summary(self, job: Job) -> Replayed: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants replayed.

    :ivar how: as `dlq.replay.ReplayRequest` has it, but for the query.
    :ivar now: instead, what waits for its next retry.
    """

    query: LetterQuery
    how: Mapping[str, Any]
    dry_run: bool
    wait: bool
    now: bool = False


@click.command(
    "replay",
    cls=Verb,
    help="""Send dead letters from the start through the pipeline again. What arrives is resolved, what fails again stays open.

    Choose with --id, --fingerprint or another filter, or take --all; --now takes what waits for a retry. A run that is alive does
    it beside its live work; else it is done here. It is a job, which outlives this command: pipe jobs. What a sink is owed that
    the pipeline no longer has stays open (dlq.unknown_ledger): --renamed says which sink took its place.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@letter_filters
@click.option("--all", "take_all", is_flag=True, help="All that are open.")
@click.option("--now", "at_once", is_flag=True, help="All that wait for a retry of `dead_letter.retry`, without waiting for it.")
@click.option("--dry-run", is_flag=True, help="Process them, and touch nothing, beside a live run or not.")
@click.option("--no-wait", is_flag=True, help="Make the job, and leave it to the run; without one it waits for the next.")
@click.option("--rate", metavar="N/s", help="At most so many events a second, such as 1000/s.  [default: as fast as it goes]")
@click.option("--overwrite", is_flag=True, help="Older events may overwrite newer rows in sinks that have no order_by.")
@click.option("--version", default="", metavar="V", help="Through the steps of this stored version.  [default: today's]")
@click.option(
    "--renamed", multiple=True, metavar="OLD=NEW", help="Give sink NEW what is owed to OLD, which the pipeline no longer has."
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the pipeline file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def replay(
    settings: Settings,
    pipeline: str,
    filters: Filters,
    take_all: bool,
    at_once: bool,
    dry_run: bool,
    no_wait: bool,
    rate: str | None,
    overwrite: bool,
    version: str,
    renamed: tuple[str, ...],
    overrides: tuple[str, ...],
    as_json: bool,
) -> int:
    terminal = Terminal.of_process()
    if at_once:
        _check_now(filters.any or take_all or dry_run or overwrite or bool(rate or version or renamed))
    else:
        choose(filters, take_all)
    how: dict[str, Any] = {
        "renamed": dict(map(_pair, renamed)),
        "version": version,
        "overwrite": overwrite,
        "rate": rate_of(rate),
    }
    asked = Asked(only(filters.query(settings, terminal), "open", "parked"), how, dry_run, not no_wait, at_once)
    loaded = load_named(settings, pipeline, overrides)
    job, summary = asyncio.run(_replay(settings, loaded, asked, terminal))
    if as_json:
        terminal.show_json(replay_document(loaded, summary, job))
    elif job is not None and not asked.wait:
        terminal.say(*_made_lines(loaded, job, terminal.err_style))
    elif job is None or not job.open:
        terminal.say(*replay_lines(loaded, summary, dry_run, terminal.err_style))
    if job is not None and not asked.wait:
        return int(ExitStatus.DONE)
    found = bool(summary.failed_again or summary.unknown_ledgers)
    return int(exit_status(job, found) if job is not None else ExitStatus.FOUND if found else ExitStatus.DONE)


async def _replay(settings: Settings, pipeline: Pipeline, asked: Asked, terminal: Terminal) -> tuple[Job | None, Replayed]:
    """The job as it stands when the command goes, none for a dry run; and what it came to."""
    log = only_warnings(make_log(settings, terminal))  # why a job failed, the command says itself
    options = RunOptions(clock=SystemClock(), faults=Faults.from_environment(), log=log)
    async with open_state(pipeline, options) as (store, assembly):
        replays: Replays = room("replays")(store, assembly)
        with job_bar(terminal, "replay") as show:
            if asked.dry_run:
                blank = Job("", "replay", "", 0.0)
                return None, await replays.dry_run(asked.query, asked.how, lambda at: show(replace(blank, progress=at)))
            await _refuse_other_version(pipeline, store, asked)
            job = await (replays.hurry(sender()) if asked.now else replays.create(asked.query, asked.how, sender()))
            if asked.wait:
                job = await Seeing(pipeline, store, options, terminal, show).through(job)
        return job, replays.summary(job)


async def _refuse_other_version(pipeline: Pipeline, store: StateStore, asked: Asked) -> None:
    """A live run goes on with the pipeline that it was started with: what its file says since then mends nothing there. One that
    has only just begun has no epoch yet, and has read its file now.

    :raises UsageError: `replay.other_version`.
    """
    if asked.how["version"] or (pid := await store.holder()) is None:
        return
    latest = await store.runs(1)
    if latest and latest[0].pid == pid and latest[0].version != pipeline.version:
        raise UsageError(
            "replay.other_version",
            f"the run of {pipeline.name} that is alive has version {latest[0].version[:12]}, its file {pipeline.version[:12]}",
            why="the run would replay through the version that it was started with",
            help=f"restart the run, then replay; or replay through its version: --version {latest[0].version[:12]}",
        )


def _check_now(more: bool) -> None:
    """:raises UsageError: `usage.now`."""
    if more:
        raise UsageError("usage.now", "--now takes all that wait for a retry, as the run would", help="leave the others out")


def _pair(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not (old and new):
        raise UsageError("usage.bad_pair", f"{text!r} is not OLD=NEW", help="--renamed OLD=NEW, two names of sinks")
    return old, new


def replay_document(pipeline: Pipeline, summary: Replayed, job: Job | None) -> dict[str, Any]:
    """What `--json` prints. A dry run has no job."""
    names = ("selected", "delivered", "filtered", "deduplicated", "failed_again", "settled", "left", "behind", "unanswered")
    values = {name: getattr(summary, name) for name in names}
    unknown = dict(sorted(summary.unknown_ledgers.items()))
    head = {"pipeline": pipeline.name, "version": pipeline.version, "job": summary.job}
    return {**head, "state": None if job is None else job.state, **values, "unknown_ledgers": unknown}


def _made_lines(pipeline: Pipeline, job: Job, style: Style) -> list[str]:
    total = job.progress.total or 0
    said = f"{style.bold(printable(pipeline.name))}: job {job.id} replays {numbers.plural(total, 'dead letter')}"
    hints = [(f"pipe jobs show {job.id}", "how far it is"), (f"pipe jobs cancel {job.id}", "ends it")]
    return [said, *hint_lines(hints, style)]


def replay_lines(pipeline: Pipeline, summary: Replayed, dry_run: bool, style: Style) -> list[str]:
    """What became of them."""
    if not summary.selected:
        return [f"{pipeline.name}: no open dead letter was selected"]
    again = "would fail again" if dry_run else "failed again"
    parts = [
        (summary.delivered, style.green(f"{numbers.count(summary.delivered)} delivered")),
        (summary.filtered, f"{numbers.count(summary.filtered)} filtered"),
        (summary.deduplicated, f"{numbers.count(summary.deduplicated)} deduplicated"),
        (summary.failed_again, style.yellow(f"{numbers.count(summary.failed_again)} {again}")),
        (summary.settled, f"{numbers.count(summary.settled)} settled after a crash"),
        (summary.left, style.yellow(f"{numbers.count(summary.left)} left open")),
        (summary.behind, style.yellow(f"{numbers.count(summary.behind)} left parked behind others")),
        (
            summary.unanswered,
            style.yellow(f"{numbers.count(summary.unanswered)} at a step with effects, which was not performed"),
        ),
    ]
    said = ", ".join(text for number, text in parts if number)
    what = "would be replayed" if dry_run else "replayed"
    lines = [f"{style.bold(pipeline.name)}: {numbers.plural(summary.selected, 'dead letter')} {what}: {said}"]
    if summary.failed_again and not dry_run:
        lines += hint_lines([(f"pipe dlq groups {pipeline.name}", "why they failed again")], style)
    return lines + _unknown_lines(pipeline, summary.unknown_ledgers, style)


def _unknown_lines(pipeline: Pipeline, unknown: Mapping[str, int], style: Style) -> list[str]:
    """What stays open because nobody is there to take it, and what can be done."""
    if not unknown:
        return []
    code = style.yellow("warning[dlq.unknown_ledger]")
    lines = []
    for ledger, count in sorted(unknown.items()):
        whose = "the sinks without a ledger of their own" if ledger == STATE else f"sink {printable(ledger)}"
        lines.append(
            f"{code}: {numbers.plural(count, 'dead letter')} owed to {whose}, which the pipeline no longer has: left open"
        )
    name = shlex.quote(sorted(unknown)[0])
    replay, discard = f"pipe dlq replay {pipeline.name} … --renamed {name}=SINK", f"pipe dlq discard {pipeline.name} …"
    return lines + hint_lines([(replay, "give it to the sink that took its place"), (discard, "if nobody wants it")], style)
