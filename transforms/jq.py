"""The `jq` transform: computes new data; no output filters the event, several make several events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from penstock.config.base import ComponentConfig, DataProgram
from penstock.event import Event
from penstock.spi import Context, Result
from transforms._outputs import with_data


class JqConfig(ComponentConfig):
    """Fields of the `jq` transform."""

    shorthand: ClassVar[str | None] = "program"

    program: DataProgram = Field(
        description="The program. Its input is the event's data; `$event` holds the attributes, `$steps` earlier outputs.",
        examples=["{id, total: (.price * .quantity)}"],
    )


class Jq:
    """Makes of each event one for each output of a jq program."""

    name: ClassVar[str] = "jq"
    Config: ClassVar[type[JqConfig]] = JqConfig

    def __init__(self, config: JqConfig, context: Context) -> None:
        self._program = context.expressions.program(config.program, "data")

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        results: list[Result] = []
        for event, outputs in zip(events, self._program(events), strict=True):
            if not isinstance(outputs, list):
                results.append(outputs)
            elif len(outputs) == 1:
                results.append(with_data(event, outputs[0]))
            else:
                results.append([with_data(event, output) for output in outputs] or None)
        return results
