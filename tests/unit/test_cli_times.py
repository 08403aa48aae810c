"""Times on the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.times import find_zone, parse_time
from penstock.errors import UsageError

NOW = datetime(2026, 11, 21, 5, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
BEIRUT = ZoneInfo("Asia/Beirut")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01T08:30:00Z", "2026-11-01T08:30:00+00:00"),
        ("2026-11-01t08:30:00.25z", "2026-11-01T08:30:00.250000+00:00"),
        ("2026-11-01T08:30:00+02:00", "2026-11-01T06:30:00+00:00"),
        ("2026-11-01 08:30-05:30", "2026-11-01T14:00:00+00:00"),
        ("2026-11-01T08:30:00", "2026-11-01T07:30:00+00:00"),
        ("2026-07-01 08:30", "2026-07-01T06:30:00+00:00"),
        ("2026-11-01", "2026-10-31T23:00:00+00:00"),
        ("2026-07-01", "2026-06-30T22:00:00+00:00"),
        ("now", "2026-11-21T05:30:00+00:00"),
        ("today", "2026-11-20T23:00:00+00:00"),
        ("yesterday", "2026-11-19T23:00:00+00:00"),
        ("-2h", "2026-11-21T03:30:00+00:00"),
        ("-90m", "2026-11-21T04:00:00+00:00"),
        ("-7d", "2026-11-14T05:30:00+00:00"),
        ("-1h30m", "2026-11-21T04:00:00+00:00"),
        (" -500ms ", "2026-11-21T05:29:59.500000+00:00"),
    ],
)
def test_each_form_is_understood_in_the_zone_and_answered_in_utc(text: str, expected: str) -> None:
    found = parse_time(text, NOW, BERLIN)
    assert found.isoformat() == expected
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01",
        "2026-02-30",
        "2026-11-01T25:00",
        "2026-11-01T08:30:60Z",
        "-2",
        "-h",
        "--2h",
        "01.11.2026",
        "-99999999d",
    ],
)
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text, NOW, BERLIN)
    assert caught.value.code == "time.invalid"
    assert "2026-11-01" in (caught.value.help or "")


@pytest.mark.parametrize(
    ("text", "zone", "word"),
    [
        ("2026-10-25T02:30", BERLIN, "twice"),
        ("2026-03-29T02:30", BERLIN, "never"),
        ("2026-11-01 01:30", NEW_YORK, "twice"),
        ("2026-03-08 02:30", NEW_YORK, "never"),
    ],
)
def test_a_time_that_clocks_showed_twice_or_never_is_not_guessed(text: str, zone: ZoneInfo, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_time(text, NOW, zone)
    assert (caught.value.code, word in caught.value.message) == ("time.ambiguous", True)
    suggested = (caught.value.help or "").rsplit(" ", 1)[1]
    assert parse_time(suggested, NOW, zone).utcoffset() == timedelta(0)


def test_a_day_without_midnight_begins_at_its_first_instant() -> None:
    begins = parse_time("2026-03-29", NOW, BEIRUT)
    before = (begins - timedelta(seconds=1)).astimezone(BEIRUT)
    assert (before.day, begins.astimezone(BEIRUT).day) == (28, 29)


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_without_a_zone_this_machines_clock_counts_with_its_summer_time() -> None:
    assert parse_time("2026-07-01 08:00", NOW, None).hour == 12
    assert parse_time("2026-12-01 08:00", NOW, None).hour == 13
    assert parse_time("yesterday", NOW, None).isoformat() == "2026-11-20T05:00:00+00:00"
    with pytest.raises(UsageError, match="twice"):
        parse_time("2026-11-01 01:30", NOW, None)
    with pytest.raises(UsageError, match="never"):
        parse_time("2026-03-08 02:30", NOW, None)


def test_zones_are_found_by_name_and_missed_with_the_nearest() -> None:
    assert find_zone(None) is None
    assert find_zone("local") is None
    assert find_zone("utc") is UTC
    assert find_zone("Europe/Berlin") == BERLIN
    for wrong in ("Europe/Berlim", "../../etc/passwd", ""):
        with pytest.raises(UsageError) as caught:
            find_zone(wrong)
        assert caught.value.code == "time.unknown_zone"
    with pytest.raises(UsageError) as caught:
        find_zone("Europe/Berlim")
    assert caught.value.help == "did you mean 'Europe/Berlin'?"


moments = st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1), timezones=st.sampled_from([UTC, BERLIN, NEW_YORK, BEIRUT]))


@given(moments)
def test_a_time_with_its_offset_means_the_same_in_every_zone(moment: datetime) -> None:
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    assert parse_time(text, NOW, BERLIN) == parse_time(text, NOW, None) == moment.astimezone(UTC)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)), st.sampled_from([BERLIN, NEW_YORK, BEIRUT]))
def test_a_naive_time_is_what_the_zones_clocks_showed_exactly_once(naive: datetime, zone: ZoneInfo) -> None:
    text = naive.isoformat(timespec="microseconds")
    shown = {naive.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    if len(shown) == 2:
        with pytest.raises(UsageError, match=r"twice|never"):
            parse_time(text, NOW, zone)
    else:
        assert parse_time(text, NOW, zone).astimezone(zone).replace(tzinfo=None, fold=0) == naive
