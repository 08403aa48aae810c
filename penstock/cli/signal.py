"""`pipe signal`, `pipe pause`, `pipe resume`: what people ask of a pipeline, through its state store, whether it runs or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import click

from penstock.cli import complete
from penstock.cli.lazy import TEXT, Settings, Verb, pass_settings
from penstock.cli.project import find_stores
from penstock.cli.sender import sender
from penstock.cli.signal_lines import answer_lines, signal_document, signal_lines
from penstock.cli.stores import StoreRef, if_it_ran, telling
from penstock.cli.terminal import Terminal
from penstock.clock import Clock, SystemClock
from penstock.components import Catalog
from penstock.errors import ExitStatus, PenstockError, UsageError
from penstock.state.signal_box import SignalBox
from penstock.state.signal_records import Pause, SignalRecord
from penstock.state.signal_tables import PAUSE, RESUME

PATIENCE = 5.0
"""Seconds that a run is given to answer before the command goes."""
LOOK = 0.05
LISTED = 20


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal as it stood when the command went.

    :ivar pid: of the run that is alive; None: no run is.
    :ivar before: the pause that there was before it.
    """

    record: SignalRecord
    pid: int | None
    before: Pause | None


Send = Callable[[SignalBox, str], Awaitable[int]]
"""Stores a signal in the name of somebody."""

no_wait = click.option("--no-wait", is_flag=True, help="Do not wait for the run's answer.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(
    "signal",
    cls=Verb,
    help="""Ask something of a pipeline, or list what was asked of it.

    Each pipeline takes pause and resume; what else there is, its source says: snapshot TABLE… for postgres_cdc. A signal is kept
    until a run has taken it, so none need be alive. The answer of a live run is waited for, up to 5 s; one that was refused ends
    with 1.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.argument("kind", required=False, type=TEXT)
@click.argument("arguments", nargs=-1, type=TEXT, metavar="[ARGUMENT…]")
@no_wait
@as_json
@pass_settings
def signal(settings: Settings, pipeline: str, kind: str | None, arguments: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    if kind is None:
        return _list(settings, pipeline, as_json)
    if kind in (PAUSE, RESUME):
        if arguments:
            raise UsageError("usage.invalid", f"{kind} takes no arguments", help=f"pipe {kind} {pipeline}")
        return _send(settings, pipeline, kind, _pause() if kind == PAUSE else _resume, not no_wait, as_json)

    async def send(box: SignalBox, by: str) -> int:
        return await box.send(kind, arguments, by)

    return _send(settings, pipeline, kind, send, not no_wait, as_json)


@click.command(
    "pause",
    cls=Verb,
    help="""Read nothing more, deliver and commit what was read, and wait, through restarts too, until pipe resume.

    The source goes on with what keeps it alive: connections, heartbeats, visibility.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.option("--why", metavar="TEXT", help="For whoever finds it paused.")
@no_wait
@as_json
@pass_settings
def pause(settings: Settings, pipeline: str, why: str | None, no_wait: bool, as_json: bool) -> int:
    return _send(settings, pipeline, PAUSE, _pause(why), not no_wait, as_json)


@click.command("resume", cls=Verb, help="Go on with a pipeline that was paused.")
@click.argument("pipeline", shell_complete=complete.pipelines)
@no_wait
@as_json
@pass_settings
def resume(settings: Settings, pipeline: str, no_wait: bool, as_json: bool) -> int:
    return _send(settings, pipeline, RESUME, _resume, not no_wait, as_json)


def _pause(why: str | None = None) -> Send:
    async def send(box: SignalBox, by: str) -> int:
        return await box.pause(by, why)

    return send


async def _resume(box: SignalBox, by: str) -> int:
    return await box.resume(by)


def _send(settings: Settings, pipeline: str, kind: str, send: Send, wait: bool, as_json: bool) -> int:
    """:raises PenstockError: `signal.refused`, by the run."""
    terminal, clock = Terminal.of_process(), SystemClock()
    [ref] = find_stores(settings, [pipeline])
    sent = asyncio.run(_sent(ref, kind, send, wait, clock))
    if as_json:
        terminal.show_json({"pipeline": ref.pipeline, **signal_document(sent.record), "pid": sent.pid})
    if sent.record.outcome == "refused":
        raise PenstockError("signal.refused", f"{ref.pipeline}: {kind} was refused", why=sent.record.why)
    if not as_json:
        terminal.say(*answer_lines(ref.pipeline, sent.record, sent.pid, sent.before, clock.now(), terminal.err_style))
    return int(ExitStatus.DONE)


async def _sent(ref: StoreRef, kind: str, send: Send, wait: bool, clock: Clock) -> Sent:
    async with telling(ref) as store:
        pid = await store.holder()
        if pid is None:
            _refuse_unknown(ref, kind)
        before = await store.signals.paused()
        identity = await send(store.signals, sender())
        record = await _answered(store.signals, identity, clock, PATIENCE if wait and pid is not None else 0.0)
        return Sent(record, pid, before)


async def _answered(box: SignalBox, identity: int, clock: Clock, patience: float) -> SignalRecord:
    """The signal, as soon as it has an outcome, or when patience is at its end."""
    deadline = clock.monotonic() + patience
    while True:
        record = await box.find(identity)
        if record is None:
            raise PenstockError("signal.gone", f"signal {identity} is no longer on record", help="send it again")
        if record.outcome is not None or clock.monotonic() >= deadline:
            return record
        await clock.sleep(LOOK)


def _refuse_unknown(ref: StoreRef, kind: str) -> None:
    """Where no run is alive to refuse it, and the pipeline's file says what its source is.

    :raises UsageError: `signal.unknown`.
    """
    if kind in (PAUSE, RESUME) or ref.source is None:
        return
    own: frozenset[str] = getattr(Catalog().find("source", ref.source), "signals", frozenset())
    if kind not in own:
        takes = ", ".join(sorted(own)) or "no signals"
        raise UsageError(
            "signal.unknown",
            f"{ref.pipeline}: nobody takes {kind!r}",
            why=f"the source {ref.source} takes {takes}; every pipeline takes {PAUSE} and {RESUME}",
        )


def _list(settings: Settings, pipeline: str, as_json: bool) -> int:
    terminal, now = Terminal.of_process(), SystemClock().now()
    [ref] = find_stores(settings, [pipeline])
    none: list[SignalRecord] = []
    records = asyncio.run(if_it_ran(ref, lambda store: store.signals.latest(LISTED), none))
    if as_json:
        terminal.show_json({"items": [signal_document(record) for record in records], "next": None})
    elif records:
        terminal.show(*signal_lines(records, now, terminal.style, terminal.width))
    else:
        terminal.say(f"{ref.pipeline}: nothing was asked of it")
    return int(ExitStatus.DONE)
