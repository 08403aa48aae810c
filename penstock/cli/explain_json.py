"""`pipe explain --json` and `pipe tap --json`: traces as documents. Events keep their text, so that numbers are exact."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.cli.explainer import Explained
from penstock.cloudevents import to_structured
from penstock.engine.trace import Trace, TracedStep
from penstock.errors import PenstockError, Permanent
from penstock.event import Event
from penstock.journal.lines import Line


def explained_document(explained: Explained) -> dict[str, Any]:
    """One event of `pipe explain --json`."""
    line, agreement, other = explained.found.line, explained.agreement, explained.against
    received = explained.trace.received if explained.trace is not None else line.received()
    return {
        **line_document(explained.found.archive.name, line, received),
        "computed_under": None if explained.pipeline is None else explained.pipeline.version,
        **trace_document(explained.trace),
        "doubts": explained.doubts,
        "agreement": None if agreement is None else {"verdict": agreement.verdict, "why": agreement.why},
        "fault": error_document(explained.fault),
        "letter_status": None if explained.letter is None else explained.letter.status,
        "later": [
            {
                "at": each.at,
                "job": each.job,
                "version": each.version,
                "outcome": each.outcome,
                "step": each.step,
                "sinks": each.sinks,
            }
            for each in explained.found.later
        ],
        "against": None
        if other is None
        else {"file": other.file, "version": other.pipeline.version, **trace_document(other.trace)},
    }


def line_document(pipeline: str, line: Line, received: Event) -> dict[str, Any]:
    """What was recorded."""
    return {
        "pipeline": pipeline,
        "version": line.version,
        "received_at": line.at,
        "partition": line.partition,
        "position": line.position,
        "outcome": line.outcome,
        "step": line.step,
        "letter": line.letter,
        "event": event_json(received),
    }


def trace_document(trace: Trace | None) -> dict[str, Any]:
    """Steps, routes and result of a trace; the same keys where nothing was computed."""
    if trace is None:
        return {"steps": [], "routes": [], "recomputed": None}
    result = trace.result
    error = result.failure.error if result.failure is not None else None
    return {
        "steps": [step_document(step) for step in trace.steps],
        "routes": [
            {
                "sink": route.sink,
                "kind": route.kind,
                "when": route.when,
                "outputs": [trace.made.outputs[index].id for index in route.taken],
            }
            for route in trace.routes
        ],
        "recomputed": {"outcome": result.outcome, "step": result.step, "error": error_document(error)},
    }


def step_document(step: TracedStep) -> dict[str, Any]:
    """One step."""
    return {
        "step": step.name,
        "kind": step.kind,
        "happened": step.happened,
        "seconds": round(step.seconds, 6),
        "inputs": [event_json(event) for event in step.inputs],
        "outputs": [event_json(event) for event in step.outputs],
        "error": error_document(step.error),
        "doubt": step.doubt,
    }


def event_json(event: Event) -> msgspec.Raw | str:
    """The event's own text; a message where it has no JSON form."""
    try:
        return msgspec.Raw(to_structured(event))
    except Permanent as error:
        return f"no JSON form: {error.message}"


def error_document(error: PenstockError | None) -> dict[str, Any] | None:
    """Parts of an error."""
    return None if error is None else {"code": error.code, "message": error.message, "why": error.why, "help": error.help}
