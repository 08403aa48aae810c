"""Parts of snapshots without a server: what a moment sees, what is older than a change, whose change it was, positions."""

from __future__ import annotations

import random

import msgspec
import pytest
from pgoutput_parts import encode_change, encode_relation

from connectors._pg_types import TypeCatalog
from connectors.sources._cdc import snapshot_touched as touched
from connectors.sources._cdc.snapshot_held import Token
from connectors.sources._cdc.snapshot_memory import Memory
from connectors.sources._cdc.snapshot_positions import (
    END_OF_CHUNK,
    VERSION,
    Progress,
    Reached,
    next_generation,
    order_text,
    partition_of,
    position,
    reached,
)
from connectors.sources._cdc.snapshot_rows import key_text
from connectors.sources._cdc.snapshot_tap import Listener, Tap
from connectors.sources._cdc.snapshot_touched import Touched, moment
from connectors.sources._pgoutput import Decoder
from penstock.errors import EnvironmentFault
from penstock.event import Event
from penstock.spi import Position

TIME = "2026-01-01T00:00:00Z"


def at(snapshot: str) -> touched.Moment:
    return moment(snapshot, 0, TIME)


def test_a_moment_sees_what_ended_before_it() -> None:
    seen = at("10:15:10,13")
    assert [xid for xid in range(5, 20) if seen.sees(xid)] == [5, 6, 7, 8, 9, 11, 12, 14]
    assert at("10:10:").sees(9)
    assert not at("10:10:").sees(10)


@pytest.mark.parametrize("epoch", [1 << 32, 5 << 32])
def test_transactions_are_told_apart_when_their_numbers_begin_anew(epoch: int) -> None:
    seen = at(f"{epoch - 3}:{epoch + 4}:{epoch - 3},{epoch + 2}")
    for n in range(epoch - 5, epoch + 6):
        expected = n < epoch - 3 or (n < epoch + 4 and n not in (epoch - 3, epoch + 2))
        assert seen.sees(n % (1 << 32)) is expected


def test_rows_are_older_where_a_transaction_changed_them_that_is_not_seen() -> None:
    found = Touched()
    found.add(10, (b"a",))
    found.add(11, (b"b",))
    found.add(12, (b"a",))
    assert found.older(at("11:11:"), [(b"a",), (b"b",), (b"c",)]) == {0, 1}
    assert found.older(at("12:12:"), [(b"a",), (b"b",), (b"c",)]) == {0}
    assert found.older(at("13:13:"), [(b"a",), (b"b",), (b"c",)]) == set()
    found.empty(20)
    assert found.older(at("20:21:20"), [(b"a",), (b"c",)]) == {0, 1}
    assert found.older(at("21:21:"), [(b"a",)]) == set()


def test_of_too_many_changes_the_transactions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched, "MOST_TOUCHED", 2)
    found = Touched()
    for key in (b"a", b"b", b"c"):
        found.add(10, (key,))
    found.add(11, None)
    assert found.forgotten == {10, 11}
    assert [found.is_clear(at(text)) for text in ("10:10:", "11:12:11", "12:12:")] == [False, False, True]
    assert found.older(at("12:12:"), [(b"a",)]) == set()
    assert found.is_clear(at("10:10:"))


def test_what_is_older_agrees_with_remembering_everything() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        found, every = Touched(), list[tuple[int, bytes]]()
        running, following = {1}, 2
        for _ in range(400):
            action = rng.random()
            if action < 0.6:
                xid, key = rng.choice(sorted(running)), bytes([rng.randint(97, 105)])
                found.add(xid, (key,))
                every.append((xid, key))
            elif action < 0.9:
                running.add(following)
                following += 1
                if len(running) > 5:
                    running.remove(rng.choice(sorted(running)))
            else:
                seen = at(f"{min(running)}:{following}:{','.join(map(str, running))}")
                keys = [(bytes([n]),) for n in range(97, 106)]
                expected = {n for n, (key,) in enumerate(keys) if any(k == key and not seen.sees(x) for x, k in every)}
                assert found.older(seen, keys) == expected


def collected(tap: Tap, decoder: Decoder, message: bytes, *ops: str) -> None:
    """A message that made events with these operations, all of which are given."""
    events = [Event(str(n), "s", "t", position=bytes([n + 1]), record={"op": op}) for n, op in enumerate(ops)]
    tap.collected(message, False, 7, decoder.relations, events)
    tap.given(events, {})


