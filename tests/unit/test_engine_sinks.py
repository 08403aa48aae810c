"""A sink without a ledger, as a group is written to it: retries, and the isolation of what cannot be delivered."""

from __future__ import annotations

import inspect
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel
from state_builders import HandClock

from penstock.config.model import Retry
from penstock.engine.sinks import FlushNeeded, SinkEnd
from penstock.errors import BatchError, ComponentError, EnvironmentFault, Fatal, Permanent, Transient, Unavailable
from penstock.event import Event
from penstock.faults import Faults
from penstock.observe.status import RunStatus

RETRY = Retry(max_attempts=4, initial_delay=1.0, max_delay=3.0, max_elapsed=900.0)
Plan = Callable[[list[str]], None]


@dataclass
class Wire:
    """Delivers at once. `plan` sees the ids of each write and may raise; so do the entries of `flushes`, one a flush."""

    name: ClassVar[str] = "wire"
    Config: ClassVar[type[BaseModel]] = BaseModel
    plan: Plan = lambda ids: None
    flushes: list[Exception] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)

    async def open(self, recovered: bytes | None) -> None: ...

    async def write(self, events: Sequence[Event]) -> None:
        ids = [event.id for event in events]
        self.calls.append(ids)
        try:
            self.plan(ids)
        except BatchError as error:
            if not error.nothing_delivered:
                self.taken += [name for n, name in enumerate(ids) if n not in {*error.failed, *error.not_attempted}]
            raise
        self.taken += ids

    async def flush(self) -> bytes | None:
        if self.flushes:
            raise self.flushes.pop(0)
        return b"%d" % len(self.taken)

    async def close(self) -> None: ...


@dataclass
class Tape(Wire):
    """Can be cut back to what was committed."""

    busy: list[Exception] = field(default_factory=list)

    async def rollback(self, recovered: bytes | None = None) -> None:
        if self.busy:
            raise self.busy.pop(0)
        self.calls.append("rollback")
        del self.taken[int(recovered or b"0") :]


@dataclass
class Heard(RunStatus):
    """Remembers what sinks said of their waiting."""

    heard: list[str | None] = field(default_factory=list)

    def wait(self, who: str, why: str | None) -> None:
        self.heard.append(why)


@dataclass
class Outcome:
    failures: dict[str, tuple[str, int]]
    state: bytes | None
    waited: list[str | None]
    clock: HandClock
    end: SinkEnd


async def deliver(
    sink: Wire, ids: str, *, chunk: int = 100, retry: Retry = RETRY, committed: bytes | None = None, halts: bool = False
) -> Outcome:
    clock, status = HandClock(), Heard("orders", "v1")
    end = SinkEnd("wire", sink, "state", retry, chunk, clock, random.Random(7), Faults(), status, committed=committed)
    events = [Event(name, "s", "t", raw=b"1") for name in ids]
    try:
        failures, state = await end.deliver(events, halts=halts)
    except FlushNeeded:
        await end.take_back()
        raise
    end.settle(state)
    shown = {ids[index]: (failure.error.code, failure.attempts) for index, failure in failures.items()}
    return Outcome(shown, state, status.heard, clock, end)


def raising(*errors: Exception | None) -> Plan:
    """One error for each write; None and the end of the list let it pass."""
    left = list(errors)

    def plan(ids: list[str]) -> None:
        if left and (error := left.pop(0)) is not None:
            raise error

    return plan


def refusing(refused: str, error: ComponentError) -> Plan:
    """The ids that the sink names when it takes the others."""

    def plan(ids: list[str]) -> None:
        failed = {n: error for n, name in enumerate(ids) if name in refused}
        if failed:
            raise BatchError(failed)

    return plan


def down() -> Transient:
    return Transient("wire.down", "no answer")


def misfit() -> Permanent:
    return Permanent("wire.misfit", "cannot be taken")


async def test_everything_goes_in_chunks_and_is_flushed_once() -> None:
    wire = Wire()
    outcome = await deliver(wire, "abcde", chunk=2)
    assert (wire.calls, outcome.failures, outcome.state) == ([["a", "b"], ["c", "d"], ["e"]], {}, b"5")
    assert outcome.end.status.sinks == {"wire": 5}


async def test_nothing_to_write_touches_nothing() -> None:
    wire = Wire(flushes=[down()])
    outcome = await deliver(wire, "")
    assert (wire.calls, outcome.failures, outcome.state) == ([], {}, None)


