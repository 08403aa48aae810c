"""Positions for people, in the words of the source that they belong to."""

from __future__ import annotations

from collections.abc import Callable

from penstock.components import Catalog
from penstock.spi import Legible

Tell = Callable[[bytes], str]


def position_teller(source: str | None) -> Tell:
    """What turns order bytes into text for a source of this kind; hexadecimal where it, or the source, is not known."""
    kind = Catalog().find("source", source) if source is not None else None
    own = kind.position_text if kind is not None and isinstance(kind, Legible) else bytes.hex

    def tell(order: bytes) -> str:
        if not order:
            return "none"
        try:
            return own(order)
        except ValueError:  # the pipeline had another source when this position was written
            return order.hex()

    return tell