def listening(key: list[tuple[str, int]], kind: int = 25) -> tuple[Tap, Decoder, Touched]:
    decoder, tap, found = Decoder(TypeCatalog()), Tap(), Touched()
    decoder.decode(encode_relation(7, [("id", kind, -1, True), ("n", 23, -1, False)]))
    tap.add(Listener("s", tuple(key), found))
    return tap, decoder, found


ALL = [(b"old",), (b"new",), (b"other",)]


@pytest.mark.parametrize(
    ("rows", "ops", "older"),
    [
        ([(b"N", [b"new", b"1"])], ["insert"], {1}),
        ([(b"K", [b"old", None])], ["delete"], {0}),
        ([(b"K", [b"old", None]), (b"N", [b"new", b"1"])], ["delete", "insert"], {0, 1}),
        ([(b"K", [b"old", None]), (b"N", [b"new", b"1"])], ["insert"], {1}),
        ([(b"O", [b"old", b"2"]), (b"N", [b"new", b"1"])], ["update"], {0, 1}),
    ],
)
def test_a_change_touches_the_keys_that_its_events_tell_of(
    rows: list[tuple[bytes, list[bytes]]], ops: list[str], older: set[int]
) -> None:
    tap, decoder, found = listening([("id", 25)])
    kind = b"D" if ops == ["delete"] else b"U" if len(rows) > 1 else b"I"
    collected(tap, decoder, encode_change(kind, 7, *rows), *ops)
    assert found.older(at("5:5:"), ALL) == older
    assert found.is_clear(at("5:5:"))


@pytest.mark.parametrize("key", [[("id", 23)], [("id", 25), ("n", 23)], [("missing", 25)]])
def test_a_change_whose_key_cannot_be_told_makes_rows_be_read_again(key: list[tuple[str, int]]) -> None:
    tap, decoder, found = listening(key)
    collected(tap, decoder, encode_change(b"D", 7, (b"K", [b"old", None])), "delete")
    assert not found.is_clear(at("5:5:"))
    assert found.is_clear(at("8:8:"))


def test_events_that_are_not_given_touch_nothing() -> None:
    tap, decoder, found = listening([("id", 25)])
    event = Event("1", "s", "t", position=b"1", record={"op": "insert"})
    message = encode_change(b"I", 7, (b"N", [b"new", b"1"]))
    tap.collected(message, False, 7, decoder.relations, [event])
    tap.given([event], {0: object()})
    tap.collected(message, False, 7, decoder.relations, [event])
    tap.forget()
    tap.given([event], {})
    assert found.older(at("5:5:"), ALL) == set()


def test_a_tap_is_idle_when_nobody_listens() -> None:
    tap, listener = Tap(), Listener("s", (), Touched())
    assert tap.is_idle
    tap.add(listener)
    assert not tap.is_idle
    tap.remove(listener)
    tap.remove(listener)
    assert tap.is_idle


PROGRESS = Progress(VERSION, "initial-0/10", "public", "orders", ("id",), ("integer",))


def test_progress_goes_from_declaration_to_declaration() -> None:
    declared = PROGRESS.declared((("3",), ("5",)), True)
    assert (declared.done, declared.after) == (False, None)
    first = declared.passed()
    assert (first.after, first.bounds, first.done) == (("3",), (("5",),), False)
    assert first.passed().done
    assert PROGRESS.declared((), True).done
    assert not PROGRESS.declared((("3",),), False).passed().done


def test_positions_are_read_as_they_were_written() -> None:
    name, other = partition_of("public", "orders"), partition_of("public", "orders", 2)
    whole = msgspec.structs.replace(PROGRESS, key=(), types=())
    written = {name: position(7, 3, END_OF_CHUNK, PROGRESS), other: position(8, 0, 0, whole)}
    assert reached(written) == [Reached(name, PROGRESS, 7, 3, END_OF_CHUNK), Reached(other, whole, 8)]
    assert reached({name: Position(b""), "slot": Position(b"x")}) == []
    with pytest.raises(EnvironmentFault) as caught:
        reached({name: position(1, 0, 0, msgspec.structs.replace(PROGRESS, version=9))})
    assert caught.value.code == "source.unknown_checkpoint"
    with pytest.raises(EnvironmentFault):
        reached({name: Position(b"short", b"{}")})


