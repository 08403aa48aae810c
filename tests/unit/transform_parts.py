"""What the tests of transforms share: building one as the engine does, and events to feed it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec

from penstock.builtins import TRANSFORMS, load
from penstock.clock import SystemClock
from penstock.event import Event
from penstock.faults import Faults
from penstock.spi import Context, Result
from transforms.expressions import compiler


def context(project: Path = Path(), directory: Path | None = None) -> Context:
    return Context("shop", "step", project, directory or project, compiler(), SystemClock(), random.Random(1), Faults())


def build(kind: str, config: Any, project: Path = Path()) -> Any:
    """A transform from what stands in YAML: a mapping, or the bare value of its shorthand."""
    component = load(TRANSFORMS[kind])
    fields = config if isinstance(config, dict) else {component.Config.shorthand: config}
    return component(component.Config.model_validate_json(msgspec.json.encode(fields)), context(project))


def event(data: Any, **changes: Any) -> Event:
    return Event("e1", "shop", "order.line", "2010-12-01T08:26:00Z", raw=msgspec.json.encode(data), **changes)


def shown(result: Result) -> Any:
    """The data of each output; an error as its code and message."""
    if isinstance(result, Event):
        return result.data
    if isinstance(result, list):
        return [each.data for each in result]
    return None if result is None else (result.code, result.message)
