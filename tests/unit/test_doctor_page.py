"""The page about doctor names every finding, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("penstock", "connectors")
_CODE = re.compile(r'"((?:doctor|environment|machine|postgres|publication|sink|slot|source|state)\.[a-z_]+)"')
_FOUND = re.compile(r'Finding\(\s*(?:"warning"|"error"|[^"\n]*?),\s*"([a-z_]+\.[a-z_]+)"')
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
