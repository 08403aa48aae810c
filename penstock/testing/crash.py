"""The crash harness: kills a pipeline again and again, and proves that what comes out is as if nothing had happened.

A round is made from a seed alone: input and pipeline (`oracle`, `scenario`), an undisturbed run, then runs that are killed at a
fault point or at any moment, terminated, made to fail, their output files torn, until one drains the source. The outputs, the
dead letters, the totals, the checkpoint, the files and the processes left must be exactly those of the undisturbed run, and those
that the oracle expects. A round in which nothing was killed or little was delivered fails too.

    python -m penstock.testing.crash --scenario sqlite --rounds 200        # seeds 0 to 199; the exit status is 1 on a violation
    python -m penstock.testing.crash --scenario sqlite --seed 17 --rounds 1 --keep /tmp/round       # one round again
    python -m penstock.testing.crash --scenario cdc_postgres --rounds 100  # while a database changes, its server killed too

Stories (`stories`) have a run that lives while the input grows, and somebody beside it: letters are mended and replayed
(`replay_beside…`), lanes parked and released (`park…`), a sink is added and backfilled (`backfill_beside…`), both at once
(`park_backfill…`), older events come late into tables with an order (`order_by…`), a world is asked by a step with effects
(`effects…`), also with parked lanes (`park_effects…`). With `…_server`, and where tables lie in PostgreSQL, connections are cut
and answers to commits lost besides.
Over a changing database (`cdc_…`) there is no undisturbed run: what must come out is what the writers committed (`cdc_rounds`).

From code: `run_rounds(scenario, seeds)` with a `Scenario` of your own sink. Source: docs/guarantees.md, "Faults to survive".
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from penstock.testing.backfill_rounds import BACKFILL_SCENARIOS
from penstock.testing.cdc_scenario import CDC_SCENARIOS, CdcScenario
from penstock.testing.effects_rounds import EFFECTS_SCENARIOS
from penstock.testing.order_rounds import ORDER_SCENARIOS
from penstock.testing.park_backfill_rounds import PARK_BACKFILL_SCENARIOS
from penstock.testing.park_effects_rounds import PARK_EFFECTS_SCENARIOS
from penstock.testing.park_rounds import PARK_SCENARIOS
from penstock.testing.processes import Launcher, Program
from penstock.testing.replay_rounds import REPLAY_SCENARIOS
from penstock.testing.rounds import RoundResult, run_round
from penstock.testing.scenario import SCENARIOS, Scenario
from penstock.testing.stories import StoryScenario, story_rounds

LEDGERS = ("sqlite", "file", "both")
"""Scenarios run without being asked for: the sink's own ledger, the state store's, and both together."""

AnyScenario = Scenario | CdcScenario | StoryScenario

ALL_SCENARIOS: Mapping[str, AnyScenario] = {
    **SCENARIOS,
    **CDC_SCENARIOS,
    **REPLAY_SCENARIOS,
    **BACKFILL_SCENARIOS,
    **PARK_SCENARIOS,
    **PARK_BACKFILL_SCENARIOS,
    **ORDER_SCENARIOS,
    **EFFECTS_SCENARIOS,
    **PARK_EFFECTS_SCENARIOS,
}

ENOUGH_ROUNDS = 20
"""After so many consecutive seeds every fault point has had its turn."""


def run_rounds(
    scenario: AnyScenario,
    seeds: Iterable[int],
    *,
    program: Program | None = None,
    jobs: int = 2,
    spawn_every: int = 10,
    keep: Path | None = None,
    until: Callable[[RoundResult], bool] = lambda result: False,
    show: Callable[[RoundResult], None] = lambda result: None,
) -> list[RoundResult]:
    """Many rounds, `jobs` at a time, in the order of their seeds.

    :param program: what to run instead of the command.
    :param spawn_every: each so-manieth seed runs fresh processes from the interpreter's start, the others forked ones.
    :param keep: a directory in which every round keeps its files; without one, those of rounds that pass are removed.
    :param until: no further round is started after one of which this is true.
    """
    home = keep or Path(tempfile.mkdtemp(prefix="penstock-crash-"))
    done: list[RoundResult] = []

    def work(mine: Sequence[int]) -> None:
        with (
            Launcher(program or Program()) as forks,
            Launcher(program or Program(), fork=False) as fresh,
            Launcher(program or Program()) as commands,
            _rounds_of(scenario, commands) as one,
        ):
            for seed in mine:
                if any(until(result) for result in done):
                    return
                directory = home / f"{scenario.name}-{seed}"
                directory.mkdir(parents=True)
                result = one(seed, directory, fresh if spawn_every and seed % spawn_every == 7 else forks)
                done.append(result)
                show(result)
                if keep is None and not result.problems:
                    shutil.rmtree(directory)

    all_seeds = list(seeds)
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(work, all_seeds[job::jobs]) for job in range(jobs)]:
            future.result()
    if keep is None and not any(result.problems for result in done):
        home.rmdir()
    return sorted(done, key=lambda result: result.seed)


@contextmanager
def _rounds_of(scenario: AnyScenario, commands: Launcher) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """:param commands: starts what comes beside the runs; it starts nothing itself before it is used."""
    if isinstance(scenario, Scenario):
        yield partial(run_round, scenario)
        return
    if isinstance(scenario, StoryScenario):
        with story_rounds(scenario, commands) as one:
            yield one
        return
    from penstock.testing.cdc_rounds import cdc_rounds  # needs a driver that other scenarios do without

    with cdc_rounds(scenario) as one:
        yield one


def unstruck_points(results: Sequence[RoundResult]) -> set[str]:
    """Fault points that runs pass and that killed none: empty after enough rounds."""
    return {point for result in results for point in result.passed} - {point for result in results for point in result.killed_at}


def summary(scenario: str, results: Sequence[RoundResult]) -> str:
    """One line about many rounds."""
    kills = sum(sum(result.killed_at.values()) for result in results)
    failed = [result.seed for result in results if result.problems]
    points = len({point for result in results for point in result.killed_at} - {"moment"})
    verdict = f"violations at seeds {failed}" if failed else "0 lost, 0 doubled, 0 out of order"
    return (
        f"{scenario}: {len(results)} rounds, {kills} kills at {points} fault points and at any moment, "
        f"{sum(result.rows for result in results)} rows checked: {verdict}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m penstock.testing.crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--scenario", choices=[*ALL_SCENARIOS, "all"], action="append", help="which outputs (default: one for each ledger)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="rounds a scenario")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first round; the others follow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rounds at a time")
    parser.add_argument("--keep", type=Path, help="directory that keeps the files of every round")
    given = parser.parse_args(arguments)
    chosen = given.scenario or LEDGERS
    failed = False
    for name in ALL_SCENARIOS if "all" in chosen else chosen:
        started = time.monotonic()
        seeds = range(given.seed, given.seed + given.rounds)
        results = run_rounds(ALL_SCENARIOS[name], seeds, jobs=given.jobs, keep=given.keep, show=_show)
        failed = failed or any(result.problems for result in results)
        print(f"{summary(name, results)} (seeds {seeds.start} to {seeds.stop - 1}, {time.monotonic() - started:.0f} s)")
        if given.rounds >= ENOUGH_ROUNDS and (missed := unstruck_points(results)):
            print(f"  never killed at: {', '.join(sorted(missed))}")
    return 1 if failed else 0


def _show(result: RoundResult) -> None:
    if result.problems:
        print(result.report(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
