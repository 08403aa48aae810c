"""Masks of columns: what stands in the place of a value before anything of it leaves the connector (Invariant 9).

A mask is a converter like any other (`_pg_values`): it is given PostgreSQL's text of the value, and its result is all that
`where`, `event:`, the event and its dead letter see. It never fails, so that no message can quote the value. The stream's decoder
asks `Masks.converter`; whoever reads rows by a query converts them with it too (`Selection.masks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from connectors._pg_values import Converter
from penstock.config.base import ComponentConfig, Secret
from penstock.errors import EnvironmentFault

SHORTEST_KEY = 16
LONGEST_KEY = blake2b.MAX_KEY_SIZE
_DIGEST_BYTES = 16


class MaskPattern(ComponentConfig):
    """A fixed text in the place of all but the ends of a value."""

    keep_first: int = Field(0, ge=0, le=64, description="Characters that stay at the beginning.")
    keep_last: int = Field(0, ge=0, le=64, description="Characters that stay at the end.")
    fill: str = Field("***", min_length=1, max_length=64, description="What stands for the others, however many there are.")

    @model_validator(mode="after")
    def _keeps(self) -> Self:
        if self.fill.isalnum():
            raise ValueError("`fill` must hold something other than letters and digits, or it passes for a value")
        return self


def _null_word(value: object) -> object:
    return "null" if value is None else value


Mask = Annotated[Literal["hash", "null"] | MaskPattern, BeforeValidator(_null_word)]
"""`hash`, `null` (also YAML's own), or a pattern."""


class Masks:
    """Converters of masked columns, by name: resolved once for a table, none for a table without one.

    :param masks: by the column's name, in every table that has it.
    :param key: of the digests; needed where a mask is `hash`.
    """

    def __init__(self, masks: Mapping[str, Literal["hash", "null"] | MaskPattern], key: Secret | None) -> None:
        secret = b"" if key is None else key.reveal().encode()
        self._converters = {column: _converter(mask, secret) for column, mask in masks.items()}
        self.distinct = frozenset(column for column, mask in masks.items() if mask == "hash")
        """Columns whose masked values differ where the values do."""
        self.nulls = frozenset(column for column, mask in masks.items() if mask == "null")
        """Columns of which nothing is left, so that it does not matter whether the server sent the value."""

    def __contains__(self, column: str) -> bool:
        return column in self._converters

    def converter(self, column: str, plain: Converter) -> Converter:
        """What converts the column's values: the mask, or `plain` where there is none.

        For whoever reads rows of a table, from the stream or by a query. NULL stays null, masked or not.
        """
        return self._converters.get(column, plain)

    def undistinguished(self, key: tuple[str, ...]) -> tuple[str, ...]:
        """Columns of a key whose mask makes rows look the same that are not."""
        return tuple(column for column in key if column in self._converters and column not in self.distinct)


def masked_key(table: str, columns: Sequence[str]) -> EnvironmentFault:
    """Rows whose keys look the same would overwrite each other, and a changed key would pass for an unchanged one."""
    return EnvironmentFault(
        "source.masked_key",
        f"the mask of {', '.join(columns)} makes keys of table {table} look the same",
        why="they are part of the key by which its rows are told apart",
        help=f"mask: {{ {columns[0]}: hash }}",
    )


def _converter(mask: Literal["hash", "null"] | MaskPattern, secret: bytes) -> Converter:
    if mask == "null":
        return lambda data: None
    if mask == "hash":
        return lambda data: blake2b(data, digest_size=_DIGEST_BYTES, key=secret).hexdigest()
    return _pattern(mask)


def _pattern(mask: MaskPattern) -> Converter:
    first, last, fill = mask.keep_first, mask.keep_last, mask.fill
    shortest = 2 * (first + last)

    def masked(data: bytes) -> str:
        text = data.decode(errors="replace")
        if len(text) <= shortest:  # what stays must be the smaller part
            return fill
        return text[:first] + fill + (text[-last:] if last else "")

    return masked