async def test_a_transient_failure_is_retried_and_said() -> None:
    wire = Wire(raising(down(), down()))
    outcome = await deliver(wire, "ab")
    assert (wire.taken, outcome.failures) == (["a", "b"], {})
    assert outcome.waited == ["wire: no answer", "wire: no answer", None]
    assert outcome.end.status.retries == Counter(wire=2)
    assert len(outcome.clock.slept) == 2


async def test_what_was_delivered_is_not_delivered_again_by_a_retry() -> None:
    wire = Wire(raising(None, down()))
    outcome = await deliver(wire, "abcd", chunk=2)
    assert (wire.taken, wire.calls, outcome.failures) == (list("abcd"), [["a", "b"], ["c", "d"], ["c", "d"]], {})


async def test_when_no_attempt_is_left_what_is_not_delivered_fails() -> None:
    wire = Wire(raising(None, *[down()] * 99))
    outcome = await deliver(wire, "abcd", chunk=2)
    assert (wire.taken, outcome.failures) == (["a", "b"], {"c": ("wire.down", 4), "d": ("wire.down", 4)})
    assert len(outcome.clock.slept) == 3


async def test_elapsed_time_bounds_the_attempts_too() -> None:
    wire = Wire(raising(*[down()] * 99))
    outcome = await deliver(wire, "a", retry=Retry(max_attempts=50, initial_delay=10.0, max_delay=10.0, max_elapsed=20.0))
    assert outcome.failures.keys() == {"a"}
    assert sum(outcome.clock.slept) <= 20.0


async def test_a_full_disk_is_waited_out_however_long_it_takes() -> None:
    wire = Wire(raising(*[Unavailable("wire.full", "no space")] * 50))
    outcome = await deliver(wire, "a")
    assert (wire.taken, outcome.failures, outcome.waited) == (["a"], {}, ["wire: no space"] * 50 + [None])


async def test_a_partly_failing_batch_costs_only_the_guilty_event() -> None:
    wire = Wire(refusing("c", misfit()))
    outcome = await deliver(wire, "abcde")
    assert (wire.taken, outcome.failures) == (list("abde"), {"c": ("wire.misfit", 1)})
    assert outcome.end.status.sinks == {"wire": 4}


async def test_what_was_not_attempted_behind_a_failure_is_offered_next_in_order() -> None:
    wire = Wire(raising(BatchError({1: misfit()}, not_attempted=[2, 3])))
    outcome = await deliver(wire, "abcd")
    assert (wire.taken, wire.calls, outcome.failures) == (list("acd"), [list("abcd"), list("cd")], {"b": ("wire.misfit", 1)})


async def test_what_was_not_attempted_goes_before_what_lies_behind_its_chunk() -> None:
    wire = Wire(raising(None, BatchError({0: misfit()}, not_attempted=[1])))
    outcome = await deliver(wire, "abcdef", chunk=2)
    assert (wire.taken, outcome.failures) == (list("abdef"), {"c": ("wire.misfit", 1)})
    assert wire.calls == [["a", "b"], ["c", "d"], ["d", "e"], ["f"]]


@pytest.mark.parametrize("plan", [refusing("c", misfit()), raising(None, misfit(), misfit())], ids=["named", "as a whole"])
async def test_where_a_lane_stops_nothing_is_written_behind_a_failure(plan: Plan) -> None:
    wire = Wire(plan)
    outcome = await deliver(wire, "abcdef", chunk=2, halts=True)
    assert (wire.taken[:2], outcome.failures) == (["a", "b"], {"c": ("wire.misfit", 1)})
    assert not {"e", "f"} & set(wire.taken)


async def test_only_what_is_under_suspicion_is_written_one_by_one() -> None:
    wire = Wire(lambda ids: (_ for _ in ()).throw(misfit()) if "b" in ids else None)
    outcome = await deliver(wire, "abcdef", chunk=3)
    assert (wire.taken, outcome.failures) == (list("acdef"), {"b": ("wire.misfit", 1)})
    assert wire.calls == [list("abc"), ["a"], ["b"], ["c"], list("def")]


async def test_a_failure_of_a_whole_batch_is_pinned_on_the_guilty_event() -> None:
    def plan(ids: list[str]) -> None:
        if "c" in ids:
            raise misfit()

    wire = Wire(plan)
    outcome = await deliver(wire, "abcde")
    assert (wire.taken, outcome.failures) == (list("abde"), {"c": ("wire.misfit", 1)})


async def test_an_event_that_stays_transient_alone_fails_alone() -> None:
    wire = Wire(refusing("c", down()))
    outcome = await deliver(wire, "abcde")
    assert (wire.taken, outcome.failures) == (list("abde"), {"c": ("wire.down", 4)})


