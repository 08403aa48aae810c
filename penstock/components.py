"""Which components there are, and how one is built: the built-in table, and plugins through entry points.

A module is imported when its component is asked for, never before. Built-in names come first: a plugin cannot replace them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from penstock.builtins import SINKS, SOURCES, TRANSFORMS, load
from penstock.errors import UsageError

if TYPE_CHECKING:
    from penstock.config.model import Component
    from penstock.spi import Context

Kind = Literal["source", "transform", "sink"]
KINDS: tuple[Kind, ...] = ("source", "transform", "sink")


@dataclass(frozen=True, slots=True)
class Catalog:
    """The components by kind and name, each as `module:Class`.

    :ivar plugins: look through the entry points `penstock.sources`, `penstock.transforms` and `penstock.sinks` too.
    """

    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(SOURCES))
    transforms: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(TRANSFORMS))
    sinks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(SINKS))
    plugins: bool = True

    def builtin(self, kind: Kind) -> Mapping[str, str]:
        """The table of one kind."""
        tables: dict[Kind, Mapping[str, str]] = {"source": self.sources, "transform": self.transforms, "sink": self.sinks}
        return tables[kind]

    def names(self, kind: Kind) -> list[str]:
        """Every name that can stand in YAML, sorted."""
        return sorted({*self.builtin(kind), *self._plugins(kind)})

    def has(self, kind: Kind, name: str) -> bool:
        """Whether there is such a component; imports nothing."""
        return name in self.builtin(kind) or name in self._plugins(kind)

    def find(self, kind: Kind, name: str) -> Any:
        """The component's class, imported now.

        :raises UsageError: `config.unknown_component` with a did-you-mean, or `component.broken` where its module fails.
        """
        target = self.builtin(kind).get(name)
        plugin = None if target else self._plugins(kind).get(name)
        if target is None and plugin is None:
            raise unknown(kind, name, self.names(kind))
        try:
            return load(target) if target is not None else plugin.load() if plugin is not None else None
        except (ImportError, AttributeError) as error:
            raise UsageError(
                "component.broken",
                f"the {kind} '{name}' cannot be imported",
                why=str(error),
                help=f"is the package that provides {target or (plugin and plugin.value)} installed whole?",
            ) from error

    def _plugins(self, kind: Kind) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=f"penstock.{kind}s")} if self.plugins else {}


def unknown(kind: Kind, name: str, names: list[str]) -> UsageError:
    """The error for a component that does not exist."""
    return UsageError(
        "config.unknown_component", f"there is no {kind} '{name}'", help=did_you_mean(name, names) or f"one of {', '.join(names)}"
    )


def did_you_mean(word: str, words: list[str]) -> str | None:
    """`did you mean '…'?` for the nearest of the words, or None where none is near."""
    nearest = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f"did you mean '{nearest[0]}'?" if nearest else None


def build(kind: Kind, component: Component, context: Context, *, catalog: Catalog | None = None) -> Any:
    """The component itself: checked and compiled, connected to nothing.

    :raises PenstockError: where its constructor refuses the configuration.
    """
    return (catalog or Catalog()).find(kind, component.kind)(component.config, context)
