"""Leader and stand-by on two machines that share a state store in PostgreSQL: who may run, who takes over, who is fenced."""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from server_parts import MakeDatabase, MakeProxy, StartPostgres
from standby_parts import SCHEMA, SINKS, MakeWorld, finish, incidents
from waiting import until

from penstock.state.lease import LEASE
from penstock.testing.scenario import PIPELINE

BOUND = 5.0
"""Seconds from a leader's death to the stand-by's first commit."""

ROUNDS = int(os.environ.get("PENSTOCK_STANDBY_ROUNDS", "1"))
ENVIRONMENT = 3
HOST = re.escape(socket.gethostname())
SINCE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def assert_fenced(process: subprocess.Popen[str], *, by: subprocess.Popen[str]) -> None:
    """It ended by itself, said once that it is fenced, and by whom."""
    status, said = finish(process)
    assert (status, "Traceback" in said) == (ENVIRONMENT, False), said
    ((code, message),) = [incident for incident in incidents(said) if incident[0] != "run.waiting"]
    messages = {
        rf"pipeline {PIPELINE} was taken over by process {by.pid} on {HOST} since {SINCE}": "state.fenced",
        r"a newer run holds the pipeline: epoch 2, this run has 1": "state.fenced",
        rf"another run has taken over the ledger {PIPELINE}/out": "ledger.fenced",
    }
    assert [wanted for known, wanted in messages.items() if re.fullmatch(known, message)] == [code], said


def test_a_second_machine_is_refused_and_told_who_runs_the_pipeline_and_since_when(make_world: MakeWorld) -> None:
    world = make_world("sqlite")
    one, two = world.machines
    leader = one.run()
    world.feed_and_wait(leader, count=20)
    status, said = finish(two.run("--once"))
    assert status == ENVIRONMENT
    ((code, message),) = incidents(said)
    assert code == "state.held"
    assert re.fullmatch(rf"pipeline {PIPELINE} is being run by process {leader.pid} on {HOST} since {SINCE}", message)
    assert "--wait" in said
    assert "--take-over" in said
    world.feed_and_wait(leader)
    assert finish(leader, terminate=True)[0] == 0
    world.judge()


@pytest.mark.parametrize("sink", SINKS)
def test_a_standby_goes_on_within_five_seconds_of_the_leaders_death(sink: str, make_world: MakeWorld) -> None:
    """Measured from SIGKILL to a commit of what came afterwards."""
    world = make_world(sink)
    leader, standby = world.start_both()
    took = []
    for number in range(ROUNDS):
        world.feed_and_wait(leader, standby, count=5)
        dead, began = leader, time.monotonic()
        dead.kill()
        world.feed_and_wait(standby, count=5)
        took.append(time.monotonic() - began)
        leader = standby
        if number < ROUNDS - 1:
            standby = world.start_standby(world.machines[number % 2], leader)
    world.feed_and_wait(leader)
    assert finish(leader, terminate=True)[0] == 0
    world.judge()
    print(f"{sink}: {len(took)} rounds, median {statistics.median(took):.2f} s, max {max(took):.2f} s")
    assert max(took) < BOUND


@pytest.mark.parametrize(
    ("sink", "point"),
    [
        ("sqlite", "before_commit:3"),
        ("sqlite", "mid_dead_letters:2"),  # in a transaction of the state store
        ("postgres", "inside_sink_write:3"),  # in a transaction of the sink
        ("postgres", "between_ledgers:3"),
        ("postgres", "before_note:4"),
        ("postgres", "before_ack:3"),
    ],
)
def test_a_leader_that_stood_still_past_its_lease_is_fenced_when_it_wakes(sink: str, point: str, make_world: MakeWorld) -> None:
    world = make_world(sink)
    leader, standby = world.start_both(fault=f"{point}:stop")
    world.feed(100)
    until(lambda: is_stopped(leader), leader, standby)
    until(lambda: world.leader() == standby.pid, leader, standby)
    until(lambda: world.received() == world.fed, leader, standby)
    held = world.rows()
    leader.send_signal(signal.SIGCONT)
    assert_fenced(leader, by=standby)
    assert world.rows() == held
    world.feed_and_wait(standby)
    assert finish(standby, terminate=True)[0] == 0
    world.judge()


