"""`pipe dlq replay` and `pipe jobs` beside a real run, over both kinds of state store: the run carries the job out, whoever waits
for it may go, and whatever dies, each row arrives once."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from process_parts import pipe, started
from waiting import until

from penstock.testing.servers import Database

PIPELINE = """\
pipeline: shop
source: { file: { paths: [in.jsonl], follow: true } }
dedup: { key: .data.n, window: 1h }
batching: { count: 2 }
sink: { sqlite: { path: out.db, table: events } }
"""
TRIGGER = "CREATE TRIGGER refuses BEFORE INSERT ON events WHEN new.n % 2 = 0 BEGIN SELECT RAISE(ABORT, 'even'); END"


class Shop:
    """A pipeline that follows a file into a table, which refuses even numbers until it is mended."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with closing(sqlite3.connect(root / "out.db")) as database:
            database.execute("CREATE TABLE events (place INTEGER PRIMARY KEY, n INTEGER)")
            database.execute(TRIGGER)
            database.commit()

    def mend(self) -> None:
        with closing(sqlite3.connect(self.root / "out.db", timeout=20)) as database:
            database.execute("DROP TRIGGER refuses")
            database.commit()

    def add(self, *numbers: int) -> None:
        with (self.root / "in.jsonl").open("a") as file:
            file.writelines(f'{{"n":{n}}}\n' for n in numbers)

    def rows(self) -> list[int]:
        with closing(sqlite3.connect(self.root / "out.db", timeout=20)) as database:
            return [n for (n,) in database.execute("SELECT n FROM events ORDER BY place")]

    def running(self, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
        return started(self.root, *arguments)

    def pipe(self, *arguments: str) -> tuple[int, str, str]:
        return pipe(self.root, *arguments)

    def json(self, *arguments: str) -> Any:
        status, out, err = self.pipe(*arguments, "--json")
        assert status in (0, 4), err
        return json.loads(out)

    def status(self) -> dict[str, Any]:
        [item] = self.json("status", "shop")["items"]
        assert isinstance(item, dict)
        return item

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.json("jobs", "ls", "shop")["items"]
        return found


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    (tmp_path / "pipelines").mkdir()
    state = ""
    if request.param == "postgres":
        database: Database = request.getfixturevalue("database")
        state = f"state: {json.dumps(database.dsn)}\n"
    (tmp_path / "pipelines/shop.yaml").write_text(PIPELINE + state)
    return Shop(tmp_path)


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_a_live_run_replays_what_was_mended_while_events_go_on(shop: Shop) -> None:
    shop.add(*range(20))
    with shop.running("run", "shop") as run:
        until(lambda: len(shop.rows()) == 10, run)
        dry = shop.json("dlq", "replay", "shop", "--all", "--dry-run")
        assert (dry["selected"], dry["delivered"], dry["job"], shop.rows()) == (10, 10, "", list(range(1, 20, 2)))
        shop.mend()
        shop.add(*range(20, 30), 0, 2)  # the last two are repetitions of dead letters, or of what was replayed
        status, _, said = shop.pipe("dlq", "replay", "shop", "--all")
        assert (status, said) == (0, "shop: 10 dead letters replayed: 10 delivered\n")
        until(lambda: len(shop.rows()) == 30, run)
        [job] = shop.jobs()
        assert {name: job[name] for name in ("kind", "state", "done", "total")} == {
            "kind": "replay", "state": "done", "done": 10, "total": 10,
        }  # fmt: skip
        assert shop.status()["pid"] == run.pid
        stop(run)
    assert sorted(shop.rows()) == list(range(30))
    standing = shop.status()
    assert (standing["received"], standing["dead_lettered"], standing["deduplicated"]) == (32, 10, 2)
    assert (standing["dead_letters"], standing["jobs"]) == ({"resolved": 10}, [])


def test_whoever_waits_may_go_and_the_job_goes_on_rests_and_ends_when_somebody_asks(shop: Shop) -> None:
    shop.add(*range(80))
    with shop.running("run", "shop") as run:
        until(lambda: len(shop.rows()) == 40, run)
        shop.mend()
        with shop.running("dlq", "replay", "shop", "--all", "--rate", "2/s") as waiting:
            until(lambda: len(shop.rows()) > 41, run, waiting)
            waiting.send_signal(signal.SIGINT)
            _, said = waiting.communicate(timeout=20)
        [standing] = shop.status()["jobs"]
        job = standing["id"]
        assert (waiting.returncode, said.splitlines()[0]) == (130, f"shop: job {job} goes on in process {run.pid}")
        assert f"pipe jobs cancel {job}" in said
        assert (standing["state"], standing["total"]) == ("running", 40)
        assert shop.pipe("jobs", "pause", job[:6])[0] == 0
        until(lambda: shop.jobs()[0]["state"] == "paused", run)
        count = len(shop.rows())
        assert "paused" in shop.pipe("jobs", "show", job)[1]
        assert len(shop.rows()) == count < 80
        assert shop.pipe("jobs", "resume", job, "--no-wait")[0] == 0
        until(lambda: len(shop.rows()) > count, run)
        assert shop.pipe("jobs", "cancel", job)[0] == 0
        until(lambda: shop.jobs()[0]["state"] == "cancelled", run)
        assert shop.pipe("dlq", "replay", "shop", "--all")[0] == 0
        stop(run)
    assert sorted(shop.rows()) == list(range(80))


def test_the_command_takes_a_job_over_whose_run_was_killed(shop: Shop) -> None:
    shop.add(*range(20))
    with shop.running("run", "shop") as run:
        until(lambda: len(shop.rows()) == 10, run)
        shop.mend()
        with shop.running("dlq", "replay", "shop", "--all", "--rate", "4/s") as waiting:
            until(lambda: len(shop.rows()) > 11, run, waiting)
            run.kill()
            run.wait()
            _, said = waiting.communicate(timeout=60)
        *taken_over, replayed = said.splitlines()
        assert (waiting.returncode, replayed.startswith("shop: 10 dead letters replayed: ")) == (0, True)
        # Where the lease of a loaded machine came late, the command had waited for the run from the start.
        assert taken_over in ([], [f"shop: process {run.pid} has ended; its job {shop.jobs()[0]['id']} goes on here"])
    assert (sorted(shop.rows()), shop.jobs()[0]["state"]) == (list(range(20)), "done")
    assert shop.status()["dead_letters"] == {"resolved": 10}


def test_a_job_whose_run_has_ended_goes_on_with_jobs_resume_or_the_next_run(shop: Shop) -> None:
    shop.add(*range(20))
    assert shop.pipe("run", "shop", "--once")[0] == 0
    shop.mend()
    first = shop.json("dlq", "replay", "shop", "--all", "--no-wait")
    assert (first["state"], first["selected"], shop.rows()) == ("waiting", 0, list(range(1, 20, 2)))
    status, _, said = shop.pipe("jobs", "resume", first["job"])
    assert (status, "done, 10 of 10 done" in said, len(shop.rows())) == (0, True, 20)
    second = shop.json("dlq", "replay", "shop", "--all", "--no-wait")
    assert shop.pipe("jobs", "cancel", second["job"])[0] == 0
    third = shop.json("dlq", "replay", "shop", "--all", "--no-wait")
    assert shop.pipe("run", "shop", "--once")[0] == 0
    assert {job["id"]: job["state"] for job in shop.jobs()} == {
        first["job"]: "done", second["job"]: "cancelled", third["job"]: "done",
    }  # fmt: skip


def test_what_the_file_says_since_the_run_began_is_not_taken_for_what_the_run_does(shop: Shop) -> None:
    shop.add(*range(4))
    with shop.running("run", "shop") as run:
        until(lambda: len(shop.rows()) == 2, run)
        version = shop.status()["version"]
        file = shop.root / "pipelines/shop.yaml"
        file.write_text(file.read_text() + "transforms: [{ filter: .n > 0 }]\n")
        status, _, said = shop.pipe("dlq", "replay", "shop", "--all")
        assert (status, "error[replay.other_version]" in said, f"--version {version[:12]}" in said) == (2, True, True)
        shop.mend()
        assert shop.pipe("dlq", "replay", "shop", "--all", "--version", version[:12])[0] == 0
        stop(run)
    assert sorted(shop.rows()) == [0, 1, 2, 3]
