"""Steps in worker processes: the same results, and a guilty event costs only itself."""

from __future__ import annotations

import asyncio
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest
from engine_parts import PLACE, Feed, Plan, Shelf, Table, dedup, kept, make_pipeline, run_once, sink
from engine_parts import parts as parts

from penstock.config.model import Component, EventFields, Limits, Retry, Step
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal
from penstock.ledger import Counts
from penstock.testing.clock import FakeClock
from transforms.jq import Jq
from transforms.python import Python

CODE = """
    import os, sys, time
    from penstock.errors import Fatal, Transient

    def grade(data):
        n = data["n"]
        if n == 1:
            raise ValueError("one is odd")
        if n == 2:
            return None
        return [{"n": n, "part": part} for part in range(3)] if n == 3 else {"n": n, "seen": True}

    def mischief(data):
        what = data.get("do")
        if what == "loop":
            while True:
                pass
        if what == "bomb":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 20))
        if what == "die":
            os._exit(3)
        if what == "talk":
            print("on stdout", flush=True)
            return {"stdin": sys.stdin.read()}
        if what == "look":
            return {"environment": sorted(os.environ)}
        if what == "again":
            with open("attempts", "a+") as attempts:
                attempts.write("x")
                if attempts.tell() < 4:
                    raise Transient("customer.busy", "come back later")
        if what == "stop":
            raise Fatal("customer.gone", "the customers are gone")
        if what == "nan":
            return {"ratio": 1e308 * 10}
        return data
"""


def module(directory: Path) -> None:
    (directory / "shop_steps.py").write_text(textwrap.dedent(CODE))


def python(name: str, **changes: Any) -> Step:
    config = Python.Config(call=f"shop_steps:{name}")
    return Step(name, Component("python", config, PLACE), named=True, **changes)


def jq(name: str, program: str, **changes: Any) -> Step:
    return Step(name, Component("jq", Jq.Config(program=program), PLACE), named=True, **changes)


