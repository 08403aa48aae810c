"""What a crash round runs: a pipeline over the oracle's input into one or more outputs, and how to read what it left.

`Scenario` and `Output` are the place where connector authors add their own: an output says how its sink is configured, how its
rows are read back in order of arrival, and what must be identical to an undisturbed run.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from penstock.testing.oracle import MAX_RECORD, Plan, Row

PIPELINE = "crash"
JOURNAL = f"journal/{PIPELINE}"
"""Where its journal lies, under `.penstock`."""
SOURCE = "file:in/"

_SPLIT = """\
if .kind == "error" then error("the order is broken: " + .key)
elif .kind == "none" then empty
else . as $line | range(.parts) as $part
| $line | {key, sequence, part: $part, text, checksum, kind} end
"""


class Unreadable(Exception):
    """An output is no longer what its sink writes: torn, or damaged. `rows` and `content` of an `Output` raise it."""


def _nothing(project: Path) -> None:
    """An output that needs no preparation."""


@dataclass(frozen=True, slots=True)
class Output:
    """One sink of a scenario.

    :ivar name: the sink's name; it should say what it is.
    :ivar component: the sink as it stands in the pipeline file: `{"file": {"path": "out/events.jsonl"}}`.
    :ivar rows: what has arrived in a project, in order of arrival.
    :ivar content: what must be identical, byte for byte, to the same of an undisturbed run.
    :ivar prepare: what has to exist before the first run, such as a table.
    :ivar refuses: whether it refuses rows of the kinds `refused` and, of part 1, `refused_part`.
    :ivar appends_to: the file that a crash may leave with a torn tail, where the sink promises to recover from one.
    """

    name: str
    component: Mapping[str, Any]
    rows: Callable[[Path], Sequence[Row]]
    content: Callable[[Path], bytes]
    prepare: Callable[[Path], None] = _nothing
    refuses: bool = False
    appends_to: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """Outputs under one name. With several, each one's sink takes every event."""

    name: str
    outputs: Sequence[Output]

    @property
    def refuses(self) -> bool:
        """Whether any output refuses rows."""
        return any(output.refuses for output in self.outputs)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a seed chooses about the pipeline besides its input.

    :ivar dedup: `dedup.key`; empty for the default key; None for no dedup.
    """

    plan: Plan
    count: int
    in_flight: int
    dedup: str | None
    workers: int

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        """A random choice that exercises the engine: small batches, tight limits, each kind of dedup, seldom workers."""
        dedup = rng.choice([None, "", ".data", ".data"])
        return cls(
            Plan(lines=rng.randrange(300, 900), files=rng.randrange(1, 4), repetitions=0.15 if dedup else 0.0),
            count=rng.choice([3, 10, 40, 150]),
            in_flight=rng.choice([20, 200, 10_000]),
            dedup=dedup,
            workers=1 if rng.random() < 0.1 else 0,
        )


def write_pipeline(project: Path, scenario: Scenario, settings: Settings) -> Path:
    """The pipeline file (JSON, which is YAML too), with whatever its outputs need beside it."""
    pipeline: dict[str, Any] = {
        "pipeline": PIPELINE,
        "source": {"file": {"paths": ["in/*.jsonl"], "max_record": f"{MAX_RECORD}B"}},
        "transforms": [{"filter": '.kind != "filtered"'}, {"name": "split", "jq": _SPLIT}],
        "sinks": [{"name": output.name, **output.component} for output in scenario.outputs],
        "batching": {"count": settings.count},
        "limits": {"in_flight_events": settings.in_flight},
        "retry": {"initial_delay": "5ms", "max_delay": "20ms"},
        "workers": settings.workers,
    }
    if settings.dedup is not None:
        pipeline["dedup"] = {"window": "24h", **({"key": settings.dedup} if settings.dedup else {})}
    for output in scenario.outputs:
        output.prepare(project)
    path = project / f"{PIPELINE}.yaml"
    path.write_text(json.dumps(pipeline, indent=2))
    return path


def copy_input(source: Path, project: Path) -> None:
    """The input files into `in/` of a project."""
    shutil.copytree(source, project / "in")


@dataclass(frozen=True, slots=True)
class Remains:
    """What a project holds once its runs have ended: all of it must be as an undisturbed run leaves it.

    :ivar letters: listed dead letters without what may differ (times, attempts), in order of their place.
    :ivar checkpoint: order bytes of every partition, in hexadecimal.
    :ivar files: every file of the project, relative.
    """

    totals: Mapping[str, int]
    letters: Sequence[Mapping[str, Any]]
    provisional: int
    checkpoint: Mapping[str, str]
    files: Sequence[str]


def read_remains(project: Path) -> Remains:
    """Straight from the state store's tables, so that no code under test stands between."""
    with closing(_read_only(project / ".penstock" / f"{PIPELINE}.db")) as database:
        counts, *_ = database.execute("SELECT counts FROM note").fetchone()
        columns = "id, step, code, message, fingerprint, source, event_id, original_digest, owed, delivered, repeats, status"
        letters = database.execute(f"SELECT {columns} FROM letters WHERE pending IS NULL ORDER BY source, position")  # noqa: S608
        (provisional,) = database.execute(
            "SELECT (SELECT count(*) FROM letters WHERE pending IS NOT NULL) + (SELECT count(*) FROM repeats)"
        ).fetchone()
        positions = database.execute('SELECT "partition", hex("order") FROM note_positions').fetchall()
        rows = [dict(zip(columns.split(", "), row, strict=True)) for row in letters.fetchall()]
    files = sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file() and JOURNAL not in str(path))
    return Remains(json.loads(counts), rows, provisional, dict(positions), files)


