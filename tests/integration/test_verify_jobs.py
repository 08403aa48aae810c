"""`pipe verify` behind replays and live backfills: what they made of events counts, and is looked for as they delivered it."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import BEGAN, FRESH, STEPS, backfill, run_shop, write_events, write_shop
from verify_parts import cut_line, gaps, state_of, verified

import dlq.replay
import penstock
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.faults import Faults
from penstock.state.letter_desk import Act
from penstock.state.open import open_store
from penstock.state.records import LetterQuery

TABLE = "  - { name: table, sqlite: { path: out/shop.db, table: t, key: [id], create: true } }\n"
LOOSE = "  - { name: loose, sqlite: { path: out/shop.db, table: l, create: true } }\n"

pytestmark = pytest.mark.usefixtures("here")


async def replay(pipeline: Pipeline, **asked: Any) -> None:
    """Everything that is open."""
    await dlq.replay.replay(pipeline, LetterQuery(), clock=SystemClock(), faults=Faults(), **asked)


async def test_what_a_replay_delivered_counts_and_is_looked_for(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    (tmp_path / "schemas/total/2.json").write_text("{}")
    shop = write_shop(tmp_path, STEPS.replace("total@1", "total@2"))
    await replay(shop)
    report = await verified(shop)
    assert gaps(report) == []
    assert (report["journal"]["delivered"], report["journal"]["dead_lettered"]) == (900, 0)
    assert [sink["outputs"] for sink in report["sinks"]] == [500, 900]
    cut_line(tmp_path / "out/all.jsonl", '"id":998,')
    ((part, event, _),) = gaps(await verified(shop))
    assert part == "all"
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    assert event == f"0-{sum(map(len, lines[:998]))}"


async def test_letters_of_resolved_events_may_have_gone(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    (tmp_path / "schemas/total/2.json").write_text("{}")
    shop = write_shop(tmp_path, STEPS.replace("total@1", "total@2"))
    await replay(shop)
    with state_of(shop) as database:
        database.execute("DELETE FROM letters")
    report = await verified(shop)
    assert gaps(report) == []
    assert report["journal"]["delivered"] == 900
    assert report["sinks"][1]["left_out"] == {"its dead letter is gone, so whether it was edited is not known": 4}


async def test_an_edited_event_is_looked_for_as_it_was_edited(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    store = open_store(shop.state, shop.name, SystemClock(), Faults())
    await store.open(create=False)
    try:
        letters, _ = await store.letters(LetterQuery())
        for letter in letters:
            record = json.loads(letter.record)
            record["data"]["n"] = 500
            assert await store.desk.edit(letter, json.dumps(record).encode(), {"open"}, Act("ann@here"))
    finally:
        await store.close()
    await replay(shop)
    report = await verified(shop)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [502, 900]
    path = tmp_path / "out/all.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"id":500,' not in line))
    assert (await verified(shop))["sinks"][1]["absent"] == 5


async def test_a_live_backfill_to_a_new_sink_is_looked_for_there_and_nowhere_else(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    shop = write_shop(tmp_path, more=FRESH + TABLE)
    await backfill(shop, sinks=["fresh"])
    report = await verified(shop)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [498, 896, 896, 0]
    cut_line(tmp_path / "out/fresh.jsonl", '"id":42,')
    cut_line(tmp_path / "out/even.jsonl", '"id":40,')
    report = await verified(shop)
    assert [part for part, _, _ in gaps(report)] == ["even", "fresh"]
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    assert [event for _, event, _ in gaps(report)] == [f"0-{sum(map(len, lines[:n]))}" for n in (40, 42)]


async def test_a_sink_that_was_moved_is_looked_into_for_what_was_delivered_there_since(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=300, more=FRESH + LOOSE)
    text = (tmp_path / "shop.yaml").read_text().replace("out/all.jsonl", "out/moved.jsonl").replace(LOOSE, "")
    (tmp_path / "shop.yaml").write_text(text)
    shop = penstock.load(tmp_path / "shop.yaml")
    report = await verified(shop)
    assert (gaps(report), report["sinks"][1]["outputs"]) == ([], 0)
    assert report["sinks"][1]["left_out"] == {"the sink was defined otherwise then": 270}
    await backfill(shop, sinks=["all"], redeliver=True, start=BEGAN + 100 * 60.0)
    report = await verified(shop)
    assert (gaps(report), report["sinks"][1]["outputs"]) == ([], 180)
    assert report["sinks"][1]["left_out"] == {"the sink was defined otherwise then": 90}
    cut_line(tmp_path / "out/moved.jsonl", '"id":150,')
    assert [part for part, _, _ in gaps(await verified(shop))] == ["all"]


async def test_a_backfill_that_lets_filtered_events_through_is_looked_for_under_its_version(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    shop = write_shop(tmp_path, STEPS.replace(".n % 10 != 3", ".n >= 0"))
    await backfill(shop)
    report = await verified(shop)
    assert gaps(report) == []
    assert (report["journal"]["delivered"], report["journal"]["filtered"]) == (996, 0)
    assert [sink["outputs"] for sink in report["sinks"]] == [498, 996]


async def test_rows_are_looked_for_by_key_and_by_value(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path, more=TABLE + LOOSE)
    report = await verified(shop)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [498, 896, 896, 896]
    with sqlite3.connect(tmp_path / "out/shop.db") as database:
        database.execute("DELETE FROM t WHERE id = 77")
        database.execute("DELETE FROM l WHERE id = 78")
    assert [part for part, _, _ in gaps(await verified(shop))] == ["table", "loose"]


DELETING = """\
pipeline: shop
source:
  file: { paths: [in.jsonl] }
  event: { time: .at, type: .op }