def test_what_the_first_version_wrote_is_read() -> None:
    stored = Position(
        bytes.fromhex("000000010000000000000000000000028000000000000000"),
        b'{"version":1,"snapshot":"initial-0/10","schema":"public","table":"orders","key":["id"],"types":["integer"],'
        b'"after":["8"],"bounds":[["12"],["16"]],"complete":true}',
    )
    (found,) = reached({"snapshot:public.orders": stored})
    assert (found.generation, found.chunk, found.place) == (1 << 32, 2, END_OF_CHUNK)
    assert (found.progress.after, found.progress.bounds) == (("8",), (("12",), ("16",)))
    assert (found.progress.complete, found.progress.done) == (True, False)


def test_partitions_of_odd_names_are_told_apart() -> None:
    names = {partition_of("a.b", "c"), partition_of("a", "b.c"), partition_of("a", "b"), partition_of("a", "b", 2)}
    assert names == {'snapshot:"a.b".c', 'snapshot:a."b.c"', "snapshot:a.b", "snapshot:a.b#2"}


def test_a_partition_that_is_used_again_is_beyond_all_that_earlier_runs_gave() -> None:
    first = next_generation(0, 3)
    assert (next_generation(first, 3), next_generation(first + 5, 4)) == (first + 1, 4 << 32)
    assert order_text(position(first, 0, 0, PROGRESS).order) == "snapshot, planned"
    assert order_text(position(first, 2, 17, PROGRESS).order) == "snapshot, chunk 2, row 17"


def asked(memory: Memory, *snapshots: str) -> dict[str, Position]:
    """These are taken, and durable."""
    at = {}
    for snapshot in snapshots:
        memory.take(snapshot, ())
        for batch in memory.batches():
            batch.token.settle()
            assert batch.end is not None
            at[batch.partition] = batch.end
    return at


def test_a_request_is_remembered_once_its_plans_are_durable() -> None:
    memory, plan = Memory(rows=False), Token()
    memory.resume({}, 1)
    token = memory.take("signal-7", [plan])
    assert (memory.batches(), memory.taken("signal-7"), memory.may_come_again("signal-7")) == ([], token, True)
    plan.settle()
    (batch,) = memory.batches()
    assert (batch.token, memory.taken("signal-7"), memory.may_come_again("signal-7")) == (token, token, True)
    token.settle()
    assert not memory.may_come_again("signal-7")
    again = Memory(rows=False)
    again.resume({batch.partition: batch.end}, 2)  # type: ignore[dict-item]  # a source with positions
    found = [again.taken(name) for name in ("signal-6", "signal-7", "signal-8")]
    assert [one is not None and one.is_done for one in found] == [True, True, False]
    assert not again.may_come_again("initial-0/10")


def test_rows_that_are_there_no_more_are_forgotten() -> None:
    memory = Memory(rows=True)
    memory.resume({}, 1)
    assert memory.may_come_again("table-a")  # nobody knows yet
    memory.look(["a", "b"], [])
    at = asked(memory, "table-a", "table-b", "signal-3")
    memory.look(["c"], ["b"])
    assert [memory.may_come_again(f"table-{row}") for row in "abc"] == [False, False, True]
    at |= asked(memory, "table-c")
    assert b'"rows":["b","c"]' in at["snapshots-asked"].detail
    assert b'"signal":3' in at["snapshots-asked"].detail
    assert order_text(at["snapshots-asked"].order) == "snapshots asked for"


@pytest.mark.parametrize("detail", [b"{", b'{"version":9}'])
def test_a_memory_that_is_unknown_is_refused(detail: bytes) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        Memory(rows=True).resume({"snapshots-asked": Position(bytes(24), detail)}, 1)
    assert caught.value.code == "source.unknown_checkpoint"


def test_orders_of_the_change_stream_are_no_positions_of_snapshots() -> None:
    assert order_text(bytes(16)) is None
    assert order_text(b"") is None


def test_keys_in_ids() -> None:
    assert key_text((b"42",)) == "42"
    assert key_text((b"a", b"1")) == '["a","1"]'
    assert key_text((b"x" * 65,)).startswith("blake2b:")
    assert key_text((b"x" * 65,)) != key_text((b"x" * 66,))
    assert key_text((b"\xff",)) == "\\xff"
