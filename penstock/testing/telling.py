"""What one telling of a crash story has at hand: its place, its state store, who starts processes, the strikes, and where what is
wrong goes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.testing.processes import Launcher
from penstock.testing.rounds import Problem, RoundResult
from penstock.testing.scenario import PIPELINE, Settings
from penstock.testing.story_state import NotYet, StoryState
from penstock.testing.strikes import Strike

FILE = f"{PIPELINE}.yaml"
UNDISTURBED, DISTURBED = "undisturbed", "disturbed"


@dataclass(slots=True)
class Telling:
    """What one telling has at hand; problems go to `result`.

    :ivar commands: starts what comes beside the runs, which `launcher` starts.
    :ivar strikes: those that are left.
    """

    settings: Settings
    directory: Path
    name: str
    state: StoryState
    launcher: Launcher
    commands: Launcher
    rng: random.Random
    strikes: list[Strike]
    result: RoundResult

    @property
    def project(self) -> Path:
        """Where the pipeline lies."""
        return self.directory / self.name

    @property
    def log(self) -> Path:
        """What every process says."""
        return self.directory / f"{self.name}.log"

    def problem(self, kind: str, detail: str) -> None:
        """With the end of the log."""
        tail = self.log.read_text(errors="replace")[-1500:].strip() if self.log.exists() else "(no output)"
        self.result.problems.append(Problem(kind, f"{self.name}: {detail}: {tail}"))

    def asks(self, sql: str) -> list[tuple[Any, ...]]:
        """Of the state store; nothing where there is none yet."""
        try:
            return self.state.query(sql)
        except NotYet:
            return []
