"""What the journal recalls where past events are computed again: the answers of steps with effects, for the world is not asked,
and why no event could be made of a record."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence

import msgspec

from penstock.engine.answers import Answer, KeptAnswers, decode_answers
from penstock.engine.effects import Ask, Effects, Question, Unanswered
from penstock.engine.letters import DECODE
from penstock.engine.tally import Tally
from penstock.errors import Permanent
from penstock.event import decode
from penstock.journal.lines import Line
from penstock.spi import Result


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


def why_unread(line: Line) -> Permanent:
    """Why no event could be made of the record: for what is no JSON found anew, for what the source refused as far as the line
    says it (its dead letter says all)."""
    if line.step == DECODE and line.original is not None:
        try:
            decode(b64decode(line.original))
        except Permanent as error:
            return error
    letter = f"pipe dlq show {line.letter} says why" if line.letter else None
    return Permanent(f"{line.step}.recorded", "no event could be made of the record", why="as it was recorded", help=letter)
