"""What `pipe doctor` finds out about a pipeline: each of its components is asked, in place of being opened. Changes nothing.

Collaborators: `penstock.state.examine` for the state store; components that are `Examined` for themselves.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from penstock._version import __version__
from penstock.builtins import room
from penstock.components import Kind, build
from penstock.config.model import Component, Pipeline
from penstock.engine.assemble import Surroundings, make_context
from penstock.engine.chain import compile_chain
from penstock.errors import PenstockError
from penstock.journal.examine import examine_journal
from penstock.places import look_at_room
from penstock.spi import Context, Examined, Expressions, Finding, Position
from penstock.state.examine import examine_directory, examine_server, examine_store
from penstock.state.open import open_store
from penstock.state.pipeline_records import Note

SECONDS = 120.0
"""How long one component may take to be looked at."""


@dataclass(frozen=True, slots=True)
class Section:
    """What was found about one part of a pipeline.

    :ivar title: `machine`, `state`, `journal`, `source`, `transforms`, or a sink's name.
    :ivar kind: what it is: a component's registered name, where it is one.
    """

    title: str
    kind: str
    findings: list[Finding]


async def examine(pipeline: Pipeline, surroundings: Surroundings) -> list[Section]:
    """Everything that can be found out without running it; one section for each part, in the order of the file."""
    expressions: Expressions = room("expressions")()

    def context(component: str) -> Context:
        return make_context(pipeline, component, expressions, surroundings)

    state, note = await _state(pipeline, surroundings)
    checkpoint = note.positions if note is not None else {}
    source = _component("source", "source", pipeline.source, context("source"), checkpoint)
    sinks = [_component("sink", sink.name, sink.component, context(sink.name), {}) for sink in pipeline.sinks]
    examined = await asyncio.gather(source, *sinks)
    steps = [Section("transforms", "", _steps(pipeline, context))] if pipeline.steps else []
    journal = await _journal(pipeline, note, surroundings.clock.now())
    return [Section("machine", "", _machine(pipeline)), state, *journal, examined[0], *steps, *examined[1:]]


def _machine(pipeline: Pipeline) -> list[Finding]:
    found = [Finding("ok", "machine.python", f"Python {platform.python_version()}, Penstock {__version__}")]
    if pipeline.state_server is not None:
        found.append(look_at_room(pipeline.state, "machine.room"))
    if pipeline.schemas:
        where = pipeline.registry or pipeline.directory / "schemas"
        found.append(Finding("ok", "machine.schemas", f"schemas {', '.join(sorted(pipeline.schemas))} from {where}"))
    return found


async def _state(pipeline: Pipeline, surroundings: Surroundings) -> tuple[Section, Note | None]:
    server, clock = pipeline.state_server, surroundings.clock
    if server is None:
        found = examine_directory(pipeline.state, pipeline.name)
    else:
        found = await _asked(lambda: examine_server(server, pipeline.name, clock))
    section = Section("state", "sqlite" if server is None else "postgresql", found)
    if any(finding.severity == "error" for finding in found):
        return section, None
    told, note = await examine_store(open_store(pipeline.state, pipeline.name, clock, surroundings.faults, server), pipeline.name)
    section.findings.extend(told)
    return section, note


async def _journal(pipeline: Pipeline, note: Note | None, now: float) -> list[Section]:
    declared = pipeline.journal
    if declared is None:
        return []
    noted = note.journal if note is not None else ""
    return [Section("journal", "", await asyncio.to_thread(examine_journal, declared, noted, now))]


async def _component(
    kind: Kind, title: str, component: Component, context: Context, checkpoint: Mapping[str, Position]
) -> Section:
    try:
        built: Any = build(kind, component, context)
    except PenstockError as error:
        return Section(title, component.kind, [Finding.of(error)])
    if isinstance(built, Examined):
        examined = built
        return Section(title, component.kind, await _asked(lambda: examined.examine(checkpoint)))
    return Section(title, component.kind, [Finding("ok", f"{kind}.built", "its configuration is sound; it needs nothing else")])


def _steps(pipeline: Pipeline, context: Callable[[str], Context]) -> list[Finding]:
    try:
        compile_chain(pipeline.steps, pipeline, context)
    except PenstockError as error:
        return [Finding.of(error)]
    count = len(pipeline.steps)
    return [Finding("ok", "transforms", f"{count} step{'s' if count > 1 else ''} compiled")]


async def _asked(look: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What it finds; what it raises becomes a finding."""
    try:
        async with asyncio.timeout(SECONDS):
            return await look()
    except PenstockError as error:
        return [Finding.of(error)]
    except TimeoutError:
        return [Finding("error", "doctor.timeout", f"gave no answer within {SECONDS:g} s")]
    except Exception as error:  # supervision point: components of others are asked here, and the rest is still worth telling
        return [Finding("error", "doctor.failed", f"could not be looked at: {type(error).__name__}: {error}")]
