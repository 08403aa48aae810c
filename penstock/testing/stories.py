"""Crash rounds that are told as a story: input that grows, a run beside which somebody asks for something, and strikes.

A story is told twice over one input, undisturbed and struck, and judged each time. `StoryScenario` says what is told (replays,
backfills, parked lanes, …), `story.Story` how; where the state store lies is `story_state`'s. Collaborators: `oracle`, `strikes`.
"""

from __future__ import annotations

import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.faults import JOB_POINTS
from penstock.testing.oracle import Oracle, Plan, write_input
from penstock.testing.processes import Launcher
from penstock.testing.rounds import Problem, RoundResult
from penstock.testing.scenario import Output, Settings
from penstock.testing.story import Story
from penstock.testing.story_state import LocalState, MakeState, story_states
from penstock.testing.strikes import MOST_STRIKES, Strike, plan_strikes
from penstock.testing.telling import DISTURBED, UNDISTURBED, Telling


@dataclass(frozen=True, slots=True)
class StoryScenario(ABC):
    """What is told.

    :ivar server: the state store lies in PostgreSQL, and connections to it are cut.
    """

    name: str
    outputs: Sequence[Output] = ()
    server: bool = False

    def draw(self, rng: random.Random) -> Settings:
        """What a seed chooses."""
        return draw_settings(rng)

    @abstractmethod
    def story(self, telling: Telling) -> Story:
        """The story of one telling."""

    def strikes(self, rng: random.Random, seed: int, passed: Mapping[str, int], took: float) -> list[Strike]:
        """What is done to the runs of the second telling; the first passed these fault points and took so many seconds."""
        return job_strikes(rng, seed, passed, took)


def draw_settings(rng: random.Random) -> Settings:
    """As `Settings.draw`, with portions so small that a job has many of them. Files grow side by side, so that only of one is it
    known which of two repetitions comes first."""
    drawn = Settings.draw(rng)
    repetitions = drawn.plan.repetitions
    plan = Plan(lines=rng.randrange(300, 700), files=1 if repetitions else rng.randrange(1, 3), repetitions=repetitions)
    return Settings(plan, rng.choice([2, 5, 10, 40]), rng.choice([20, 200]), drawn.dedup, drawn.workers)


def job_strikes(rng: random.Random, seed: int, passed: Mapping[str, int], took: float) -> list[Strike]:
    """Each second one kills in a job, the first of them at the point whose turn it is."""
    points = [JOB_POINTS[seed % len(JOB_POINTS)], *rng.choices(JOB_POINTS, k=MOST_STRIKES)]
    in_jobs = [Strike(f"{point}:{rng.randrange(1, 4)}:kill") for point in points]
    others = plan_strikes(rng, seed, passed, took)
    return [strike for pair in zip(in_jobs, others, strict=False) for strike in pair]


@contextmanager
def story_rounds(scenario: StoryScenario, commands: Launcher) -> Iterator[Callable[[int, Path, Launcher], RoundResult]]:
    """Round after round, with one server for all of them.

    :param commands: starts what comes beside the runs.
    """
    with story_states(server=scenario.server) as states:

        def one(seed: int, directory: Path, launcher: Launcher) -> RoundResult:
            with states(f"round_{seed}") as make_state:
                return run_story_round(scenario, seed, directory, launcher, commands, make_state=make_state)

        yield one


def run_story_round(
    scenario: StoryScenario,
    seed: int,
    directory: Path,
    launcher: Launcher,
    commands: Launcher,
    *,
    strikes: Sequence[Strike] = (),
    make_state: MakeState = LocalState,
) -> RoundResult:
    """One whole round in `directory`, which must be empty.

    :param launcher: starts the runs; `commands` what comes beside them.
    :param strikes: instead of those that the seed draws.
    """
    started = time.monotonic()
    rng, result = random.Random(f"{scenario.name}/{seed}"), RoundResult(scenario.name, seed)
    settings = scenario.draw(rng)
    write_input(directory / "input", directory / "oracle.jsonl", rng, settings.plan)
    oracle, tale = Oracle.load(directory / "oracle.jsonl"), rng.randrange(1 << 30)

    def told(name: str, planned: Sequence[Strike]) -> float:
        state = make_state(directory / name)
        telling = Telling(settings, directory, name, state, launcher, commands, random.Random(tale), list(planned), result)
        story = scenario.story(telling)
        story.tell()
        if not result.problems:
            story.check(oracle, "" if planned else f"{UNDISTURBED}: ")
        if not result.problems:
            story.verify()
        if result.problems:
            state.keep(directory)
        return story.took

    took = told(UNDISTURBED, ())
    if not result.problems:
        passes = directory / "passes.json"
        result.passed = json.loads(passes.read_text()) if passes.exists() else {}
        result.strikes.clear()
        told(DISTURBED, strikes or scenario.strikes(rng, seed, result.passed, took))
        if not result.problems and not result.killed_at:
            result.problems.append(Problem("no_kill", "no strike hit a run: nothing is proved"))
    result.seconds = time.monotonic() - started
    return result
