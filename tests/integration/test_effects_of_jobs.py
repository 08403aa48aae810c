"""Steps with effects where past events are looked at or delivered again: replays, backfills, `pipe explain` (rule 14)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from backfill_parts import desk_of
from effects_parts import CHARGE, Shop
from effects_parts import shop as shop

from backfill.desk import Desk
from dlq.replay import ReplaySummary, replay
from penstock.cli.backfill_render import report_lines
from penstock.cli.terminal import Style
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.recompute import Recompute
from penstock.engine.run import RunOptions
from penstock.engine.trace import trace
from penstock.errors import Fatal
from penstock.faults import Faults
from penstock.journal.reader import JournalReader
from penstock.state.records import LetterQuery

WHOLE = "  - { name: whole, jq: 'if .n % 4 == 3 then error(\"no\") else . end' }\n"
MENDED = WHOLE.replace("== 3", "== 9")


async def again(pipeline: Pipeline, faults: Faults | None = None, **how: Any) -> ReplaySummary:
    return await replay(pipeline, LetterQuery(), clock=SystemClock(), faults=faults or Faults(), **how)


async def report(shop: Shop, mode: str, steps: str = "shop.yaml", **asked: Any) -> dict[str, Any]:
    pipeline = shop.load(steps)
    async with desk_of(shop.load()) as desk:
        job = await desk.create(pipeline, {"mode": mode, "start": 0.0, "end": 4e9, **asked}, "ann@here")
        return desk.report(await desk.carry_out(job, pipeline, 0, lambda job: None), pipeline.name)


async def test_a_replay_asks_again_under_the_same_key_and_a_dry_one_does_not(shop: Shop) -> None:
    shop.write(CHARGE + WHOLE)
    shop.add(*range(4))
    await shop.run()
    shop.write(CHARGE + MENDED)
    dry = await again(shop.load(), dry_run=True)
    assert (dry.selected, dry.unanswered, dry.delivered, dry.failed_again, len(shop.asked)) == (1, 1, 0, 0, 4)
    done = await again(shop.load())
    assert (done.selected, done.delivered, done.unanswered) == (1, 1, 0)
    assert shop.asked[4:] == [("k3", 3)]
    assert (shop.out[-1], await shop.kept()) == ({"n": 3, "paid": 6}, 0)


async def test_a_replay_that_dies_is_answered_from_the_state_store(shop: Shop) -> None:
    shop.write(CHARGE + WHOLE)
    shop.add(*range(4))
    await shop.run()
    shop.write(CHARGE + MENDED)

    def fatal(name: str) -> None:
        raise Fatal("fault.injected", name)

    with pytest.raises(Fatal):
        await again(shop.load(), Faults({"before_job_commit": [(1, fatal)]}))
    await shop.run()
    assert Counter(shop.asked) == Counter({("k0", 0): 1, ("k1", 1): 1, ("k2", 2): 1, ("k3", 3): 2})
    assert ([each["n"] for each in shop.out], await shop.kept()) == ([0, 1, 2, 3], 0)


async def test_a_replay_through_a_stored_version_with_effects_runs_them_here(shop: Shop) -> None:
    shop.write(CHARGE + WHOLE)
    shop.add(*range(4))
    await shop.run()
    stored = shop.load().version
    shop.write(MENDED, more="workers: 1\n")
    done = await again(shop.load(), version=stored)
    assert (done.failed_again, shop.asked[4:]) == (1, [("k3", 3)])


PARK = "dead_letter: { lane: park }\n"


async def test_a_parked_event_is_given_its_answer_when_it_is_released(shop: Shop) -> None:
    shop.write(CHARGE + "  - { name: whole, jq: 'if .n == 1 then error(\"no\") else . end' }\n", more=PARK)
    shop.add(*range(4))
    await shop.run()
    assert ([each["n"] for each in shop.out], await shop.kept()) == ([0], 2), "the answers of 2 and 3, which are parked"
    shop.write(CHARGE, more=PARK)
    await again(shop.load())
    await shop.run()
    assert [each["n"] for each in shop.out] == [0, 1, 2, 3]
    assert Counter(shop.asked) == Counter({("k0", 0): 1, ("k1", 1): 2, ("k2", 2): 1, ("k3", 3): 1})
    assert await shop.kept() == 0


async def test_a_parked_event_that_is_other_data_by_now_is_asked_about_again(shop: Shop) -> None:
    shop.write(CHARGE + "  - { name: whole, jq: 'if .n == 1 then error(\"no\") else . end' }\n", more=PARK)
    shop.add(*range(3))
    await shop.run()
    shop.write("  - jq: '. + {mended: true}'\n" + CHARGE, more=PARK)
    await again(shop.load())
    await shop.run()
    assert shop.out[1:] == [{"n": n, "mended": True, "paid": 2 * n} for n in (1, 2)]
    assert (Counter(shop.asked)["k2", 2], await shop.kept()) == (2, 0)


async def test_a_live_backfill_asks_the_world_under_the_same_key(shop: Shop) -> None:
    shop.write(CHARGE)
    shop.add(*range(4))
    await shop.run()
    both = "sinks:\n  - file: { path: out.jsonl }\n  - { name: more, file: { path: more.jsonl } }\n"
    shop.write(CHARGE, sink=both)
    pipeline = shop.load()
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "live", "start": 0.0, "end": 4e9}, "ann@here")
    done = await carry_out(pipeline, job.id, RunOptions())
    assert (done.state, done.progress.counts["delivered"]) == ("done", 4)
    assert shop.asked[4:] == [(f"k{n}", n) for n in range(4)]
    more = [json.loads(line) for line in (shop.root / "more.jsonl").read_text().splitlines()]
    assert (more, len(shop.out), await shop.kept()) == (shop.out, 4, 0)
    told = [record.line for record in JournalReader(shop.root / ".penstock/journal/shop").outcomes_of_jobs()]
    made = [json.loads(bytes((line.answers or {})["charge"]))[0]["made"] for line in told]
    assert made == [[{"data": each}] for each in shop.out], "the job's own lines have what the job was answered"


async def test_a_dry_run_answers_from_the_journal(shop: Shop) -> None:
    shop.write()
    shop.add(*range(8))
    shop.trouble(n1="drop", n2="declined", n3="several")
    await shop.run()
    told = await report(shop, "dry_run")
    assert {name: told[name] for name in ("read", "delivered", "filtered", "dead_lettered", "outputs", "unanswered")} == {
        "read": 8,
        "delivered": 6,
        "filtered": 1,
        "dead_lettered": 1,
        "outputs": 8,
        "unanswered": {},
    }
    assert [(group["step"], group["code"]) for group in told["letters"]] == [("charge", "shop.declined")]
    assert len(shop.asked) == 8


async def test_what_has_no_answer_is_an_outcome_of_its_own(shop: Shop) -> None:
    """The changed file asks about every other event under a key that was never used."""
    shop.write()
    shop.add(*range(8))
    await shop.run()
    shop.write(CHARGE.replace("k\\(.n)", '\\(if .n % 2 == 0 then "k" else "new" end)\\(.n)'), name="changed.yaml")
    told = await report(shop, "dry_run", "changed.yaml")
    assert (told["read"], told["delivered"], told["dead_lettered"], told["unanswered"]) == (8, 4, 0, {"charge": 4})
    [step] = told["steps"]
    assert (step["in"], step["out"], step["failed"], step["unanswered"]) == (8, 4, 0, 4)
    shown = "\n".join(report_lines(told, Style(False), None))
    assert "4  unanswered: charge is not performed here, and no answer of it was kept" in shown
    assert "of 4 events no answer was kept to the step charge" in Desk.page(told)
    assert len(shop.asked) == 8


async def test_a_shadow_compares_with_what_was_answered_and_is_incomplete_without(shop: Shop) -> None:
    shop.write(CHARGE + "  - jq: '{n, paid}'\n")
    shop.add(*range(8))
    await shop.run()
    same = await report(shop, "shadow")
    assert (same["verdict"], same["comparison"]["identical"], same["unanswered"]) == ("clean", 8, {})

    shop.write(CHARGE + "  - jq: '{n, paid: (.paid + 1)}'\n", name="changed.yaml")
    changed = await report(shop, "shadow", "changed.yaml")
    causes = [(cause["path"], cause["count"]) for cause in changed["comparison"]["causes"]]
    assert (changed["verdict"], changed["comparison"]["changed"], causes) == ("different", 8, [(".data.paid", 8)])

    other = CHARGE.replace("k\\(.n)", '\\(if .n < 6 then "k" else "new" end)\\(.n)')
    shop.write(other + "  - jq: '{n, paid}'\n", name="changed.yaml")
    partly = await report(shop, "shadow", "changed.yaml")
    assert (partly["verdict"], partly["comparison"]["events"], partly["unanswered"]) == ("incomplete", 6, {"charge": 2})
    assert "incomplete: 6 events compared, no output differs; 2 events unanswered" in "\n".join(
        report_lines(partly, Style(False), None)
    )
    assert "not every event could be compared" in Desk.page(partly)
    assert len(shop.asked) == 8


async def test_an_answer_without_a_key_is_to_the_same_data(shop: Shop) -> None:
    step = '  - { name: charge, python: "world_steps:charge", effects: read }\n'
    shop.write(step)
    shop.add(*range(4))
    await shop.run()
    shop.write("  - jq: 'if .n == 2 then .more = 1 else . end'\n" + step, name="changed.yaml")
    told = await report(shop, "shadow", "changed.yaml")
    assert (told["verdict"], told["comparison"]["identical"], told["unanswered"]) == ("incomplete", 3, {"charge": 1})


async def test_every_event_of_a_run_is_computed_again_exactly(shop: Shop) -> None:
    steps = "  - jq: 'if .n == 5 then {n: 50}, {n: 51} else . end'\n" + CHARGE.replace("effects", "set: { type: paid }, effects")
    shop.write(steps + CHARGE.replace("name: charge", "name: second, on_error: skip, when: .n != 4").replace("k\\(", "s\\("))
    shop.add(*range(6))
    shop.trouble(n0="drop", n1="declined", n2="several", n50="declined")
    await shop.run()
    asked = len(shop.asked)
    recompute = Recompute(shop.load())
    for line in shop.lines():
        traced = await trace(recompute, line)
        assert traced.result.outcome == line.outcome
    again = await report(shop, "shadow")
    assert (again["verdict"], again["unanswered"], len(shop.asked)) == ("clean", {}, asked)


async def test_a_trace_says_where_no_answer_was_kept(shop: Shop) -> None:
    shop.write()
    shop.add(0)
    await shop.run()
    shop.write(CHARGE.replace("name: charge", "name: other") + "  - jq: .\n")
    [line] = shop.lines()
    traced = await trace(Recompute(shop.load()), line)
    assert [(step.name, step.happened) for step in traced.steps] == [("event", "changed"), ("other", "unanswered")]
    error = traced.steps[1].error
    assert error is not None
    assert (error.code, error.message) == (
        "effects.unanswered",
        "the step was not performed, and the journal keeps no answer of it",
    )
    assert (traced.result.outcome, traced.result.step) == ("unanswered", "other")
