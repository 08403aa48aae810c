"""Native ranges: backfills of what the source itself holds, beside what the journal tells of it."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from backfill_parts import (
    BEGAN,
    DAY,
    FRESH,
    STEPS,
    add_sink,
    ask,
    counts_of,
    delivered,
    desk_of,
    held,
    ids_in,
    native,
    report_of,
    run_shop,
    write_events,
    write_shop,
)

import penstock
from backfill.copies import Copies
from backfill.job import request_of
from penstock.config.model import Pipeline
from penstock.engine.carry_out import carry_out
from penstock.engine.run import RunOptions
from penstock.errors import EnvironmentFault, PenstockError, UsageError
from penstock.journal.reader import JournalReader

OFF = "journal: off\n"
HOUR = 3600.0

pytestmark = pytest.mark.usefixtures("here")


def outcomes(report: dict[str, Any]) -> tuple[int, ...]:
    return tuple(report[name] for name in ("read", "delivered", "filtered", "dead_lettered"))


def left_over(pipeline: Pipeline) -> list[str]:
    directory = Copies.of(pipeline.state, pipeline.name).directory
    return [path.name for path in directory.iterdir()] if directory.is_dir() else []


async def live(pipeline: Pipeline, **asked: Any) -> dict[str, int]:
    """What one counted."""
    asked = {"source": "native", "start": BEGAN, "end": BEGAN + 10 * DAY, **asked}
    job = await carry_out(pipeline, await ask(pipeline, **asked), RunOptions())
    async with desk_of(pipeline) as desk:
        await desk.tidy(job)
    return counts_of(job)


async def run_and_lose_the_first_half(project: Path, count: int) -> Pipeline:
    """The shop has run over everything, and of the first half there is no journal any more."""
    write_events(project, count)
    pipeline = write_shop(project)
    assert pipeline.journal is not None
    await penstock.run(pipeline, max_events=count // 2)
    shutil.rmtree(pipeline.journal.directory)
    await penstock.run(pipeline, once=True)
    return pipeline


# ---- dry runs and shadows


async def test_a_dry_run_of_the_source_comes_to_what_one_of_the_journal_comes_to(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    span = {"start": BEGAN + HOUR, "end": BEGAN + 9 * HOUR}
    from_journal, from_source = await report_of(pipeline, "dry_run", **span), await native(pipeline, **span)
    assert (outcomes(from_source), held(from_source)) == (outcomes(from_journal), (480, 0, 0, 0))
    assert (from_journal["source"], from_journal["native"], from_source["source"]) == ("journal", None, "native")
    assert left_over(pipeline) == []


async def test_without_a_journal_the_source_tells_what_would_become_of_the_events(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, more=OFF)
    with pytest.raises(UsageError) as caught:
        await report_of(pipeline, "dry_run")
    assert (caught.value.code, "--source native" in (caught.value.help or "")) == ("backfill.no_journal", True)
    report = await native(pipeline)
    assert (outcomes(report), held(report)) == ((1000, 896, 100, 4), (1000, 1000, 0, 0))


async def test_a_shadow_of_what_was_recorded_is_clean_and_shows_what_a_change_makes_of_it(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    assert (await native(pipeline, "shadow"))["verdict"] == "clean"
    changed = await native(write_shop(tmp_path, STEPS.replace(".n * 2", ".n * 3")), "shadow")
    compared = changed["comparison"]
    assert (changed["verdict"], compared["identical"], compared["changed"] + compared["missing"]) == ("different", 1, 895)
    assert compared["causes"][0]["path"] == ".data.total"


async def test_what_the_journal_does_not_tell_of_is_compared_with_what_the_last_version_makes_of_it(tmp_path: Path) -> None:
    before = await run_shop(tmp_path, more=OFF)
    same = await native(before, "shadow")
    assert (same["verdict"], same["comparison"]["identical"], same["unlike"]) == ("clean", 896, {})
    after = await native(write_shop(tmp_path, STEPS.replace(".n * 2", ".n * 2 + 1"), OFF), "shadow")
    assert (after["verdict"], after["comparison"]["identical"], after["unlike"]) == ("different", 0, {})


async def test_what_was_corrected_at_the_source_is_counted_and_shown(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, more="journal: { outputs: full }\n")
    (tmp_path / "in.jsonl").write_text(
        (tmp_path / "in.jsonl").read_text().replace('{"n": 777, "who": "w0"', '{"n": 777, "who": "w9"')
    )
    report = await native(pipeline, "shadow")
    assert (held(report), report["verdict"], report["comparison"]["changed"]) == ((1000, 0, 1, 0), "different", 1)
    (cause,) = report["comparison"]["causes"]
    assert (cause["path"], cause["examples"][0]["before"], cause["examples"][0]["after"]) == (".data.who", '"w0"', '"w9"')
    pipeline = write_shop(tmp_path)
    assert (await native(pipeline))["delivered"] == 896


async def test_records_that_nobody_knows_the_time_of_are_named(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, more=OFF, count=10)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"n": 10}\n{"n": 11\n{"n": 12, "at": "2026-03-01T00:12:00Z"}\n{"n": 13, "at": 5}\n[]\n')
    report = await native(pipeline)
    assert (held(report), report["read"]) == ((11, 11, 0, 4), 11)
    first = report["native"]["examples"]
    assert [(each["partition"], each["why"].partition(":")[0]) for each in first][:1] == [("in.jsonl", "it has no time")]
    assert len(first) == 3


async def test_events_without_a_time_have_that_of_the_receipt_which_the_journal_knows(tmp_path: Path) -> None:
    write_events(tmp_path, 40)
    pipeline = write_shop(tmp_path)
    (tmp_path / "shop.yaml").write_text((tmp_path / "shop.yaml").read_text().replace(", time: .at", ""))
    pipeline = penstock.load(tmp_path / "shop.yaml")
    await penstock.run(pipeline, max_events=25)
    (first,) = {record.line.at for record in JournalReader(pipeline.journal.directory).range(0, 4e9)}  # type: ignore[union-attr]  # it has one
    everything = await native(pipeline, start=0.0, end=4e9)
    assert (held(everything), everything["native"]["examples"][0]["why"], first[:2]) == ((25, 0, 0, 15), "it has no time", "20")
    assert held(await native(pipeline, start=0.0, end=1e9)) == (0, 0, 0, 15)


async def test_what_a_run_could_make_no_event_of_is_a_dead_letter_of_the_range_again(tmp_path: Path) -> None:
    write_events(tmp_path, 3)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"n": 3\n')
    pipeline = write_shop(tmp_path)
    await penstock.run(pipeline, once=True)
    report = await native(pipeline, start=0.0, end=4e9)
    assert (outcomes(report), held(report)) == ((4, 3, 0, 1), (4, 0, 0, 0))
    assert held(await native(pipeline)) == (3, 0, 0, 0)


async def test_the_rate_the_filter_and_the_limit_hold_for_the_copy(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path)
    assert (await native(pipeline, filter=".data.n < 10"))["left_out"] == 990
    assert (await native(pipeline, limit=50, concurrency=1))["read"] == 50


ODD = (
    b'{"n": 1, "at": "2026-03-01T00:01:00Z"}\n'
    b' {"n": 2.50, "at": "2026-03-01T00:02:00+01:00", "s": "\\u00e9\xc3\xa9"} \n'
    b'{"n": 3, "at": "2026-03-01T00:03:00Z"\n'
    b"[]\n"
    b'{"n": 12345678901234567890123, "at": "2026-03-01T00:04:00Z", "none": null}\n'
    b'{"n": 5, "at": "yesterday"}\n'
    b'"\xff"\n'
)


@pytest.mark.parametrize("outputs", ["off", "digest", "full"])
@pytest.mark.parametrize("event", ["{ time: .at?, id: '.n? // empty | tostring', type: order, subject: .s? }", "{ type: order }"])
async def test_the_copy_of_what_the_journal_holds_is_the_journal(tmp_path: Path, outputs: str, event: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(ODD)
    text = write_shop(tmp_path, "  - { name: odd, filter: .n > 1 }\n", f"journal: {{ outputs: {outputs} }}\n").file.read_text()
    (tmp_path / "shop.yaml").write_text(text.replace("{ type: order, time: .at }", event))
    pipeline = penstock.load(tmp_path / "shop.yaml")
    await penstock.run(pipeline, once=True)
    assert pipeline.journal is not None
    async with desk_of(pipeline) as desk:
        job = await desk.create(pipeline, {"mode": "live", "source": "native", "start": 0.0, "end": 4e9}, "ann@here")
        copied = request_of(job).copied
        assert copied is not None
        copy = JournalReader(Copies.of(pipeline.state, pipeline.name).path(copied.name))
    journal = JournalReader(pipeline.journal.directory)
    theirs, ours = ([msgspec.json.encode(record.line) for record in each.range(0.0, 4e9)] for each in (journal, copy))
    assert (sorted(ours), len(ours)) == (sorted(theirs), 7)
    assert (copied.events, copied.unknown, copied.changed, copied.unplaced) == (7, 0, 0, 0)


@pytest.mark.parametrize("kind", ["gz", "csv"])
async def test_compressed_files_and_tables_are_read_as_a_run_reads_them(tmp_path: Path, kind: str) -> None:
    write_events(tmp_path, 50)
    pipeline = write_shop(tmp_path)
    text = (tmp_path / "in.jsonl").read_text()
    if kind == "gz":
        (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        paths = "file: { paths: in.jsonl.gz }"
    else:
        rows = [json.loads(line) for line in text.splitlines()]
        (tmp_path / "in.csv").write_text("n,who,at\n" + "".join(f"{row['n']},{row['who']},{row['at']}\n" for row in rows))
        paths = "file: { paths: in.csv, format: csv }"
    steps = "  - { name: total, jq: '{id: (.n | tonumber), total: 2}' }\n"
    (tmp_path / "shop.yaml").write_text(
        write_shop(tmp_path, steps).file.read_text().replace("file: { paths: [in.jsonl] }", paths)
    )
    pipeline = penstock.load(tmp_path / "shop.yaml")
    await penstock.run(pipeline, once=True)
    report = await native(pipeline, "shadow")
    assert (report["verdict"], report["comparison"]["identical"], held(report)) == ("clean", 50, (50, 0, 0, 0))


async def test_rotated_files_are_known_by_the_ids_that_they_were_read_with(tmp_path: Path) -> None:
    write_events(tmp_path, 300)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    pipeline = write_shop(tmp_path)
    (tmp_path / "shop.yaml").write_text(pipeline.file.read_text().replace("paths: [in.jsonl]", "paths: [in.jsonl], follow: true"))
    pipeline = penstock.load(tmp_path / "shop.yaml")
    for number, start in enumerate((0, 100, 200)):
        if number:
            (tmp_path / "in.jsonl").rename(tmp_path / f"in.jsonl.{number}")
        (tmp_path / "in.jsonl").write_text("".join(lines[start : start + 100]))
        await penstock.run(pipeline, once=True)
    report = await native(pipeline, "shadow")
    assert (report["verdict"], report["comparison"]["events"], held(report)) == ("clean", 300, (300, 0, 0, 0))


# ---- live ones


async def test_a_live_one_knows_from_the_journal_who_had_what(tmp_path: Path) -> None:
    await run_shop(tmp_path)
    before = ids_in("all")
    pipeline = add_sink(tmp_path, FRESH)
    done = await live(pipeline)
    assert (done["delivered"], done["letters"], ids_in("fresh"), ids_in("all")) == (896, 4, delivered(), before)
    again = await live(pipeline)
    assert (again["held"], again.get("delivered", 0), ids_in("fresh"), left_over(pipeline)) == (896, 0, delivered(), [])


async def test_what_nobody_knows_whether_it_was_delivered_is_refused_until_it_is_asked_for(tmp_path: Path) -> None:
    await run_shop(tmp_path, more=OFF, count=100)
    (tmp_path / "shop.yaml").write_text((tmp_path / "shop.yaml").read_text().replace(OFF, FRESH + OFF))
    pipeline = penstock.load(tmp_path / "shop.yaml")
    with pytest.raises(UsageError) as caught:
        await live(pipeline, sinks=["fresh"])
    said = caught.value
    assert (said.code, "100 of 100 events: 0-0, 0-" in said.message, left_over(pipeline)) == (
        "backfill.unknown_deliveries",
        True,
        [],
    )
    done = await live(pipeline, sinks=["fresh"], redeliver=True)
    assert (done["delivered"], ids_in("fresh"), ids_in("all")) == (90, delivered(100), delivered(100))


async def test_of_a_range_that_the_journal_holds_in_part_the_other_part_is_unknown(tmp_path: Path) -> None:
    pipeline = await run_and_lose_the_first_half(tmp_path, 200)
    shadow = await native(pipeline, "shadow")
    assert (held(shadow), shadow["verdict"], shadow["comparison"]["identical"]) == ((200, 100, 0, 0), "clean", 180)
    with pytest.raises(UsageError, match="100 of 200 events"):
        await live(pipeline)
    assert await live(pipeline, start=BEGAN + 100 * 60) == {"held": 90, "filtered": 10, "received": 10}
    assert ids_in("all") == delivered(200)


async def test_an_open_dead_letter_keeps_its_event_whether_the_journal_tells_of_it_or_not(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, more=OFF)
    done = await live(pipeline, redeliver=True)
    assert (done["delivered"], done["letters"]) == (896, 4)


async def test_a_job_whose_copy_is_gone_fails_and_says_so(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=10)
    async with desk_of(pipeline) as desk:
        asked = {"source": "native", "start": BEGAN, "end": BEGAN + DAY}
        job = await desk.create(pipeline, {"mode": "live", **asked}, "ann@here")
        (name,) = left_over(pipeline)
        copied = request_of(job).copied
        assert copied is not None
        assert copied.name == name
        Copies.of(pipeline.state, pipeline.name).remove(name)
        with pytest.raises(PenstockError) as caught:
            await carry_out(pipeline, job.id, RunOptions())
        assert caught.value.code == "backfill.no_copy"
        assert (await desk.store.jobs.find(job.id)).state == "failed"


# ---- copies


async def test_copies_that_no_open_job_names_are_removed_at_the_next_backfill(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=10)
    copies = Copies.of(pipeline.state, pipeline.name)
    asked = {"mode": "dry_run", "source": "native", "start": BEGAN, "end": BEGAN + DAY}
    async with desk_of(pipeline) as desk:
        kept, ended = [await desk.create(pipeline, asked, "ann@here") for _ in range(2)]
        (copies.directory / "0123456789abcdef").mkdir()  # of a command that was killed
        with copies.making() as under_way:
            await desk.store.jobs.cancel(ended.id)
            await desk.create(pipeline, {**asked, "source": "journal"}, "ann@here")
            named = request_of(kept).copied
            assert named is not None
            assert sorted(left_over(pipeline)) == sorted([named.name, under_way.name])
        done = await desk.carry_out(kept, pipeline, 0, lambda job: None)
        assert (done.state, left_over(pipeline)) == ("done", [under_way.name])
    assert (copies.directory.stat().st_mode & 0o777, copies.directory.parent.stat().st_mode & 0o777) == (0o700, 0o700)


async def test_a_source_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=10)
    (tmp_path / "in.jsonl").write_text("{}\n")
    async with desk_of(pipeline) as desk:
        with pytest.raises(PenstockError) as caught:
            await desk.create(pipeline, {"mode": "dry_run", "source": "native", "start": BEGAN, "end": BEGAN + DAY}, "ann@here")
        assert (caught.value.code, left_over(pipeline), await desk.store.jobs.open_ones()) == ("source.rewritten", [], [])


async def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    pipeline = await run_shop(tmp_path, count=10)
    (pipeline.state / "ranges").write_text("a file in the way")
    with pytest.raises(EnvironmentFault) as caught:
        await native(pipeline)
    assert caught.value.code == "backfill.disk"
