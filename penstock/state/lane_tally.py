"""How many unsettled letters each held lane has: counted by the database with every change, as `letter_tally` does by cause.

`lane_tally` has a row for each lane that is held, and no other. Triggers keep it in the transaction that changes the letters, so
that the longest queues among a million letters, or a million lanes, are a few steps in an index.
"""

from __future__ import annotations

from penstock.state.letter_where import held
from penstock.state.migration import PerDialect

_IS_HELD = "{0}pending IS NULL AND {0}lane IS NOT NULL AND {0}status IN ('open', 'parked', 'replaying')"
_FILL = (
    'INSERT INTO lane_tally SELECT "partition", lane, count(*) FROM letters '  # noqa: S608 - constants
    f'WHERE {_IS_HELD.format("")} GROUP BY "partition", lane'
)
_EVENTS = ("insert", "delete", "leave", "enter")


def _sqlite(old: str, new: str) -> tuple[str, ...]:
    """The triggers.

    :param old: whether the letter was in a lane, over `OLD`; `new`: whether it is, over `NEW`.
    """
    same = 'OLD."partition" = NEW."partition" AND OLD.lane = NEW.lane'
    enter = (
        'INSERT INTO lane_tally VALUES (NEW."partition", NEW.lane, 1) '
        'ON CONFLICT ("partition", lane) DO UPDATE SET letters = letters + 1;'
    )
    its = '"partition" = OLD."partition" AND lane = OLD.lane'
    leave = f"UPDATE lane_tally SET letters = letters - 1 WHERE {its}; DELETE FROM lane_tally WHERE {its} AND letters = 0;"  # noqa: S608
    update = 'AFTER UPDATE OF pending, status, lane, "partition" ON letters'
    return (
        f"CREATE TRIGGER lane_tally_insert AFTER INSERT ON letters WHEN {new} BEGIN {enter} END",
        f"CREATE TRIGGER lane_tally_delete AFTER DELETE ON letters WHEN {old} BEGIN {leave} END",
        f"CREATE TRIGGER lane_tally_leave {update} WHEN {old} AND NOT ({new} AND {same}) BEGIN {leave} END",
        f"CREATE TRIGGER lane_tally_enter {update} WHEN {new} AND NOT ({old} AND {same}) BEGIN {enter} END",
    )


def _side(table: str, sign: str) -> str:
    return f'SELECT "partition", lane, {sign}1 AS n FROM {table} WHERE {_IS_HELD.format("")}'  # noqa: S608 - constants


def _function(name: str, *sides: str, create: str = "CREATE", unless: str = "") -> str:
    """:param unless: a statement before the counting, that may end it."""
    return (
        f"{create} FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$ BEGIN {unless}"  # noqa: S608
        f'INSERT INTO lane_tally SELECT "partition", lane, sum(n) FROM ({" UNION ALL ".join(sides)}) AS c '
        'GROUP BY "partition", lane HAVING sum(n) <> 0 '
        'ON CONFLICT ("partition", lane) DO UPDATE SET letters = lane_tally.letters + excluded.letters; '
        "IF FOUND THEN DELETE FROM lane_tally WHERE letters = 0; END IF; RETURN NULL; END $$"
    )


def _postgres(event: str, transitions: str, *sides: str) -> tuple[str, str]:
    """A function, and the trigger that calls it once a statement."""
    name = f"lane_tally_{event.lower()}"
    return (
        _function(name, *sides),
        f"CREATE TRIGGER {name} AFTER {event} ON letters REFERENCING {transitions} FOR EACH STATEMENT EXECUTE FUNCTION {name}()",
    )


LANE_TALLY_SCHEMA = (
    """CREATE TABLE lane_tally ("partition" TEXT NOT NULL, lane TEXT NOT NULL, letters INTEGER NOT NULL,
        PRIMARY KEY ("partition", lane)) WITHOUT ROWID""",
    _FILL,
    'CREATE INDEX lane_queues ON lane_tally (letters DESC, "partition", lane)',
    PerDialect(
        sqlite=_sqlite(_IS_HELD.format("OLD."), _IS_HELD.format("NEW.")),
        postgres=(
            *_postgres("INSERT", "NEW TABLE AS added", _side("added", "")),
            *_postgres("DELETE", "OLD TABLE AS removed", _side("removed", "-")),
            *_postgres("UPDATE", "OLD TABLE AS removed NEW TABLE AS added", _side("added", ""), _side("removed", "-")),
        ),
    ),
)
"""What leads to it: the table, filled with what there is, and what keeps it."""

LEAN_LANE_TALLY = PerDialect(
    sqlite=(*(f"DROP TRIGGER lane_tally_{event}" for event in _EVENTS), *_sqlite(held("OLD."), held("NEW."))),
    postgres=(
        _function(
            "lane_tally_insert",
            _side("added", ""),
            create="CREATE OR REPLACE",
            unless=f"IF NOT EXISTS (SELECT FROM added WHERE {_IS_HELD.format('')}) THEN RETURN NULL; END IF; ",
        ),
    ),
)
"""The same, at less cost for each letter (`cheap_writes`)."""
