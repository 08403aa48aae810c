from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.config.loader import load_pipeline
from penstock.config.model import Pipeline
from penstock.errors import ConfigProblem, ConfigurationError

BASE = "pipeline: p\nsource: {file: a.jsonl}\nsink: stdout\n"


@dataclass(frozen=True)
class Project:
    """A directory in which pipeline files are written and loaded; it is the working directory too."""

    root: Path

    def load(self, text: str | bytes, *, environment: Mapping[str, str] = {}, overrides: Sequence[str] = ()) -> Pipeline:
        file = self.root / "p.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_pipeline(file, overrides=overrides, environment=environment, project=self.root)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def problems(
        self, text: str | bytes, *, environment: Mapping[str, str] = {}, overrides: Sequence[str] = ()
    ) -> list[ConfigProblem]:
        with pytest.raises(ConfigurationError) as caught:
            self.load(text, environment=environment, overrides=overrides)
        return caught.value.problems

    def found(
        self, text: str | bytes, *, environment: Mapping[str, str] = {}, overrides: Sequence[str] = ()
    ) -> list[tuple[str, str]]:
        problems = self.problems(text, environment=environment, overrides=overrides)
        return [(problem.code, str(problem.where)) for problem in problems]

    def rendered(self, text: str | bytes, *, environment: Mapping[str, str] = {}, overrides: Sequence[str] = ()) -> str:
        return ConfigurationError(self.problems(text, environment=environment, overrides=overrides)).render()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)
