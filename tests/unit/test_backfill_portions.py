"""A journal divided into portions: every line is in one of them, and in one alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backfill.portions import Portion, behind, divide
from penstock.journal.frames import Frame, Span
from penstock.journal.opened import Mark

SPAN = Span(0, 1)


def frames_of(sizes: list[tuple[int, int]]) -> list[Frame]:
    """Frames by segment and lines."""
    found, offset = [], 0
    for segment, lines in sorted(sizes, key=lambda size: size[0]):
        found.append(Frame(segment, offset, 10, lines, 0, lines, 0, 0, SPAN, SPAN))
        offset += 10
    return found


def marks(frames: list[Frame]) -> list[Mark]:
    return [Mark(frame.segment, frame.offset, line) for frame in frames for line in range(frame.lines)]


def held(portion: Portion, among: list[Mark]) -> list[Mark]:
    return [mark for mark in among if portion.after < mark <= portion.until]


SIZES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 12)), max_size=12)


@given(SIZES, st.integers(1, 20), st.booleans())
def test_portions_hold_all_lines_in_order(sizes: list[tuple[int, int]], lines: int, apart: bool) -> None:
    frames = frames_of(sizes)
    portions = list(divide(frames, lines=lines, apart=apart))
    everything = marks(frames)
    assert [mark for portion in portions for mark in held(portion, everything)] == everything
    assert [len(held(portion, everything)) for portion in portions] == [portion.lines for portion in portions]
    assert all(0 < portion.lines <= lines for portion in portions)
    if apart:
        assert all(portion.after[:2] == portion.until[:2] for portion in portions)


@given(SIZES, st.integers(1, 20), st.integers(1, 20), st.data())
def test_behind_a_mark_the_rest_is_left_however_it_is_divided(
    sizes: list[tuple[int, int]], lines: int, again: int, data: st.DataObject
) -> None:
    frames = frames_of(sizes)
    everything = marks(frames)
    portions = list(divide(frames, lines=lines))
    done = data.draw(st.integers(0, len(portions)))
    mark = portions[done - 1].until if done else None
    rest = [each for portion in behind(divide(frames, lines=again), mark) for each in held(portion, everything)]
    assert rest == [each for each in everything if mark is None or each > mark]


@given(st.integers(2, 40))
def test_a_portion_is_halved_until_one_line_stands_alone(lines: int) -> None:
    frames = frames_of([(1, lines)])
    everything = marks(frames)
    (portion,) = divide(frames, lines=100)
    pending, alone = [portion], []
    while pending:
        each = pending.pop()
        own = held(each, everything)
        if len(own) == 1:
            alone += own
        else:
            pending += each.halves(own)
    assert sorted(alone) == everything
