"""`pipe status`: what pipelines have done since they began, where they stand, whether they run."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_render import hint_lines
from penstock.cli.jobs_render import job_document, job_lines
from penstock.cli.journal_lines import Seen, full_line, is_full, journal_document, journal_lines, look_at_journal
from penstock.cli.lane_lines import LANES, lane_lines, parked_document, retries_document, retry_lines
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.positions import Tell, position_teller
from penstock.cli.project import find_stores
from penstock.cli.signal_lines import pause_document, pause_line
from penstock.cli.stores import StoreRef, if_it_ran
from penstock.cli.summary import equation_lines
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style, Terminal
from penstock.clock import SystemClock, rfc3339
from penstock.errors import EnvironmentFault, ExitStatus
from penstock.ledger import Counts
from penstock.observe.text import printable
from penstock.state.job_records import Job
from penstock.state.pipeline_records import Note, RunRecord
from penstock.state.records import ParkedLane, Retries, Status, count_unsettled
from penstock.state.signal_records import Inbox
from penstock.state.signal_tables import PAUSE, RESUME
from penstock.state.store import StateStore

RUNS = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A pipeline as its state store knows it.

    :ivar holder: process id of the run that is alive.
    :ivar signals: whether it is paused, and what waits to be taken.
    :ivar journal: None where none is kept.
    :ivar jobs: those that have not ended, oldest first.
    :ivar lanes: how many lanes are parked, and those with most behind their head; `retries`: what waits for its next retry.
    """

    note: Note
    letters: Mapping[Status, int]
    holder: int | None
    runs: Sequence[RunRecord]
    signals: Inbox = Inbox(None, ())
    jobs: Sequence[Job] = ()
    journal: Seen = None
    lanes: tuple[int, Sequence[ParkedLane]] = (0, ())
    retries: Retries = Retries()

    @property
    def open_letters(self) -> int:
        return count_unsettled(self.letters)


@click.command("status", cls=Verb, help="Counts since a pipeline began, checkpoint, dead letters, runs; of all without a name.")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE…]", shell_complete=complete.pipelines)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def status(settings: Settings, pipelines: tuple[str, ...], as_json: bool) -> int:
    terminal, now = Terminal.of_process(), SystemClock().now()
    refs = find_stores(settings, pipelines)
    faults: list[EnvironmentFault] = []
    standings = asyncio.run(read_standings(refs, faults))
    if as_json:
        terminal.show_json({"items": [status_document(name, each, now) for name, each in standings], "next": None})
    elif not refs:
        terminal.say("no pipelines here", *hint_lines([("pipe new NAME", "starts one")], terminal.err_style))
    elif standings and len(refs) == 1:
        terminal.show(*detail_lines(*standings[0], position_teller(refs[0].source), now, terminal.style, terminal.width))
    elif standings:
        terminal.show(*overview_lines(standings, now, terminal.style, terminal.width))
    for fault in faults:
        terminal.say_error(fault)
    return int(ExitStatus.ENVIRONMENT if faults else ExitStatus.DONE)


async def read_standings(refs: Sequence[StoreRef], faults: list[EnvironmentFault]) -> list[tuple[str, Standing | None]]:
    """By pipeline; None for one that has never run.

    :param faults: is told why a store cannot be read (damaged, of a newer version), so that the others are shown all the same.
    """
    standings = []
    for ref in refs:
        try:
            standings.append((ref.pipeline, await read_standing(ref)))
        except EnvironmentFault as fault:
            faults.append(fault)
    return standings


async def read_standing(ref: StoreRef) -> Standing | None:
    """Of one pipeline; None where it has never run.

    :raises EnvironmentFault: its store cannot be read.
    """

    journal = look_at_journal(ref.journal)

    async def read(store: StateStore) -> Standing | None:
        note, letters = await store.read_note(), await store.letter_counts()
        signals, jobs = await store.signals.inbox(), await store.jobs.open_ones()
        lanes, retries = await store.lanes.parked(LANES), await store.lanes.retries()
        return Standing(note, letters, await store.holder(), await store.runs(RUNS), signals, jobs, journal, lanes, retries)

    return await if_it_ran(ref, read, None)


def status_document(name: str, standing: Standing | None, now: float) -> dict[str, Any]:
    """One pipeline of `pipe status --json`; counts are since the pipeline began. One that never ran has the same keys."""
    runs = standing.runs if standing is not None else []
    counts = standing.note.counts if standing is not None else Counts()
    return {
        "pipeline": name,
        "version": runs[0].version if runs else None,
        "epoch": runs[0].epoch if runs else None,
        "received": counts.received,
        "delivered": counts.delivered,
        "filtered": counts.filtered,
        "deduplicated": counts.deduplicated,
        "dead_lettered": counts.dead_lettered,
        "derived": counts.derived,
        "dead_letters": dict(standing.letters) if standing is not None else {},
        "parked": parked_document(*standing.lanes) if standing is not None else None,
        "retries": retries_document(standing.retries) if standing is not None else None,
        "checkpoint": checkpoint_document(standing.note, now) if standing is not None else None,
        "pid": standing.holder if standing is not None else None,
        "paused": pause_document(standing.signals.pause) if standing is not None else None,
        "jobs": [job_document(name, job, standing.holder is not None) for job in standing.jobs] if standing is not None else [],
        "journal": journal_document(standing.journal) if standing is not None else None,
        "runs": [run_document(run) for run in runs],
    }


