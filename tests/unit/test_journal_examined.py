"""What `pipe doctor`, `pipe status` and the metrics tell of a journal."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from cli_parts import Pipe, items
from journal_parts import BEGAN, lines_of, write, writer

from penstock.cli import numbers
from penstock.cli.journal_lines import Unreadable, full_line, is_full, journal_document, journal_lines, look_at_journal
from penstock.cli.terminal import Style
from penstock.config.model import DeadLetters, Journal
from penstock.engine.upkeep import EXPIRE_JOURNAL_EVERY, Upkeep
from penstock.faults import Faults
from penstock.journal.examine import Outline, examine_journal, free_bytes, outline
from penstock.journal.frames import Place
from penstock.journal.journal import Journal as Written
from penstock.journal.segments import ROLL, roll_for
from penstock.observe.log import Incident
from penstock.observe.metrics import render_metrics
from penstock.observe.status import JournalSize, RunStatus
from penstock.spi import Finding
from penstock.state.open import open_store
from penstock.testing.clock import FakeClock

DAY = 86400.0


def by_code(findings: list[Finding]) -> dict[str, str]:
    return {finding.code: finding.severity for finding in findings}


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """However full the disk of the tests is."""
    monkeypatch.setattr("penstock.journal.examine.free_bytes", lambda directory: 1 << 50)
    monkeypatch.setattr("penstock.places.shutil.disk_usage", lambda place: shutil._ntuple_diskusage(1 << 51, 0, 1 << 50))  # type: ignore[attr-defined]  # its own


@pytest.mark.usefixtures("roomy")
def test_a_sound_journal_is_told_as_such(tmp_path: Path) -> None:
    declared = Journal(tmp_path / "j", retention=30 * DAY, max_size=1 << 30)
    assert by_code(examine_journal(declared, "", BEGAN)) == {"journal.place": "ok", "journal.size": "ok", "journal.room": "ok"}
    assert not (tmp_path / "j").exists()
    journal = writer(tmp_path / "j")
    place = write(journal, 1)
    findings = examine_journal(declared, place.text(), BEGAN + DAY)
    assert {finding.severity for finding in findings} == {"ok"}
    assert "0.0 GiB of at most 1.0 GiB, back to 1.0 days ago" in [finding.message for finding in findings]


@pytest.mark.usefixtures("roomy")
def test_a_journal_that_does_not_fit_its_ledger_is_told_of(tmp_path: Path) -> None:
    declared = Journal(tmp_path / "j")
    place = write(writer(tmp_path / "j"), 1)
    other = Place("0123456789abcdef", 1, 10).text()
    longer = place._replace(end=place.end + 1).text()
    later = place._replace(segment=place.segment + 1).text()
    assert by_code(examine_journal(declared, other, BEGAN))["journal.other"] == "warning"
    assert by_code(examine_journal(declared, longer, BEGAN))["journal.shorter"] == "warning"
    assert by_code(examine_journal(declared, later, BEGAN))["journal.shorter"] == "warning"
    assert by_code(examine_journal(Journal(tmp_path / "gone"), place.text(), BEGAN))["journal.other"] == "warning"
    for finding in examine_journal(declared, other, BEGAN):
        assert finding.severity == "ok" or (finding.why and finding.help)


@pytest.mark.parametrize(("head", "code"), [('{"format":9,"id":"x"}', "journal.newer"), ("{", "journal.damaged")])
def test_a_journal_that_a_run_would_not_open_is_an_error(tmp_path: Path, head: str, code: str) -> None:
    (tmp_path / "journal.json").write_text(head)
    assert by_code(examine_journal(Journal(tmp_path), "", BEGAN))[code] == "error"


@pytest.mark.usefixtures("roomy")
def test_a_size_that_cuts_the_retention_short_is_told_of(tmp_path: Path) -> None:
    journal = writer(tmp_path, roll=1)
    for number in range(5):
        write(journal, number, at=BEGAN + number)
    size = sum(path.stat().st_size for path in tmp_path.glob("0*"))
    [finding] = [
        each for each in examine_journal(Journal(tmp_path, 30 * DAY, size), "", BEGAN + 3 * DAY) if each.code == "journal.size"
    ]
    assert (finding.severity, "30.0 days" in str(finding.why), "3.0 days ago" in finding.message) == ("warning", True, True)
    assert by_code(examine_journal(Journal(tmp_path, 30 * DAY, size), "", BEGAN + 29 * DAY))["journal.size"] == "ok"
    assert by_code(examine_journal(Journal(tmp_path, 30 * DAY, 2 * size), "", BEGAN + 3 * DAY))["journal.size"] == "ok"


def test_a_disk_with_less_room_than_the_journal_may_take_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.journal.examine.free_bytes", lambda directory: 2 << 30)
    [finding] = [each for each in examine_journal(Journal(tmp_path), "", BEGAN) if each.code == "journal.room"]
    assert (finding.severity, "2.0 GiB are free" in finding.message, "grow by 10.0 GiB" in finding.message) == (
        "warning",
        True,
        True,
    )


def refuse(directory: Path) -> int:
    raise PermissionError(13, "Permission denied", str(directory))


def test_what_cannot_be_looked_at_is_an_error_of_doctor_and_a_line_of_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(writer(tmp_path), 1)

    monkeypatch.setattr("penstock.journal.examine.free_bytes", refuse)
    assert by_code(examine_journal(Journal(tmp_path), "", BEGAN))["journal.unusable"] == "error"
    seen = look_at_journal(tmp_path)
    assert seen == Unreadable(tmp_path, "Permission denied")
    assert journal_document(seen) == {"directory": str(tmp_path), "problem": "Permission denied"}
    assert journal_lines(seen, BEGAN, Style()) == [f"  cannot be read: Permission denied, in {tmp_path}"]


def test_the_outline_is_that_of_the_files(tmp_path: Path) -> None:
    assert outline(tmp_path / "none") is None
    journal = writer(tmp_path, roll=1)
    write(journal, 1, at=BEGAN)
    write(journal, 2, at=BEGAN + 60)
    journal.append(lines_of(3))
    size = sum(path.stat().st_size for path in tmp_path.glob("0*"))
    found = outline(tmp_path)
    assert found == Outline(tmp_path, 3, size, BEGAN, BEGAN + 60, found.free if found else 0)
    assert 0 < free_bytes(tmp_path) <= shutil.disk_usage(tmp_path).total


def test_status_says_how_large_the_journal_is_and_that_its_disk_is_full(tmp_path: Path) -> None:
    roomy = Outline(tmp_path, 1, 700, BEGAN, BEGAN, 1 << 40)
    assert journal_lines(roomy, BEGAN + 180, Style()) == [f"  700 bytes in 1 segment, oldest event 3 min ago, in {tmp_path}"]
    tight = Outline(tmp_path, 19, 3 << 30, None, None, 300 << 20)
    assert journal_lines(tight, BEGAN, Style()) == [f"  3.0 GiB in 19 segments, in {tmp_path}", "  300.0 MiB free on its disk"]
    full = Outline(tmp_path, 19, 3 << 30, None, None, 4096)
    assert is_full(full)
    assert journal_lines(full, BEGAN, Style())[1] == f"  {full_line(full)}"
    assert full_line(full) == "its disk is full: 4.0 KiB free; a run waits, acknowledging nothing, until there is room"


def test_status_and_doctor_tell_of_the_journal_of_a_pipeline_that_ran(ran: Path, pipe: Pipe) -> None:
    [standing] = items(pipe("status", "--json")[1])
    directory = ran / ".penstock/journal/shop"
    journal = standing["journal"]
    assert (journal["directory"], journal["segments"]) == (str(directory), 1)
    assert journal["bytes"] == sum(path.stat().st_size for path in directory.glob("0*"))
    assert journal["oldest_at"] <= journal["newest_at"]
    assert "in 1 segment, oldest event" in pipe("status", "shop")[1]
    found = {each["code"]: each["severity"] for each in items(pipe("doctor", "shop", "--json")[1]) if each["part"] == "journal"}
    assert (found["journal.place"], found["journal.size"]) == ("ok", "ok")
    shutil.rmtree(directory)
    assert items(pipe("status", "--json")[1])[0]["journal"] is None
    found = {each["code"]: each["severity"] for each in items(pipe("doctor", "shop", "--json")[1]) if each["part"] == "journal"}
    assert found["journal.other"] == "warning"


def test_the_overview_names_a_journal_whose_disk_is_full(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    (ran / "pipelines/idle.yaml").write_text("pipeline: idle\nsource: { generate: {} }\nsink: drop\n")
    monkeypatch.setattr("penstock.journal.examine.free_bytes", lambda directory: 0)
    assert pipe("status")[1].splitlines()[-1].startswith("journal of shop: its disk is full: 0 bytes free")
    assert json.loads(pipe("status", "shop", "--json")[1])["items"][0]["journal"]["free_bytes"] == 0


async def test_upkeep_expires_the_journal_every_minute_and_metrics_tell_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, status = FakeClock(), RunStatus("shop", "v1")
    journal = Written(tmp_path / "j", Faults(), 1)
    await journal.open("")
    for number in range(4):
        await journal.append(lines_of(number, at=clock.now() + number * 1000))
        await journal.commit()
    store = open_store(tmp_path, "shop", clock, Faults())
    await store.open()
    told: list[Incident] = []
    upkeep = Upkeep(DeadLetters(), store, status, clock, told.append)
    assert b"penstock_journal" not in b"".join(
        line for line in render_metrics([status], clock).splitlines(keepends=True) if not line.startswith(b"#")
    )
    upkeep.kept = journal, Journal(tmp_path / "j", retention=DAY)
    await upkeep.expire_journal()
    assert status.journal is not None
    assert status.journal == JournalSize(4, status.journal.size, clock.now(), status.journal.free)
    await clock.advance(DAY + 1500)
    await upkeep.expire_journal()
    assert (status.journal.segments, status.journal.first) == (2, clock.now() - DAY - 1500 + 2000)
    text = render_metrics([status], clock).decode()
    size = sum(path.stat().st_size for path in (tmp_path / "j").glob("0*"))
    assert f'penstock_journal_size_bytes{{pipeline="shop"}} {float(size)}' in text
    assert 'penstock_journal_segments{pipeline="shop"} 2.0' in text
    assert f'penstock_journal_age_seconds{{pipeline="shop"}} {DAY - 500}' in text
    assert 'penstock_journal_free_bytes{pipeline="shop"}' in text
    assert EXPIRE_JOURNAL_EVERY == 60
    before = status.journal
    monkeypatch.setattr("penstock.journal.examine.free_bytes", refuse)
    await upkeep.expire_journal()
    assert ([incident.code for incident in told], status.journal) == (["journal.disk"], before)
    await journal.close()
    await store.close()


def test_a_small_journal_has_small_segments() -> None:
    assert (roll_for(1 << 20), roll_for(10 << 30)) == (1 << 17, ROLL)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 bytes"), (1, "1 byte"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (10 << 30, "10.0 GiB")]
)
def test_sizes_read_as_people_write_them(count: int, said: str) -> None:
    assert numbers.size(count) == said


def test_a_file_system_without_inodes_to_count_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.statvfs(tmp_path)

    def with_inodes(files: int, free: int) -> os.statvfs_result:
        values = list(plain)
        values[1], values[4], values[5], values[7] = 4096, 10, files, free
        return os.statvfs_result(values)

    for files, free, expected in ((0, 0, 40960), (100, 0, 0), (100, 5, 40960)):
        monkeypatch.setattr(os, "statvfs", lambda directory, files=files, free=free: with_inodes(files, free))
        assert free_bytes(tmp_path) == expected
