"""What a dry run and a shadow count: a batch of journal lines and what was made of them goes in, `Result` grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from backfill.request import MOST_CAUSES, SAMPLES, LetterGroup, Result, Sample, StepFlow
from penstock.builtins import room
from penstock.cloudevents import to_structured
from penstock.engine.effects import Unanswered, unanswered_by_step
from penstock.engine.recompute import Recomputed
from penstock.engine.tally import Failure
from penstock.errors import Permanent
from penstock.event import Event

LONGEST_MESSAGE = 500


@dataclass(slots=True)
class Accounts:
    """Adds to a result what became of batches."""

    result: Result
    _fingerprint = staticmethod(room("fingerprint"))
    _sampled: Counter[str] = field(default_factory=Counter)

    def add(self, made: Recomputed) -> None:
        """One batch."""
        result = self.result
        routed = self._add_outputs(made)
        failures = made.tally.failures
        result.read += len(made.received)
        result.delivered += len(routed)
        unanswered = unanswered_by_step(failures)
        result.dead_lettered += len(failures) - unanswered.total()
        result.filtered += len(made.received) - len(routed) - len(failures)
        for step, count in unanswered.items():
            result.unanswered[step] = result.unanswered.get(step, 0) + count
        for failure in failures.values():
            if not isinstance(failure.error, Unanswered):
                self._add_letter(made, failure)
        self._add_steps(made)

    def _add_outputs(self, made: Recomputed) -> set[int]:
        """:returns: the origins that some sink takes an output of."""
        routed: set[int] = set()
        for bit, sink in enumerate(made.sinks):
            outputs = made.for_sink(bit)
            self.result.sinks[sink] = self.result.sinks.get(sink, 0) + len(outputs)
            routed.update(event.origin for event in outputs)
            if self._sampled[sink] < SAMPLES:
                self._add_samples(made, sink, outputs)
        self.result.outputs += sum(mask != 0 for mask in made.masks())
        return routed

    def _add_samples(self, made: Recomputed, sink: str, outputs: Sequence[Event]) -> None:
        """One output of an event is enough; what several sinks take is shown once."""
        for event in outputs:
            received = made.received[event.origin].id
            if self._sampled[sink] >= SAMPLES:
                return
            if any(sample.event == received for sample in self.result.samples):
                continue
            sinks = [name for bit, name in enumerate(made.sinks) if event in made.for_sink(bit)]
            self.result.samples.append(Sample(received, sinks, _text(event)))
            self._sampled.update(sinks)

    def _add_letter(self, made: Recomputed, failure: Failure) -> None:
        error = failure.error
        violations = error.violations if isinstance(error, Permanent) else []
        key = self._fingerprint(failure.step, error.code, violations)
        group = self.result.letters.get(key)
        if group is None:
            if len(self.result.letters) >= MOST_CAUSES:
                self.result.other_letters += 1
                return
            message = error.message[:LONGEST_MESSAGE]
            group = LetterGroup(key, failure.step, error.code, message, 0, made.received[failure.origin].id)
            self.result.letters[key] = group
        group.count += 1

    def _add_steps(self, made: Recomputed) -> None:
        """What went into a step is what the one before it let pass."""
        passed: Counter[str] = Counter()
        for step, events in made.passed:
            passed[step] += len(events)
        entered = made.entered
        for step, left in passed.items():
            flow = self.result.steps.setdefault(step, StepFlow())
            flow.taken += entered
            flow.made += left
            flow.failed += made.tally.steps[step, "failed"]
            flow.unanswered += made.tally.steps[step, "unanswered"]
            flow.skipped += made.tally.steps[step, "skipped"]
            flow.seconds += made.seconds[step]
            entered = left


def _text(event: Event) -> str:
    try:
        return to_structured(event).decode()
    except Permanent as error:
        return f'{{"id":"?","error":"{error.code}"}}'
