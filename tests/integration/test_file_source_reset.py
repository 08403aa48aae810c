"""`pipe checkpoint reset` of a file: what is the same keeps its ids, what is not gets new ones, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_parts import kept

from connectors.sources._marks import restarted
from penstock.config.model import Pipeline
from penstock.engine.checkpoints import reset_positions
from penstock.engine.embed import load, run
from penstock.engine.run import RunOptions
from penstock.errors import Fatal
from penstock.ledger import Counts
from penstock.spi import Position

WINDOW = {"dedup": {"window": "24h"}}


def lines(version: int, count: int = 9) -> bytes:
    return b"".join(b'{"v":%d,"n":%d}\n' % (version, n) for n in range(count))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(lines(1))
    return tmp_path


def pipeline(place: Path, **more: Any) -> Pipeline:
    document = {"pipeline": "p", "source": {"file": "in.jsonl"}, "sink": {"file": {"path": "out.jsonl", "format": "cloudevents"}}}
    (place / "p.yaml").write_text(json.dumps(document | more))
    return load(place / "p.yaml")


def written(place: Path) -> list[tuple[str, int, int]]:
    """What the sink holds: id, v and n of each event."""
    events = [json.loads(line) for line in (place / "out.jsonl").read_bytes().splitlines()]
    return [(event["id"], event["data"]["v"], event["data"]["n"]) for event in events]


def rewrite(file: Path, content: bytes) -> None:
    """In place: the same inode."""
    with file.open("r+b") as out:
        out.truncate(0)
        out.write(content)


async def reset(pipeline: Pipeline) -> None:
    await reset_positions(pipeline, ["in.jsonl"], RunOptions())


async def test_an_unchanged_file_is_read_again_under_the_same_ids(place: Path) -> None:
    loaded = pipeline(place)
    await run(loaded, once=True)
    first = written(place)
    await reset(loaded)
    await run(loaded, once=True)
    assert written(place) == first * 2


async def test_what_fails_again_has_one_open_dead_letter(place: Path) -> None:
    loaded = pipeline(place, transforms=[{"jq": 'if .n > 6 then error("odd") else . end'}])
    summaries = [await run(loaded, once=True)]
    await reset(loaded)
    summaries.append(await run(loaded, once=True))
    assert [(summary.counts.dead_lettered, summary.open_letters) for summary in summaries] == [(2, 2), (2, 2)]


async def test_what_the_dedup_window_knows_is_not_delivered_twice(place: Path) -> None:
    loaded = pipeline(place, **WINDOW)
    await run(loaded, once=True)
    first = written(place)
    (place / "in.jsonl").write_bytes(lines(1) + lines(2, 1))
    await reset(loaded)
    summary = await run(loaded, once=True)
    assert written(place) == [*first, (f"0-{len(lines(1))}", 2, 0)]
    assert (summary.counts, summary.reread) == (Counts(1, 1), 9)


@pytest.mark.parametrize("more", [{}, WINDOW], ids=["no dedup", "dedup"])
@pytest.mark.parametrize("common", [0, 600], ids=["from its head", "behind its head"])
async def test_a_rewritten_file_is_read_under_new_ids(place: Path, more: dict[str, Any], common: int) -> None:
    """Also where it was rewritten only behind the bytes that its head is known by."""
    file, loaded = place / "in.jsonl", pipeline(place, **more)
    file.write_bytes(lines(0, common) + lines(1))
    await run(loaded, once=True)
    first = written(place)
    rewrite(file, lines(0, common) + lines(2))
    with pytest.raises(Fatal) as caught:
        await run(loaded, once=True)
    assert caught.value.code == "source.rewritten"
    await reset(loaded)
    await reset(loaded)
    summary = await run(loaded, once=True)
    second = written(place)[len(first) :]
    assert summary.counts == Counts(common + 9, common + 9)
    assert [(v, n) for _, v, n in second] == [(0, n) for n in range(common)] + [(2, n) for n in range(9)]
    assert all(id.startswith("1-") for id, _, _ in second)


async def test_dead_letters_of_the_old_content_stay(place: Path) -> None:
    file, loaded = place / "in.jsonl", pipeline(place)
    file.write_bytes(b'{bad one}\n{"v":1,"n":0}\n')
    await run(loaded, once=True)
    rewrite(file, b'{bad two}\n{"v":2,"n":0}\n')
    await reset(loaded)
    await run(loaded, once=True)
    letters = (await kept(loaded)).letters
    assert {(letter.event_id, letter.original) for letter in letters} == {("0-0", b"{bad one}"), ("1-0", b"{bad two}")}


async def test_a_reset_before_the_file_was_renamed_reads_it_where_it_lies(place: Path) -> None:
    loaded = pipeline(place)
    await run(loaded, once=True)
    first = written(place)
    await reset(loaded)
    (place / "in.jsonl").rename(place / "in.jsonl.1")
    (place / "in.jsonl").write_bytes(lines(2))
    await run(loaded, once=True)
    assert written(place) == [*first, *first, *((f"1-{n * len(lines(2, 1))}", 2, n) for n in range(9))]


def test_a_position_that_came_without_a_mark_begins_a_generation() -> None:
    """Nothing says whether the file is the same, so no id is used again."""
    order = (3).to_bytes(4, "big") + (70).to_bytes(8, "big")
    assert restarted("in.jsonl", Position(order)).order == (4).to_bytes(4, "big") + bytes(8)
