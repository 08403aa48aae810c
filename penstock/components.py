"""Which components there are, and how one is built: the built-in table, and plugins through entry points.

A module is imported when its component is asked for, never before. Built-in names come first: a plugin cannot replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from penstock.builtins import SINKS, SOURCES, TRANSFORMS
from penstock.config.suggest import did_you_mean
from penstock.errors import PenstockError, UsageError

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

        :raises UsageError: `config.unknown_component` with a did-you-mean; `component.broken` where its module fails or holds no
            component; `component.ambiguous` where two installed packages provide it.
        """
        entry = self._entry(kind, name)
        try:
            cls = entry.load()
        except PenstockError:
            raise
        except Exception as error:  # supervision point: a plugin's module runs its own code here
            raise _broken(kind, entry, f"{type(error).__name__}: {error}") from error
        if getattr(cls, "Config", None) is None:
            raise _broken(kind, entry, "it has no `Config`, so it is no component")
        return cls

    def _entry(self, kind: Kind, name: str) -> EntryPoint:
        target = self.builtin(kind).get(name)
        if target is not None:
            return EntryPoint(name, target, f"penstock.{kind}s")
        found = self._plugins(kind).get(name, [])
        if not found:
            raise unknown(kind, name, self.names(kind))
        if len({entry.value for entry in found}) > 1:
            raise UsageError(
                "component.ambiguous",
                f"several installed packages provide the {kind} '{name}'",
                why=" and ".join(sorted(entry.value for entry in found)),
                help="uninstall all but one of them",
            )
        return found[0]

    def _plugins(self, kind: Kind) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=f"penstock.{kind}s") if self.plugins else ():
            found.setdefault(entry.name, []).append(entry)
        return found


def unknown(kind: Kind, name: str, names: Sequence[str], meant: str | None = None) -> UsageError:
    """The error for a component that does not exist.

    :param meant: what the name probably stands for, where that is more than the nearest of the names.
    """
    help = f"did you mean '{meant}'?" if meant else did_you_mean(name, names) or f"one of {', '.join(names)}"
    return UsageError("config.unknown_component", f"there is no {kind} '{name}'", help=help)


def _broken(kind: Kind, entry: EntryPoint, why: str) -> UsageError:
    help = f"is the package that provides {entry.value} installed whole?"
    return UsageError("component.broken", f"the {kind} '{entry.name}' cannot be imported", why=why, help=help)


def build(kind: Kind, component: Component, context: Context, *, catalog: Catalog | None = None) -> Any:
    """The component itself: checked and compiled, connected to nothing.

    :raises PenstockError: where its constructor refuses the configuration.
    """
    return (catalog or Catalog()).find(kind, component.kind)(component.config, context)
