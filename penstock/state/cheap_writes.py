"""Indexes and triggers of letters as they cost least with each letter that is written: a step of the schema.

SQLite made a temporary B-tree for each `IN` of three statuses, in three partial indexes and in the triggers of `lane_tally`, with
each row: as comparisons (`letter_where`) they cost next to nothing. In PostgreSQL a letter that is not to stand yet went
through both tallies, to count nothing.
"""

from __future__ import annotations

from penstock.state.lane_tally import LEAN_LANE_TALLY
from penstock.state.letter_tally import LEAN_LETTER_TALLY
from penstock.state.letter_where import HELD, KEEPS_KEY, SETTLED
from penstock.state.migration import PerDialect

CHEAP_WRITES = (
    PerDialect(
        sqlite=(
            "DROP INDEX letters_key",
            f"CREATE INDEX letters_key ON letters (key) WHERE key IS NOT NULL AND {KEEPS_KEY}",
            "DROP INDEX letters_held",
            f'CREATE INDEX letters_held ON letters ("partition", lane, position, arrival) WHERE {HELD}',
            "DROP INDEX letters_age",
            f"CREATE INDEX letters_age ON letters (last_at) WHERE pending IS NULL AND {SETTLED}",
        ),
        postgres=(),
    ),
    LEAN_LANE_TALLY,
    LEAN_LETTER_TALLY,
)
"""PostgreSQL knows the conditions of its indexes in either form."""
