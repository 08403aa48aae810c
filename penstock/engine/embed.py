"""Penstock without the command: load a pipeline, run it in your own event loop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.config.loader import load_pipeline
from penstock.config.model import Pipeline
from penstock.engine.run import Run, RunOptions
from penstock.observe.status import RunSummary


def load(file: str | Path, *, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Pipeline:
    """The typed pipeline of a file.

    :param overrides: `path=value`, as `--set` takes them.
    :param environment: for `${VAR}`; the process's own by default.
    :raises ConfigurationError: with every mistake of the file.
    """
    return load_pipeline(Path(file), overrides=overrides, environment=os.environ if environment is None else environment)


async def run(pipeline: str | Path | Pipeline, **options: Any) -> RunSummary:
    """Run a pipeline until it is drained (`once=True`), has given `max_events`, or this task is cancelled.

    :param options: the fields of `RunOptions`.
    :raises PenstockError: what stopped it.
    """
    loaded = pipeline if isinstance(pipeline, Pipeline) else load(pipeline)
    return await Run(loaded, RunOptions(**options)).execute()
