"""The `validate` transform: lets an event pass where its data fits a schema of the registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from penstock.config.base import ComponentConfig
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.spi import Context, Result
from registry.files import registry_of


class ValidateConfig(ComponentConfig):
    """Fields of the `validate` transform."""

    shorthand: ClassVar[str | None] = "schema"

    subject: str = Field(
        alias="schema",
        min_length=1,
        description="The schema: `SUBJECT@VERSION`, or `SUBJECT@latest`. It lies in the directory that `registry` names.",
        examples=["shop.order_line@1"],
    )
    on_invalid: Literal["dead_letter", "drop", "stop"] = Field(
        "dead_letter",
        description="What an event that does not fit becomes: a dead letter, nothing (it counts as filtered), or the run's end.",
    )


class Validate:
    """Lets an event pass where its data fits a schema; a dead letter lists every violation."""

    name: ClassVar[str] = "validate"
    Config: ClassVar[type[ValidateConfig]] = ValidateConfig

    def __init__(self, config: ValidateConfig, context: Context) -> None:
        self._registry = registry_of(context.schemas, context.schema_texts)
        self._ref = self._registry.resolve(config.subject)
        self._validator = self._registry.validator(self._ref)
        self._on_invalid = config.on_invalid

    def version_parts(self) -> Mapping[str, str]:
        """The text of the schema, and of those that it refers to."""
        return {f"schema:{ref}": text for ref, text in self._registry.texts(self._ref).items()}

    def apply(self, events: Sequence[Event], /) -> list[Result]:
        is_valid = self._validator.is_valid
        results: list[Result] = []
        for event in events:
            try:
                results.append(event if is_valid(event.data) else self._invalid(event))
            except Permanent as error:
                results.append(error)
            except ValueError:
                results.append(self._invalid(event))
        return results

    def _invalid(self, event: Event) -> Result:
        if self._on_invalid == "drop":
            return None
        failure = self._validator.failure(event.data)
        if failure is None:
            return event
        if self._on_invalid == "stop":
            return Fatal(
                failure.code,
                failure.message,
                where=f"event {event.source} {event.id}",
                why=failure.why,
                help="mend the source or the schema and run again: nothing behind this event was acknowledged",
            )
        return failure