def checkpoint_document(note: Note, now: float) -> dict[str, Any]:
    """Where a pipeline stands; positions are order bytes in hexadecimal."""
    return {
        "group": note.group,
        "at": rfc3339(note.at) if note.at else None,
        "age_seconds": round(max(0.0, now - note.at), 3) if note.at else None,
        "drained": note.drained,
        "positions": {partition: position.order.hex() for partition, position in sorted(note.positions.items())},
    }


def run_document(run: RunRecord) -> dict[str, Any]:
    """One run as it was started."""
    return {
        "epoch": run.epoch,
        "pid": run.pid,
        "host": run.host,
        "version": run.version,
        "started_at": rfc3339(run.started_at),
    }


def _state(standing: Standing | None, style: Style) -> str:
    if standing is not None and standing.signals.pause is not None:
        return style.yellow(f"paused, process {standing.holder}" if standing.holder else "paused, not running")
    if standing is None or not standing.runs:
        return style.dim("never run")
    if standing.holder is not None:
        return style.green(f"running, process {standing.holder}" if standing.holder else "running")
    return "drained" if standing.note.drained else style.yellow("stopped before its source was drained")


def overview_lines(standings: Sequence[tuple[str, Standing | None]], now: float, style: Style, width: int | None) -> list[str]:
    """A row a pipeline."""
    columns = [
        Column("PIPELINE", paint=style.bold),
        Column("STATE", shrinks=True),
        Column("RECEIVED", "right"),
        Column("DELIVERED", "right"),
        Column("FILTERED", "right", yields=True),
        Column("DEDUPLICATED", "right", yields=True),
        Column("OPEN LETTERS", "right"),
        Column("CHECKPOINT", "right"),
    ]
    rows = []
    for name, standing in standings:
        counts = standing.note.counts if standing else None
        figures = [counts.received, counts.delivered, counts.filtered, counts.deduplicated] if counts else []
        letters = numbers.count(standing.open_letters) if standing else "-"
        checkpoint = numbers.age(now - standing.note.at) if standing and standing.note.at else "-"
        rows.append([name, _state(standing, Style()), *(map(numbers.count, figures) if figures else "----"), letters, checkpoint])
    journals = [(name, standing.journal) for name, standing in standings if standing is not None]
    full = [style.red(f"journal of {printable(name)}: {full_line(each)}") for name, each in journals if is_full(each)]
    return [*table(columns, rows, style, width), *full]


def detail_lines(name: str, standing: Standing | None, tell: Tell, now: float, style: Style, width: int | None) -> list[str]:
    """Everything about one pipeline."""
    head = f"{style.bold(printable(name))}  {_state(standing, style)}"
    if standing is None:
        return [head]
    lines = [
        head,
        "",
        *_signals(name, standing.signals, now, style),
        style.bold("since it began"),
        *equation_lines([("", standing.note.counts)], style),
        "",
    ]
    lines += [style.bold("checkpoint"), *checkpoint_lines(standing.note, tell, now, style, width), ""]
    waiting = retry_lines(standing.retries, now)
    lines += [style.bold("dead letters"), f"  {_letters(standing)}", *waiting, *lane_lines(*standing.lanes, style, width), ""]
    if standing.journal is not None:
        lines += [style.bold("journal"), *journal_lines(standing.journal, now, style), ""]
    if standing.jobs:
        jobs = [(name, job, standing.holder is not None) for job in standing.jobs]
        lines += [style.bold("jobs"), *job_lines(jobs, now, style, width, "  "), ""]
    lines += [style.bold("latest runs"), *_runs(standing.runs, style, width)]
    if standing.open_letters:
        lines += ["", *hint_lines([(f"pipe dlq groups {name}", "why events failed")], style)]
    return lines


def _signals(name: str, signals: Inbox, now: float, style: Style) -> list[str]:
    """Only where there is something to say."""
    lines = []
    if signals.pause is not None:
        hint = hint_lines([(f"pipe resume {shlex.quote(name)}", "goes on")], style)
        lines += [style.bold("paused"), f"  {pause_line(signals.pause, now)}", *hint, ""]
    waiting = [signal for signal in signals.waiting if signal.kind not in (PAUSE, RESUME)]
    if waiting:
        hint = hint_lines([(f"pipe signal {shlex.quote(name)}", "which")], style)
        lines += [style.bold("signals"), f"  {numbers.plural(len(waiting), 'signal')} waiting", *hint, ""]
    return lines


def checkpoint_lines(note: Note, tell: Tell, now: float, style: Style, width: int | None) -> list[str]:
    """When the pipeline last committed, and where it stands."""
    if not note.at:
        return ["  none yet"]
    lines = [f"  {numbers.age(now - note.at)}, at {numbers.utc(note.at)}, group {numbers.count(note.group)}"]
    if note.positions:
        rows = [(partition, tell(position.order)) for partition, position in sorted(note.positions.items())]
        return lines + table([Column("PARTITION", shrinks=True), Column("POSITION")], rows, style, width, "  ")
    return [*lines, "  no positions: the source is read from its beginning, or has none"]


def _letters(standing: Standing) -> str:
    said = [f"{numbers.count(number)} {status}" for status, number in standing.letters.items() if number]
    return ", ".join(said) or "none"


def _runs(runs: Sequence[RunRecord], style: Style, width: int | None) -> list[str]:
    columns = [Column("RUN", "right"), Column("BEGAN"), Column("PROCESS", "right"), Column("HOST"), Column("VERSION")]
    rows = [(str(run.epoch), numbers.utc(run.started_at), str(run.pid), run.host, run.version[:12]) for run in runs]
    return table(columns, rows, style, width, "  ")
