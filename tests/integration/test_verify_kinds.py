"""`pipe verify` over what pipelines can be: parked lanes, rows with an order, steps with effects, state and rows in PostgreSQL,
sources that cannot be read again."""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from backfill_parts import desk_of
from effects_parts import CHARGE, Shop
from effects_parts import shop as shop
from verify_parts import gaps, verified

import penstock
from dlq.replay import ReplayRequest, create_replay, replay
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.carry_out import carry_out
from penstock.engine.run import Run, RunOptions
from penstock.faults import Faults
from penstock.state.records import LetterQuery
from penstock.testing.servers import Database

ALWAYS = (0.0, 4e9)

pytestmark = pytest.mark.usefixtures("here")


def write(source: dict[str, Any], *sinks: dict[str, Any], **more: Any) -> Pipeline:
    Path("shop.yaml").write_text(json.dumps({"pipeline": "shop", "source": source, "sinks": list(sinks), **more}))
    return penstock.load("shop.yaml")


def add(*records: dict[str, Any]) -> None:
    with Path("in.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


async def replay_open(pipeline: Pipeline) -> None:
    await replay(pipeline, LetterQuery(status=("open",)), clock=SystemClock(), faults=Faults())


LANES = {"file": {"paths": ["in.jsonl"]}, "event": {"partition_key": ".k"}}
LINES = {"name": "lines", "file": {"path": "out/lines.jsonl"}}


def lanes(program: str, *sinks: dict[str, Any]) -> Pipeline:
    steps = [{"name": "check", "jq": program}]
    return write(LANES, *(sinks or (LINES,)), transforms=steps, dead_letter={"lane": "park"})


async def test_what_is_parked_has_its_letter_and_what_was_released_is_there() -> None:
    add(*({"n": n, "k": "ab"[n % 2]} for n in range(20)))
    shop = lanes('if .n == 5 then error("odd") else . end')
    await penstock.run(shop, once=True)
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert report["dead_letters"] | {"open": 1, "parked": 7} == report["dead_letters"]
    shop = lanes(".")
    await replay_open(shop)
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert (report["journal"]["delivered"], report["sinks"][0]["outputs"]) == (20, 20)


async def test_a_new_sink_that_parked_past_events_is_looked_into_for_what_it_got() -> None:
    add(*({"n": n, "k": "ab"[n % 2]} for n in range(20)))
    await penstock.run(lanes("."), once=True)
    fresh = {"name": "fresh", "file": {"path": "out/fresh.jsonl"}}
    shop = lanes('if .n == 5 then error("odd") else . end', LINES, fresh)
    async with desk_of(shop) as desk:
        job = await desk.create(shop, {"mode": "live", "start": ALWAYS[0], "end": ALWAYS[1]}, "ann@here")
    await carry_out(shop, job.id, RunOptions())
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [20, 12]
    shop = lanes(".", LINES, fresh)
    await replay_open(shop)
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [20, 20]


async def test_rows_that_were_older_and_rows_that_were_removed_are_no_gaps() -> None:
    table = {
        "path": "out/shop.db", "table": "t", "key": ["id"], "create": True, "order_by": "v", "delete": ".gone // false",
    }  # fmt: skip
    records = [{"id": n % 10, "v": (n * 7) % 40, "gone": n % 11 == 5} for n in range(60)]
    add(*records)
    shop = write({"file": {"paths": ["in.jsonl"]}}, {"name": "table", "sqlite": table})
    await penstock.run(shop, once=True)
    assert gaps(await verified(shop, *ALWAYS)) == []
    with sqlite3.connect("out/shop.db") as database:
        ((there,),) = database.execute("SELECT max(id) FROM t").fetchall()
        database.execute("DELETE FROM t WHERE id = ?", (there,))
    assert {part for part, _, _ in gaps(await verified(shop, *ALWAYS))} == {"table"}


async def test_steps_with_effects_are_not_performed_and_their_answers_tell_what_was_delivered(shop: Shop) -> None:
    shop.write(CHARGE)
    shop.add(*range(12))
    shop.trouble(n3="declined", n5="drop", n7="several")
    await shop.run()
    asked = len(shop.asked)
    report = await verified(shop.load(), *ALWAYS)
    assert gaps(report) == []
    assert len(shop.asked) == asked
    counts = report["journal"]
    assert (counts["delivered"], counts["filtered"], counts["dead_lettered"]) == (10, 1, 1)
    assert (report["sinks"][0]["outputs"], report["sinks"][0]["left_out"]) == (12, {})


async def test_a_source_that_cannot_be_read_again_is_told_and_the_rest_is_verified() -> None:
    shop = write({"generate": {"count": 50, "start": "2026-03-01T00:00:00Z"}}, LINES)
    await penstock.run(shop, once=True)
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert (report["source"]["looked"], report["journal"]["events"]) == (False, 50)
    assert report["source"]["why"] == "a source of the kind generate cannot be read again by time"


async def test_rows_of_postgres_and_their_state_are_reconciled_from_table_to_table(database: Database) -> None:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total int, at timestamptz NOT NULL)")
    database.execute(
        "INSERT INTO orders SELECT n, n * 2, timestamptz '2026-03-01' + n * interval '1 minute' FROM generate_series(1, 300) n"
    )
    database.execute("CREATE TABLE keyed (id bigint PRIMARY KEY, total int); CREATE TABLE loose (id bigint, total int)")
    source = {"postgres": {"dsn": database.dsn, "table": "orders", "cursor": "id", "time": "at"}}
    keyed = {"name": "keyed", "postgres": {"dsn": database.dsn, "table": "keyed"}}
    loose = {"name": "loose", "postgres": {"dsn": database.dsn, "table": "loose"}}
    steps = [{"name": "sold", "filter": ".id % 10 != 3"}, {"name": "plain", "jq": "{id, total}"}]
    shop = write(source, keyed, loose, transforms=steps, state=database.dsn)
    await penstock.run(shop, once=True)
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert (report["source"]["journalled"], [sink["outputs"] for sink in report["sinks"]]) == (300, [270, 270])
    database.execute("DELETE FROM keyed WHERE id = 77; DELETE FROM loose WHERE id = 78")
    database.execute("INSERT INTO orders VALUES (-5, 1, timestamptz '2026-03-01 01:00'), (301, 1, '2026-03-01 06:00')")
    report = await verified(shop, *ALWAYS)
    assert [part for part, _, _ in gaps(report)] == ["keyed", "loose", "journal"]
    assert report["source"]["not_read_yet"] == 1


