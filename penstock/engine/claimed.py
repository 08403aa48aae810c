"""What a run holds once it has claimed its ledgers, and how it lets them go when it ends by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from penstock.engine.deliver import Committer
from penstock.engine.ledgers import STATE, LedgerState
from penstock.engine.performing import Performing
from penstock.engine.standing import Standing
from penstock.ledger import Commit
from penstock.spi import Concluding
from penstock.state.store import StateStore


@dataclass(slots=True)
class Claimed:
    """What a run holds once it has claimed: all that delivery needs."""

    epoch: int
    store: StateStore
    ledgers: list[LedgerState]
    standing: Standing
    committer: Committer

    @property
    def performing(self) -> Performing:
        """What lets steps with effects ask the world, for events that are delivered under this claim."""
        by, tell = self.committer, partial(self.committer.status.wait, "answers")
        return Performing(self.store.answers, self.epoch, by.clock, by.patience.random, by.faults, tell)

    async def finish(self, *, drained: bool) -> None:
        """The run ends by itself: sinks hear of it, and where the source was drained that is noted, so that the time until the
        next run counts for the dedup window (rule 8)."""
        committer = self.committer
        states = await self._conclude()
        if states:
            ledger = next(ledger for ledger in self.ledgers if ledger.sink is None)
            commit = states_alone(self.epoch, ledger, states, committer.running())
            await committer.patience.until_done(partial(self.store.commit, commit))
        if drained:
            final = replace(committer.note, running=committer.running(), drained=True, at=committer.clock.now())
            await committer.patience.until_done(partial(self.store.note, self.epoch, final))

    async def _conclude(self) -> dict[str, bytes]:
        """What sinks that care say of their end."""
        states: dict[str, bytes] = {}
        for end in self.committer.sinks:
            if end.ledger == STATE and isinstance(end.sink, Concluding):
                said = await self.committer.patience.until_done(end.sink.conclude)
                if said is not None:
                    states[end.name] = said
        return states


def states_alone(epoch: int, ledger: LedgerState, states: dict[str, bytes], running: float) -> Commit:
    """What sinks say of themselves outside any group: number, positions and totals stay as they are."""
    return Commit(epoch, ledger.group, ledger.group, {}, ledger.counts, running=running, sink_states=states)
