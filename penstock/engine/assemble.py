"""From a typed pipeline to its parts: contexts, source, sinks, ledgers, the chain. Builds and compiles; opens nothing."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from penstock.builtins import room
from penstock.clock import Clock
from penstock.components import build
from penstock.config.model import Dedup, Pipeline
from penstock.engine.chain import Chain, compile_chain
from penstock.engine.prepare import Keys, Preparer
from penstock.faults import Faults
from penstock.ledger import LedgerSink
from penstock.observe.component_log import ComponentLog
from penstock.observe.log import Incident, Log
from penstock.spi import Context, Expressions, Sink, Source

DEFAULT_WINDOW = 86400.0
_ATTRIBUTE = re.compile(r"\$event\.([a-z0-9]{1,20})")


def _unheard(incident: Incident) -> None:
    """A log that nobody reads."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run passes to everything that it builds.

    :ivar log: of the run; nobody's, where nothing is run.
    """

    clock: Clock
    random: random.Random
    faults: Faults
    log: Log = _unheard


@dataclass(slots=True)
class Moment:
    """What `now` is in programs: when the batch was received that is being processed, so that every step of a past event can be
    computed again.

    :ivar at: seconds since 1970, in whole milliseconds.
    """

    at: float = 0.0

    def __call__(self) -> float:
        return self.at


@dataclass(slots=True)
class Steps:
    """What makes of a received event its outputs: a pipeline without its source and its sinks.

    :ivar moment: of `dedup.key`, `event:` and the steps; set before each batch.
    :ivar keys: None where nothing is deduplicated.
    :ivar dedup: as declared, or the default of a source without positions.
    """

    moment: Moment
    preparer: Preparer
    keys: Keys | None
    dedup: Dedup | None
    chain: Chain


@dataclass(slots=True)
class Assembly:
    """A pipeline's parts.

    :ivar moment: of `dedup.key`, `event:` and the steps; set before each batch.
    :ivar keys: None where nothing is deduplicated.
    :ivar dedup: as declared, or the default of a source without positions.
    """

    pipeline: Pipeline
    surroundings: Surroundings
    moment: Moment
    source: Source
    sinks: dict[str, Sink | LedgerSink]
    preparer: Preparer
    keys: Keys | None
    dedup: Dedup | None
    chain: Chain


def assemble(pipeline: Pipeline, surroundings: Surroundings) -> Assembly:
    """:raises PenstockError: where a component refuses its configuration."""
    beside: Expressions = room("expressions")(surroundings.clock.now)

    def outer(component: str) -> Context:
        return make_context(pipeline, component, beside, surroundings)

    source: Source = build("source", pipeline.source, outer("source"))
    steps = assemble_steps(pipeline, surroundings, has_positions=source.has_positions)
    return Assembly(
        pipeline=pipeline,
        surroundings=surroundings,
        moment=steps.moment,
        source=source,
        sinks={sink.name: build("sink", sink.component, outer(sink.name)) for sink in pipeline.sinks},
        preparer=steps.preparer,
        keys=steps.keys,
        dedup=steps.dedup,
        chain=steps.chain,
    )


def assemble_steps(pipeline: Pipeline, surroundings: Surroundings, *, has_positions: bool) -> Steps:
    """The part that needs neither source nor sinks.

    :param has_positions: of the source, as `Source.has_positions`.
    :raises PenstockError: where a step refuses its configuration.
    """
    moment = Moment()
    expressions: Expressions = room("expressions")(moment)

    def inner(component: str) -> Context:
        return make_context(pipeline, component, expressions, surroundings)

    dedup = pipeline.dedup
    if dedup is None and not has_positions:
        dedup = Dedup(DEFAULT_WINDOW)
    return Steps(
        moment=moment,
        preparer=Preparer.compile(pipeline.event, expressions),
        keys=Keys.compile(dedup, pipeline, has_positions, expressions) if dedup else None,
        dedup=dedup,
        chain=compile_chain(pipeline.steps, pipeline, inner),
    )


def make_context(pipeline: Pipeline, component: str, expressions: Expressions, surroundings: Surroundings) -> Context:
    """What a component is given besides its own configuration."""
    return Context(
        pipeline=pipeline.name,
        component=component,
        project=pipeline.project,
        directory=pipeline.directory,
        expressions=expressions,
        clock=surroundings.clock,
        random=surroundings.random,
        faults=surroundings.faults,
        registry=pipeline.registry,
        schema_texts=pipeline.schemas,
        log=ComponentLog(surroundings.log, surroundings.clock, pipeline.name, component),
        asked=frozenset(_ATTRIBUTE.findall(pipeline.content)),
    )