async def test_beside_a_run_that_replays_and_delivers_past_events_nothing_is_missed(tmp_path: Path) -> None:
    add(*({"n": n} for n in range(600)))
    source = {"file": {"paths": ["in.jsonl"], "follow": True}}
    table = {"name": "table", "sqlite": {"path": "out/shop.db", "table": "t", "key": ["n"], "create": True}}
    refusing = [{"name": "check", "jq": 'if .n % 4 == 1 then error("odd") else . end'}]
    await penstock.run(write({"file": {"paths": ["in.jsonl"]}}, LINES, transforms=refusing), once=True)
    steps = [{"name": "check", "jq": "."}]
    shop = write(source, LINES, table, transforms=steps, batching={"count": 10}, limits={"rate": "2000/s"})
    run = Run(shop, RunOptions())
    running = asyncio.create_task(run.execute())
    try:
        async with desk_of(shop) as desk:
            options = {"mode": "live", "start": ALWAYS[0], "end": ALWAYS[1], "rate": 300.0}
            backfill = (await desk.create(shop, options, "ann@here")).id
            add(*({"n": n} for n in range(600, 900)))
            assembly = assemble(shop, Surroundings(SystemClock(), random.Random(), Faults()))
            request = ReplayRequest(query=LetterQuery(), rate=100.0, overwrite=True)
            replayed = (await create_replay(desk.store, assembly, request, "ann@here")).id
            while any([(await desk.store.jobs.find(job)).open for job in (backfill, replayed)]):
                assert gaps(await verified(shop, *ALWAYS)) == []
    finally:
        run.stop()
        await running
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert (report["journal"]["delivered"], report["journal"]["dead_lettered"]) == (900, 0)


@pytest.mark.parametrize("outputs", ["digest", "full", "off"])
async def test_outputs_that_cannot_be_computed_again_are_counted_unless_they_were_kept_whole(outputs: str) -> None:
    add(*({"n": n, "price": 0.1 + n} for n in range(1, 41)))
    module = f"shop_code_{outputs}"
    code = "def double(data):\n    return {**data, 'twice': data['n'] * 2}\n"
    Path("penstock.yaml").touch()
    Path(f"{module}.py").write_text(code)
    steps = [{"name": "double", "python": f"{module}:double"}]
    shop = write({"file": {"paths": ["in.jsonl"]}}, LINES, transforms=steps, journal={"outputs": outputs})
    await penstock.run(shop, once=True)
    report = await verified(shop, *ALWAYS)
    assert (gaps(report), report["sinks"][0]["outputs"]) == ([], 40)
    Path(f"{module}.py").write_text(code.replace("* 2", "* 33"))
    sys.modules.pop(module, None)
    importlib.invalidate_caches()
    shop = penstock.load("shop.yaml")
    report = await verified(shop, *ALWAYS)
    assert gaps(report) == []
    assert (report["sinks"][0]["outputs"], sum(report["sinks"][0]["left_out"].values())) == (
        (40, 0) if outputs == "full" else (0, 40)
    )
