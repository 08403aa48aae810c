"""What a commit asks of ledgers, stores and the journal, until it is done. The status says what is waited for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from penstock.clock import Clock
from penstock.config.model import Retry
from penstock.engine.retry import persistently
from penstock.errors import Transient
from penstock.observe.status import RunStatus

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Of one run: nothing in a commit can go on without what it asks for."""

    retry: Retry
    random: random.Random
    clock: Clock
    status: RunStatus

    async def until_done(self, action: Callable[[], Awaitable[T]]) -> T:
        """The action's result.

        :raises EnvironmentFault: `retry` allows no further attempt.
        """
        result = await persistently(action, self.retry, self.random, self.clock, self._tell)
        self.status.wait("commit", None)
        return result

    async def until_known(self, action: Callable[[], Awaitable[None]], stands: Callable[[], Awaitable[bool]]) -> None:
        """A commit, whose outcome is unknown after a failure. It is not done again where it stands (Invariant 7).

        :param stands: reads it in the ledger.
        :raises EnvironmentFault: as `until_done`.
        """
        attempted = False

        async def attempt() -> None:
            nonlocal attempted
            if not (attempted and await stands()):
                attempted = True
                await action()

        await self.until_done(attempt)

    def _tell(self, error: Transient) -> None:
        self.status.wait("commit", f"{error.code}: {error}")
        self.status.retries["commit"] += 1
