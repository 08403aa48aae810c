"""A dead letter as a regression test of its pipeline: its event, redacted, and what the pipeline as it is now makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlq.redaction import Path, Redaction, Redactor, parse_path
from penstock.cloudevents import from_structured
from penstock.config.model import Pipeline, TestCase
from penstock.engine.letters import SOURCE
from penstock.engine.preview import run_test
from penstock.errors import Location, UsageError
from penstock.event import UNSET, Event, decode
from penstock.state.records import DeadLetter

_EXPECTED = ("type", "subject", "partitionkey", "dataschema", "data")
_NAMED = ("id", "source", "type", "time", "subject", "partitionkey")
_GIVEN = {"partition_key": "partitionkey"}
_NOWHERE = Location("")


@dataclass(frozen=True, slots=True)
class Regression:
    """An entry of `tests:`.

    :ivar entry: as it is written.
    :ivar redacted: paths of what was taken out.
    :ivar differs: what becomes of the event as it came, where redaction changed that; None: it did not.
    """

    entry: Mapping[str, Any]
    redacted: Sequence[str] = ()
    differs: str | None = None


async def regression(pipeline: Pipeline, letter: DeadLetter, name: str, redaction: Redaction) -> Regression:
    """:param redaction: beside what the pipeline's `redact` steps name.

    :raises UsageError: `dlq.no_test`, where the event never came as far as a test begins.
    """
    redactor = Redactor([*redaction.taken, *declared_paths(pipeline)], redaction.kept, redaction.guesses)
    whole = _input(pipeline, letter)
    chosen = {key: redactor.redact(value, (key,)) for key, value in whole.items()}
    came, outcome = await _outcome(pipeline, name, whole), await _outcome(pipeline, name, chosen)
    least = {key: value for key, value in chosen.items() if key not in _NAMED}
    if await _outcome(pipeline, name, least) == outcome:
        chosen = least
    paths = [
        path for path in dict.fromkeys(redactor.changed) if path.startswith((".data", ".record", ".text")) or path[1:] in chosen
    ]
    differs = None if _kind(came) == _kind(outcome) else _told(came)
    return Regression({"name": name, "input": chosen, **outcome}, paths, differs)


def declared_paths(pipeline: Pipeline) -> list[Path]:
    """What the `redact` steps of the pipeline name, as paths of the event."""
    paths: list[Path] = []
    for step in pipeline.steps:
        fields = getattr(step.component.config, "fields", ()) if step.component.kind == "redact" else ()
        paths += [("data", *parse_path(text)) for text in fields]
    return paths


def _input(pipeline: Pipeline, letter: DeadLetter) -> dict[str, Any]:
    """All that a test can say of an event."""
    if letter.step == SOURCE or (letter.reread and letter.edited is None):
        raise UsageError(
            "dlq.no_test",
            f"the dead letter {letter.id} cannot become a test: the source could not give its event",
            help="a test begins behind the source; pipe dlq edit can make an event of it, and --edited a test of that",
        )
    event = from_structured(letter.effective)
    computed = {_GIVEN.get(name, name) for name in pipeline.event.given()}
    named = {name: getattr(event, name) for name in _NAMED if name not in computed and getattr(event, name) is not None}
    record = {} if letter.source_record is None else {"record": decode(letter.source_record)}
    return {**named, **record, **_data(event, letter)}


def _data(event: Event, letter: DeadLetter) -> dict[str, Any]:
    if event.raw is not None:
        return {"data": event.data}
    if event.decoded is UNSET and letter.original is not None:
        try:
            return {"text": letter.original.decode()}
        except UnicodeDecodeError as error:
            raise UsageError(
                "dlq.no_test",
                f"the record of the dead letter {letter.id} is neither JSON nor text, which a YAML file could hold",
                why=f"byte {error.start} is not UTF-8",
            ) from error
    if isinstance(event.decoded, bytes):
        raise UsageError("dlq.no_test", f"the data of the dead letter {letter.id} is bytes, which a YAML file cannot hold")
    return {}


async def _outcome(pipeline: Pipeline, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline makes of an input, as a test expects it."""
    result = await run_test(pipeline, TestCase(name, given, [], {}, _NOWHERE))
    if result.unanswered is not None:
        raise UsageError(
            "dlq.no_test",
            f"the event gets to the step {result.unanswered}, which has effects and is not performed in a test",
            help=f"write the test with `mocks: {{ {result.unanswered}: {{ output: … }} }}`",
        )
    if isinstance(result.actual, dict):
        return {"dead_letter": {name: result.actual[name] for name in ("step", "code")}}
    outputs = result.actual or []
    return {"output": [{key: output[key] for key in _EXPECTED if output.get(key) is not None} for output in outputs]}


def _kind(outcome: Mapping[str, Any]) -> Any:
    return outcome.get("dead_letter") or len(outcome["output"])


def _told(outcome: Mapping[str, Any]) -> str:
    failure = outcome.get("dead_letter")
    if failure is not None:
        return f"it fails in {failure['step']} ({failure['code']})"
    return f"it gives {len(outcome['output'])} events" if outcome["output"] else "it is filtered"
