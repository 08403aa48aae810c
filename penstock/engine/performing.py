"""Steps with effects where events are delivered: the world is asked, and its answers are kept until the events are committed.

Rule 14 of docs/guarantees.md. Collaborators: `effects`, whose stages ask; `penstock.state.answer_book`, which keeps the answers;
the journal, which is told them through the tally.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from penstock.clock import Clock
from penstock.engine.answers import answer_text, decode_answer
from penstock.engine.effects import Ask, Effects, Question, keep_nothing
from penstock.engine.retry import PATIENT, persistently
from penstock.engine.tally import Tally
from penstock.engine.tasks import call_off
from penstock.errors import ComponentError, Permanent
from penstock.faults import Faults
from penstock.spi import Result
from penstock.state.answer_book import AnswerBook
from penstock.state.answer_tables import FoundAnswer, KeptAnswer

Told = tuple[Result, bytes]
"""A result, and its text (`answers`)."""
LAST_WRITE = 5.0
"""Seconds that a run which ends waits for the state store to take what the world has answered."""


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
            told = [_told(*each) for each in zip(questions, await ask(questions, keep_nothing), strict=True)]
        else:
            told = await self._keyed(step.name, questions, ask, tally)
        for question, (_, text) in zip(questions, told, strict=True):
            tally.answered(question.origin).texts.setdefault(step.name, []).append(text)
        return [result for result, _ in told]

    async def _keyed(self, step: str, questions: Sequence[Question], ask: Ask, tally: Tally) -> list[Told]:
        names = _names(step, questions)
        found = await self._surely(lambda: self.book.find(self.epoch, names))
        told = {n: each for n, question in enumerate(questions) if (each := _stored(found.get(names[n]), question)) is not None}
        places = [n for n in range(len(questions)) if n not in told]

        async def keep(which: Sequence[int], made: Sequence[Result]) -> None:
            fresh = {places[n]: _told(questions[places[n]], result) for n, result in zip(which, made, strict=True)}
            told.update(fresh)
            await self._keep(step, [(names[n], questions[n], each) for n, each in fresh.items()])

        if places:
            await ask([questions[n] for n in places], keep)
        for name, question in zip(names, questions, strict=True):
            tally.answered(question.origin).names.append(name)
        return [told[n] for n in range(len(questions))]

    async def _keep(self, step: str, told: Sequence[tuple[str, Question, Told]]) -> None:
        """What the world has answered, in one write. A failure is none: it is asked about again."""
        at = self.clock.now()
        kept = [
            KeptAnswer(name, step, question.key or "", question.data, text, at)
            for name, question, (result, text) in told
            if not isinstance(result, ComponentError)
        ]
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
        await call_off(task)
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


def _stored(found: FoundAnswer | None, question: Question) -> Told | None:
    """None: it has to be asked. An answer that was set aside with a parked event is the answer to that event as it was then: it
    may have been edited since."""
    if found is None or (found.aside and found.data != question.data):
        return None
    return decode_answer(found.answer).result(question.event), found.answer


def _told(question: Question, result: Result) -> Told:
    """What has no text is a failure of the step."""
    try:
        return result, answer_text(question.asked, question.event, result)
    except Permanent as error:
        return error, answer_text(question.asked, question.event, error)