def children() -> str:
    """Process ids of this process's children."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def noting(seen: list[Any]) -> Plan:
    """A plan that keeps what sinks are given besides the data."""
    return lambda events: seen.extend((event.type, event.steps) for event in events)


def outcome(found: Any) -> list[tuple[str, str, str, bytes]]:
    return sorted((letter.event_id, letter.step, letter.code, letter.original) for letter in found.letters)


RECORDS = [*({"n": n} for n in range(9)), b'{"n":', {"n": 2**70}, {"n": 1}, {"n": 5}]


@pytest.mark.parametrize("key", [None, ".data.n"], ids=["no dedup", "dedup"])
async def test_results_are_those_of_no_workers(tmp_path: Path, key: str | None) -> None:
    """Outputs in order, routes, letters, counts, and what `$steps` gives to a sink."""
    results = []
    for workers in (0, 2):
        directory = tmp_path / str(workers)
        directory.mkdir()
        module(directory)
        seen: list[Any] = []
        shelf, big = Shelf(plan=noting(seen)), Shelf()
        pipeline = make_pipeline(
            directory, Feed.of(*RECORDS, batch=4), sink("all", shelf), sink("big", big, when=".n > 4"),
            steps=[python("grade"), jq("double", ". + {double: (.n * 2)}", when=".n < 100", set={"type": "doubled"})],
            event=EventFields(subject=".n"), dedup=dedup(key) if key else None, workers=workers, content="$steps.grade",
        )  # fmt: skip
        summary = await run_once(pipeline)
        results.append((summary.counts, summary.sinks, shelf.taken, big.taken, seen, outcome(await kept(pipeline))))
    assert results[0] == results[1]
    assert results[0][0].received == len(RECORDS)
    assert len(results[0][5]) == (2 if key else 3)


async def test_an_endless_loop_costs_only_the_guilty_event(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}, {"do": "loop"}, {"n": 2}, {"n": 3}), Table(tmp_path / "t.db")
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[python("mischief")], workers=1, transform_timeout=0.2)
    summary = await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (table.ids, summary.counts) == (["p0", "p2", "p3"], Counts(4, 3, dead_lettered=1))
    assert (letter.event_id, letter.code, letter.attempts) == ("p1", "worker.timeout", 2)


async def test_an_endless_jq_program_costs_only_the_guilty_event(tmp_path: Path) -> None:
    feed, shelf = Feed.of({"n": 0}, {"n": 1}, {"n": 2}, batch=1), Shelf()
    steps = [jq("spin", "if .n == 1 then [range(1; infinite)] else . end")]
    pipeline = make_pipeline(
        tmp_path, feed, sink("shelf", shelf), steps=steps, workers=1, transform_timeout=0.3, worker_memory=4 << 30
    )  # fmt: skip
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (shelf.ids, letter.event_id, letter.code) == (["p0", "p2"], "p1", "worker.timeout")


async def test_a_memory_bomb_costs_only_the_guilty_event(tmp_path: Path) -> None:
    feed, shelf = Feed.of({"n": 0}, {"do": "bomb"}, {"n": 2}), Shelf()
    module(tmp_path)
    pipeline = make_pipeline(
        tmp_path, feed, sink("shelf", shelf), steps=[python("mischief")], workers=1, worker_memory=64 << 20
    )  # fmt: skip
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (shelf.ids, letter.event_id, letter.code, letter.attempts) == (["p0", "p2"], "p1", "worker.died", 2)


async def test_a_jq_memory_bomb_costs_only_the_guilty_event(tmp_path: Path) -> None:
    feed, shelf = Feed.of({"n": 0}, {"n": 1}, batch=1), Shelf()
    steps = [jq("bomb", 'if .n == 1 then reduce range(40) as $i ("x"; . + .) else . end')]
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=steps, workers=1, worker_memory=64 << 20)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (shelf.ids, letter.event_id, letter.code) == (["p0"], "p1", "worker.died")


async def test_blocks_behind_a_guilty_one_in_the_same_pipe_are_processed(tmp_path: Path) -> None:
    records = [{"do": "die"} if n % 3 == 0 else {"n": n} for n in range(9)]
    feed, table = Feed.of(*records, batch=1), Table(tmp_path / "t.db")
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[python("mischief")], workers=1)
    summary = await run_once(pipeline)
    assert (table.ids, summary.counts) == (["p1", "p2", "p4", "p5", "p7", "p8"], Counts(9, 6, dead_lettered=3))
    assert {letter.event_id for letter in (await kept(pipeline)).letters} == {"p0", "p3", "p6"}


async def test_the_letter_names_the_step_that_did_not_end(tmp_path: Path) -> None:
    module(tmp_path)
    steps = [jq("first", "."), python("mischief"), jq("last", ".")]
    feed, shelf = Feed.of({"do": "die"}, {"n": 1}), Shelf()
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=steps, workers=1)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (letter.event_id, letter.step, shelf.ids) == ("p0", "mischief", ["p1"])


async def test_waiting_for_a_steps_next_attempt_is_no_part_of_its_timeout(tmp_path: Path) -> None:
    module(tmp_path)
    retry = Retry(backoff="constant", initial_delay=1.0)
    feed, shelf = Feed.of({"do": "again"}), Shelf()
    pipeline = make_pipeline(
        tmp_path, feed, sink("shelf", shelf), steps=[python("mischief", retry=retry)], workers=1, transform_timeout=0.3
    )  # fmt: skip
    await run_once(pipeline)
    assert (shelf.ids, (tmp_path / "attempts").read_text()) == (["p0"], "xxxx")


async def test_two_guilty_events_of_one_block_are_found_among_their_neighbours(tmp_path: Path) -> None:
    records = [{"do": "die"} if n in (1, 5) else {"n": n} for n in range(6)]
    feed, table = Feed.of(*records, batch=6), Table(tmp_path / "t.db")
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[python("mischief")], workers=2)
    summary = await run_once(pipeline)
    found = (await kept(pipeline)).letters
    assert (table.ids, summary.counts) == (["p0", "p2", "p3", "p4"], Counts(6, 4, dead_lettered=2))
    assert sorted((letter.event_id, letter.code, "exit status 3" in letter.message) for letter in found) == [
        ("p1", "worker.died", True), ("p5", "worker.died", True),
    ]  # fmt: skip


async def test_a_step_cannot_see_the_environment_nor_disturb_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "secret")
    feed, shelf = Feed.of({"do": "look"}, {"do": "talk"}, {"do": "nan"}, {"n": 3}, batch=4), Shelf()
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[python("mischief")], workers=1)
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    look, talk, rest = shelf.taken
    assert "SHOP_TOKEN" not in look[1]["environment"]
    assert (talk, rest, letter.event_id) == (("p1", {"stdin": ""}), ("p3", {"n": 3}), "p2")


async def test_a_fatal_step_stops_the_run_after_everything_before_it(tmp_path: Path) -> None:
    feed, table = Feed.of({"n": 0}, {"n": 1}, {"do": "stop"}, {"n": 3}), Table(tmp_path / "t.db")
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("table", table), steps=[python("mischief")], workers=2)
    with pytest.raises(Fatal) as caught:
        await run_once(pipeline)
    assert (caught.value.code, table.ids, feed.acked) == ("customer.gone", ["p0", "p1"], [("p", 2)])


async def test_workers_end_with_a_run_that_does_not_drain(tmp_path: Path) -> None:
    feed, shelf, clock = Feed.of({"do": "loop"}, *({"n": n} for n in range(5)), batch=1), Shelf(), FakeClock()
    module(tmp_path)
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[python("mischief")], workers=1, transform_timeout=60.0)
    run, before = Run(pipeline, RunOptions(clock=clock)), (asyncio.all_tasks(), children())
    task = asyncio.create_task(run.execute())
    async with asyncio.timeout(20):
        while run.status.in_flight_events < 6:
            await asyncio.sleep(0.001)
        run.stop()
        while run.status.phase != "draining":
            await asyncio.sleep(0.001)
        await clock.advance(pipeline.shutdown_timeout)
        summary = await task
    assert (summary.counts, shelf.ids) == (Counts(), [])
    assert (asyncio.all_tasks() - {task}, children()) == before


async def test_what_is_ready_is_committed_while_other_workers_still_work(tmp_path: Path) -> None:
    """The first batch is delivered although the second takes its time."""
    feed, table = Feed.of({"n": 0}, {"do": "loop"}, {"n": 2}, batch=1), Table(tmp_path / "t.db")
    module(tmp_path)
    pipeline = make_pipeline(
        tmp_path, feed, sink("table", table), steps=[python("mischief")], workers=2, transform_timeout=0.3,
        limits=Limits(in_flight_events=3),
    )  # fmt: skip
    await run_once(pipeline)
    assert (table.ids, table.commits[0].counts.received) == (["p0", "p2"], 1)
