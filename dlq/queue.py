"""The dead letters of one pipeline, as the command and other front ends handle them; the state store keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from dlq.documents import full_document, group_document, letter_document
from penstock.errors import UsageError
from penstock.state.records import DeadLetter, Group, LetterQuery, Status
from penstock.state.store import StateStore

DISCARDABLE: frozenset[Status] = frozenset({"open", "parked"})
_PAGE = 200


class DeadLetterQueue:
    """Reading and settling dead letters, over an open state store. Works beside a live run."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def page(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[DeadLetter], str | None]:
        """One page in order of first failure, without bodies, and the cursor of the next page.

        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`, `dlq.bad_cursor`.
        """
        return await self._store.letters(query, after=after, limit=limit, bodies=False)

    async def groups(self, query: LetterQuery) -> list[Group]:
        """Dead letters by cause, most frequent first."""
        return await self._store.letter_groups(query)

    async def show(self, prefix: str) -> DeadLetter:
        """One dead letter with its bodies, whatever its status.

        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
        """
        letters, _ = await self._store.letters(LetterQuery(ids=[prefix], status=()), limit=1)
        return letters[0]

    async def discard(self, query: LetterQuery) -> int:
        """Close what the query selects, open or parked, without delivering it. Its keys stay known (rule 7). How many changed.

        :raises UsageError: `dlq.unknown`, `dlq.ambiguous`; `dlq.not_open`, where one that is named is settled already.
        """
        await self._refuse_settled(query.ids)
        chosen = replace(query, status=[status for status in query.status if status in DISCARDABLE])
        changed, cursor = 0, None
        while chosen.status:
            letters, cursor = await self._store.letters(chosen, after=cursor, limit=_PAGE, bodies=False)
            ids = [letter.id for letter in letters]  # a replay may have taken one up since it was looked at
            changed += len(await self._store.set_status(None, ids, "discarded", among=chosen.status))
            if cursor is None:
                break
        return changed

    async def export(self, query: LetterQuery) -> AsyncIterator[bytes]:
        """Full documents of what the query selects, as JSON text."""
        cursor = None
        while True:
            letters, cursor = await self._store.letters(query, after=cursor, limit=_PAGE)
            for letter in letters:
                yield msgspec.json.encode(full_document(letter))
            if cursor is None:
                return

    async def _refuse_settled(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        letters, _ = await self._store.letters(LetterQuery(ids=ids, status=()), limit=len(ids), bodies=False)
        for letter in letters:
            if letter.status not in DISCARDABLE:
                raise UsageError("dlq.not_open", f"the dead letter {letter.id} is {letter.status}", help="only open ones go")

    @staticmethod
    def documents(letters: Sequence[DeadLetter]) -> list[dict[str, Any]]:
        """Letters as listings give them."""
        return [letter_document(letter) for letter in letters]

    @staticmethod
    def document(letter: DeadLetter) -> dict[str, Any]:
        """One letter with everything that is kept."""
        return full_document(letter)

    @staticmethod
    def group_documents(groups: Sequence[Group]) -> list[dict[str, Any]]:
        """Groups as listings give them."""
        return [group_document(group) for group in groups]
