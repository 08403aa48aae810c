"""Steps with effects (rule 14): asked once for each key, answered from the state store after a crash, told to the journal."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from effects_parts import CHARGE, FILE, Shop
from effects_parts import shop as shop

from penstock.errors import Fatal
from penstock.event import Event
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database

BOTH = """\
sinks:
  - file: { path: out.jsonl }
  - sqlite: { path: out.db, table: paid, key: [n], create: true }
"""
TABLE = "sink: { sqlite: { path: out.db, table: paid, key: [n], create: true } }\n"


@pytest.fixture(params=["sqlite", "postgres"])
def state(request: pytest.FixtureRequest) -> str:
    """What a pipeline says of its state: `state: …` or nothing."""
    if request.param == "sqlite":
        return ""
    database: Database = request.getfixturevalue("database")
    return database.dsn


def said(state: str) -> str:
    return f"state: '{state}'\n" if state else ""


async def test_the_world_is_asked_once_for_each_event_and_nothing_is_kept_in_the_end(shop: Shop, state: str) -> None:
    shop.write(more=said(state))
    shop.add(*range(10))
    summary = await shop.run()
    assert shop.asked == [(f"k{n}", n) for n in range(10)]
    assert shop.out == [{"n": n, "paid": 2 * n} for n in range(10)]
    assert (summary.counts.delivered, await shop.kept(state or None)) == (10, 0)


@pytest.mark.parametrize("call", ["charge", "later", "{ call: 'world_steps:many', batch: true }"])
async def test_the_key_is_handed_to_the_function_however_it_is_called(shop: Shop, call: str) -> None:
    called = call if call.startswith("{") else f"'world_steps:{call}'"
    shop.write(f"  - {{ name: charge, python: {called}, effects: write, idempotency_key: .n }}\n")
    shop.add(5, 6)
    await shop.run()
    assert (shop.asked, [each["paid"] for each in shop.out]) == ([("5", 5), ("6", 6)], [10, 12])


@pytest.mark.parametrize("sink", [FILE, TABLE, BOTH], ids=["file", "table", "both"])
@pytest.mark.parametrize("point", ["after_answers", "before_sink_write", "after_journal", "before_commit", "before_note"])
async def test_after_a_crash_an_answer_is_read_and_not_asked_for_again(shop: Shop, state: str, point: str, sink: str) -> None:
    shop.write(more=said(state) + "limits: { in_flight_events: 4 }\n", sink=sink)
    shop.add(*range(12))
    with pytest.raises(Fatal):
        await shop.run(at=point, nth=2)
    await shop.run()
    assert sorted(shop.asked) == sorted((f"k{n}", n) for n in range(12))
    assert (await shop.run()).counts.received == 0
    left = 4 if point == "before_note" and sink != FILE else 0  # every ledger had taken them: they are not read again
    assert await shop.kept(state or None) <= left


async def test_a_crash_between_answer_and_write_asks_again_under_the_same_key(shop: Shop, state: str) -> None:
    shop.write(more=said(state))
    shop.add(*range(8))
    with pytest.raises(Fatal):
        await shop.run(at="before_answers", nth=2)
    await shop.run()
    times = Counter(shop.asked)
    assert times == Counter({(f"k{n}", n): 2 if 4 <= n < 8 else 1 for n in range(8)})
    assert [each["n"] for each in shop.out] == list(range(8))


async def test_without_a_key_the_world_may_be_asked_again(shop: Shop) -> None:
    shop.write('  - { name: charge, python: "world_steps:charge", effects: write }\n')
    shop.add(0, 1)
    with pytest.raises(Fatal):
        await shop.run(at="before_commit")
    await shop.run()
    assert shop.asked == [(None, 0), (None, 1)] * 2


async def test_what_fails_for_a_while_is_tried_again_under_the_same_key_and_the_others_are_not(shop: Shop) -> None:
    shop.write()
    shop.add(*range(4))
    shop.trouble(n1="transient", n3="transient")
    await shop.run()
    assert shop.asked == [("k0", 0), ("k1", 1), ("k2", 2), ("k3", 3), ("k1", 1), ("k3", 3)]
    assert [each["n"] for each in shop.out] == [0, 1, 2, 3]


async def test_answers_are_durable_before_the_step_waits_for_its_next_attempt(shop: Shop) -> None:
    shop.write()
    shop.add(*range(4))
    shop.trouble(n1="transient")
    with pytest.raises(Fatal):
        await shop.run(at="before_answers", nth=2)
    await shop.run()
    assert Counter(key for key, _ in shop.asked) == Counter({"k0": 1, "k1": 3, "k2": 1, "k3": 1})


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (".id", "idempotency_key gave null"),
        ("empty", "idempotency_key gave 0 values"),
        (".n, .n", "idempotency_key gave 2 values"),
        (".n == 1", "idempotency_key gave true or false"),
        ("{n}", "idempotency_key gave neither text nor a number"),
        ('""', "idempotency_key gave text of 0 characters"),
        ('"x" * 300', "idempotency_key gave text of 300 characters"),
        ('error("none")', "none"),
    ],
)
async def test_an_event_without_a_key_is_a_dead_letter_and_the_world_not_asked(shop: Shop, program: str, why: str) -> None:
    key = f"if .n == 1 then {program} else .n end"
    shop.write(f"  - {{ name: charge, python: 'world_steps:charge', effects: write, idempotency_key: '{key}' }}\n")
    shop.add(0, 1, 2)
    summary = await shop.run()
    assert (summary.counts.delivered, summary.counts.dead_lettered) == (2, 1)
    assert shop.asked == [("0", 0), ("2", 2)]
    store = shop.store()
    await store.open()
    [letter], _ = await store.letters(LetterQuery())
    await store.close()
    assert (letter.step, why in letter.message) == ("charge", True)


async def test_the_journal_keeps_what_was_made_dropped_and_refused(shop: Shop) -> None:
    steps = CHARGE.replace('charge"', 'charge", set: { type: paid }, when: .n != 4', 1)
    shop.write(steps, more="dead_letter: { lane: skip }\n")
    shop.add(*range(5))
    shop.trouble(n1="drop", n2="declined", n3="several")
    summary = await shop.run()
    assert (summary.counts.delivered, summary.counts.filtered, summary.counts.dead_lettered) == (3, 1, 1)
    declined = {"code": "shop.declined", "message": "no money", "why": "the card says so", "help": "ask for another card"}
    assert list(shop.answers().values()) == [
        {"charge": [{"made": [{"data": {"n": 0, "paid": 0}}]}]},
        {"charge": [{"made": []}]},
        {"charge": [{"error": declined}]},
        {"charge": [{"made": [{"data": {"n": 3, "part": part}} for part in range(3)]}]},
        {},
    ]


async def test_parts_of_an_event_and_steps_behind_each_other_are_asked_for_each(shop: Shop) -> None:
    steps = (
        "  - jq: 'range(3) as $i | {n: (.n + $i)}'\n"
        + CHARGE.replace(".n)", ".n % 2)")
        + CHARGE.replace("name: charge", "name: second")
    )
    shop.write(steps)
    shop.add(10)
    with pytest.raises(Fatal):
        await shop.run(at="before_commit")
    await shop.run()
    assert Counter(shop.asked) == Counter([("k0", 10), ("k1", 11), ("k0", 12), ("k10", 10), ("k11", 11), ("k12", 12)]), (
        "two parts of one event under one key are two questions"
    )
    assert [each["n"] for each in shop.out] == [10, 11, 12]


async def test_two_events_under_one_key_are_two_questions(shop: Shop) -> None:
    shop.write(CHARGE.replace(".n)", ".n % 2)"))
    shop.add(0, 1, 2, 3)
    await shop.run()
    assert (shop.asked, [each["paid"] for each in shop.out]) == ([("k0", 0), ("k1", 1), ("k0", 2), ("k1", 3)], [0, 2, 4, 6])


async def test_where_a_lane_stops_the_answers_behind_it_stay(shop: Shop) -> None:
    shop.write(
        CHARGE + "  - { name: whole, jq: 'if .n == 2 then error(\"no\") else . end' }\n", more="dead_letter: { lane: stop }\n"
    )
    shop.add(*range(4))
    with pytest.raises(Fatal, match="no"):
        await shop.run()
    assert ([each["n"] for each in shop.out], await shop.kept()) == ([0, 1], 2)
    shop.write(CHARGE)
    await shop.run()
    assert shop.asked == [(f"k{n}", n) for n in range(4)]
    assert ([each["n"] for each in shop.out], await shop.kept()) == ([0, 1, 2, 3], 0)


async def test_a_step_that_is_skipped_for_an_event_was_asked_for_it(shop: Shop) -> None:
    shop.write(CHARGE.replace("effects", "on_error: skip, effects"))
    shop.add(0, 1)
    shop.trouble(n1="declined")
    await shop.run()
    assert (shop.out, await shop.kept()) == ([{"n": 0, "paid": 0}, {"n": 1}], 0)
    assert [list(each["charge"][0]) for each in shop.answers().values()] == [["made"], ["error"]]


async def test_an_answer_is_given_to_the_event_although_a_step_before_makes_it_anew(shop: Shop) -> None:
    shop.write("  - jq: '. + {at: now}'\n" + CHARGE)
    shop.add(0)
    with pytest.raises(Fatal):
        await shop.run(at="before_commit")
    await shop.run()
    assert (shop.asked, len(shop.out)) == ([("k0", 0)], 1)


async def test_a_run_that_ends_for_another_reason_writes_down_what_the_world_has_answered(shop: Shop) -> None:
    shop.write()
    shop.add(*range(40))
    with pytest.raises(Fatal):
        await shop.run(at="before_sink_write")
    asked = len(shop.asked)
    await shop.run()
    assert sorted(shop.asked) == sorted((f"k{n}", n) for n in range(40))
    assert asked >= 4


async def test_an_output_without_a_json_form_fails_its_event_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plug-in, whose outputs nobody has written as text yet."""

    def apply_keyed(self: object, events: Sequence[Event], keys: Sequence[str], /) -> list[Event]:
        return [event.replace(decoded={"n": float("nan") if event.data["n"] == 1 else event.data["n"]}) for event in events]

    monkeypatch.setattr("transforms.python.Python.apply_keyed", apply_keyed)
    shop.write()
    shop.add(0, 1, 2)
    summary = await shop.run()
    assert (summary.counts.delivered, summary.counts.dead_lettered, [each["n"] for each in shop.out]) == (2, 1, [0, 2])
    assert [list(each["charge"][0]) for each in shop.answers().values()] == [["made"], ["error"], ["made"]]


CRASHES = (
    "before_answers",
    "after_answers",
    "after_process",
    "before_sink_write",
    "after_journal",
    "inside_commit",
    "before_note",
)


@pytest.mark.parametrize("sink", [FILE, BOTH], ids=["file", "both"])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_crashes_follow_each_other_only_unkept_answers_are_asked_for_again(
    shop: Shop, seed: int, sink: str
) -> None:
    """One batch of four is in flight at a time, so that a crash before the write loses the answers of just these."""
    rng, lost = random.Random(seed), 0
    shop.write("  - jq: '. + {at: now}'\n" + CHARGE, more="limits: { in_flight_events: 4 }\n", sink=sink)
    shop.add(*range(40))
    while True:
        point, nth = rng.choice(CRASHES), rng.randint(1, 3)
        try:
            await shop.run(at=point, nth=nth)
        except Fatal:
            lost += 4 if point == "before_answers" else 0
        else:
            break
    times = Counter(shop.asked)
    assert sorted(times) == sorted((f"k{n}", n) for n in range(40))
    assert (times.total(), [each["n"] for each in shop.out]) == (40 + lost, list(range(40)))
    assert await shop.kept() == 0 or sink == BOTH
