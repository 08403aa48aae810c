"""Looking without touching: dry runs, one event step by step, and a pipeline's own tests. No state, no sink, no checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from difflib import unified_diff
from typing import Any

import msgspec

from penstock.clock import moment_of
from penstock.cloudevents import from_structured, to_structured
from penstock.config.model import Pipeline, TestCase
from penstock.engine.assemble import Assembly, Surroundings, assemble
from penstock.engine.effects import Unanswered, Withholding, unanswered_by_step
from penstock.engine.flow import Flow
from penstock.engine.mocks import QuickClock, put_mocks
from penstock.engine.outcomes import count_outcomes
from penstock.engine.reading import Reader
from penstock.engine.run import Run, RunOptions
from penstock.engine.tally import Failure, Tally
from penstock.engine.work import Work
from penstock.errors import ComponentError, Fatal
from penstock.event import Event, decode, encode
from penstock.ledger import Counts
from penstock.observe.status import RunSummary
from penstock.spi import Resume


@dataclass(frozen=True, slots=True)
class PreviewRecord:
    """What would become of one received event: outputs by sink, or why it would be dead-lettered, or (`Unanswered`) why nobody
    knows; neither means filtered."""

    event: Event
    outputs: Mapping[str, Sequence[Event]]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a dry run came to: received = the four outcomes of the summary + `unanswered`, by step that was not performed."""

    summary: RunSummary
    unanswered: Mapping[str, int]


async def dry_run(pipeline: Pipeline, options: RunOptions, show: Callable[[PreviewRecord], None]) -> DryRun:
    """The real source, read from its beginning and acknowledged never; the real steps, but for those that change the world;
    instead of sinks, `show`.

    Repetitions are not recognised, for that is the ledgers' knowledge."""
    run = Run(pipeline, options)
    assembly = _assembled(pipeline, options)
    flow = Flow(pipeline.limits, run.status)
    unanswered: Counter[str] = Counter()
    run.status.started = options.clock.monotonic()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(assembly.source.close)
        await assembly.source.open(Resume(0, {}, options.once))
        run.status.phase = "running"
        batches = await stack.enter_async_context(aclosing(Reader(assembly, flow, options).batches(run.stopping)))
        async for batch in batches:
            work = await _through(assembly, Work(batch, 0.0))
            found = unanswered_by_step(work.failures)
            unanswered.update(found)
            run.status.counts = run.status.counts.plus(count_outcomes(work, set())).plus(Counts(dead_lettered=-found.total()))
            for record in _records(assembly, work):
                show(record)
            await flow.release(len(batch.events), batch.size, 1)
    run.status.phase = "stopped"
    return DryRun(run.summary(), unanswered)


def _assembled(pipeline: Pipeline, options: RunOptions, *, reads: bool = True) -> Assembly:
    """The parts of a pipeline for somebody who looks on: what a step lacks is told, not waited for without limit, and no step
    changes the world.

    :param reads: steps that only ask the world are performed.
    """
    assembly = assemble(pipeline, Surroundings(options.clock, options.random, options.faults))
    assembly.chain.answer_by(Withholding(reads))
    for stage in assembly.chain.stages:
        stage.patient = False
    return assembly


async def _through(assembly: Assembly, work: Work) -> Work:
    tally = Tally()
    assembly.moment.at = moment_of(assembly.surroundings.clock)
    for origin, event in enumerate(work.batch.events):
        event.origin = origin
    events = assembly.preparer.prepare(work.batch.events, tally, work.batch.rejects)
    outputs, routes = await assembly.chain.run(events, tally)
    work.take(outputs, routes, tally)
    return work


def _records(assembly: Assembly, work: Work) -> list[PreviewRecord]:
    taken: dict[int, dict[str, list[Event]]] = {}
    for bit, sink in enumerate(assembly.chain.sinks):
        for output in work.for_sink(bit, sink):
            taken.setdefault(output.origin, {}).setdefault(sink, []).append(output)
    return [
        PreviewRecord(event, taken.get(origin, {}), work.failures.get(origin)) for origin, event in enumerate(work.batch.events)
    ]


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step's outputs for one event, as CloudEvents; or its error; `note` says what else there is to say."""

    name: str
    outputs: Sequence[dict[str, Any]]
    error: ComponentError | None = None
    note: str | None = None


async def try_event(pipeline: Pipeline, record: Any) -> list[StepTrace]:
    """Each step's outputs for one record, in order; ends at the step that fails or filters it.

    :param record: a CloudEvent in structured form (an object with `specversion`), or a record as the source would read it.
    """
    options = RunOptions()
    assembly = _assembled(pipeline, options)
    return (await _trace(assembly, record_event(pipeline, record)))[0]


def record_event(pipeline: Pipeline, record: Any) -> Event:
    """What the source would make of the record, with stand-ins for what only a source can know."""
    if isinstance(record, dict) and "specversion" in record:
        return from_structured(encode(record))
    return Event("0", f"{pipeline.source.kind}:try", f"{pipeline.source.kind}.record", raw=encode(record), decoded=record)


