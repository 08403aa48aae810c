"""Readers beside a writer, in other threads and other processes: what they see is committed, in order, without holes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from journal_parts import BEGAN, found, lines_of, seen, writer

from penstock.journal.reader import EVER, JournalReader, Mark

READER = """\
import sys
from pathlib import Path
from penstock.journal.reader import EVER, JournalReader
for record in JournalReader(Path(sys.argv[1])).range(*EVER):
    print(record.line.filled().id)
"""


@pytest.mark.parametrize("seed", range(3))
def test_readers_see_a_prefix_of_what_is_committed_whatever_the_writer_does(tmp_path: Path, seed: int) -> None:
    """Even numbers are committed, odd ones rolled back; each reader sees all even ones up to some point, and never an odd one."""
    rng, done = random.Random(seed), threading.Event()
    journal = writer(tmp_path, roll=2000)

    def write_on() -> None:
        number = 0
        try:
            for _ in range(150):
                count = rng.randrange(1, 6)
                if rng.random() < 0.3:
                    journal.append(lines_of(*range(number + 1, number + 1 + 2 * count, 2)))
                    journal.rollback()
                    continue
                journal.append(lines_of(*range(number, number + 2 * count, 2)))
                if rng.random() < 0.3:
                    journal.append(lines_of(number + 2 * count))
                    count += 1
                journal.commit()
                number += 2 * count
        finally:
            done.set()

    def read_on() -> int:
        reads, before = 0, 0
        while not done.is_set() or reads < 3:
            numbers = seen(tmp_path)
            assert numbers == list(range(0, 2 * len(numbers), 2))
            assert len(numbers) >= before
            if numbers:
                assert (found(tmp_path, numbers[-1]), found(tmp_path, numbers[-1] + 1)) == (1, 0)
            reads, before = reads + 1, len(numbers)
        return reads

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read_on) for _ in range(2)]
        writing = pool.submit(write_on)
        writing.result(timeout=60)
        assert all(reader.result(timeout=60) >= 3 for reader in readers)
    assert seen(tmp_path) == list(range(0, 2 * len(seen(tmp_path)), 2))


def test_a_reader_that_follows_marks_gets_each_event_once_while_retention_works(tmp_path: Path) -> None:
    """A job reads behind the writer, which expires what the job has passed."""
    journal = writer(tmp_path, roll=500)
    done = threading.Event()
    passed = [0]

    def write_on() -> None:
        try:
            for number in range(0, 400, 2):
                journal.append(lines_of(number, number + 1))
                journal.commit()
                journal.expire(BEGAN + 1, 0, passed[0])
        finally:
            done.set()

    def follow() -> list[str]:
        mark: Mark | None = None
        got: list[str] = []
        while True:
            ended = done.is_set()
            for record in JournalReader(tmp_path).range(*EVER, after=mark):
                mark = record.mark
                passed[0] = mark.segment
                got.append(json.loads(bytes(record.line.event))["id"])
            if ended:
                return got

    with ThreadPoolExecutor(2) as pool:
        reading, writing = pool.submit(follow), pool.submit(write_on)
        writing.result(timeout=60)
        assert reading.result(timeout=60) == [f"e{number}" for number in range(400)]


def test_another_process_reads_while_the_journal_is_open(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    journal.append(lines_of(1, 2))
    journal.commit()
    journal.append(lines_of(3))
    done = subprocess.run([sys.executable, "-c", READER, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["e1", "e2"]
