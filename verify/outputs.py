"""What sinks were given: the outputs of past events, computed again under the version that delivered them.

They must agree with what the journal recorded of them. Where that cannot be told, or they do not, nobody knows what the sinks
were given: then there is a reason in their place, and nothing is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock.clock import rfc3339
from penstock.cloudevents import from_structured, to_structured
from penstock.engine.agreement import agreement, check_values
from penstock.engine.letters import DECODE, SOURCE
from penstock.engine.recompute import Output, Recompute, Recomputed, Result, Routed, asks_now
from penstock.engine.versions import Versions
from penstock.errors import Permanent, UsageError
from penstock.journal.lines import Line
from penstock.state.records import DeadLetter
from penstock.state.store import StateStore
from verify.jobs import REPLAYS, Deed
from verify.standing import Delivery

Made = Sequence[Output] | str
"""The outputs of an event, or why nobody knows them."""

UNLIKE = "what its version makes of it today is not what was recorded"
EDITED_UNKNOWN = "its dead letter is gone, so whether it was edited is not known"
READ_AGAIN = "its record was read from the source again when it was replayed"
ASKED = "its steps asked the world again in a job"
SEVERAL = "it was delivered in several attempts, which may have made different outputs"
NO_MOMENT = "its steps ask for `now`, and when they ran in its job is not known"


@dataclass(slots=True)
class Remaker:
    """Computes outputs again.

    :ivar jobs: the kind of each job that was asked for; empty where it is not stored any more.
    """

    versions: Versions
    store: StateStore
    jobs: dict[str, str] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)

    async def of_run(self, lines: Sequence[Line], sinks: Sequence[str] | None) -> list[Made]:
        """Of lines that can be computed together (`penstock.engine.recompute.batching`), under the version that handled them.

        :param sinks: of that version; None: it is not stored.
        """
        recompute = await self._version(lines[0].version)
        if isinstance(recompute, str):
            return [_recorded(line, sinks) or recompute for line in lines]
        made = await recompute.run(lines)
        outputs, results = made.by_origin(), made.results()
        found: list[Made] = []
        for origin, (line, result) in enumerate(zip(lines, results, strict=True)):
            doubt = _doubt(recompute, line, made, origin, outputs[origin], result)
            found.append(result.outputs if doubt is None else _recorded(line, sinks) or doubt)
        return found

    async def of_job(self, line: Line, delivery: Delivery, letter: DeadLetter | None) -> Made:
        """Of an event that a job delivered.

        :param letter: its dead letter with its bodies, where it is still there.
        """
        deed = delivery.deed
        assert deed is not None, "of a job"
        recompute = await self._version(deed.kind.version)
        if isinstance(recompute, str):
            return recompute
        if deed.kind.asked:
            return ASKED
        kind = await self.kind_of(deed.kind.job)
        moves = asks_now(recompute.pipeline.content)
        if moves and not kind:
            return NO_MOMENT
        again = _as_delivered(line, deed, kind, letter)
        if isinstance(again, str):
            return again
        if delivery.after and (moves or again.event is not line.event):
            return SEVERAL
        result = await _only(recompute, again)
        if result.outcome not in ("delivered", "filtered"):
            return next(iter(recompute.doubts.values()), UNLIKE)
        others = {line.version if attempt is None else attempt.kind.version for attempt in delivery.after} - {deed.kind.version}
        return result.outputs if await self._all_make(result.outputs, again, others) else SEVERAL

    async def _all_make(self, outputs: Sequence[Output], line: Line, versions: Iterable[str]) -> bool:
        """Whether all of these versions make these outputs of a line's event."""
        for version in versions:
            tried = await self._version(version)
            if isinstance(tried, str) or not _are_same(outputs, (await _only(tried, line)).outputs):
                return False
        return True

    async def anyhow(self, lines: Sequence[Line]) -> Sequence[Sequence[Output] | None]:
        """As `of_run`, whether they agree or not: the likeliest outputs; None of those that cannot be computed."""
        recompute = await self._version(lines[0].version)
        if isinstance(recompute, str):
            return [None] * len(lines)
        return [result.outputs for result in (await recompute.run(lines)).results()]

    async def _version(self, digits: str) -> Recompute | str:
        if digits in self._refused:
            return self._refused[digits]
        try:
            return await self.versions.of(digits)
        except UsageError as error:
            self._refused[digits] = error.message
            return error.message

    async def kind_of(self, job: str) -> str:
        """Of a job, by its id; empty where it is not stored any more."""
        if job not in self.jobs:
            try:
                self.jobs[job] = (await self.store.jobs.find(job)).kind
            except UsageError:  # job.unknown: it is not stored any more
                self.jobs[job] = ""
        return self.jobs[job]


def _doubt(
    recompute: Recompute, line: Line, made: Recomputed, origin: int, outputs: Sequence[Routed], result: Result
) -> str | None:
    """Why nobody knows what its outputs were; None where they are these."""
    if made.outcome(origin) is None:
        if line.outputs is None:
            return next(iter(recompute.doubts.values()), None)
        if check_values(outputs, made.filled[origin]) == line.outputs:
            return None
    agreed = agreement(line, made, origin, result)
    if agreed.verdict == "same":
        return None
    return agreed.why if agreed.verdict == "beyond" else next(iter(recompute.doubts.values()), UNLIKE)


def _recorded(line: Line, sinks: Sequence[str] | None) -> Sequence[Output] | None:
    """The outputs that were kept whole, where they were."""
    if not line.outputs or sinks is None or not all(isinstance(output, dict) for output in line.outputs):
        return None
    masks = line.routes if line.routes is not None else [-1] * len(line.outputs)
    return [
        Output(from_structured(msgspec.json.encode(output)), [sink for bit, sink in enumerate(sinks) if mask >> bit & 1])
        for output, mask in zip(line.outputs, masks, strict=True)
    ]


def _as_delivered(line: Line, deed: Deed, kind: str, letter: DeadLetter | None) -> Line | str:
    """The line as if the job's attempt had been the first; a text where what the job sent is not known."""
    again = msgspec.structs.replace(line, outcome="delivered", step=None, letter=None, outputs=None, answers=None)
    if kind in REPLAYS:
        again = msgspec.structs.replace(again, at=rfc3339(deed.at))
    if kind == "backfill":
        return again
    if letter is None:
        return EDITED_UNKNOWN
    if letter.edited is not None:
        return msgspec.structs.replace(again, event=msgspec.Raw(letter.edited), given=None, original=None, no_json=None)
    return READ_AGAIN if line.step in (SOURCE, DECODE) else again


async def _only(recompute: Recompute, line: Line) -> Result:
    (result,) = (await recompute.run([line])).results()
    return result


def _are_same(ones: Sequence[Output], others: Sequence[Output]) -> bool:
    """Whether two versions make the same, whoever gets it."""
    try:
        return [to_structured(one.event) for one in ones] == [to_structured(other.event) for other in others]
    except Permanent:  # one has no JSON form
        return False
