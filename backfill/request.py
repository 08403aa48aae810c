"""What a backfill is asked to do, and what it has come to: both are kept with its job, so that it can be gone on with."""

from __future__ import annotations

from typing import Literal

import msgspec

from backfill.comparison import Comparison
from penstock.journal.opened import Mark

MOST_CAUSES = 1000
"""Causes of dead letters that are told apart."""
SAMPLES = 3
"""Outputs that are kept for each sink."""

Mode = Literal["dry_run", "shadow", "live"]
Origin = Literal["journal", "native"]


class Cursor(msgspec.Struct, frozen=True):
    """The cursor of a live backfill.

    :ivar mark: of the last line that is dealt with.
    :ivar begun: of the last line of a job that the pipeline's journal had when the backfill began.
    """

    mark: Mark
    begun: Mark = Mark(0, 0, 0)


decode_cursor = msgspec.json.Decoder(Cursor).decode


class UnplacedRecord(msgspec.Struct, frozen=True):
    """A record of the source that has no time, or of which no event could be made: its id, its partition, and why."""

    id: str
    partition: str
    why: str


class Copied(msgspec.Struct, frozen=True):
    """What a native range came to, and the copy of it that the job reads.

    :ivar name: of its directory, among the pipeline's copies.
    :ivar events: of the range; `unknown` of them the journal does not tell of, `changed` are others at the source than those that
        were received.
    :ivar unplaced: records that may be of the range or not, for nobody knows when they happened.
    :ivar first_unknown, examples: the first of these, by id.
    """

    name: str
    events: int = 0
    unknown: int = 0
    changed: int = 0
    unplaced: int = 0
    first_unknown: list[str] = []
    examples: list[UnplacedRecord] = []


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for.

    :ivar start, end: event time, half-open, in seconds since 1970.
    :ivar file: of the pipeline; `version`: of the steps that run.
    :ivar against: the file or stored version these come from; empty: the pipeline's own file.
    :ivar filter: jq over the event; only those for which it is true.
    :ivar rate: events per second; None: as fast as it goes.
    :ivar limit: look at no more events than so many, spread over the range; 0: at all.
    :ivar ignore: places whose differences do not count, for a shadow.
    :ivar segment: the first of the journal that the range needs.
    :ivar source: where the events come from; `copied`: of a native range, the copy that is read in place of the journal.
    :ivar sinks: of a live one, those that are to get something; empty: all. `redeliver`: what they had before, too.
    """

    mode: Mode
    start: float
    end: float
    file: str
    version: str
    against: str = ""
    filter: str = ""
    rate: float | None = None
    limit: int = 0
    ignore: list[str] = []
    segment: int = 0
    sinks: list[str] = []
    redeliver: bool = False
    source: Origin = "journal"
    copied: Copied | None = None


class StepFlow(msgspec.Struct):
    """What went through one step. `seconds` of one processor."""

    taken: int = 0
    made: int = 0
    failed: int = 0
    skipped: int = 0
    unanswered: int = 0
    seconds: float = 0.0


class LetterGroup(msgspec.Struct):
    """Dead letters that would be made, of one cause."""

    fingerprint: str
    step: str
    code: str
    message: str
    count: int = 0
    example: str = ""


class Sample(msgspec.Struct):
    """One output: the received event's id, the sinks that take it, the CloudEvent as JSON text."""

    event: str
    sinks: list[str]
    output: str


class Result(msgspec.Struct):
    """What a backfill has come to. Everything in it is bounded, whatever the range holds.

    :ivar read: events of the range that were looked at, `left_out` of them by the filter; the others are the four outcomes and
        `unanswered`.
    :ivar unanswered: events of which nobody knows what would become of them, by the step with effects that has no answer kept.
    :ivar total: how many the journal's index says there are, about: a frame on the edge counts whole.
    :ivar seconds: for how long it has run, all attempts together.
    :ivar sinks: outputs by sink.
    :ivar unlike: of a shadow, events whose recorded version does not make again what was recorded, by reason.
    """

    total: int = 0
    read: int = 0
    left_out: int = 0
    delivered: int = 0
    filtered: int = 0
    deduplicated: int = 0
    dead_lettered: int = 0
    outputs: int = 0
    seconds: float = 0.0
    sinks: dict[str, int] = {}
    steps: dict[str, StepFlow] = {}
    letters: dict[str, LetterGroup] = {}
    other_letters: int = 0
    samples: list[Sample] = []
    comparison: Comparison | None = None
    unlike: dict[str, int] = {}
    unanswered: dict[str, int] = {}
