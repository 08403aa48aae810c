"""The oracle of the crash harness: writes seeded input, remembers what it wrote, and judges what came out.

It is independent of the code under test: nothing of Penstock is imported, and every checksum is computed again from the data that
arrived. `write_input` makes the files and the record beside them; `Oracle.load` reads the record; `Oracle.judge` counts missing,
duplicate, misordered, corrupt and phantom rows of one output.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

Kind = Literal["plain", "split", "none", "filtered", "error", "garbage", "oversized", "refused", "refused_part"]
"""What becomes of a line: one row; several rows; no row, because a step makes nothing of it or filters it; a dead letter of a
step, of the decoder, of the source; a dead letter of a sink that refuses the row, or the second of several rows."""

WEIGHTS: Mapping[Kind, int] = {
    "plain": 70,
    "split": 8,
    "none": 2,
    "filtered": 8,
    "error": 4,
    "garbage": 2,
    "oversized": 1,
    "refused": 3,
    "refused_part": 2,
}
KEYS = 23
"""How many keys the lines share; each has its own sequence."""

MAX_RECORD = 2048
"""Bytes; a line of kind `oversized` is longer."""

_WORDS = ("crate", "naïve", "日本", "a\tb", 'say "so"', "back\\slash", "\u2028", "𝄞", "</x>", "0", "nul", "")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the input, as the record keeps it.

    :ivar file: name of its file; `number` its place there, from 0.
    :ivar digest: blake2b-128 of its bytes without the line end, in hexadecimal.
    :ivar checksum: of (key, sequence, text), as the event carries it.
    :ivar parts: rows it becomes where nothing fails.
    :ivar repeats: (file, number) of the first line with the same content, where it is a repetition.
    """

    file: str
    number: int
    kind: Kind
    key: str
    sequence: int
    parts: int
    digest: str
    checksum: str
    repeats: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an output as it was read back, in the order of its arrival."""

    key: str
    sequence: int
    part: int
    text: str
    checksum: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong with one output; all zero where nothing is."""

    missing: int = 0
    duplicate: int = 0
    misordered: int = 0
    corrupt: int = 0
    phantom: int = 0
    examples: Sequence[str] = ()

    def __str__(self) -> str:
        counts = {name: value for name, value in asdict(self).items() if name != "examples" and value}
        return ", ".join(f"{value} {name}" for name, value in counts.items()) + f" (such as {'; '.join(self.examples[:4])})"

    @property
    def clean(self) -> bool:
        return not (self.missing or self.duplicate or self.misordered or self.corrupt or self.phantom)


