"""Dead letters for people. Everything that comes from events is made printable: a dead letter is where hostile data ends up."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from penstock.cli import numbers
from penstock.cli.lane_lines import held_words
from penstock.cli.positions import Tell
from penstock.cli.sparkline import BLOCKS, sparkline
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style
from penstock.cloudevents import from_structured
from penstock.observe.text import printable
from penstock.state.lane_tables import PARKED
from penstock.state.records import EVERY, UNSETTLED, DeadLetter, Delivered, Group, Happening, ParkedLane, Timeline

SHORT_ID = 10
SHORT_FINGERPRINT = 9
SHORT_VERSION = 12
SHOWN_BYTES = 4096
SHOWN_LINES = 120


def group_lines(
    groups: Sequence[Group], style: Style, width: int | None, line: Timeline | None = None, levels: str = BLOCKS
) -> list[str]:
    """A table of causes, the message of each on a line of its own; with `line`, when they failed first."""
    columns = [
        Column("FINGERPRINT", paint=style.cyan),
        Column("COUNT", "right", paint=style.bold),
        Column("STEP"),
        Column("CODE", shrinks=True),
        Column("FIRST SEEN", yields=True),
        Column("LAST SEEN"),
        Column("EXAMPLE", paint=style.cyan),
    ]
    if line is not None:
        columns.insert(2, Column("WHEN", yields=True, paint=style.yellow))
    rows = [
        [
            group.fingerprint[:SHORT_FINGERPRINT],
            numbers.count(group.count),
            group.step,
            group.code,
            numbers.utc_minute(group.first_at),
            numbers.utc_minute(group.last_at),
            group.example[:SHORT_ID],
        ]
        for group in groups
    ]
    if line is not None:
        for row, group in zip(rows, groups, strict=True):
            row.insert(2, sparkline(line.cells.get(group.fingerprint, ()), levels))
    titles, *lines = table(columns, rows, style, width)
    told = [titles]
    for group, row_line in zip(groups, lines, strict=True):
        message = printable(group.message)
        told += [
            row_line,
            *textwrap.wrap(message, (width or len(message) + 8) - 4, initial_indent="    ", subsequent_indent="    "),
        ]
    return told


def group_hints(pipeline: str, groups: Sequence[Group]) -> list[tuple[str, str]]:
    """The next commands to try."""
    first = groups[0]
    return [
        (f"pipe dlq show {first.example[:SHORT_ID]}", "what is wrong with one of them"),
        (f"pipe dlq replay {pipeline} --fingerprint {first.fingerprint[:SHORT_FINGERPRINT]}", "once the cause is mended"),
    ]


def hint_lines(hints: Sequence[tuple[str, str]], style: Style) -> list[str]:
    """Commands, and what each is for, aligned."""
    width = max(len(command) for command, _ in hints)
    return [f"  {style.cyan(command)}{' ' * (width - len(command))}  {style.dim(purpose)}" for command, purpose in hints]


def letter_lines(letters: Sequence[DeadLetter], style: Style, width: int | None) -> list[str]:
    """A table of single letters. Status, lane, next retry and repeats are shown where one has something to say about them."""
    columns = [
        Column("ID", paint=style.cyan),
        Column("LAST SEEN"),
        Column("STEP"),
        Column("EVENT"),
        Column("MESSAGE", shrinks=True),
    ]
    rows = [[x.id[:SHORT_ID], numbers.utc(x.last_at), x.step, x.event_id, x.message] for x in letters]
    if any(letter.repeats for letter in letters):
        columns.insert(2, Column("REPEATS", "right"))
        for row, letter in zip(rows, letters, strict=True):
            row.insert(2, numbers.count(letter.repeats))
    if any(letter.lane is not None for letter in letters):
        columns.insert(2, Column("LANE"))
        for row, letter in zip(rows, letters, strict=True):
            row.insert(2, letter.lane or "")
    if any(_next_retry(letter) for letter in letters):
        columns.insert(2, Column("NEXT RETRY"))
        for row, letter in zip(rows, letters, strict=True):
            row.insert(2, _next_retry(letter) or "")
    if any(letter.status != "open" or letter.edited is not None for letter in letters):
        columns.insert(1, Column("STATUS"))
        for row, letter in zip(rows, letters, strict=True):
            row.insert(1, letter.status if letter.edited is None else f"{letter.status}, edited")
    return table(columns, rows, style, width)


def _next_retry(letter: DeadLetter) -> str | None:
    return numbers.utc(letter.next_at) if letter.next_at is not None and letter.status == "open" else None


def show_lines(
    letter: DeadLetter, tell: Tell, style: Style, history: Sequence[Happening] = (), lane: ParkedLane | None = None
) -> list[str]:
    """All about one letter, what was done with it, and the lane that it holds or waits in."""
    status = (style.yellow if letter.status in UNSETTLED else style.green)(letter.status)
    lines = [f"{style.bold('dead letter ' + letter.id)}  {status}  pipeline {printable(letter.pipeline)}", ""]
    lines += section("what is wrong", _wrong(letter, style), style)
    lines += section("where", _pairs(_where(letter, tell, lane), style), style)
    lines += section("how often", _pairs(_how_often(letter), style), style)
    lines += section("history", history_lines(letter, history, style), style)
    lines += section("data, as it was received", data_lines(letter), style)
    if letter.edited is not None:
        lines += section("edited: a replay sends this", event_lines(letter.edited, letter), style)
    hints = _hints(letter)
    return lines + (section("next", [line[2:] for line in hint_lines(hints, style)], style) if hints else [])


def section(title: str, lines: Sequence[str], style: Style) -> list[str]:
    """Lines under a title."""
    return [style.bold(title), *(f"  {line}".rstrip() for line in lines), ""]


def _wrong(letter: DeadLetter, style: Style) -> list[str]:
    if not letter.violations:
        lines = [f"{style.red(printable(letter.message))}  {style.dim('[' + printable(letter.code) + ']')}"]
        reasons = [("why", letter.why), ("help", letter.help)]
    else:
        lines = [f"{style.red(printable(letter.why or letter.message))}  {style.dim('[' + printable(letter.code) + ']')}"]
        rows = [(violation.message, violation.rule) for violation in letter.violations]
        lines += table([Column("EVERY VIOLATION"), Column("RULE", paint=style.dim)], rows, style, None, "  ")
        reasons = [("help", letter.help)]
    return lines + [f"{style.dim(label + ':')} {printable(text)}" for label, text in reasons if text]


def _where(letter: DeadLetter, tell: Tell, lane: ParkedLane | None) -> list[tuple[str, str]]:
    pairs = [
        ("step", letter.step),
        ("event", f"{letter.event_id}  ({letter.type})"),
        ("source", letter.source),
        ("partition", letter.partition),
        ("position", tell(letter.position)),
        ("event time", letter.time or "none"),
    ]
    if letter.lane is not None:
        pairs.append(("lane", letter.lane if lane is None else held_words(lane, letter.id)))
    if letter.owed:
        pairs.append(("owed to", ", ".join(letter.owed)))
    if letter.delivered:
        pairs.append(("delivered to", ", ".join(map(_delivered, letter.delivered))))
    return pairs


def _delivered(taken: Delivered) -> str:
    return taken.sink if taken.output == EVERY else f"{taken.sink} (output {taken.output})"


def _how_often(letter: DeadLetter) -> list[tuple[str, str]]:
    due = _next_retry(letter)
    return [
        ("attempts", numbers.count(letter.attempts)),
        *([("retries", numbers.count(letter.retries))] if letter.retries else []),
        *([("next retry", due)] if due is not None else []),
        ("repeats", numbers.count(letter.repeats)),
        ("first", numbers.utc(letter.first_at)),
        ("last", numbers.utc(letter.last_at)),
        ("version", f"{letter.version[:SHORT_VERSION]} of the pipeline"),
        ("fingerprint", letter.fingerprint),
    ]


def _pairs(pairs: Sequence[tuple[str, str]], style: Style) -> list[str]:
    width = max(len(label) for label, _ in pairs)
    return [f"{style.dim(label.ljust(width))}  {printable(text)}" for label, text in pairs]


def history_lines(letter: DeadLetter, history: Sequence[Happening], style: Style) -> list[str]:
    """Who did what, and when; the failures are the letter's own."""
    told = [(letter.first_at, "parked" if letter.code == PARKED else "failed", "")]
    if letter.attempts > 1 or letter.last_at > letter.first_at:
        told.append((letter.last_at, "failed last", f"{numbers.plural(letter.attempts, 'attempt')} in all"))
    for each in history:
        detail = each.detail
        job = f"job {detail['job'][:SHORT_ID]}" if detail.get("job") else ""
        said = ", ".join(filter(None, (each.by and f"by {each.by}", detail.get("result", ""), job, detail.get("reason", ""))))
        told.append((each.at, each.what, said))
    width = max(len(what) for _, what, _ in told)
    ordered = sorted(told, key=lambda one: one[0])
    return [f"{style.dim(numbers.utc(at))}  {what.ljust(width)}  {printable(said)}" for at, what, said in ordered]


