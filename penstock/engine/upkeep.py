"""What a run does beside its events: says that it waits, warns of dead letters, lets old ones expire, ends when another run has
taken its pipeline over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from penstock.builtins import room
from penstock.clock import Clock
from penstock.config.model import DeadLetters
from penstock.config.model import Journal as Declared
from penstock.errors import Transient
from penstock.journal.journal import Journal
from penstock.observe.log import Incident
from penstock.observe.status import JournalSize, RunStatus
from penstock.state.answer_book import KEPT_FOR
from penstock.state.records import count_unsettled
from penstock.state.store import StateStore

TICK = 1.0
REPORT_AFTER = 5.0
"""Seconds of waiting after which it is an incident: a shorter one mends itself before anybody could look."""
EXPIRE_EVERY = 3600.0
RECOUNT_EVERY = 30.0
"""Seconds after which dead letters are counted anew: people discard some, and take others in, beside a run."""
EXPIRE_JOURNAL_EVERY = 60.0
"""Seconds by which a journal may outgrow its `max_size`: a fast pipeline writes a few hundred megabytes in them."""
EXPIRE_AT_ONCE = 500
"""Dead letters removed in one transaction, which stays under 50 ms."""


Keeping = tuple[Journal, Declared]
"""A journal, and how long it is kept."""


@dataclass(slots=True)
class Upkeep:
    """One task of a run; cancelled with it."""

    declared: DeadLetters
    store: StateStore
    status: RunStatus
    clock: Clock
    log: Callable[[Incident], None]
    kept: Keeping | None = None
    waiting_since: float | None = None
    reported: bool = False
    alerted: bool = False

    async def run(self) -> None:
        """Until cancelled.

        :raises Fenced: another run holds the pipeline: one without events to commit would not notice.
        """
        now = self.clock.monotonic()
        due = {self.expire: now, self.expire_journal: now, self.recount: now + RECOUNT_EVERY}
        every = {self.expire: EXPIRE_EVERY, self.expire_journal: EXPIRE_JOURNAL_EVERY, self.recount: RECOUNT_EVERY}
        while True:
            self.watch()
            self.store.check_hold()  # Invariant 6
            for task, at in due.items():
                if self.clock.monotonic() >= at:
                    await task()
                    due[task] = self.clock.monotonic() + every[task]
            await self.clock.sleep(TICK)

    async def recount(self) -> None:
        """Ask the store how many dead letters are open."""
        try:
            counts = await self.store.letter_counts()
            parked = counts.get("parked", 0)
            lanes = await self.store.lanes.count() if parked or self.status.lanes else 0
        except Transient:  # the commits wait for the same store, and report it
            return
        self.status.open_letters = count_unsettled(counts)
        self.status.parked, self.status.lanes = parked, lanes

    async def expire(self) -> None:
        """Remove the dead letters that are older than `dead_letter.retention`, and answers that nobody waits for any more, a few
        at a time."""
        now = self.clock.now()
        try:
            while await self.store.expire_letters(now - self.declared.retention, EXPIRE_AT_ONCE) == EXPIRE_AT_ONCE:
                await self.clock.sleep(0)
            while await self.store.answers.expire(now - KEPT_FOR, EXPIRE_AT_ONCE) == EXPIRE_AT_ONCE:
                await self.clock.sleep(0)
        except Transient as error:  # the commits wait for the same store, and report it; expiry has time until the next hour
            self.log(Incident("info", error.code, f"{self.status.pipeline}: dead letters expire later: {error}", error.help))

    async def expire_journal(self) -> None:
        """Remove the oldest segments of the journal, as `journal.retention` and `max_size` say, but for those that a job still
        reads; tell how large it is then."""
        if self.kept is None:
            return
        journal, declared = self.kept
        try:
            open_jobs = await self.store.jobs.open_ones()
            spared = room("spared")(open_jobs) if open_jobs else None
            await journal.expire(self.clock.now() - declared.retention, declared.max_size, spared)
            found = await journal.outline()
        except Transient as error:  # a disk that fails holds the commits, which report it
            self.log(Incident("info", error.code, f"{self.status.pipeline}: the journal expires later: {error}", error.help))
            return
        self.status.journal = JournalSize(found.segments, found.size, found.first, found.free) if found is not None else None

    def watch(self) -> None:
        """One line when a wait has become long, one when it is over; the same for the threshold of dead letters."""
        status, now = self.status, self.clock.monotonic()
        if status.waiting is None:
            if self.reported:
                self.log(Incident("info", "run.resumed", f"{status.pipeline}: goes on", None))
            self.waiting_since, self.reported = None, False
        elif self.waiting_since is None:
            self.waiting_since = now
        elif not self.reported and now - self.waiting_since >= REPORT_AFTER:
            self.reported = True
            self.log(
                Incident("warning", "run.waiting", f"{status.pipeline}: waits, acknowledging nothing: {status.waiting}", None)
            )
        self._alert(self.declared.alert_threshold)

    def _alert(self, threshold: int | None) -> None:
        if threshold is None:
            return
        count = self.status.open_letters
        if count >= threshold and not self.alerted:
            help = f"pipe dlq groups {self.status.pipeline}"
            self.log(Incident("warning", "dlq.threshold", f"{self.status.pipeline}: {count} dead letters are open", help))
        elif count < threshold and self.alerted:
            said = f"{self.status.pipeline}: {count} dead letters are open, fewer than {threshold} again"
            self.log(Incident("info", "dlq.below_threshold", said, None))
        self.alerted = self.status.alarmed = count >= threshold
