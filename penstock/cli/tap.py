"""`pipe tap`: events of a live run, each step's output with them. The run does not know of it: it follows the journal, and the
steps are computed again here, for a sample."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import click

from penstock.cli import complete, numbers
from penstock.cli.archives import Archive, archive_of
from penstock.cli.explain_json import line_document, step_document, trace_document
from penstock.cli.explainer import letter_of, limit_of
from penstock.cli.lazy import Settings, Verb, pass_settings, unknown
from penstock.cli.stores import if_it_ran
from penstock.cli.tap_sample import Allowance, Sample
from penstock.cli.tap_text import tapped_lines
from penstock.cli.terminal import Terminal
from penstock.cli.where import Where
from penstock.clock import Clock, SystemClock
from penstock.config.units import format_rate, parse_rate
from penstock.engine.trace import EVENT, Trace, TracedStep, trace
from penstock.engine.versions import Versions
from penstock.errors import PenstockError, UsageError
from penstock.journal.follow import Tail
from penstock.journal.lines import Line
from penstock.observe.text import printable

POLL = 0.2
"""Seconds between two looks at the journal."""
_ASK = 1.0
"""Seconds between two questions whether the run is alive, while nothing comes."""
_NICENESS = 10
_FILE = re.compile(r"(?P<name>.*?\.ya?ml)(?:\.(?P<step>.+))?")


@click.command(
    "tap",
    cls=Verb,
    help="""Events of a live run as they are committed, with what each step made of them; with .STEP, of this one alone.

    It takes a sample, and costs the run nothing: it follows the journal, and computes the steps here. It goes on from run to run
    until Ctrl-C.""",
)
@click.argument("name", metavar="PIPELINE[.STEP]", shell_complete=complete.pipelines)
@click.option("--sample", default="5/s", show_default=True, metavar="RATE", help="Events to show, at most.")
@click.option("--where", metavar="JQ", help="Only events for which this holds, such as '.data.total > 100'.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="End after so many.")
@click.option("--once", is_flag=True, help="End with the run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one event a line.")
@pass_settings
def tap(settings: Settings, name: str, sample: str, where: str | None, limit: int | None, once: bool, as_json: bool) -> None:
    terminal, clock = Terminal.of_process(), SystemClock()
    name, step = _split(name)
    archive = archive_of(settings, name)
    _check(archive, step)
    show = _json_shower(archive, terminal) if as_json else _text_shower(terminal)
    tapping = Tap(
        archive=archive,
        versions=archive.versions(),
        sample=Sample(Tail(archive.directory), clock),
        allowance=Allowance(_rate(sample), clock),
        where=Where.compile(where),
        step=step,
        limit=limit,
        once=once,
        show=show,
        say=terminal.say,
        clock=clock,
    )
    os.nice(_NICENESS)  # the run goes first where there is one processor for both
    asyncio.run(_until_interrupted(tapping))
    terminal.say(tapping.summary(sample))


def _split(name: str) -> tuple[str, str | None]:
    """`shop.total`, or `pipelines/shop.yaml.total`."""
    match = _FILE.fullmatch(name)
    if match is not None:
        return match["name"], match["step"]
    name, _, step = name.partition(".")
    return name, step or None


def _rate(text: str) -> float:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise UsageError("usage.invalid", f"--sample: {error}", help=f"such as --sample {format_rate(5.0)}") from error


def _check(archive: Archive, step: str | None) -> None:
    """:raises UsageError: `journal.off`; `tap.unknown_step`."""
    today = archive.today
    if today is None:
        return
    if today.journal is None:
        raise UsageError(
            "journal.off",
            f"{today.name} keeps no journal, which is what a tap follows",
            why="its file says `journal: off`",
            help="take that out, and start the run again",
        )
    names = [EVENT, *(each.name for each in today.steps)]
    if step is not None and step not in names:
        raise unknown("tap.unknown_step", f"{today.name} has no step", step, names, f"pipe lint {today.name}")


Show = Callable[[Line, Trace | None, TracedStep | None], None]


def _text_shower(terminal: Terminal) -> Show:
    def show(line: Line, traced: Trace | None, step: TracedStep | None) -> None:
        terminal.show(*tapped_lines(line, traced, step, terminal.style), "")
        terminal.out.flush()

    return show


def _json_shower(archive: Archive, terminal: Terminal) -> Show:
    def show(line: Line, traced: Trace | None, step: TracedStep | None) -> None:
        document = line_document(archive.name, line, traced.received if traced is not None else line.received())
        document |= {"steps": [step_document(step)]} if step is not None else trace_document(traced)
        terminal.show_json(document)
        terminal.out.flush()

    return show


@dataclass(slots=True)
class Tap:
    """Follows the journal of one pipeline.

    :ivar step: show what this one made; None: all of them.
    :ivar limit: end after so many events were shown; `once`: end with the run.
    :ivar shown: how many were.
    """

    archive: Archive
    versions: Versions
    sample: Sample
    allowance: Allowance
    where: Where
    step: str | None
    limit: int | None
    once: bool
    show: Show
    say: Callable[[str], None]
    clock: Clock
    shown: int = 0
    _is_running: bool | None = None
    _is_fresh: bool = False
    _failed: str | None = None

    async def run(self, wait: Callable[[float], Awaitable[bool]]) -> None:
        """Until `wait`, which waits so many seconds, says that it is enough.

        :raises EnvironmentFault: the journal or the state store cannot be read.
        """
        asked = 0.0
        while True:
            came = self.sample.look()
            if came:
                self._is_fresh = True
                await self._show_some()
            if self.limit is not None and self.shown >= self.limit:
                return
            if not came and self.clock.monotonic() - asked >= _ASK:
                if await self._has_ended() and self.once and not self.sample.look():
                    return
                asked = self.clock.monotonic()
            if await wait(POLL):
                return

    def summary(self, rate: str) -> str:
        """What is said in the end."""
        failed = self.where.failure
        told = f"{self.archive.name}: {numbers.plural(self.sample.came, 'event')} came by, {self.shown:,} shown (--sample {rate})"
        if failed is not None:
            told += f"; --where failed for {self.where.failed:,}, which were left out: {printable(failed.message)}"
        return told

    async def _show_some(self) -> None:
        available = self.allowance.available()
        if self.limit is not None:
            available = min(available, self.limit - self.shown)
        for line in self._lines(available):
            if available <= 0:
                return
            if await self._show_one(line):
                available -= 1
                self.allowance.spend()
                self.shown += 1

    def _lines(self, count: int) -> Iterator[Line]:
        """Those that may be shown: of a step, or of what `--where` wants, more have to be looked at than are shown."""
        if count <= 0:
            return iter(())
        if self.where.program is None and self.step is None:
            return self.sample.spread(count)
        return self.where.among(self.sample.all())

    async def _show_one(self, line: Line) -> bool:
        """Whether there was anything to show: an event need not get to the step that is looked at."""
        traced = None
        if line.outcome != "deduplicated" and limit_of(await letter_of(self.archive, line)) is None:
            try:
                traced = await trace(await self.versions.of(line.version), line)
            except UsageError as error:
                self._tell_once(error)
        step = self._step_of(traced)
        if self.step is not None and step is None:
            return False
        self.show(line, traced, step)
        return True

    def _step_of(self, traced: Trace | None) -> TracedStep | None:
        return next((each for each in traced.steps if each.name == self.step), None) if traced is not None else None

    def _tell_once(self, error: PenstockError) -> None:
        """Why a version cannot be computed, the first time."""
        if self._failed != error.message:
            self._failed = error.message
            self.say(f"{self.archive.name}: its steps cannot be shown: {printable(error.message)}")

    async def _has_ended(self) -> bool:
        """Whether a run was alive, or gave events, and now is not; changes are told."""
        holder = await if_it_ran(self.archive.store, lambda store: store.holder(), None)
        was, self._is_running = self._is_running, holder is not None
        if self._is_running:
            return False
        ended = bool(was) or self._is_fresh
        self._is_fresh = False
        if ended:
            self.say(f"{self.archive.name}: the run has ended{'' if self.once else '; waiting for the next one (Ctrl-C ends)'}")
        elif was is None:
            self.say(f"{self.archive.name} is not running: waiting for a run (Ctrl-C ends)")
        return ended


async def _until_interrupted(tapping: Tap) -> None:
    """Ctrl-C and SIGTERM are how a tap ends: no failure."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    async def wait(seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await stop.wait()
        except TimeoutError:
            return False

    await tapping.run(wait)
