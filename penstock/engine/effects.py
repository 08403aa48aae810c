"""Steps with effects (rule 14): a stage that asks or changes the world gets its results from an `Answering`.

`Performing` asks the world: runs, replays, live backfills. `Recalling` answers from the journal: whatever computes past events
again. `Withholding`, which a stage has until somebody says otherwise, changes nothing: previews. What cannot be answered is
`Unanswered`, never guessed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from penstock.clock import Clock
from penstock.config.model import Effects as Kind
from penstock.engine.answers import (
    Answer,
    KeptAnswers,
    answer_text,
    data_digest,
    decode_answer,
    decode_answers,
    key_digest,
)
from penstock.engine.retry import PATIENT, persistently
from penstock.engine.tally import Failure, Tally
from penstock.errors import ComponentError, Permanent
from penstock.event import Event, encode
from penstock.faults import Faults
from penstock.journal.lines import Line
from penstock.spi import Program, Result
from penstock.state.answer_book import AnswerBook
from penstock.state.answer_tables import FoundAnswer, KeptAnswer

LONGEST_KEY = 255
"""Characters of an idempotency key: what receivers of an `Idempotency-Key` take."""
UNKNOWN = object()
"""In the place of a result that the state store does not have."""
LAST_WRITE = 5.0
"""Seconds that a run which ends waits for the state store to take what the world has answered."""


class Unanswered(Permanent):
    """Of an event at a step with effects, where the world is not asked, and no answer was kept."""


def unanswered_by_step(failures: Mapping[int, Failure]) -> Counter[str]:
    """Of these failures, those that are none: how many events got no answer, by step."""
    return Counter(failure.step for failure in failures.values() if isinstance(failure.error, Unanswered))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the world for one event.

    :ivar origin: index of the received event, whatever the batch at hand numbers.
    :ivar key: the idempotency key, where the step has one.
    :ivar data: digest of the event's data.
    """

    event: Event
    origin: int
    key: str | None
    data: str

    @property
    def asked(self) -> str:
        """What tells this question from others: the key, or the data."""
        return self.data if self.key is None else key_digest(self.key)


Keep = Callable[[Sequence[int], Sequence[Result]], Awaitable[None]]
"""Hears the results of each attempt, and which of the questions they are of."""
Ask = Callable[[Sequence[Question], Keep], Awaitable[list[Result]]]
"""Performs the step, again and again as its `retry` says."""


class Answering(Protocol):
    """Where the results of steps with effects come from."""

    async def answer(self, step: Effects, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Result]:
        """One result for each question; what is to be remembered is told to the tally."""
        ...


@dataclass(slots=True)
class Withholding:
    """Nothing in the world is changed.

    :ivar reads: steps that only ask are performed.
    """

    reads: bool = False

    async def answer(self, step: Effects, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Result]:
        if step.kind == "read" and self.reads:
            return await ask(questions, keep_nothing)
        does = "changes" if step.kind == "write" else "asks"
        return [Unanswered("effects.unanswered", f"the step {does} the world, and was not performed")] * len(questions)


async def keep_nothing(places: Sequence[int], results: Sequence[Result]) -> None:
    """Where no answer is kept."""


@dataclass(slots=True)
class Effects:
    """What a stage with effects has beside others.

    :ivar name: the step's.
    :ivar key: program of its idempotency key.
    """

    name: str
    kind: Kind
    key: Program | None = None
    answering: Answering = field(default_factory=Withholding)

    async def run(self, events: Sequence[Event], origins: Sequence[int], ask: Ask, tally: Tally) -> list[Result]:
        """One for each event. One whose key cannot be made fails with that reason, and nothing is asked for it."""
        keys: Sequence[str | ComponentError | None] = [None] * len(events)
        if self.key is not None:
            keys = [_key(outputs) for outputs in self.key(events)]
        questions = list(map(_question, events, origins, keys))
        asked = [question for question in questions if isinstance(question, Question)]
        results = iter(await self.answering.answer(self, asked, ask, tally) if asked else ())
        return [next(results) if isinstance(question, Question) else question for question in questions]


def _question(event: Event, origin: int, key: str | ComponentError | None) -> Question | ComponentError:
    if isinstance(key, ComponentError):
        return key
    try:
        return Question(event, origin, key, data_digest(event))
    except Permanent as error:
        return error


def _key(outputs: list[Any] | ComponentError) -> str | ComponentError:
    """The one value that the program gave, as text."""
    if isinstance(outputs, ComponentError):
        return outputs
    if len(outputs) != 1:
        return _bad_key(f"{len(outputs)} values")
    value = outputs[0]
    if value.__class__ in (int, float):
        value = encode(value).decode()
    if value.__class__ is not str:
        return _bad_key({bool: "true or false", type(None): "null"}.get(value.__class__, "neither text nor a number"))
    if not 0 < len(value) <= LONGEST_KEY:
        return _bad_key(f"text of {len(value):,} characters")
    return str(value)


def _bad_key(gave: str) -> Permanent:
    help = f"it has to give one number, or one text of 1 to {LONGEST_KEY} characters, for every event"
    return Permanent("effects.bad_key", f"idempotency_key gave {gave}", help=help)