async def test_an_event_that_stays_transient_fails_alone_where_writes_are_taken_back() -> None:
    tape = Tape(refusing("c", down()))
    outcome = await deliver(tape, "abcde")
    assert (tape.taken, outcome.failures) == (list("abde"), {"c": ("wire.down", 4)})


async def test_after_a_failed_write_the_tape_is_cut_and_written_from_its_commit() -> None:
    tape = Tape(raising(None, down()), taken=["before"])
    outcome = await deliver(tape, "abcd", chunk=2, committed=b"1")
    assert tape.taken == ["before", *"abcd"]
    assert tape.calls == [["a", "b"], ["c", "d"], "rollback", ["a", "b"], ["c", "d"]]
    assert outcome.failures == {}


async def test_a_failed_flush_cuts_the_tape_too() -> None:
    tape = Tape(flushes=[down()])
    outcome = await deliver(tape, "ab")
    assert (tape.taken, tape.calls, outcome.state) == (["a", "b"], [["a", "b"], "rollback", ["a", "b"]], b"2")


async def test_a_failure_of_a_whole_batch_cuts_the_tape_before_events_are_tried_alone() -> None:
    """A write that raised anything but `BatchError` leaves nobody knows what behind (`Revertible`)."""
    tape = Tape(lambda ids: (_ for _ in ()).throw(misfit()) if "b" in ids else None)
    outcome = await deliver(tape, "abc")
    assert (tape.taken, outcome.failures) == (["a", "c"], {"b": ("wire.misfit", 1)})
    assert tape.calls == [list("abc"), "rollback", ["a"], ["b"], "rollback", ["a"], ["c"]]


async def test_a_rollback_is_repeated_until_it_works() -> None:
    tape = Tape(raising(down()), busy=[Unavailable("wire.full", "no space")] * 20)
    outcome = await deliver(tape, "a")
    assert (tape.taken, len(outcome.clock.slept)) == (["a"], 21)


async def test_a_flush_that_never_works_stops_the_run_and_blames_no_event() -> None:
    with pytest.raises(EnvironmentFault, match="no answer") as caught:
        await deliver(Wire(flushes=[down() for _ in range(99)]), "ab")
    assert (caught.value.code, caught.value.where) == ("wire.down", "sink wire")


@pytest.fixture
def shallow() -> Iterator[None]:
    """A stack on which nothing that calls itself for each event gets far."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 250)
    yield
    sys.setrecursionlimit(usual)


@pytest.mark.usefixtures("shallow")
async def test_many_failures_one_a_write_are_no_trouble() -> None:
    ids = "".join(chr(0x4E00 + n) for n in range(400))

    def plan(offered: list[str]) -> None:
        raise BatchError({0: misfit()}, not_attempted=range(1, len(offered)))

    outcome = await deliver(Wire(plan), ids, chunk=5000)
    assert len(outcome.failures) == 400


@pytest.mark.parametrize("error", [BatchError({}, not_attempted=[1]), BatchError({}, nothing_delivered=True)])
async def test_a_sink_that_can_hold_no_more_asks_for_a_commit(error: BatchError) -> None:
    tape = Tape(raising(error))
    with pytest.raises(FlushNeeded):
        await deliver(tape, "ab")
    assert tape.taken == []


async def test_a_fatal_cause_inside_a_batch_is_not_an_events_fault() -> None:
    with pytest.raises(Fatal, match="gone") as caught:
        await deliver(Wire(refusing("b", Fatal("wire.gone", "gone"))), "abc")
    assert caught.value.code == "wire.gone"


async def test_a_bug_of_a_sink_names_the_sink() -> None:
    with pytest.raises(Fatal, match="KeyError: 'total'") as caught:
        await deliver(Wire(raising(KeyError("total"))), "a")
    assert (caught.value.code, caught.value.where) == ("internal.error", "sink wire")


async def test_an_event_behind_one_that_used_up_its_attempts_has_its_own() -> None:
    """The first that is down for good costs the second, which is down once, nothing."""
    tries = dict.fromkeys("ab", 0)

    def plan(ids: list[str]) -> None:
        for name in ids:
            tries[name] += 1
            if name == "a" or tries[name] == 1:
                raise BatchError({ids.index(name): down()}, not_attempted=range(ids.index(name) + 1, len(ids)))

    outcome = await deliver(Wire(plan), "ab")
    assert (outcome.failures, tries["a"], tries["b"]) == ({"a": ("wire.down", RETRY.max_attempts)}, RETRY.max_attempts, 2)
