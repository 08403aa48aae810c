"""Two machines that share one pipeline, its state, input and output: each has a working directory and a process of its own.

The input is the oracle's, so that what comes out can be judged whoever wrote it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg
from waiting import until

from penstock.engine.embed import load
from penstock.engine.run import Run, RunOptions
from penstock.observe.status import RunSummary
from penstock.testing.oracle import Oracle, Plan, Row, write_input
from penstock.testing.scenario import PIPELINE, Output, Scenario, Settings, file_output, write_pipeline
from penstock.testing.servers import Database

HOUSE = Path(__file__).resolve().parents[2]
PIPE = [sys.executable, "-c", "from penstock.cli.main import main; main()"]
SCHEMA = f"penstock_{PIPELINE}"
PATIENCE = 30.0
HELD = re.compile(rf"INSERT INTO {SCHEMA}\.(?!penstock_meta|penstock_lease)")
"""In a golden store: what its run had left in it."""
SINKS = ("sqlite", "file", "postgres")
COLUMNS = "key TEXT, sequence INTEGER, part INTEGER, text TEXT, checksum TEXT, kind TEXT"
SELECT = "SELECT key, sequence, part, text, checksum FROM events ORDER BY place"


@dataclass
class Machine:
    """One of the two, with the runs that were started on it."""

    directory: Path
    dsn: str
    sink_dsn: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *arguments: str, fault: str = "") -> subprocess.Popen[str]:
        """`pipe run`, following its input."""
        return self.pipe("run", *arguments, f"{PIPELINE}.yaml", fault=fault)

    async def run_once(self) -> RunSummary:
        """The same in this process, until all that is there was read."""
        pipeline = load(self.directory / f"{PIPELINE}.yaml", environment={"STATE": self.dsn, "SINK": self.sink_dsn})
        return await asyncio.wait_for(Run(pipeline, RunOptions(once=True)).execute(), PATIENCE)

    def pipe(self, *arguments: str, fault: str = "") -> subprocess.Popen[str]:
        """The command, in a process of its own."""
        given = {"STATE": self.dsn, "SINK": self.sink_dsn, "PYTHONPATH": str(HOUSE), "NO_COLOR": "1"}
        environment = {**os.environ, **given, **({"PENSTOCK_FAULT": fault} if fault else {})}
        process = subprocess.Popen(
            [*PIPE, *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(process)
        return process


@dataclass
class World:
    """Two machines, what they share, and the oracle.

    :ivar left: lines of the input that are not yet there to be read, by file; `fed` counts those that are.
    """

    root: Path
    sink: str
    database: Database
    oracle: Oracle
    left: dict[str, list[bytes]]
    fed: int = 0
    machines: list[Machine] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        root: Path,
        sink: str,
        database: Database,
        *,
        lines: int = 400,
        ports: Sequence[int] = (0, 0),
        all_through: bool = False,
        **pipeline: Any,
    ) -> World:
        """:param ports: of proxies before the state's server, one for each machine; 0: it is asked directly.
        :param all_through: the sink is asked through them too.
        :param pipeline: what the pipeline file says instead.
        """
        (root / "out").mkdir(parents=True)
        (root / "in").mkdir()
        write_input(root / "all", root / "oracle.jsonl", random.Random(f"standby/{sink}"), Plan(lines, files=2))
        left = {file.name: file.read_bytes().splitlines(keepends=True) for file in sorted((root / "all").iterdir())}
        world = cls(root, sink, database, Oracle.load(root / "oracle.jsonl"), left)
        if sink == "sqlite":
            with closing(sqlite3.connect(root / "out/table.db")) as table:
                table.execute(f"CREATE TABLE events (place INTEGER PRIMARY KEY, {COLUMNS})")
        elif sink == "postgres":
            database.execute(f"CREATE TABLE events (place BIGSERIAL PRIMARY KEY, {COLUMNS})")
        for name, port in zip(("one", "two"), ports, strict=True):
            dsn = database.dsn_through(port) if port else database.dsn
            world.machines.append(Machine(root / name, dsn, dsn if all_through else database.dsn))
            world._write_pipeline(root / name, pipeline)
        return world

    def _write_pipeline(self, directory: Path, changes: Mapping[str, Any]) -> None:
        directory.mkdir()
        scenario = Scenario("standby", [self._output()])
        path = write_pipeline(directory, scenario, Settings(Plan(), count=10, in_flight=60, dedup="", workers=0))
        pipeline: dict[str, Any] = json.loads(path.read_text())
        pipeline["source"]["file"] |= {"paths": [str(self.root / "in/*.jsonl")], "follow": True}
        pipeline["state"] = "${STATE}"
        pipeline["retry"] = {"initial_delay": "20ms", "max_delay": "500ms", "max_attempts": 200}
        path.write_text(json.dumps({**pipeline, **changes}))

    def _output(self) -> Output:
        component = {
            "sqlite": {"sqlite": {"path": str(self.root / "out/table.db"), "table": "events"}},
            "file": {"file": {"path": str(self.root / "out/events.jsonl")}},
            "postgres": {"postgres": {"dsn": "${SINK}", "table": "events"}},
        }[self.sink]
        return Output("out", component, lambda _: self.rows(), lambda _: b"")

    # ---- looking

    def rows(self) -> list[Row]:
        """What has arrived, in order."""
        if self.sink == "file":
            return list(file_output().rows(self.root))
        if self.sink == "postgres":
            return [Row(*row) for row in self.database.execute(SELECT)]
        with closing(sqlite3.connect(self.root / "out/table.db")) as table:
            return [Row(*row) for row in table.execute(SELECT)]

    def ask(self, sql: str) -> Any:
        """The first column of the first row; None where there is none, or nothing can be asked yet."""
        try:
            rows = self.database.execute(sql)
        except psycopg.Error:
            return None
        return rows[0][0] if rows else None

    def received(self) -> int:
        """Events that count as read."""
        counts = self.ask(f"SELECT counts FROM {SCHEMA}.note")
        return int(json.loads(counts)["received"]) if counts else 0

    def leader(self) -> int | None:
        """Process id of whoever has the lease; None where nobody has."""
        pid = self.ask(f"SELECT pid FROM {SCHEMA}.penstock_lease WHERE holder <> ''")
        return None if pid is None else int(pid)

    def watchers(self) -> int:
        """How many processes hold the lease, or watch it."""
        mine = f"application_name = 'penstock:{PIPELINE}/lease' AND query LIKE '%penstock_lease%'"
        return int(self.ask(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}") or 0)

    # ---- acting

    def leave_an_older_store(self) -> None:
        """As if the first version of the store had been made, and nothing run yet."""
        golden = (HOUSE / "tests/golden/state_postgres_v3.sql").read_text().replace("penstock_orders", SCHEMA)
        self.database.execute("".join(line for line in golden.splitlines(keepends=True) if not HELD.match(line)))

    def start_both(self, *, fault: str = "") -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        """A leader, and a stand-by that watches it."""
        one, two = self.machines
        leader = one.run(fault=fault)
        until(lambda: self.leader() == leader.pid, leader)
        return leader, self.start_standby(two, leader)

    def start_standby(self, machine: Machine, leader: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """:param leader: is alive, or stopped, as long as it takes."""
        standby = machine.run("--wait")
        until(lambda: self.watchers() == 2, leader, standby)
        return standby

    def feed(self, count: int | None = None) -> None:
        """The next lines of the input, where both machines read them; None: all that is left."""
        for name, left in self.left.items():
            with (self.root / "in" / name).open("ab") as file:
                file.write(b"".join(left[:count]))
            self.fed += len(left[:count])
            del left[:count]

    def feed_and_wait(self, *alive: subprocess.Popen[str], count: int | None = None) -> float:
        """Until it counts as read; how long that took."""
        self.feed(count)
        return seconds_until(lambda: self.received() == self.fed, *alive)

    def judge(self) -> None:
        """Everything has arrived, once, in order, unharmed, and was counted once."""
        findings = self.oracle.judge(self.rows(), refuses=False)
        assert findings.clean, str(findings)
        counts = json.loads(self.ask(f"SELECT counts FROM {SCHEMA}.note"))
        expected = asdict(self.oracle.totals(refuses=False))
        assert {name: counts[name] for name in expected} == expected
        letters = self.database.execute(f"SELECT source, original_digest, status, pending FROM {SCHEMA}.letters")
        wanted = self.oracle.dead_letters(refuses=False)
        assert {(Path(source).name, digest) for source, digest, _, _ in letters} == set(wanted)
        assert len(letters) == len(wanted)
        assert {(status, pending) for _, _, status, pending in letters} <= {("open", None)}

    def end(self) -> None:
        """No process is left."""
        for machine in self.machines:
            for process in machine.started:
                if process.poll() is None:
                    process.kill()
                process.communicate()


class MakeWorld(Protocol):
    """`make_world("sqlite")`: in a fresh database, and with whatever `World.make` takes."""

    def __call__(self, sink: str, database: Database | None = None, **options: Any) -> World: ...


def finish(process: subprocess.Popen[str], *, terminate: bool = False) -> tuple[int, str]:
    """Exit status, and all it said."""
    if terminate:
        process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def incidents(said: str) -> list[tuple[str, str]]:
    """Code and message of everything that a run logged."""
    logged = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return [(line["code"], line["message"]) for line in logged]


def seconds_until(condition: Callable[[], object], *alive: subprocess.Popen[str]) -> float:
    """How long it took."""
    began = time.monotonic()
    until(condition, *alive)
    return time.monotonic() - began
