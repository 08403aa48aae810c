"""The `split` transform: makes an event of each item of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from penstock.config.base import ComponentConfig, DataProgram
from penstock.errors import Permanent
from penstock.event import Event
from penstock.spi import Context, Result
from transforms._outputs import with_data
from transforms._paths import KINDS, native


class SplitConfig(ComponentConfig):
    """Fields of the `split` transform."""

    shorthand: ClassVar[str | None] = "path"

    path: DataProgram = Field(
        description="Where the list is: a plain path, which must lead to a list, or a jq program. Where a program gives one "
        "list, its items become the events; else each of its values does. An empty list, or no value, filters the event.",
        examples=[".items", ".items // []", ".items[] | select(.quantity > 0)"],
    )


class Split:
    """Makes an event of each item of a list."""

    name: ClassVar[str] = "split"
    Config: ClassVar[type[SplitConfig]] = SplitConfig

    def __init__(self, config: SplitConfig, context: Context) -> None:
        self._program = context.expressions.program(config.path, "data")
        self._plain = native(config.path, "data") is not None

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        results: list[Result] = []
        for event, outputs in zip(events, self._program(events), strict=True):
            if isinstance(outputs, list):
                results.append(self._events(event, outputs))
            else:
                results.append(outputs)
        return results

    def _events(self, event: Event, outputs: list[Any]) -> Result:
        if len(outputs) == 1 and isinstance(outputs[0], (list, tuple)):
            outputs = list(outputs[0])
        elif self._plain:
            return _no_list(outputs[0])
        return [with_data(event, output) for output in outputs] or None


def _no_list(value: Any) -> Permanent:
    kind = KINDS.get(value.__class__, "foreign")
    return Permanent(
        "split.not_a_list",
        f"a list was expected, the value is of type {kind}",
        help="where it may be missing write `.items // []`",
    )
