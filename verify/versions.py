"""The versions of a pipeline as a verification needs them: which sinks each had, and how these were defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.config.model import Pipeline
from penstock.engine.recompute import asks_now
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.store import StateStore

_BESIDE = ("name", "when")
"""Fields of a sink's entry that say who takes what, not where it goes."""


@dataclass(slots=True)
class SinkBook:
    """By version, as lines name it; stored versions are looked up again where a line names one that is new.

    :ivar asks_now: a program of some version may ask for the moment.
    """

    pipeline: Pipeline
    store: StateStore
    asks_now: bool = True
    _by_version: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def open(self) -> None:
        """Look up what is stored."""
        self.asks_now = asks_now(self.pipeline.content)
        for version in await self.store.versions():
            self.asks_now = self.asks_now or asks_now(version.config)
            self._by_version[version.version[:VERSION_DIGITS]] = _entries(version.config)
        self._by_version[self.pipeline.version[:VERSION_DIGITS]] = _entries(self.pipeline.resolved)

    async def learn(self, versions: set[str]) -> None:
        """Lines name these."""
        if not versions <= self._by_version.keys():
            await self.open()

    def names(self, version: str) -> Sequence[str] | None:
        """The sinks of a version; None where it is not stored."""
        entries = self._by_version.get(version)
        return None if entries is None else list(entries)

    def is_as_today(self, version: str, sink: str) -> bool:
        """Whether a sink was defined in a version as it is today, but for what it takes."""
        today = self._by_version[self.pipeline.version[:VERSION_DIGITS]]
        then = self._by_version.get(version, {})
        return sink in then and then[sink] == today.get(sink)


def _entries(config: str) -> dict[str, Any]:
    """How each sink is defined, by name."""
    sinks: list[dict[str, Any]] = msgspec.json.decode(config)["sinks"]
    return {sink["name"]: {name: value for name, value in sink.items() if name not in _BESIDE} for sink in sinks}
