"""A file that goes away between two runs with bytes that nobody had read does not go unnoticed; one that was read may go."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input_parts import Project

from penstock.errors import EnvironmentFault

LINES = [b'{"n":%d}' % n for n in range(5)]
KINDS: dict[str, Callable[[list[bytes]], bytes]] = {
    "jsonl": lambda lines: b"\n".join(lines) + b"\n",
    "gz": lambda lines: gzip.compress(b"\n".join(lines) + b"\n"),
    "json": lambda lines: b"[" + b",\n".join(lines) + b"]\n\n",
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Project:
    """Two input files, of which `in-1` comes first."""
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    format = "json" if kind == "json" else "jsonl"
    project.pipeline(f'source: {{file: {{paths: "in-*", format: {format}}}}}\nsink: {{file: out.jsonl}}\n')
    (tmp_path / f"in-1.{kind}").write_bytes(KINDS[kind](LINES))
    (tmp_path / f"in-2.{kind}").write_bytes(KINDS[kind]([b'{"n":-1}']))
    return project


NEW = [b'{"new":%d,"text":"%s"}' % (n, b"x" * 60) for n in range(2)]


def replace(project: Project, kind: str, lines: list[bytes]) -> None:
    """Another file in the place of the first, long enough to be told apart."""
    fresh = project.root / "fresh"
    fresh.write_bytes(KINDS[kind](lines))
    fresh.replace(project.root / f"in-1.{kind}")


async def fault_of(project: Project) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as fault:
        await project.run()
    return fault.value


async def test_a_file_removed_before_it_was_read_to_its_end_is_reported_once_and_the_others_are_read(
    project: Project, kind: str
) -> None:
    await project.run(max_events=2)
    (project.root / f"in-1.{kind}").unlink()

    fault = await fault_of(project)
    again = await project.run()

    assert fault.code == "source.vanished"
    assert fault.message == f"in-1.{kind} was removed or replaced before it was read to its end"
    assert str(fault.where).startswith(f"partition in-1.{kind}, position 0-")
    assert project.values() == [{"n": 0}, {"n": 1}, {"n": -1}]
    assert again.counts.received == 0


async def test_a_file_replaced_before_it_was_read_to_its_end_is_reported_once_and_the_new_one_is_read(
    project: Project, kind: str
) -> None:
    await project.run(max_events=2)
    replace(project, kind, NEW)

    fault = await fault_of(project)
    again = await project.run()

    assert fault.code == "source.vanished"
    assert project.lines() == [*LINES[:2], *NEW, b'{"n":-1}']
    assert again.counts.received == 0


async def test_a_file_renamed_in_its_directory_is_read_on(project: Project, kind: str) -> None:
    await project.run(max_events=2)
    (project.root / f"in-1.{kind}").rename(project.root / f"in-1.{kind}.1")

    summary = await project.run()

    assert summary.counts.received == 4
    assert [json.loads(line)["n"] for line in project.lines()] == [0, 1, 2, 3, 4, -1]


@pytest.mark.parametrize("size", [5, 60_000])
async def test_a_file_that_was_read_to_its_end_may_go_or_be_replaced(project: Project, kind: str, size: int) -> None:
    (project.root / f"in-1.{kind}").write_bytes(KINDS[kind]([b'{"n":%d}' % n for n in range(size)]))
    await project.run()
    (project.root / "elsewhere").mkdir()
    (project.root / f"in-1.{kind}").rename(project.root / "elsewhere" / f"in-1.{kind}")
    gone = await project.run()
    replace(project, kind, NEW)
    replaced = await project.run()

    assert (gone.counts.received, replaced.counts.received) == (0, 2)
    assert len(project.lines()) == size + 3


async def test_a_file_that_comes_back_is_read_on_where_it_was_left(project: Project, kind: str) -> None:
    await project.run(max_events=2)
    content = (project.root / f"in-1.{kind}").read_bytes()
    (project.root / f"in-1.{kind}").unlink()
    await fault_of(project)
    (project.root / f"in-1.{kind}").write_bytes(content)

    summary = await project.run()

    assert summary.counts.received == 3
    assert project.values() == [{"n": 0}, {"n": 1}, {"n": -1}, {"n": 2}, {"n": 3}, {"n": 4}]


@pytest.mark.parametrize("kind", ["jsonl", "gz"], indirect=True)
async def test_a_followed_file_that_went_away_between_two_runs_is_reported_once_too(project: Project, kind: str) -> None:
    project.pipeline('source: {file: {paths: "in-*", follow: true}}\nsink: {file: out.jsonl}\n')
    await project.run(max_events=2)
    (project.root / f"in-1.{kind}").unlink()

    with pytest.raises(EnvironmentFault) as fault:
        await project.run(once=False)
    again = await project.run()

    assert fault.value.code == "source.vanished"
    assert project.values() == [{"n": 0}, {"n": 1}, {"n": -1}]
    assert again.counts.received == 0
