"""The page about doctor names every finding, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("penstock", "connectors")
_CODE = re.compile(
    r'"((?:doctor|environment|journal|machine|postgres|publication|signals|sink|slot|snapshot|source|state)\.[a-z_]+)"'
)
_FOUND = re.compile(r'Finding\(\s*(?:"warning"|"error"|[^"\n]*?),\s*"([a-z_]+\.[a-z_]+)"')
_FAULT = re.compile(
    r'EnvironmentFault\(\s*"((?:doctor|environment|journal|machine|postgres|publication|sink|slot|source|state)\.[a-z_]+)"'
)
_OF_RUNS = frozenset(
    """
    publication.made_later
    sink.file
    sink.file_held
    sink.file_replaced
    sink.file_shared
    sink.file_shorter
    sink.file_symlink
    sink.file_tail_too_large
    sink.missing_schema
    sink.overwrites
    sink.schema
    sink.stdout
    sink.tombstones
    sink.unknown_state
    source.csv_header
    source.malformed_json
    source.masked_key
    source.no_origin
    source.no_partitions
    source.no_schemas
    source.no_time
    source.spill_full
    source.table_renamed
    source.truncated_json
    source.unknown_checkpoint
    source.unreadable
    source.vanished
    state.held
    state.missing
    state.restored
    """.split()
)
"""Faults of the environment that a run alone can meet: while it reads or writes, or where it has something to go on with. Whoever
adds a code says on which side it is."""

_SOUND = re.compile(r'Finding\(\s*"ok",\s*"([a-z_]+\.[a-z_]+)"')


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def on_the_page() -> set[str]:
    rows = [line for line in (ROOT / "docs/doctor.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {code for row in rows for code in re.findall(r"`([a-z_]+\.[a-z_]+)`", row.split(" | ")[0])}


def test_every_code_on_the_page_is_one_of_the_program() -> None:
    assert on_the_page() - set(_CODE.findall(sources())) == set()


def test_every_finding_that_is_wrong_is_on_the_page() -> None:
    text = sources()
    found = {code for code in _FOUND.findall(text) if code not in ("config.warning",)}
    assert found
    assert found - on_the_page() == set()
    assert set(_SOUND.findall(text))


def test_every_fault_of_the_environment_is_on_the_page_or_known_to_be_of_runs_alone() -> None:
    assert set(_FAULT.findall(sources())) - on_the_page() == _OF_RUNS
