"""Whatever stands in a file, each record ends as an exact value or as a dead letter that says why, and its neighbours arrive."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input_parts import Project

from dlq.replay import ReplaySummary, replay
from penstock.clock import SystemClock
from penstock.engine.embed import load
from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.state.records import LetterQuery

GOOD = (b'{"n":"first"}', b'{"n":"last"}')
TO_FILE = "sink: {file: out.jsonl}\n"
FROM_FILE = "source: {file: in.jsonl}\n"
CANARY = "tok-7f3a-canary"

EXACT = {
    b'{"n":1180591620717411303424}': 2**70,
    b'{"n":-1180591620717411303425}': -(2**70) - 1,
    b'{"n":9007199254740993}': 2**53 + 1,
    b'{"n":"a\\u0000b"}': "a\0b",
    b'{"n":"\\ud83d\\ude00"}': "😀",
    b'{"n":1e308}': 1e308,
    b'{"n":' + b"[" * 200 + b"12345678901234567890" + b"]" * 200 + b"}": None,
}
BAD = {
    b"": ("decode.empty", "the record is empty"),
    b"  \t": ("decode.empty", "the record is empty"),
    b'{"n":"\xff"}': ("decode.invalid_utf8", "the text is not UTF-8 (byte 6)"),
    b'{"n":"\xed\xa0\x80"}': ("decode.invalid_utf8", "the text is not UTF-8 (byte 6)"),
    b'{"n":"a\\ud800b"}': ("decode.lone_surrogate", "a string holds half of a surrogate pair: \\ud800 (byte 7)"),
    b'{"n":"a\\ud800"}': ("decode.lone_surrogate", "a string holds half of a surrogate pair: \\ud800 (byte 7)"),
    b'{"n":"\\\\\\uDC00\\ud800"}': ("decode.lone_surrogate", "a string holds half of a surrogate pair: \\uDC00 (byte 8)"),
    b'{"\\ud800\\u0041":1}': ("decode.lone_surrogate", "a string holds half of a surrogate pair: \\ud800 (byte 2)"),
    b'{"n":"\x00"}': ("decode.invalid_json", "the record is not valid JSON"),
    b"\x00": ("decode.invalid_json", "the record is not valid JSON"),
    b'{"n":NaN}': ("decode.invalid_json", "the record holds NaN or infinity, which JSON cannot say"),
    b'{"n":-Infinity}': ("decode.invalid_json", "the record holds NaN or infinity, which JSON cannot say"),
    b'{"n":1e400}': ("decode.number_out_of_range", "a number is too large to be kept"),
    b'{"n":-1e400}': ("decode.number_out_of_range", "a number is too large to be kept"),
    b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}": ("decode.too_deep", "the document is nested too deeply"),
    b'{"n":' * 100_000: ("decode.too_deep", "the document is nested too deeply"),
}
ROUTES = {
    "as it is": "",
    "through jq": 'transforms: [{jq: "{n: .n}"}]\n',
    "through a fused set": 'transforms: [{set: {subject: ".n | type", type: "$event.id"}}, {filter: ".n != 1"}]\n',
    "through python": "transforms: [{python: bad_input_steps:same}]\n",
    "through jq in a worker": 'transforms: [{jq: "{n: .n}"}]\nworkers: 1\n',
    "deduplicated by its data": "dedup: {window: 1h, key: .data}\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad_input_steps.py").write_text(
        "def same(data):\n    return {'n': data['n']}\n\ndef more(data):\n    return data['n'] + 1\n"
    )
    yield Project(tmp_path)
    sys.modules.pop("bad_input_steps", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize("route", ROUTES)
async def test_each_bad_record_is_a_dead_letter_and_each_odd_one_exact(project: Project, route: str) -> None:
    project.pipeline(FROM_FILE + ROUTES[route] + TO_FILE)
    project.write("in.jsonl", GOOD[0], *BAD, *EXACT, GOOD[1])

    summary = await project.run()

    counts = summary.counts
    assert (counts.received, counts.delivered, counts.dead_lettered) == (len(BAD) + len(EXACT) + 2, len(EXACT) + 2, len(BAD))
    letters = await project.letters()
    assert [(letter.code, letter.message) for letter in letters] == list(BAD.values())
    assert [letter.original for letter in letters] == list(BAD)
    assert all(letter.step == "decode" for letter in letters)
    values = project.values()
    assert [values[0], values[-1]] == [{"n": "first"}, {"n": "last"}]
    assert [value["n"] for value in values[1:-2]] == list(EXACT.values())[:-1]
    assert project.lines()[-2].replace(b" ", b"") == list(EXACT)[-1]


async def test_the_same_bytes_are_text_where_the_format_says_so(project: Project) -> None:
    project.pipeline("source: {file: {paths: in.txt, format: text}}\n" + TO_FILE)
    project.write("in.txt", b"first", b"", b"\xff", b"\\ud800", b"a\0b", b"NaN", b"last")

    await project.run()

    assert project.values() == ["first", "", "\\ud800", "a\0b", "NaN", "last"]
    assert [(letter.code, letter.message) for letter in await project.letters()] == [
        ("decode.invalid_utf8", "the line is not UTF-8 (byte 0)")
    ]


async def test_an_integer_of_71_bits_is_computed_with_exactly_or_not_at_all(project: Project) -> None:
    record = b'{"n":1180591620717411303424}'
    project.write("in.jsonl", b'{"n":7}', record, b'{"n":8}')
    outcomes: dict[str, tuple[list[object], list[str]]] = {}
    for step in ("python: bad_input_steps:more", "jq: .n + 1", 'jq: ".n % 7"', "jq: .n | tostring", "jq: '[.n, .n] | max'"):
        project.pipeline(f"{FROM_FILE}transforms: [{{{step}}}]\n{TO_FILE}")
        await project.run()
        outcomes[step] = project.values(), [letter.code for letter in await project.letters()]
        for name in ("out.jsonl", ".penstock/orders.db"):
            (project.root / name).unlink()

    refused = ["jq.inexact_integer"]
    assert outcomes == {
        "python: bad_input_steps:more": ([8, 2**70 + 1, 9], []),
        "jq: .n + 1": ([8, 9], refused),
        'jq: ".n % 7"': ([0, 1], refused),
        "jq: .n | tostring": (["7", str(2**70), "8"], []),
        "jq: '[.n, .n] | max'": ([7, 2**70, 8], []),
    }


async def test_a_table_takes_what_it_can_hold_exactly_and_refuses_the_rest(project: Project) -> None:
    project.pipeline(FROM_FILE + "sink: {sqlite: {path: out.db, table: t, key: [id], create: true}}\n")
    project.write(
        "in.jsonl",
        b'{"id":1,"n":1}',
        b'{"id":2,"n":1180591620717411303424}',
        b'{"id":3,"n":9223372036854775807}',
        b'{"id":4,"n":-9223372036854775809}',
        b'{"id":5,"n":"a\\u0000b"}',
        b'{"id":6,"n":{"x":1180591620717411303424}}',
        b'{"id":7,"n":1e400}',
        b'{"id":8,"n":2}',
    )

    await project.run()

    assert project.rows("SELECT * FROM t ORDER BY id") == [
        (1, 1), (3, 2**63 - 1), (5, "a\0b"), (6, '{"x":1180591620717411303424}'), (8, 2),
    ]  # fmt: skip
    assert [(letter.step, letter.message) for letter in await project.letters()] == [
        ("sqlite", "column n: an integer of 71 bits; SQLite holds 64"),
        ("sqlite", "column n: an integer of 64 bits; SQLite holds 64"),
        ("decode", "a number is too large to be kept"),
    ]


@pytest.mark.parametrize("workers", [0, 1])
async def test_a_program_that_nests_its_output_too_deeply_costs_only_its_event(project: Project, workers: int) -> None:
    project.pipeline(f'{FROM_FILE}transforms: [{{jq: "reduce range(.n) as $i (0; [.])"}}]\n{TO_FILE}workers: {workers}\n')
    project.write("in.jsonl", b'{"n":1}', b'{"n":5000}', b'{"n":2}')

    await project.run()

    assert project.values() == [[0], [[0]]]
    assert [(letter.code, letter.message) for letter in await project.letters()] == [
        ("encode.not_json", "the data cannot be written as JSON: it is nested too deeply")
    ]


# ---- one long line


def write_long_line(path: Path, megabytes: int) -> None:
    """A line of so many MiB between two good ones, compressed."""
    packer = zlib.compressobj(1, wbits=31)
    block = b"x" * (1 << 20)
    with path.open("wb") as file:
        file.write(packer.compress(GOOD[0] + b'\n{"n":"'))
        for _ in range(megabytes):
            file.write(packer.compress(block))
        file.write(packer.compress(b'"}\n' + GOOD[1] + b"\n") + packer.flush())


MEASURED_RUN = """
import asyncio, resource, sys
from penstock.engine.embed import run
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
asyncio.run(run("small.yaml", once=True))
before = peak()
asyncio.run(run("orders.yaml", once=True))
print(peak() - before)
"""


async def test_a_line_of_a_gibibyte_is_a_dead_letter_in_a_few_mebibytes_of_memory(project: Project) -> None:
    project.pipeline("source: {file: in.jsonl.gz}\n" + TO_FILE)
    (project.root / "small.yaml").write_text("pipeline: small\nsource: {file: small.jsonl}\nsink: {file: small.out}\n")
    project.write("small.jsonl", *GOOD)
    write_long_line(project.root / "in.jsonl.gz", 1024)

    done = subprocess.run(
        [sys.executable, "-c", MEASURED_RUN],
        cwd=project.root,
        env=project.environment({}),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 << 10  # KiB
    assert project.lines() == list(GOOD)
    (letter,) = await project.letters()
    assert (letter.code, letter.why) == ("source.record_too_long", "it has 1073741832 bytes")
    assert letter.original == (b'{"n":"' + b"x" * 4096)[:4096]
    assert (letter.original_length, letter.reread) == ((1 << 30) + 8, True)
    assert project.state.stat().st_size < 1 << 20


async def replay_all(project: Project) -> ReplaySummary:
    pipeline = load(project.root / "orders.yaml", environment={})
    return await replay(pipeline, LetterQuery(), clock=SystemClock(), faults=Faults(), progress=lambda done, total: None)


async def test_a_long_line_is_read_again_when_it_is_replayed_with_a_larger_limit(project: Project) -> None:
    project.pipeline("source: {file: in.jsonl.gz}\n" + TO_FILE)
    write_long_line(project.root / "in.jsonl.gz", 3)
    await project.run()
    before = await project.letters()

    same_limit = await replay_all(project)
    still = await project.letters()
    (project.root / "elsewhere").mkdir()
    (project.root / "in.jsonl.gz").rename(project.root / "elsewhere" / "in.jsonl.gz")
    (project.root / "in.jsonl.gz").write_bytes(gzip.compress(b"another\n"))
    without_file = await replay_all(project)
    gone = await project.letters()
    (project.root / "elsewhere" / "in.jsonl.gz").replace(project.root / "in.jsonl.gz")
    project.pipeline("source: {file: {paths: in.jsonl.gz, max_record: 4MiB}}\n" + TO_FILE)
    mended = await replay_all(project)

    assert [summary.failed_again for summary in (same_limit, without_file, mended)] == [1, 1, 0]
    assert [letter.code for letter in [*before, *still, *gone]] == ["source.record_too_long"] * 2 + ["source.gone"]
    for letter in [*still, *gone]:  # what was kept is not forgotten on the way
        assert (letter.original_length, letter.original_digest, letter.original, letter.reread) == (
            before[0].original_length, before[0].original_digest, before[0].original, True,
        )  # fmt: skip
    assert project.lines() == [*GOOD, b'{"n":"' + b"x" * (3 << 20) + b'"}']
    assert await project.letters() == []
    assert (await project.run()).counts.received == 0


async def test_a_row_that_made_no_event_is_never_replayed_as_an_empty_one(project: Project) -> None:
    project.pipeline("source: {file: {paths: in.csv, format: csv}}\n" + TO_FILE)
    project.write("in.csv", b"a,b", b"1,2", b"3", b"4,5")
    await project.run()

    again = await replay_all(project)

    assert (again.selected, again.failed_again) == (1, 1)
    assert project.values() == [{"a": "1", "b": "2"}, {"a": "4", "b": "5"}]
    assert [(letter.code, letter.original) for letter in await project.letters()] == [("source.csv_fields", b"3")]


# ---- files that cannot be read


async def test_a_gzip_file_cut_short_gives_what_came_before_and_the_rest_once_it_is_whole(project: Project) -> None:
    project.pipeline('source: {file: "in*"}\n' + TO_FILE)
    numbered = [b'{"n":%d}' % n for n in range(20_000)]
    whole = gzip.compress(b"\n".join(numbered) + b"\n")
    cut = len(whole) * 2 // 3
    (project.root / "in-1.gz").write_bytes(whole[:cut])
    project.write("in-2.jsonl", b'{"n":-1}')

    with pytest.raises(EnvironmentFault) as fault:
        await project.run()
    first = project.lines()
    (project.root / "in-1.gz").write_bytes(whole)
    second = await project.run()

    assert fault.value.code == "source.truncated_gzip"
    assert fault.value.message == f"in-1.gz is cut short at byte {cut} of the gzip file"
    taken = len(first) - 1
    assert 10_000 < taken < 20_000
    assert first == [*numbered[:taken], b'{"n":-1}']
    assert second.counts.delivered == 20_000 - taken
    assert project.lines() == [*first, *numbered[taken:]]
    assert await project.letters() == []


def test_what_cannot_be_read_among_the_globs_is_named_and_the_others_are_delivered(project: Project) -> None:
    project.pipeline('source: {file: "in*"}\n' + TO_FILE)
    project.write("in-1.jsonl", GOOD[0])
    (project.root / "in-2.d").mkdir()
    (project.root / "in-3.jsonl").symlink_to("nowhere")
    os.mkfifo(project.root / "in-4.jsonl")
    project.write("in-5.jsonl", GOOD[1])

    status, _, said = project.call("run", "--once", "orders.yaml")

    assert status == 3
    assert project.lines() == list(GOOD)
    (error,) = [entry for line in said.splitlines() if line[:1] == "{" and (entry := json.loads(line))["level"] == "error"]
    assert (error["code"], error["message"]) == ("source.unreadable", "cannot read in-2.d: it is a directory")
    assert error["why"] == (
        "also: cannot read in-3.jsonl: No such file or directory; also: cannot read in-4.jsonl: it is no regular file"
    )


async def test_a_file_without_read_permission_is_named_and_the_others_are_delivered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.pipeline('source: {file: "in*"}\n' + TO_FILE)
    project.write("in-1.jsonl", GOOD[0]).chmod(0o000)
    project.write("in-2.jsonl", GOOD[1])
    if os.geteuid() == 0:  # whom permissions do not stop: ask what they say, as for anybody else
        monkeypatch.setattr(os, "access", lambda path, mode: bool(Path(path).stat().st_mode & 0o444))

    with pytest.raises(EnvironmentFault, match=r"cannot read in-1\.jsonl: permission denied"):
        await project.run()

    assert project.lines() == [GOOD[1]]


# ---- secrets


def test_a_secret_reaches_no_output_and_no_store_whatever_fails(project: Project) -> None:
    project.pipeline(
        FROM_FILE + "transforms: [{redact: {fields: [.card.number], with: hash, key: '${TOKEN}'}}, {jq: '.n + 1'}]\n" + TO_FILE
    )
    project.write("in.jsonl", b'{"n":1,"card":{"number":"1"}}', b'{"n":"x","card":{"number":"2"}}', b'{"n":1,"card":7}', b"{")

    said = b""
    for arguments in (
        ("lint",),
        ("run", "--once", "--json"),
        ("run", "--once", "--log-level", "debug"),
        ("lint", "--set", "workers=x"),
    ):
        command = project.pipe(arguments[0], "orders.yaml", *arguments[1:], TOKEN=CANARY)
        said += b"".join(command.communicate(timeout=30))
    for arguments in (("ls", "orders"), ("export", "orders"), ("groups", "orders", "--json")):
        said += b"".join(project.pipe("dlq", *arguments, TOKEN=CANARY).communicate(timeout=30))

    assert said.count(b"redact.wrong_path") >= 1
    stored = b"".join(path.read_bytes() for path in project.root.rglob("*") if path.is_file())
    assert CANARY.encode() not in said + stored
