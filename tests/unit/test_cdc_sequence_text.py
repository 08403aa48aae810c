"""The attribute `sequence` of changes: text whose order is that of the changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.sources._cdc.positions import END, following, order
from connectors.sources._cdc.sequence import SEQUENCE, opening, sequenced, sequenced_rows

LSNS = st.integers(0, END)
PLACES = st.integers(0, END)


def sequence(opening: str, at: bytes) -> str:
    return (sequenced(opening, at) or {})[SEQUENCE]


def sequence_of_rows(opening: str, lsn: int) -> str:
    return (sequenced_rows(opening, lsn) or {})[SEQUENCE]


@given(LSNS, PLACES, LSNS, PLACES)
def test_sequences_sort_as_positions_do(lsn: int, place: int, other_lsn: int, other_place: int) -> None:
    one, other = (sequence(opening("slot"), order(*at)) for at in ((lsn, place), (other_lsn, other_place)))
    assert (one < other) == ((lsn, place) < (other_lsn, other_place))


@given(LSNS, st.integers(2, END))
def test_rows_of_a_snapshot_stand_before_the_changes_that_they_do_not_hold(lsn: int, place: int) -> None:
    rows = sequence_of_rows(opening("slot"), lsn)
    assert rows < sequence(opening("slot"), order(lsn, place))
    if lsn:
        assert sequence(opening("slot"), order(lsn - 1, place)) < rows


@given(LSNS, LSNS)
def test_behind_a_log_that_has_gone_back_everything_is_newer(before: int, after: int) -> None:
    partition = "slot"
    for _ in range(3):
        late = sequence(opening(partition), order(before, END))
        partition = following(partition)
        assert late < sequence_of_rows(opening(partition), after)
    assert partition == "slot#4"
