"""Mirrors: tables of every kind are copied into another database while pipeline, servers and connections are struck; in the end
the copies equal the originals, row for row, by checksums that the servers compute.

`make test` does a short one; `make soak` sets PENSTOCK_SOAK_ROUNDS, and does one for every twenty rounds with each version.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from mirror_parts import Busy, Keeper, Reading, differences, pgbench, prepare, two_databases, write_pipeline
from server_parts import StartPostgres

from penstock.testing.cdc_scenario import SETTINGS, World
from penstock.testing.cdc_strikes import ACTIONS, disturb
from penstock.testing.processes import Launcher, Process, ProcessOverdue
from penstock.testing.scenario import PIPELINE, read_remains

SOAK = int(os.environ.get("PENSTOCK_SOAK_ROUNDS", "0"))
RUNS = 12 if SOAK else 2
ACCOUNTS = 100_000 if SOAK else 2_000


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(max(1, SOAK // 20)))
@pytest.mark.parametrize("version", [18, 16] if SOAK else [18])
def test_tables_of_every_kind_are_mirrored_while_everything_is_struck(
    version: int, seed: int, start_postgres: StartPostgres, tmp_path: Path
) -> None:
    rng = random.Random(f"{version}/{seed}")
    source, target = start_postgres(version, settings=SETTINGS, durable=False), start_postgres(durable=False)
    with two_databases(source, target, "mirror") as world, Launcher() as launcher:
        prepare(world, ACCOUNTS)
        write_pipeline(tmp_path, world)
        reading = Reading(world.source)
        with ExitStack() as stack:
            for number in range(2):
                keeper = Keeper(world.source, number, random.Random(f"{version}/{seed}/{number}"), reading)
                stack.callback(keeper.close)
                stack.enter_context(Busy(keeper.step))
            bench = stack.enter_context(Busy(lambda: _pgbench(world, rng, reading)))
            for _ in range(RUNS):
                _struck_run(world, launcher, tmp_path, rng)
        assert bench.done
        process = launcher.start(["run", "--once", f"{PIPELINE}.yaml"], tmp_path, tmp_path / "log")
        assert process.wait(120) == 0, (tmp_path / "log").read_text()[-3000:]
        remains = read_remains(tmp_path)
        assert {letter["code"]: letter["message"] for letter in remains.letters} == {}
        assert remains.totals["filtered"] == 0, "some event is of a table that no sink is for"
        assert not (found := differences(world)), "\n".join(f"{table}: {what}" for table, what in found.items())


def _pgbench(world: World, rng: random.Random, reading: Reading) -> None:
    script = random.Random(rng.random()).choice(["tpcb-like", "simple-update"])
    if reading.has_begun():
        pgbench(world.source, "-n", "-b", script, "-c", "3", "-t", "20")


def _struck_run(world: World, launcher: Launcher, project: Path, rng: random.Random) -> None:
    """A run that is killed, after this and that was done to what it is connected to."""
    process = launcher.start(["run", f"{PIPELINE}.yaml"], project, project / "log")
    try:
        for name in rng.sample(list(ACTIONS), rng.randrange(0, 3)):
            _run_for(process, rng.uniform(0.1, 0.8))
            disturb(world, name, rng)
        _run_for(process, rng.uniform(0.3, 1.2))
    finally:
        process.send(signal.SIGKILL)
        status = process.wait(30)
    assert status in (-signal.SIGKILL, 3), (project / "log").read_text()[-3000:]


def _run_for(process: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except ProcessOverdue:
        return
