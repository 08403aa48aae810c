"""Steps with effects (rule 14): a stage that asks or changes the world gets its results from an `Answering`.

`Performing` asks the world: runs, replays, live backfills. `Recalling` answers from the journal: whatever computes past events
again. A mock (`Stub`) stands for it in tests. `Withholding`, which a stage has until somebody says otherwise, changes nothing:
previews. What cannot be answered is `Unanswered`, never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.config.model import Effects as Kind
from penstock.engine.answers import data_digest, key_digest
from penstock.engine.tally import Failure, Tally
from penstock.errors import ComponentError, Permanent
from penstock.event import Event, encode
from penstock.spi import Program, Result

LONGEST_KEY = 255
"""Characters of an idempotency key: what receivers of an `Idempotency-Key` take."""


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
    :ivar asked: what tells this question from others: digest of the key, or `data`.
    """

    event: Event
    origin: int
    key: str | None
    data: str
    asked: str


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
        data = data_digest(event)
        return Question(event, origin, key, data, data if key is None else key_digest(key))
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