sinks:
  - name: table
    sqlite: { path: out/shop.db, table: t, key: [id], create: true, on_conflict: update, delete: '$event.type == "gone"' }
"""


async def test_a_row_that_a_later_event_removed_is_no_gap_whether_that_lies_in_the_range_or_not(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(DELETING)
    minute = 0
    with (tmp_path / "in.jsonl").open("w") as file:
        for n in range(30):
            file.write(json.dumps({"id": n, "op": "put", "at": f"2026-03-01T00:{minute:02}:00Z"}) + "\n")
            minute += 1
        for n in (3, 20):
            file.write(json.dumps({"id": n, "op": "gone", "at": f"2026-03-01T00:{minute:02}:00Z"}) + "\n")
            minute += 1
    shop = penstock.load(tmp_path / "shop.yaml")
    await penstock.run(shop, once=True)
    assert gaps(await verified(shop)) == []
    assert gaps(await verified(shop, BEGAN, BEGAN + 600)) == []
    with sqlite3.connect(tmp_path / "out/shop.db") as database:
        assert database.execute("SELECT count(*) FROM t").fetchone() == (28,)
        database.execute("DELETE FROM t WHERE id IN (5, 15)")
    assert len(gaps(await verified(shop))) == 2
    ((_, event, _),) = gaps(await verified(shop, BEGAN, BEGAN + 600))
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    assert event == f"0-{sum(map(len, lines[:5]))}"


async def test_a_verification_beside_a_live_run_finds_no_gap(tmp_path: Path) -> None:
    write_events(tmp_path, 1000)
    shop = write_shop(tmp_path, more=TABLE + "batching: { count: 10 }\nlimits: { rate: 1500/s }\n")
    running = asyncio.create_task(penstock.run(shop, once=True))
    while not (shop.state / "shop.db").exists():
        await asyncio.sleep(0.01)
    looked = 0
    while not running.done():
        report = await verified(shop)
        assert gaps(report) == []
        looked += 0 < report["journal"]["events"] < 1000
    await running
    assert looked
    assert (await verified(shop))["journal"]["events"] == 1000


@pytest.mark.parametrize("seed", range(3))
async def test_exactly_what_was_taken_away_is_named(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shop = await run_shop(tmp_path, more=TABLE + LOOSE)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    offsets = {n: f"0-{sum(map(len, lines[:n]))}" for n in range(1000)}
    delivered = [n for n in range(996) if n % 10 != 3]
    expected = set()
    with sqlite3.connect(tmp_path / "out/shop.db") as database:
        for table, sink in (("t", "table"), ("l", "loose")):
            taken = rng.sample(delivered, rng.randrange(40))
            database.executemany(f"DELETE FROM {table} WHERE id = ?", [(n,) for n in taken])
            expected |= {(sink, offsets[n]) for n in taken}
    for name, chosen in (("even", [n for n in delivered if n % 2 == 0]), ("all", delivered)):
        path = tmp_path / "out" / f"{name}.jsonl"
        taken = rng.sample(chosen, rng.randrange(40))
        kept = [line for line in path.read_text().splitlines(keepends=True) if json.loads(line)["id"] not in taken]
        path.write_text("".join(kept))
        expected |= {(name, offsets[n]) for n in taken}
    with state_of(shop) as database:
        for n in rng.sample(range(996, 1000), 2):
            database.execute("DELETE FROM letters WHERE event_id = ?", (offsets[n],))
            expected.add(("dead letters", offsets[n]))
    found = [(part, event) for part, event, _ in gaps(await verified(shop))]
    assert (len(found), set(found)) == (len(expected), expected)