async def _trace(assembly: Assembly, event: Event) -> tuple[list[StepTrace], list[Event], Failure | None]:
    tally = Tally()
    assembly.moment.at = moment_of(assembly.surroundings.clock)
    event.origin = 0
    events = assembly.preparer.prepare([event], tally, {})
    traces = [_step("event", events, tally)]
    for stage in assembly.chain.stages:
        if not events or tally.failures:
            break
        try:
            events = await stage.run(events, tally)
        except Fatal as error:  # `stop`, or a component that cannot go on: what led there is what somebody wants to see
            tally.failures[0] = Failure(0, stage.name, error, events[0])
        traces.append(_step(stage.name, events, tally))
    return traces, [] if tally.failures else events, tally.failures.get(0)


def _step(name: str, events: Sequence[Event], tally: Tally) -> StepTrace:
    failure = tally.failures.get(0)
    if failure is not None and isinstance(failure.error, Unanswered):
        return StepTrace(name, [], None, f"{failure.error.message}: what comes behind it is not known")
    if failure is not None:
        return StepTrace(name, [], failure.error)
    outputs = [decode(to_structured(event)) for event in events]
    return StepTrace(name, outputs, None, None if outputs else "filtered")


@dataclass(frozen=True, slots=True)
class TestResult:
    """One case of `tests:`. `diff` shows expected (-) against actual (+); empty where it passed.

    :ivar unanswered: the step with effects that the case got to, and has no mock for.
    """

    case: TestCase
    passed: bool
    expected: Any
    actual: Any
    diff: str = ""
    traces: Sequence[StepTrace] = field(default_factory=list)
    unanswered: str | None = None


async def run_test(pipeline: Pipeline, case: TestCase) -> TestResult:
    """Send the case's input through the steps (and through `event:`, unless the input names the attribute itself), and compare.

    Expected outputs are compared by what they mention: attributes and data that are given must be equal, in order. No step waits,
    and none with effects is performed: mocks stand for them.
    """
    assembly = _assembled(pipeline, RunOptions(clock=QuickClock()), reads=False)
    put_mocks(case.mocks, assembly.chain)
    traces, outputs, failure = await _trace(assembly, _input_event(pipeline, case))
    if failure is not None and isinstance(failure.error, Unanswered):
        return _unmocked(case, failure, traces)
    if case.dead_letter is not None or (failure is not None and case.output is None):
        expected: Any = {"dead_letter": dict(case.dead_letter or {})}
        actual: Any = {"dead_letter": _failure_json(failure, case.dead_letter or {})}
    else:
        expected = [dict(output) for output in case.output or ()]
        actual = _failure_json(failure, {}) if failure else _mentioned(expected, outputs)
    passed = encode_sorted(_plain(expected)) == encode_sorted(_plain(actual))
    return TestResult(case, passed, expected, actual, "" if passed else _diff(expected, actual), traces)


def _unmocked(case: TestCase, failure: Failure, traces: Sequence[StepTrace]) -> TestResult:
    """A step with effects is not performed: a case that gets to one says what stands for it."""
    expected = (
        {"dead_letter": dict(case.dead_letter)} if case.dead_letter is not None else [dict(each) for each in case.output or ()]
    )
    actual = {
        "unanswered": failure.step,
        "help": f"the step has effects: give it a mock, `mocks: {{ {failure.step}: {{ output: … }} }}`",
    }
    return TestResult(case, False, expected, actual, _diff(expected, actual), traces, failure.step)


def _input_event(pipeline: Pipeline, case: TestCase) -> Event:
    given = dict(case.input)
    text = given.pop("text", None)
    event = record_event(pipeline, given.pop("data", None))
    if text is not None:  # what came, byte for byte: it need not be JSON
        event = event.replace(raw=str(text).encode())
    attributes = {name: value for name, value in given.items() if name in event.__struct_fields__}
    return event.replace(**attributes)


def _mentioned(expected: Sequence[Mapping[str, Any]], outputs: Sequence[Event]) -> list[dict[str, Any]]:
    """The actual outputs, reduced to the attributes that the expected ones mention; whole where there are more than expected."""
    actual = []
    for index, event in enumerate(outputs):
        whole = decode(to_structured(event))
        asked = expected[index].keys() if index < len(expected) else whole.keys()
        actual.append({name: whole.get(name) for name in asked})
    return actual


def _failure_json(failure: Failure | None, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    if failure is None:
        return None
    whole = {"step": failure.step, "code": failure.error.code, "message": failure.error.message}
    return {name: whole.get(name) for name in asked} if asked else whole


def _diff(expected: Any, actual: Any) -> str:
    before, after = (json.dumps(decode(encode(x)), indent=2, sort_keys=True, ensure_ascii=False) for x in (expected, actual))
    return "\n".join(unified_diff(before.splitlines(), after.splitlines(), "expected", "actual", lineterm=""))


def _plain(value: Any) -> Any:
    """3.0 and 3 are one number, however a test or a step spells it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


encode_sorted = msgspec.json.Encoder(order="sorted").encode