def is_stopped(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_a_leader_without_events_that_was_taken_over_ends_too(make_world: MakeWorld) -> None:
    world = make_world("sqlite")
    leader, standby = world.start_both()
    world.feed_and_wait(leader, standby, count=10)
    leader.send_signal(signal.SIGSTOP)
    until(lambda: world.leader() == standby.pid, leader, standby)
    leader.send_signal(signal.SIGCONT)
    assert_fenced(leader, by=standby)
    world.feed_and_wait(standby)
    assert finish(standby, terminate=True)[0] == 0
    world.judge()


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_a_take_over_fences_a_leader_that_is_alive_and_at_work(sink: str, make_world: MakeWorld) -> None:
    world = make_world(sink, lines=1200)
    one, two = world.machines
    leader = one.run()
    world.feed_and_wait(leader, count=10)
    newer = two.run("--take-over")
    while world.leader() != newer.pid:
        world.feed(2)
    assert_fenced(leader, by=newer)
    world.feed_and_wait(newer)
    assert finish(newer, terminate=True)[0] == 0
    world.judge()


@pytest.mark.parametrize("sink", ["sqlite", "postgres"])
def test_a_leader_that_lost_its_network_is_fenced_when_it_is_back(
    sink: str, make_world: MakeWorld, make_proxy: MakeProxy, make_database: MakeDatabase
) -> None:
    database = make_database()
    proxy = make_proxy(database.server.port)
    world = make_world(sink, database=database, ports=(proxy.port, 0))
    leader, standby = world.start_both()
    world.feed_and_wait(leader, standby, count=20)
    proxy.stall()
    world.feed(20)
    until(lambda: world.leader() == standby.pid, leader, standby)
    until(lambda: world.received() == world.fed, leader, standby)
    proxy.forward()
    assert_fenced(leader, by=standby)
    world.feed_and_wait(standby)
    assert finish(standby, terminate=True)[0] == 0
    world.judge()


def test_a_server_that_is_restarted_under_both_leaves_the_leader_its_place(
    make_world: MakeWorld, start_postgres: StartPostgres, make_database: MakeDatabase
) -> None:
    server = start_postgres(durable=False)
    world = make_world("sqlite", database=make_database(server))
    leader, standby = world.start_both()
    world.feed_and_wait(leader, standby, count=20)
    for mode in ("fast", "immediate"):
        world.feed(20)
        server.restart(mode)  # type: ignore[arg-type]  # a literal
        world.feed_and_wait(leader, standby, count=20)
        assert world.leader() == leader.pid
        until(lambda: world.watchers() == 2, leader, standby)
    leader.kill()
    world.feed_and_wait(standby)
    assert finish(standby, terminate=True)[0] == 0
    world.judge()


def test_a_standby_outlasts_an_outage_that_is_longer_than_retry_allows_a_run(
    make_world: MakeWorld, start_postgres: StartPostgres, make_database: MakeDatabase
) -> None:
    server = start_postgres(durable=False)
    world = make_world("sqlite", database=make_database(server))
    leader, standby = world.start_both()
    world.feed_and_wait(leader, standby, count=20)
    for machine in world.machines:
        file = machine.directory / f"{PIPELINE}.yaml"
        file.write_text(file.read_text().replace('"max_attempts": 200', '"max_attempts": 2'))
    impatient = world.machines[1].run("--wait")
    until(lambda: world.watchers() == 3, leader, standby, impatient)
    standby.kill()
    leader.kill()
    server.stop()
    began = time.monotonic()
    until(lambda: time.monotonic() - began > LEASE or impatient.poll() is not None)
    assert impatient.poll() is None, finish(impatient)
    server.start()
    world.feed_and_wait(impatient)
    status, said = finish(impatient, terminate=True)
    told = said.count("cannot start yet: ")
    assert (status, told in (1, 2)) == (0, True), said  # by the lease, and by the store where its connection is found cut later
    world.judge()


def test_a_standby_of_a_newer_program_waits_for_the_end_of_an_older_run_and_then_migrates(make_world: MakeWorld) -> None:
    world = make_world("sqlite", lines=50)
    world.leave_an_older_store()
    one, two = world.machines
    move = f"UPDATE {SCHEMA}.penstock_lease SET holder = 'older', host = 'elsewhere', pid = 47, counter = counter + 1"
    world.database.execute(move)
    world.feed()
    standby, refused = one.run("--wait"), two.run()
    while refused.poll() is None:
        world.database.execute(move)
    for _ in range(10):
        world.database.execute(move)
        assert standby.poll() is None, finish(standby)
    (code, message), *_ = incidents(finish(refused)[1])
    assert (code, "process 47 on elsewhere" in message) == ("state.held", True)
    assert world.received() == 0
    world.feed_and_wait(standby)  # the older run is dead
    assert finish(standby, terminate=True)[0] == 0
    world.judge()


def test_the_lease_of_a_run_that_ended_by_itself_is_free_at_once(make_world: MakeWorld) -> None:
    world = make_world("sqlite")
    leader, standby = world.start_both()
    world.feed_and_wait(leader, standby, count=5)
    status, said = finish(leader, terminate=True)
    assert status == 0, said
    world.feed(5)
    began = time.monotonic()
    until(lambda: world.received() == world.fed, standby)
    assert time.monotonic() - began < LEASE
    world.feed_and_wait(standby)
    assert finish(standby, terminate=True)[0] == 0
    assert world.ask(f"SELECT holder FROM {SCHEMA}.penstock_lease") == ""
    world.judge()