def has_concluded(project: Path) -> bool:
    """Whether the last run had committed of one of its files that it writes no more to it: no write of its can be torn then.

    Reads a copy, so that the next run finds the store as the kill left it.
    """
    store = project / ".penstock" / f"{PIPELINE}.db"
    with TemporaryDirectory() as copies:
        for file in (store, store.with_name(store.name + "-wal")):
            if file.exists():
                shutil.copy(file, copies)
        with closing(sqlite3.connect(Path(copies) / store.name)) as database:
            states = database.execute("SELECT state FROM penstock_sink_states").fetchall()
    return any(json.loads(state).get("ended") for (state,) in states)


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)


# The outputs of Penstock's own sinks.


def table_output(name: str = "table", *, refuses: bool = True) -> Output:
    """A SQLite table without a key, so that a row delivered twice stands there twice. Its CHECK refuses some rows."""
    path = f"out/{name}.db"

    def prepare(project: Path) -> None:
        (project / path).parent.mkdir(exist_ok=True)
        check = ", CHECK (kind <> 'refused' AND NOT (kind = 'refused_part' AND part = 1))" if refuses else ""
        with closing(sqlite3.connect(project / path)) as database:
            database.execute(
                "CREATE TABLE events (place INTEGER PRIMARY KEY, key TEXT, sequence INTEGER, part INTEGER, text TEXT, "
                f"checksum TEXT, kind TEXT{check})"
            )
            database.commit()

    def select(project: Path) -> list[tuple[Any, ...]]:
        with closing(_read_only(project / path)) as database:
            return database.execute("SELECT key, sequence, part, text, checksum, kind FROM events ORDER BY place").fetchall()

    return Output(
        name=name,
        component={"sqlite": {"path": path, "table": "events"}},
        rows=lambda project: [Row(*row[:5]) for row in select(project)],
        content=lambda project: json.dumps(select(project)).encode(),
        prepare=prepare,
        refuses=refuses,
    )


def _unzstd(stored: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read()


_DECOMPRESS: Mapping[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.decompress, ".zst": _unzstd}


def file_output(name: str = "lines", suffix: str = "") -> Output:
    """A file of JSON lines. Of a compressed one the decompressed content must be identical, for its frames follow the commits."""
    path = f"out/events.jsonl{suffix}"

    def prepare(project: Path) -> None:
        (project / path).parent.mkdir(exist_ok=True)

    def content(project: Path) -> bytes:
        stored = (project / path).read_bytes()
        try:
            return _DECOMPRESS[suffix](stored)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise Unreadable(f"{path} cannot be decompressed: {error}") from error

    def rows(project: Path) -> list[Row]:
        *lines, rest = content(project).split(b"\n")
        if rest:
            raise Unreadable(f"{path} ends in the middle of a line")
        try:
            documents = [json.loads(line) for line in lines]
            return [Row(*(document[name] for name in Row.__dataclass_fields__)) for document in documents]
        except (ValueError, LookupError, TypeError) as error:
            raise Unreadable(f"{path} holds something else than rows: {error}") from error

    return Output(name, {"file": {"path": path}}, rows, content, prepare, appends_to=path)


SCENARIOS: Mapping[str, Scenario] = {
    "sqlite": Scenario("sqlite", [table_output()]),
    "file": Scenario("file", [file_output()]),
    "both": Scenario("both", [table_output(), file_output()]),
    "tables": Scenario("tables", [table_output("first", refuses=False), table_output("second")]),
    "gzip": Scenario("gzip", [file_output(suffix=".gz")]),
    "zstd": Scenario("zstd", [file_output(suffix=".zst")]),
}
"""By the ledgers they have: the sink's own, the state store's, both, two sinks' own; and the compressed forms of a file."""
