"""The `filter` transform: lets an event pass where a condition holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from penstock.config.base import ComponentConfig, DataProgram
from penstock.errors import Permanent
from penstock.event import Event
from penstock.spi import Context, Result


class FilterConfig(ComponentConfig):
    """Fields of the `filter` transform."""

    shorthand: ClassVar[str | None] = "condition"

    condition: DataProgram = Field(
        description="jq over the data. The event passes unless the program gives `false`, `null` or nothing; several values are "
        "an error.",
        examples=[".total > 0", '$event.type != "order.cancelled"'],
    )


class Filter:
    """Lets an event pass where a condition holds; the others count as filtered."""

    name: ClassVar[str] = "filter"
    Config: ClassVar[type[FilterConfig]] = FilterConfig

    def __init__(self, config: FilterConfig, context: Context) -> None:
        self._program = context.expressions.program(config.condition, "data")

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        results: list[Result] = []
        for event, outputs in zip(events, self._program(events), strict=True):
            if not isinstance(outputs, list):
                results.append(outputs)
            elif len(outputs) > 1:
                results.append(_several(len(outputs)))
            else:
                results.append(event if outputs and outputs[0] is not None and outputs[0] is not False else None)
        return results


def _several(count: int) -> Permanent:
    return Permanent(
        "filter.not_one_value",
        f"the condition gave {count} values for one event",
        help="say which counts: any(…), all(…) or first(…)",
    )
