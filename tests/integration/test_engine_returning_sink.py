"""A sink that was taken out of a pipeline and comes back has missed events: the run stops and asks (rule 2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.engine.embed import run
from penstock.errors import EnvironmentFault

HEAD = "pipeline: shop\nsource: {{ file: {directory}/in.jsonl }}\nsinks:\n  - {{ name: one, file: {directory}/one.jsonl }}\n"
OTHER = "  - {{ name: two, file: {directory}/two.jsonl }}\n"


def write(directory: Path, text: str) -> Path:
    file = directory / "shop.yaml"
    file.write_text((text + "state: sqlite:{directory}/state\n").format(directory=directory))
    return file


async def test_a_plain_sink_that_comes_back_stops_the_run_and_can_be_adopted(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"n":1}\n')
    await run(write(tmp_path, HEAD + OTHER), once=True)
    with (tmp_path / "in.jsonl").open("a") as more:
        more.write('{"n":2}\n')
    await run(write(tmp_path, HEAD), once=True)
    with pytest.raises(EnvironmentFault, match="sink two was part of this pipeline before") as caught:
        await run(write(tmp_path, HEAD + OTHER), once=True)
    assert caught.value.code == "ledger.came_back"
    with (tmp_path / "in.jsonl").open("a") as more:
        more.write('{"n":3}\n')
    await run(write(tmp_path, HEAD + OTHER), once=True, adopt=True)
    assert (tmp_path / "one.jsonl").read_text() == '{"n":1}\n{"n":2}\n{"n":3}\n'
    assert (tmp_path / "two.jsonl").read_text() == '{"n":1}\n{"n":3}\n'


async def test_a_repetition_is_one_even_where_the_event_takes_its_time_from_the_clock(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"n":1}\n')
    text = HEAD.replace(
        "in.jsonl }}\n", "in.jsonl }}\n  event: {{ time: '(now | todate)' }}\ndedup: {{ window: 1h, key: .data }}\n"
    )
    text = text.replace("source: {{ file: {directory}/in.jsonl }}\n", "source:\n  file: {directory}/in.jsonl\n")
    await run(write(tmp_path, text), once=True)
    with (tmp_path / "in.jsonl").open("a") as more:
        more.write('{"n":1}\n')
    summary = await run(write(tmp_path, text), once=True)
    assert (summary.counts.delivered, summary.counts.deduplicated) == (0, 1)
