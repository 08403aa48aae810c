"""The report of a backfill: one document, which `--json` prints, and the terminal and the page show."""

from __future__ import annotations

from typing import Any

import msgspec

from backfill.comparison import Cause, Comparison
from backfill.request import Copied, Request, Result
from penstock.clock import rfc3339
from penstock.state.job_records import JobProgress

_LIVE = ("delivered", "filtered", "deduplicated", "dead_lettered", "held", "letters", "repeated", "left_out")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a report is about, besides its result.

    :ivar job: its id; `state`: how far it is.
    """

    job: str
    pipeline: str
    state: str
    request: Request


def live_document(about: About, progress: JobProgress) -> dict[str, Any]:
    """Of a live backfill: what was read = the four outcomes + `held` (every sink had it) + `letters` (left to its dead letter) +
    `repeated` + `left_out` by the filter."""
    counts = {name: progress.counts.get(name, 0) for name in _LIVE}
    extra = {"against": about.request.against, "sinks": list(about.request.sinks), "redeliver": about.request.redeliver}
    return {**_head(about), **extra, "read": progress.done, "in_range": progress.total, **counts}


def document(about: About, result: Result) -> dict[str, Any]:
    """Plain JSON values. Counts are of events that were looked at; `estimate` is what the whole range would come to."""
    request = about.request
    said: dict[str, Any] = {
        **_head(about),
        "against": request.against,
        "ignore": list(request.ignore),
        "read": result.read,
        "in_range": result.total,
        "left_out": result.left_out,
        "delivered": result.delivered,
        "filtered": result.filtered,
        "deduplicated": result.deduplicated,
        "dead_lettered": result.dead_lettered,
        "unanswered": dict(sorted(result.unanswered.items())),
        "outputs": result.outputs,
        "seconds": round(result.seconds, 3),
        "events_per_second": round(result.read / result.seconds) if result.seconds else 0,
        "sinks": dict(sorted(result.sinks.items())),
        "steps": [_step(name, result) for name in result.steps],
        "letters": [msgspec.to_builtins(group) for group in sorted(result.letters.values(), key=lambda group: -group.count)],
        "other_letters": result.other_letters,
        "samples": [{**msgspec.to_builtins(sample), "output": msgspec.json.decode(sample.output)} for sample in result.samples],
        "estimate": _estimate(result),
    }
    if result.comparison is not None:
        said["comparison"] = _comparison(result.comparison)
        said["unlike"] = dict(result.unlike)
        said["verdict"] = verdict(result)
    return said


def _head(about: About) -> dict[str, Any]:
    request = about.request
    return {
        "job": about.job,
        "pipeline": about.pipeline,
        "mode": request.mode,
        "state": about.state,
        "from": rfc3339(request.start),
        "to": rfc3339(request.end),
        "version": request.version,
        "filter": request.filter,
        "source": request.source,
        "native": _native(request.copied),
    }


def _native(copied: Copied | None) -> dict[str, Any] | None:
    """Of a native range, what the source held: `unknown` events the journal does not tell of, `changed` ones are others than
    those that were received, and `unplaced` records may be of the range or not."""
    if copied is None:
        return None
    return {
        "events": copied.events,
        "unknown": copied.unknown,
        "changed": copied.changed,
        "unplaced": copied.unplaced,
        "examples": [msgspec.to_builtins(each) for each in copied.examples],
    }


def verdict(result: Result) -> str:
    """Of a shadow: `clean`, `different`, `incomplete` where nothing differs and steps with effects were not all answered, or
    `nothing` where no event was compared."""
    comparison = result.comparison
    if comparison is None or not comparison.events:
        return "nothing"
    if not comparison.clean or result.unlike:
        return "different"
    return "incomplete" if result.unanswered else "clean"


def differing(result: Result) -> int:
    """How many differences a shadow found: outputs, outcomes that moved beside them, and what could not be compared, for it
    could not be made again, or a step with effects was not answered."""
    comparison = result.comparison
    if comparison is None:
        return 0
    uncompared = sum(result.unlike.values()) + sum(result.unanswered.values())
    failures = sum(cause.count for cause in comparison.by_place.values() if cause.path == "(failure)")
    return comparison.changed + comparison.missing + comparison.extra + failures + uncompared


def _step(name: str, result: Result) -> dict[str, Any]:
    flow = result.steps[name]
    each = flow.seconds / flow.taken * 1e6 if flow.taken else 0.0
    return {
        "name": name,
        "in": flow.taken,
        "out": flow.made,
        "failed": flow.failed,
        "skipped": flow.skipped,
        "unanswered": flow.unanswered,
        "microseconds_per_event": round(each, 1),
    }


def _estimate(result: Result) -> dict[str, Any]:
    """What the whole range would come to, where a part of it was looked at."""
    share = max(1.0, result.total / result.read) if result.read else 0.0
    names = ("delivered", "filtered", "deduplicated", "dead_lettered", "outputs")
    return {
        "events": max(result.total, result.read),
        "seconds": round(result.seconds * share, 1),
        **{name: round(getattr(result, name) * share) for name in names},
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "events": comparison.events,
        "identical": comparison.same,
        "changed": comparison.changed,
        "missing": comparison.missing,
        "extra": comparison.extra,
        "outcomes": [
            {"before": before, "after": after, "events": count}
            for before, to in sorted(comparison.outcomes.items())
            for after, count in sorted(to.items())
        ],
        "causes": [_cause(cause) for cause in comparison.causes()],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    examples = sorted(cause.examples, key=lambda example: -example.weight)
    return {
        "path": cause.path,
        "kind": cause.kind,
        "count": cause.count,
        "examples": [{"event": each.event, "before": each.before, "after": each.after} for each in examples],
    }
