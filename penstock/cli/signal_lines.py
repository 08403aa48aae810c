"""Signals and pauses as people and programs see them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from penstock.cli import numbers
from penstock.cli.dlq_render import hint_lines
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style
from penstock.clock import rfc3339
from penstock.observe.text import printable
from penstock.state.signal_records import Pause, SignalRecord
from penstock.state.signal_tables import PAUSE, RESUME


def signal_document(record: SignalRecord) -> dict[str, Any]:
    """One signal of `--json`. A state is `waiting`, `accepted` or `refused`."""
    return {
        "id": record.id,
        "kind": record.kind,
        "arguments": list(record.arguments),
        "state": record.outcome or "waiting",
        "why": record.why,
        "made_at": rfc3339(record.made_at),
        "made_by": record.made_by,
        "taken_at": _time(record.taken_at),
        "decided_at": _time(record.decided_at),
    }


def _time(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def pause_document(pause: Pause | None) -> dict[str, Any] | None:
    """`paused` of `pipe status --json`."""
    return None if pause is None else {"since": rfc3339(pause.since), "by": pause.by, "why": pause.why}


def pause_line(pause: Pause, now: float) -> str:
    """`5 min ago, at 2026-11-21 05:00:00Z, by ann@here: the sink moves`."""
    why = f": {pause.why}" if pause.why else ""
    return printable(f"{numbers.age(now - pause.since)}, at {numbers.utc(pause.since)}, by {pause.by}{why}")


def signal_lines(records: Sequence[SignalRecord], now: float, style: Style, width: int | None) -> list[str]:
    """A row a signal, newest first; why one was refused on a line of its own."""
    columns = [
        Column("ID"),
        Column("STATE"),
        Column("SIGNAL", shrinks=True, paint=style.bold),
        Column("SENT", "right"),
        Column("TAKEN", "right"),
        Column("BY", yields=True),
    ]
    rows = [
        (
            str(record.id),
            record.outcome or "waiting",
            _command(record),
            numbers.age(now - record.made_at),
            "-" if record.taken_at is None else numbers.age(now - record.taken_at),
            record.made_by,
        )
        for record in records
    ]
    titles, *lines = table(columns, rows, style, width)
    told = [titles]
    for record, line in zip(records, lines, strict=True):
        told += [line] if record.why is None else [line, f"    {style.yellow(printable(record.why))}"]
    return told


def answer_lines(name: str, record: SignalRecord, pid: int | None, before: Pause | None, now: float, style: Style) -> list[str]:
    """What became of a signal that was not refused, so far."""
    said = {PAUSE: _paused, RESUME: _resumed}.get(record.kind, _other)(record, pid)
    lines = [f"{style.bold(printable(name))}: {printable(said)}"]
    ended = record.kind == PAUSE and record.why is not None
    if record.kind == PAUSE and before is not None and not ended:
        lines = [f"{style.bold(printable(name))}: was paused already, {pause_line(before, now)}"]
    elif record.kind == RESUME and before is None:
        lines = [f"{style.bold(printable(name))}: was not paused"]
    hints = [(f"pipe resume {shlex.quote(name)}", "goes on")] if record.kind == PAUSE and not ended else []
    if pid is not None and record.outcome is None:
        hints.append((f"pipe signal {shlex.quote(name)}", "whether it was taken"))
    return [*lines, *hint_lines(hints, style)] if hints else lines


def _paused(record: SignalRecord, pid: int | None) -> str:
    if pid is None:
        return "paused; no run is alive: the next one waits until it is resumed"
    if record.why is not None:
        return f"not paused: {record.why}"
    if record.outcome is not None:
        return "paused; everything that was read is committed"
    if record.taken_at is not None:
        return "reads nothing more; what was read is still being delivered"
    return f"will be paused; the run, process {pid}, has not taken it up yet"


def _resumed(record: SignalRecord, pid: int | None) -> str:
    if pid is None:
        return "no longer paused; no run is alive"
    return "reads again" if record.outcome is not None else f"no longer paused; the run, process {pid}, has not taken it up yet"


def _other(record: SignalRecord, pid: int | None) -> str:
    what = f"signal {record.id}, {_command(record)}"
    if record.outcome is not None:
        return f"{what}: accepted"
    if pid is None:
        return f"{what}: no run is alive: it is taken up by the next"
    return f"{what}: {'being taken' if record.taken_at is not None else 'not taken up yet'} by the run, process {pid}"


def _command(record: SignalRecord) -> str:
    return shlex.join([record.kind, *record.arguments])
