"""The dead letters of one pipeline, as the command and other front ends handle them; the state store keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlq.documents import full_document, group_document, letter_document, stats_document
from dlq.edits import Editor, editable, edited, patch
from penstock.errors import UsageError
from penstock.state.letter_desk import Act
from penstock.state.records import DeadLetter, Group, Happening, LetterQuery, LetterStats, Status, Timeline
from penstock.state.store import StateStore

CHANGEABLE: frozenset[Status] = frozenset({"open", "parked"})
"""What may be edited and discarded: nobody is at it, and nothing of it is settled."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Edit:
    """What would become of one letter, or became of it.

    :ivar after: the edited event; None: it stays as it is, or `error` says why it cannot be edited.
    """

    letter: DeadLetter
    after: bytes | None
    error: UsageError | None = None


class DeadLetterQueue:
    """Reading, mending and settling dead letters, over an open state store. Works beside a live run."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    # ---- looking

    async def page(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[DeadLetter], str | None]:
        """One page in order of first failure, without bodies, and the cursor of the next page.

        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`, `dlq.bad_cursor`, `dlq.bad_filter`, `dlq.filter_failed`.
        """
        found, cursor = await self._store.letters(query, after=after, limit=limit, bodies=False)
        while cursor is not None and len(found) < limit:
            more, cursor = await self._store.letters(query, after=cursor, limit=limit - len(found), bodies=False)
            found += more
        return found, cursor

    async def groups(self, query: LetterQuery) -> list[Group]:
        """Dead letters by cause, most frequent first."""
        return await self._store.letter_groups(query)

    async def timeline(self, query: LetterQuery, cells: int) -> Timeline | None:
        """When they failed first; None where there are none."""
        return await self._store.desk.timeline(query, cells)

    async def stats(self, query: LetterQuery) -> LetterStats:
        """Dead letters in figures."""
        return await self._store.desk.stats(query)

    async def show(self, prefix: str) -> DeadLetter:
        """One dead letter with its bodies, whatever its status.

        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
        """
        letters, _ = await self._store.letters(LetterQuery(ids=[prefix], status=()), limit=1)
        return letters[0]

    async def history(self, letter: DeadLetter) -> list[Happening]:
        """What was done with it, oldest first."""
        return await self._store.desk.history(letter.id)

    # ---- changing

    async def discard(self, query: LetterQuery, act: Act) -> int:
        """Close what the query selects, open or parked, without delivering it. Its keys stay known (rule 7). How many changed.

        :raises UsageError: as `page`; `dlq.not_open`, where one that is named is settled already.
        """
        await self._refuse_settled(query.ids)
        changed, cursor = 0, None
        while chosen := _changeable(query):
            letters, cursor = await self._store.letters(chosen, after=cursor, limit=_PAGE, bodies=False)
            ids = [letter.id for letter in letters]  # a replay may have taken one up since it was looked at
            changed += len(await self._store.desk.discard(ids, chosen.status, act))
            if cursor is None:
                break
        return changed

    async def edits(self, query: LetterQuery, editor: Editor) -> AsyncIterator[Edit]:
        """What an editor would make of each letter that the query selects; nothing is changed.

        :raises UsageError: as `discard`.
        """
        await self._refuse_settled(query.ids)
        chosen = _changeable(query)
        if chosen is None:
            return
        async for letter in whole_letters(self._store, chosen):
            try:
                yield Edit(letter, editor(letter))
            except UsageError as error:
                yield Edit(letter, None, error)

    async def keep(self, letter: DeadLetter, record: bytes | None, act: Act) -> None:
        """Keep an edited event, which a replay sends; None: what came, again. The original stays for good.

        :raises UsageError: `dlq.not_open`; `dlq.changed`, where somebody else was quicker.
        """
        await self._refuse_settled([letter.id])
        if not await self._store.desk.edit(letter, record, CHANGEABLE, act):
            raise UsageError(
                "dlq.changed",
                f"the dead letter {letter.id} was changed by somebody else meanwhile",
                help=f"pipe dlq show {letter.id} shows it; then edit it again",
            )

    async def _refuse_settled(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        letters, _ = await self._store.letters(LetterQuery(ids=ids, status=()), limit=len(ids), bodies=False)
        for letter in letters:
            if letter.status not in CHANGEABLE:
                raise UsageError("dlq.not_open", f"the dead letter {letter.id} is {letter.status}", help="only open ones go")

    # ---- for front ends

    @staticmethod
    def patch(program: str) -> Editor:
        """See `dlq.edits.patch`."""
        return patch(program)

    @staticmethod
    def editable(letter: DeadLetter) -> bytes:
        """See `dlq.edits.editable`."""
        return editable(letter)

    @staticmethod
    def edited(letter: DeadLetter, text: bytes) -> bytes | None:
        """See `dlq.edits.edited`."""
        return edited(letter, text)

    @staticmethod
    def documents(letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
        """Letters as listings give them."""
        return [letter_document(letter) for letter in letters]

    @staticmethod
    def document(letter: DeadLetter, history: Sequence[Happening]) -> dict[str, Any]:
        """One letter with everything that is kept."""
        return full_document(letter, history)

    @staticmethod
    def group_documents(groups: Sequence[Group], line: Timeline | None) -> list[dict[str, Any]]:
        """Groups as listings give them."""
        return [group_document(group, line) for group in groups]

    @staticmethod
    def stats_document(pipeline: str, stats: LetterStats) -> dict[str, Any]:
        """Figures as `--json` gives them."""
        return stats_document(pipeline, stats)


async def whole_letters(store: StateStore, query: LetterQuery) -> AsyncIterator[DeadLetter]:
    """What the query selects, with bodies, of which few are held at once (Invariant 8).

    :raises UsageError: as `StateStore.letters`.
    """
    cursor = None
    while True:
        portions, cursor = await store.desk.portion(query, cursor)
        for portion in portions:
            for letter in await store.desk.whole(portion):
                yield letter
        if cursor is None:
            return


def _changeable(query: LetterQuery) -> LetterQuery | None:
    status = [each for each in (query.status or CHANGEABLE) if each in CHANGEABLE]
    return replace(query, status=status) if status else None