@dataclass(slots=True)
class Performing:
    """The world is asked, once for each key: an answer that the state store keeps is not asked for again.

    :ivar waiting: is told why an answer cannot be kept for now, and None when it is.
    """

    book: AnswerBook
    epoch: int
    clock: Clock
    random: random.Random
    faults: Faults
    waiting: Callable[[str | None], None]

    async def answer(self, step: Effects, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Result]:
        if step.key is None:
            return _remembered(step.name, questions, await ask(questions, keep_nothing), tally)
        names = _names(step.name, questions)
        found = await self._surely(lambda: self.book.find(self.epoch, names))
        results = [_stored(found.get(name), question) for name, question in zip(names, questions, strict=True)]
        places = [n for n, result in enumerate(results) if result is UNKNOWN]

        async def keep(which: Sequence[int], made: Sequence[Result]) -> None:
            chosen = [places[n] for n in which]
            await self._keep(step.name, [names[n] for n in chosen], [questions[n] for n in chosen], made)

        if places:
            made = await ask([questions[n] for n in places], keep)
            for n, result in zip(places, made, strict=True):
                results[n] = result
        for name, question in zip(names, questions, strict=True):
            tally.answered(question.origin).names.append(name)
        return _remembered(step.name, questions, results, tally)

    async def _keep(self, step: str, names: Sequence[str], questions: Sequence[Question], made: Sequence[Result]) -> None:
        """What the world has answered, in one write. A failure is none: it is asked about again."""
        at, kept = self.clock.now(), []
        for name, question, result in zip(names, questions, made, strict=True):
            result, text = _told(question, result)
            if not isinstance(result, ComponentError):
                kept.append(KeptAnswer(name, step, question.key or "", question.data, text, at))
        if kept:
            self.faults.hit("before_answers")
            await _to_its_end(self._surely(lambda: self.book.keep(self.epoch, kept)))
            self.faults.hit("after_answers")

    async def _surely(self, action: Callable[[], Awaitable[Any]]) -> Any:
        """In the state store: nothing can go on without it, whatever it takes."""
        result = await persistently(
            action, PATIENT, self.random, self.clock, lambda error: self.waiting(f"answers: {error}"), "state store"
        )
        self.waiting(None)
        return result


async def _to_its_end(writing: Awaitable[None]) -> None:
    """A run that ends for another reason still writes down what the world has answered."""
    task = asyncio.ensure_future(writing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=LAST_WRITE)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _names(step: str, questions: Sequence[Question]) -> list[str]:
    """What answers are called: the step, the key, and the event that brought it, so that another event with the same key is
    another question, which the world has to settle. The n-th part of an event that asks under one key is the n-th again when the
    event is read again."""
    names = []
    seen: Counter[bytes] = Counter()
    for question in questions:
        event = question.event
        said = b"\0".join((step.encode(), str(question.key).encode(), event.source.encode(), event.id.encode(), event.position))
        names.append(blake2b(b"%d\0%b" % (seen[said], said), digest_size=16).hexdigest())
        seen[said] += 1
    return names


def _stored(found: FoundAnswer | None, question: Question) -> Any:
    """The result, or `UNKNOWN`. An answer that was set aside with a parked event is the answer to that event as it was then: it
    may have been edited since."""
    if found is None or (found.aside and found.data != question.data):
        return UNKNOWN
    return decode_answer(found.answer).result(question.event)


def _told(question: Question, result: Result) -> tuple[Result, bytes]:
    """The result with its text. What has no text is a failure of the step."""
    try:
        return result, answer_text(question.asked, question.event, result)
    except Permanent as error:
        return error, answer_text(question.asked, question.event, error)


def _remembered(step: str, questions: Sequence[Question], results: Sequence[Result], tally: Tally) -> list[Result]:
    """The results, which are told to the tally, for the journal."""
    told = [_told(question, result) for question, result in zip(questions, results, strict=True)]
    for question, (_, text) in zip(questions, told, strict=True):
        tally.answered(question.origin).texts.setdefault(step, []).append(text)
    return [result for result, _ in told]


class Recalling:
    """Answers from lines of the journal. `begin` comes before each batch of them."""

    def __init__(self) -> None:
        self._lines: Sequence[Line] = ()
        self._kept: dict[tuple[int, str], KeptAnswers] = {}

    def begin(self, lines: Sequence[Line]) -> None:
        """From now on an origin is a place among these."""
        self._lines = lines
        self._kept.clear()

    async def answer(self, step: Effects, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Result]:
        return [self._recalled(step.name, question) for question in questions]

    def _recalled(self, step: str, question: Question) -> Result:
        place = question.origin, step
        if place not in self._kept:
            self._kept[place] = KeptAnswers(_answers_of(self._lines[question.origin], step))
        answer = self._kept[place].take(question.asked)
        if isinstance(answer, str):
            help = "it is not asked now: that would be another answer, and may change the world"
            return Unanswered("effects.unanswered", f"the step was not performed, and {answer}", help=help)
        return answer.result(question.event)


def _answers_of(line: Line, step: str) -> list[Answer]:
    text = (line.answers or {}).get(step)
    try:
        return decode_answers(text) if text is not None else []
    except msgspec.MsgspecError:  # written by another program: it is no answer that this one knows
        return []