@dataclass(frozen=True, slots=True)
class Expected:
    """What an undisturbed run comes to."""

    received: int
    delivered: int
    filtered: int
    deduplicated: int
    dead_lettered: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How much input, and of what sort.

    :ivar lines: in all files together.
    :ivar repetitions: share of the lines that repeat an earlier one, of any file; 0 where the pipeline does not deduplicate.
    :ivar weights: how likely each kind of line is.
    """

    lines: int = 1200
    files: int = 3
    repetitions: float = 0.0
    weights: Mapping[Kind, int] = field(default_factory=lambda: WEIGHTS)


def checksum(key: str, sequence: int, text: str) -> str:
    """Of what an event carries; computed when it is written, and again of what arrived."""
    return blake2b(json.dumps([key, sequence, text]).encode(), digest_size=8).hexdigest()


def write_input(directory: Path, record: Path, rng: random.Random, plan: Plan) -> None:
    """Write the input files into `directory` and the record of every line to `record` (JSON lines), which must lie elsewhere."""
    directory.mkdir(parents=True)
    writer = _Writer(rng, plan)
    names = [f"part-{index}.jsonl" for index in range(plan.files)]
    bounds = sorted(rng.randrange(1, plan.lines) for _ in names[1:])
    lines: list[Line] = []
    for name, start, end in zip(names, [0, *bounds], [*bounds, plan.lines], strict=True):
        texts = []
        for number in range(end - start):
            text, line = writer.line(name, number)
            texts.append(text + b"\n")
            lines.append(line)
        (directory / name).write_bytes(b"".join(texts))
    record.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))


class _Writer:
    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self._rng = rng
        self._repetitions, self._weights = plan.repetitions, plan.weights
        self._sequences: Counter[str] = Counter()
        self._written: list[tuple[bytes, Line]] = []

    def line(self, file: str, number: int) -> tuple[bytes, Line]:
        if self._written and self._rng.random() < self._repetitions:
            text, first = self._rng.choice(self._written[-200:] if self._rng.random() < 0.7 else self._written)
            values = asdict(first) | {"file": file, "number": number, "repeats": (first.file, first.number)}
            return text, Line(**values)
        text, line = self._fresh(file, number)
        if line.kind not in ("garbage", "oversized"):  # without data they have no key to be recognised by
            self._written.append((text, line))
        return text, line

    def _fresh(self, file: str, number: int) -> tuple[bytes, Line]:
        rng = self._rng
        kind = rng.choices(list(self._weights), list(self._weights.values()))[0]
        key = f"k{rng.randrange(KEYS)}"
        sequence = self._sequences[key]
        self._sequences[key] += 1
        words = " ".join(rng.choice(_WORDS) for _ in range(rng.randrange(1, 12)))
        text = words + "x" * MAX_RECORD if kind == "oversized" else words
        parts = {"split": rng.randrange(2, 5), "refused_part": 3, "none": 0}.get(kind, 1)
        total = checksum(key, sequence, text)
        data = {"key": key, "sequence": sequence, "kind": kind, "parts": parts, "text": text, "checksum": total}
        raw = json.dumps(data, ensure_ascii=rng.random() < 0.5).encode()
        if kind == "garbage":
            raw = raw[: -rng.randrange(1, 20)]
        digest = blake2b(raw, digest_size=16).hexdigest()
        return raw, Line(file, number, kind, key, sequence, parts, digest, total)


class Oracle:
    """Knows what was written, and so what must come out.

    :param refuses: whether an output refuses rows of the kinds `refused` and `refused_part`.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self._place = {(line.key, line.sequence): (line, index) for index, line in reversed(list(enumerate(lines)))}

    @classmethod
    def load(cls, record: Path) -> Oracle:
        """From the record that `write_input` made."""
        lines = []
        for text in record.read_text().splitlines():
            values = json.loads(text)
            values["repeats"] = tuple(values["repeats"]) if values["repeats"] else None
            lines.append(Line(**values))
        return cls(lines)

    def rows(self, *, refuses: bool) -> list[tuple[str, int, int]]:
        """(key, sequence, part) of every row that an output must hold, in order."""
        return [
            (line.key, line.sequence, part)
            for line in self.lines
            if line.repeats is None and not self._fails(line, refuses) and line.kind != "filtered"
            for part in range(line.parts)
        ]

    def totals(self, *, refuses: bool) -> Expected:
        """What the state store must count; `refuses` says whether any output refuses."""
        repeated = sum(line.repeats is not None for line in self.lines)
        dead = len(self.dead_letters(refuses=refuses))
        filtered = sum(line.repeats is None and line.kind in ("filtered", "none") for line in self.lines)
        received = len(self.lines)
        return Expected(received, received - repeated - dead - filtered, filtered, repeated, dead)

    def dead_letters(self, *, refuses: bool) -> dict[tuple[str, str], int]:
        """By file and digest of the line: how many repetitions its dead letter must have counted."""
        repetitions = Counter(line.repeats for line in self.lines if line.repeats is not None)
        return {
            (line.file, line.digest): repetitions[line.file, line.number]
            for line in self.lines
            if line.repeats is None and self._fails(line, refuses)
        }

    @staticmethod
    def _fails(line: Line, refuses: bool) -> bool:
        return line.kind in ("error", "garbage", "oversized") or (refuses and line.kind in ("refused", "refused_part"))

    def judge(self, rows: Iterable[Row], *, refuses: bool) -> Findings:
        """Count what is wrong with the rows of one output."""
        expected = self.rows(refuses=refuses)
        wanted = set(expected)
        seen: Counter[tuple[str, int, int]] = Counter()
        examples: list[str] = []
        corrupt = phantom = misordered = 0
        latest: dict[str, tuple[int, int]] = {}
        for row in rows:
            name = (row.key, row.sequence, row.part)
            if name not in wanted:
                phantom += 1
                examples.append(f"phantom {name}")
                continue
            line, index = self._place[row.key, row.sequence]
            if not row.checksum == line.checksum == checksum(row.key, row.sequence, row.text):
                corrupt += 1
                examples.append(f"corrupt {name}")
            seen[name] += 1
            if seen[name] > 1:
                examples.append(f"duplicate {name}, line {line.number} of {line.file}")
            elif latest.get(line.file, (-1, 0)) > (index, row.part):
                misordered += 1
                examples.append(f"misordered {name}, line {line.number} of {line.file}")
            else:
                latest[line.file] = (index, row.part)
        missing = [name for name in expected if name not in seen]
        examples.extend(f"missing {name}, {self._where(name)}" for name in missing[:4])
        duplicate = sum(count - 1 for count in seen.values())
        return Findings(len(missing), duplicate, misordered, corrupt, phantom, tuple(examples))

    def _where(self, name: tuple[str, int, int]) -> str:
        line, _ = self._place[name[0], name[1]]
        return f"line {line.number} of {line.file}, {line.kind}"
