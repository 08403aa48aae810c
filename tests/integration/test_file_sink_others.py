"""The file sink and others who touch its file: between runs they may, and during one they are noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_parts import crash_at

from connectors.sinks._appender import Appender
from penstock.config.model import Pipeline
from penstock.engine.embed import load, run
from penstock.engine.run import Run, RunOptions
from penstock.errors import EnvironmentFault, Fatal
from penstock.faults import Faults


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipeline(place: Path, name: str, out: str = "out.jsonl", count: int = 3, **more: Any) -> Pipeline:
    """Writes {NAME: 0}, {NAME: 1}, … to the file."""
    source = place / f"{name}.jsonl"
    source.write_text("".join(json.dumps({name: n}) + "\n" for n in range(count)))
    document = {"pipeline": name, "source": {"file": source.name}, "sink": {"file": out}, **more}
    (place / f"{name}.yaml").write_text(json.dumps(document))
    return load(place / f"{name}.yaml")


def more(place: Path, name: str, *numbers: int) -> None:
    with (place / f"{name}.jsonl").open("a") as file:
        file.writelines(json.dumps({name: n}) + "\n" for n in numbers)


def values(place: Path) -> list[Any]:
    return [json.loads(line) for line in (place / "out.jsonl").read_text().splitlines()]


async def test_pipelines_that_take_turns_at_a_file_lose_nothing_of_each_other(place: Path) -> None:
    a, b = pipeline(place, "a", count=2), pipeline(place, "b", count=2)
    await run(a, once=True)
    await run(b, once=True)
    more(place, "a", 2)
    await run(a, once=True)
    await run(b, once=True)
    assert values(place) == [{"a": 0}, {"a": 1}, {"b": 0}, {"b": 1}, {"a": 2}]


async def test_a_line_that_somebody_adds_between_two_runs_stays(place: Path) -> None:
    a = pipeline(place, "a", count=1)
    await run(a, once=True)
    with (place / "out.jsonl").open("a") as file:
        file.write('{"note":"by hand"}')
    more(place, "a", 1)
    await run(a, once=True)
    assert values(place) == [{"a": 0}, {"note": "by hand"}, {"a": 1}]


async def test_after_a_run_that_died_the_tail_is_its_own_and_goes(place: Path) -> None:
    """Also when the run before it had ended by itself: the file is marked as in use before its first write."""
    a = pipeline(place, "a", count=1)
    await run(a, once=True)
    more(place, "a", 1, 2)
    with pytest.raises(Fatal, match="crashed at"):
        await Run(a, RunOptions(once=True, faults=crash_at("before_commit"))).execute()
    with (place / "out.jsonl").open("a") as file:
        file.write('{"half":')
    await run(a, once=True)
    assert values(place) == [{"a": 0}, {"a": 1}, {"a": 2}]


def meddling(action: Any) -> Faults:
    """Something else that happens while the run writes."""
    return Faults({"inside_sink_write": [(1, lambda name: action())]})


async def meddled(a: Pipeline, action: Any) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        await Run(a, RunOptions(once=True, faults=meddling(action))).execute()
    return caught.value


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
async def test_a_file_that_goes_away_under_a_run_stops_it_before_the_commit(place: Path, how: str) -> None:
    a, out = pipeline(place, "a"), place / "out.jsonl"

    def meddle() -> None:
        out.unlink() if how == "removed" else out.rename(place / "old.jsonl")
        if how == "replaced":
            out.touch()

    error = await meddled(a, meddle)
    assert error.code == "sink.file_replaced"
    out.unlink(missing_ok=True)
    if how == "removed":
        out.touch()
    else:
        (place / "old.jsonl").rename(out)
    summary = await run(a, once=True)
    assert (summary.counts.delivered, values(place)) == (3, [{"a": 0}, {"a": 1}, {"a": 2}])


async def test_somebody_elses_write_beside_a_run_stops_it_before_the_commit(place: Path) -> None:
    def meddle() -> None:
        with (place / "out.jsonl").open("a") as file:
            file.write("mine\n")

    error = await meddled(pipeline(place, "a"), meddle)
    assert (error.code, error.help) == ("sink.file_shared", "give every writer a file of its own")


async def test_a_file_that_is_shorter_than_what_a_finished_run_left_is_refused(place: Path) -> None:
    a = pipeline(place, "a")
    await run(a, once=True)
    appender = Appender(place / "out.jsonl")
    appender.open()
    appender.cut(3)
    appender.close()
    with pytest.raises(EnvironmentFault) as caught:
        await run(a, once=True)
    assert caught.value.code == "sink.file_shorter"


async def test_a_run_that_ends_before_its_first_group_behind_a_crash_between_two_ledgers(place: Path) -> None:
    """What the file sink says at its end goes into its own ledger, which the other is ahead of."""
    sinks = [{"name": "table", "sqlite": {"path": "t.db", "table": "t", "create": True}}, {"name": "lines", "file": "out.jsonl"}]
    (place / "in.jsonl").write_text('{"a":0}\n{"a":1}\n')
    (place / "p.yaml").write_text(json.dumps({"pipeline": "p", "source": {"file": "in.jsonl"}, "sinks": sinks}))
    p = load(place / "p.yaml")
    with pytest.raises(Fatal, match="crashed at"):
        await Run(p, RunOptions(once=True, faults=crash_at("before_note"))).execute()
    stopped = Run(p, RunOptions(once=True, faults=Faults({"after_read": [(1, lambda name: stopped.stop())]})))
    idle = Run(p, RunOptions(max_events=0))
    assert (await idle.execute()).counts.received == 0
    await stopped.execute()
    assert values(place) == [{"a": 0}, {"a": 1}]