def event_lines(record: bytes, letter: DeadLetter) -> list[str]:
    """The data of an edited event."""
    return data_lines(replace(letter, record=record, original=None))


def data_lines(letter: DeadLetter) -> list[str]:
    """The data as JSON of several lines, numbers as they came; bytes that are no JSON as text with escapes. Says what it cuts."""
    data = from_structured(letter.record).raw if letter.record else None
    if data is not None:
        text, whole = msgspec.json.format(data, indent=2).decode("utf-8", "backslashreplace"), len(data)
        lines, cut = _shorten(printable(text, keep="\n").splitlines())
    elif letter.original is not None:
        text, whole = letter.original[:SHOWN_BYTES].decode("utf-8", "backslashreplace"), letter.original_length
        lines, cut = [printable(text)], whole > SHOWN_BYTES
    else:
        return ["none"]
    return [*lines, f"… {whole:,} bytes in all: pipe dlq show {letter.id} --json has what is kept"] if cut else lines


def _shorten(lines: Sequence[str]) -> tuple[list[str], bool]:
    """As many lines as are shown, and whether that is not all."""
    kept: list[str] = []
    room = SHOWN_BYTES
    for line in lines[:SHOWN_LINES]:
        if room <= 0:
            break
        kept.append(line[:room])
        room -= len(line) + 1
    return kept, kept != list(lines)


def _hints(letter: DeadLetter) -> list[tuple[str, str]]:
    if letter.status not in ("open", "parked"):
        return []
    pipeline = shlex.quote(letter.pipeline)
    if letter.status == "parked":
        return [(f"pipe status {pipeline}", "the heads of parked lanes: it goes on once its own is settled")]
    cause, one = letter.fingerprint[:SHORT_FINGERPRINT], letter.id[:SHORT_ID]
    return [
        (f"pipe dlq replay {pipeline} --id {one}", "this one, once it is mended"),
        (f"pipe dlq replay {pipeline} --fingerprint {cause}", "all of this cause"),
        (f"pipe dlq edit {one}", "mend its data"),
        (f"pipe dlq to-test {one}", "make it a test of the pipeline"),
        (f"pipe dlq discard {pipeline} --id {one}", "give it up"),
    ]
