"""What a journal must hold after crashes: one line for each event that was received, with the outcome that counts.

Reads the segments with nothing but zstd and JSON, so that no code under test stands between.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

_OUTCOMES = ("delivered", "filtered", "deduplicated", "dead_lettered")


def journal_findings(
    directory: Path, totals: Mapping[str, int], letters: Collection[str], gone: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong with the journal of a pipeline that has these totals and these dead letters; nothing, if it is right.

    :param letters: ids of all dead letters.
    :param gone: those whose events the source may not have given again after a crash, with the ids of these: without a line,
        they were not counted either.
    """
    events: dict[tuple[str, str, str], dict[str, Any]] = {}
    findings = []
    for line in journal_lines(directory):
        identity = line.get("corrects") or line.get("given", {}).get("id") or line["event"]["id"]
        place = (line["partition"], line.get("position", ""), identity)
        if "corrects" in line:
            if place not in events:
                findings.append(f"a correction of {place}, which has no line")
            else:
                events[place].update({name: line.get(name) for name in ("outcome", "step", "letter")})
        elif place in events:
            findings.append(f"{place} has two lines")
        else:
            events[place] = line
    outcomes = Counter(line["outcome"] for line in events.values())
    expected = {name: totals[name] for name in _OUTCOMES}
    if (found := {name: outcomes[name] for name in _OUTCOMES}) != expected:
        findings.append(f"outcomes {found} instead of {expected}")
    told = {identity for _, _, identity in events}
    missing = {letter for letter, event in (gone or {}).items() if event not in told}
    dead = sorted(line["letter"] for line in events.values() if line["outcome"] == "dead_lettered")
    if dead != (known := sorted(set(letters) - missing)):
        findings.append(f"dead letters {sorted(set(dead) ^ set(known))[:3]} are in the journal or the store alone")
    return findings[:5]


def journal_lines(directory: Path) -> Iterator[dict[str, Any]]:
    """Every line of every segment, as they lie on the disk."""
    for path in sorted(directory.glob("*.jsonl.zst")):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
                yield json.loads(line)
