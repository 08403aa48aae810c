"""The documents about invariants and decisions name only what exists, and leave none out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ADR = DOCS / "adr"
ROOMS = ("penstock", "connectors", "transforms", "registry", "dlq", "backfill", "verify")
NUMBERS = range(1, 14)
_CITATION = re.compile(r"#.*\bInvariants? ((?:\d+(?:, | and )?)+)")
_CODE = re.compile(r"`((?:penstock|connectors|transforms|registry|dlq|backfill|verify|tests|bench)/[\w./]*)(?:(::?)([\w.]+))?`")


def cited() -> dict[int, set[str]]:
    """In which files a comment names each invariant."""
    places: dict[int, set[str]] = {number: set() for number in NUMBERS}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for found in _CITATION.finditer(path.read_text(encoding="utf-8")):
                for number in re.findall(r"\d+", found[1]):
                    places[int(number)].add(path.relative_to(ROOT).as_posix())
    return places


@cache
def names_in(path: Path) -> frozenset[str]:
    """Every function and class of a module, with the class that it belongs to."""
    names: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return frozenset(names)


def missing(document: Path) -> list[str]:
    """What a document names in backticks that does not exist: files, and functions or tests in them."""
    wrong = []
    for path, _, name in _CODE.findall(document.read_text(encoding="utf-8")):
        place = ROOT / path
        if not place.exists():
            wrong.append(path)
        elif name and name not in names_in(place):
            wrong.append(f"{path}:{name}")
    return wrong


def sections() -> dict[int, str]:
    parts = re.split(r"^## (\d+)\. .*$", (DOCS / "invariants.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def decisions() -> list[str]:
    return sorted(path.name for path in ADR.glob("[0-9]*.md"))


def test_every_invariant_is_cited_by_a_comment_where_code_enforces_it() -> None:
    assert [number for number, places in cited().items() if not places] == []


def test_every_invariant_has_its_section_with_code_and_tests_in_order() -> None:
    found = sections()
    assert list(found) == list(NUMBERS)
    assert [n for n, text in found.items() if "- Code: " not in text or "- Tests: `tests/" not in text] == []


@pytest.mark.parametrize(
    "document", ["invariants.md", "guarantees.md", *(f"adr/{name}" for name in decisions())], ids=lambda name: name
)
def test_a_document_names_only_what_exists(document: str) -> None:
    assert missing(DOCS / document) == []


def test_the_index_of_decisions_lists_each_of_them_once_in_order() -> None:
    index = (ADR / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index) == decisions()
    assert [int(name[:4]) for name in decisions()] == list(range(1, len(decisions()) + 1))


def test_a_decision_says_its_context_what_was_decided_and_what_follows() -> None:
    for name in decisions():
        text = (ADR / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {int(name[:4])}. "), name
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        assert [heading for heading in ("Context", "Decision", "Consequences") if heading not in headings] == [], name


def test_guarantees_speak_of_effects_and_never_of_delivery() -> None:
    text = " ".join((DOCS / "guarantees.md").read_text(encoding="utf-8").split())
    assert "exactly-once effects" in text
    assert "exactly-once delivery" not in text.lower()
