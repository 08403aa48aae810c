"""What a worker of a dry run or a shadow does: read a portion of the journal, send its events through the steps, count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec

from backfill.accounts import Accounts
from backfill.comparison import Comparison
from backfill.portions import Portion
from backfill.request import Request, Result, StepFlow
from backfill.shadow import Shadow
from penstock.builtins import room
from penstock.config.model import Pipeline
from penstock.engine.recompute import Recompute, batching
from penstock.engine.stages import decide
from penstock.engine.wire import WireError
from penstock.engine.worker import Serve, Talk
from penstock.errors import ComponentError, Fatal, Permanent, UsageError
from penstock.journal.lines import Line
from penstock.journal.opened import Record
from penstock.journal.reader import JournalReader
from penstock.spi import Program


class Reply(msgspec.Struct, array_like=True):
    """What came of a portion, or why nothing did."""

    result: Result | None
    error: WireError | None = None


encode_block = msgspec.json.Encoder().encode
decode_reply = msgspec.json.Decoder(Reply).decode
_decode_block = msgspec.json.Decoder(Portion).decode


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version that handled events of the journal."""

    pipeline: Pipeline
    doubts: Mapping[str, str]


@dataclass(slots=True)
class Rehearsal:
    """The duty of a worker (`penstock.engine.worker.Duty`).

    :ivar pipeline: whose steps are run; without what source and sinks need.
    :ivar directory: of the journal, or of the copy of a native range.
    :ivar versions: by what lines name them; a text where one cannot be run, which says why.
    """

    memory: int
    pipeline: Pipeline
    request: Request
    directory: Path
    versions: Mapping[str, KnownVersion | str]

    def nothing(self, total: int = 0) -> Result:
        """The result of no event, with every step, so that those which nothing reaches are in it too.

        :param total: about how many events the range holds.
        """
        comparison = Comparison(list(self.request.ignore)) if self.request.mode == "shadow" else None
        return Result(total=total, steps={step.name: StepFlow() for step in self.pipeline.steps}, comparison=comparison)

    def begin(self, talk: Talk) -> Serve:
        bench = Bench.set_up(self)
        bench.recompute.entering = talk.enter

        async def serve(block: bytes) -> bytes:
            try:
                return encode_block(Reply(await bench.run(_decode_block(block))))
            except ComponentError as error:
                return encode_block(Reply(None, WireError.of(error)))
            except MemoryError:
                raise
            except Exception as error:  # supervision point: whoever waits is told
                return encode_block(Reply(None, WireError.of(Fatal("internal.error", f"{type(error).__name__}: {error}"))))

        return serve


@dataclass(slots=True)
class Bench:
    """Everything that is compiled once, to run portions on."""

    rehearsal: Rehearsal
    reader: JournalReader
    recompute: Recompute
    filter: Program | None
    versions: Versions
    batches: Callable[[Iterable[Line]], Iterator[list[Line]]]

    @classmethod
    def set_up(cls, rehearsal: Rehearsal) -> Bench:
        """:raises PenstockError: where a step refuses its configuration."""
        return cls(
            rehearsal,
            JournalReader(rehearsal.directory),
            Recompute(rehearsal.pipeline),
            event_filter(rehearsal.request.filter),
            Versions(rehearsal.versions),
            batching([rehearsal.pipeline, *(v.pipeline for v in rehearsal.versions.values() if isinstance(v, KnownVersion))]),
        )

    async def run(self, portion: Portion) -> Result:
        """What becomes of the events of one portion.

        :raises UsageError: the filter fails at an event.
        """
        result = self.rehearsal.nothing()
        accounts = Accounts(result)
        shadow = self._shadow(result, result.comparison) if result.comparison is not None else None
        for lines in self.batches(self._lines(portion)):
            chosen = self._chosen(lines, result)
            if chosen:
                made = await self.recompute.run(chosen)
                accounts.add(made)
                if shadow is not None:
                    await shadow.add(chosen, made)
        return result

    def _shadow(self, result: Result, comparison: Comparison) -> Shadow:
        return Shadow(result, comparison, self.versions, native=self.rehearsal.request.source == "native")

    def _lines(self, portion: Portion) -> Iterator[Line]:
        return (record.line for record in records_of(self.reader, self.rehearsal.request, portion))

    def _chosen(self, lines: Sequence[Line], result: Result) -> list[Line]:
        """Those that the filter takes and the steps saw: of repetitions it is known what became of them."""
        chosen = chosen_by(self.filter, lines)
        seen = [line for line in chosen if line.outcome != "deduplicated"]
        result.left_out += len(lines) - len(chosen)
        result.deduplicated += len(chosen) - len(seen)
        result.read += len(lines) - len(seen)
        return seen


@dataclass(slots=True)
class Versions:
    """The versions that handled the events, each compiled when it is first asked for."""

    known: Mapping[str, KnownVersion | str]
    _ready: dict[str, Recompute | str] = field(default_factory=dict)

    def named(self, digits: str) -> Recompute | str:
        """The version that a line names, or why it cannot be run."""
        if digits not in self._ready:
            known = self.known.get(digits, f"its version {digits} is not stored")
            ready = known if isinstance(known, str) else Recompute(known.pipeline, doubts=dict(known.doubts))
            self._ready[digits] = ready
        return self._ready[digits]


def records_of(reader: JournalReader, request: Request, portion: Portion) -> Iterator[Record]:
    """The events of a portion."""
    records = reader.range(request.start, request.end, after=portion.after, until=portion.until)
    return islice(records, portion.most)


def event_filter(text: str) -> Program | None:
    """The program of `--filter`; None where there is none.

    :raises UsageError: `backfill.filter`, it is no jq.
    """
    if not text:
        return None
    try:
        program: Program = room("expressions")(lambda: 0.0).program(text, "event")
    except Permanent as error:
        raise UsageError("backfill.filter", f"--filter {text!r} is not a jq program", why=error.why or error.message) from error
    return program


def chosen_by(program: Program | None, lines: Sequence[Line]) -> Sequence[Line]:
    """Those that a filter takes.

    :raises Fatal: it fails at one.
    """
    if program is None:
        return lines
    verdicts = decide(program, [line.filled() for line in lines])
    for line, verdict in zip(lines, verdicts, strict=True):
        if isinstance(verdict, Exception):
            raise _filter_fails(line, verdict)
    return [line for line, verdict in zip(lines, verdicts, strict=True) if verdict]


def _filter_fails(line: Line, error: ComponentError) -> Fatal:
    event = line.filled()
    return Fatal(
        "backfill.filter",
        f"the filter fails at event {event.id}: {error.message}",
        where=f"partition {line.partition}",
        help="write it so that it holds for every event: .data.total? >= 100",
    )
