"""What a step or a sink says of an event that it refuses, and a sink that says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from engine_parts import Feed, Shelf, Table, TableSink, dedup, kept, make_pipeline, numbers, run_once, sink, step
from engine_parts import parts as parts
from engine_replay_parts import again, said

from penstock.errors import BatchError, Fatal, Permanent
from penstock.event import Event
from penstock.ledger import Commit


@pytest.mark.parametrize("code", ["source.odd", "decode.odd"])
@pytest.mark.parametrize("where", ["step", "sink"])
async def test_data_is_kept_whatever_code_a_step_or_a_sink_raises(tmp_path: Path, code: str, where: str) -> None:
    """What the source gave as data (of a CSV line, say) is no JSON text in the file: only the letter has it."""
    refused = {"p1"}

    def odd(event: Event) -> Permanent:
        return Permanent(code, "odd")

    def check(event: Event) -> Any:
        return odd(event) if where == "step" and event.id in refused else event

    def plan(events: Sequence[Event]) -> None:
        failed = {n: odd(event) for n, event in enumerate(events) if where == "sink" and event.id in refused}
        if failed:
            raise BatchError(failed)

    feed, shelf = Feed.of(*numbers(2)), Shelf(plan=plan)
    pipeline = make_pipeline(tmp_path, feed, sink("shelf", shelf), steps=[step("check", check)], dedup=dedup())
    await run_once(pipeline)
    (letter,) = (await kept(pipeline)).letters
    assert (letter.code, msgspec.json.decode(letter.record)["data"], bool(letter.data_digest)) == (code, {"n": 1}, True)
    refused.clear()
    assert (said(await again(pipeline)), shelf.taken) == ((1, 1, 0, 0, 0), [("p0", {"n": 0}), ("p1", {"n": 1})])


async def test_a_ledger_sink_that_refuses_a_group_and_names_no_event_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    async def refuse(self: TableSink, events: Sequence[Event], commit: Commit) -> None:
        calls.append(len(events))
        raise BatchError({}, nothing_delivered=True)

    table = Table(tmp_path / "t.db")
    pipeline = make_pipeline(tmp_path, Feed.of(*numbers(2)), sink("table", table))
    with monkeypatch.context() as patch:
        patch.setattr(TableSink, "write_and_commit", refuse)
        with pytest.raises(Fatal, match="sink table refused a group and named no event") as caught:
            await run_once(pipeline)
    assert (caught.value.code, calls, table.ids) == ("sink.nothing_named", [2], [])
    await run_once(pipeline)
    assert table.ids == ["p0", "p1"]
