"""A file as plain data beside the places of its keys and values, by path: `("retry", "max_attempts")`, `("tests", 0)`.

References (`${VAR}`) are replaced on the way; a plain scalar is typed after that. A reference is never null: an empty variable is
empty text, so that a forgotten secret is not taken for a field left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from penstock.config.interpolate import Interpolated
from penstock.config.scalars import resolve
from penstock.config.secret import MASK
from penstock.config.yaml import Node, read_yaml
from penstock.errors import ConfigProblem, ConfigurationError, Location

Path = tuple[str | int, ...]


class Reference(NamedTuple):
    """A value as it stands in the file, and what it refers to (`VAR`, `file:/path`)."""

    text: str
    names: list[str]

    @property
    def is_secret(self) -> bool:
        """A file holds a secret; whether a variable does, its field says."""
        return any(name.startswith("file:") for name in self.names)


_SHORT = 4
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(slots=True)
class Document:
    """A file that was read.

    :ivar keys: where each key stands; `values`: where each value begins.
    :ivar blocks: values that are literal block scalars, whose text begins on the next line, with the indentation of that text.
    :ivar references: values that refer to something outside the file.
    :ivar foreign: for each value that came from outside the file, in whole or in part, what came: errors do not show it.
    :ivar others: values with references as they may be read too: what the plain `${PORT}` is as text, the quoted one as a number.
        The field decides.
    :ivar bare: fields that a bare value fills (`jq: .x`), with the path as it is written.
    :ivar given: values from around the file (a variable, `--set`), with how messages call their place.
    """

    file: str
    data: Any = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    blocks: dict[Path, int] = field(default_factory=dict)
    others: dict[Path, Any] = field(default_factory=dict)
    given: dict[Path, str] = field(default_factory=dict)
    references: dict[Path, Reference] = field(default_factory=dict)
    foreign: dict[Path, list[str]] = field(default_factory=dict)
    bare: dict[Path, Path] = field(default_factory=dict)

    def at(self, path: Path, *, key: bool = False) -> Location:
        """The place of a value (or of its key); of the nearest thing around it where it does not stand in the file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.given:
                return Location(self.given[path[:length]], path=self._written(path))
        inside = next((given for given in self.given if given[: len(path)] == path), None)
        if inside is not None and path not in self.values:
            return Location(self.given[inside], path=self._written(path))
        marks = self.keys if key and path in self.keys else self.values
        near = path
        while near and near not in marks and near not in self.keys:
            near = near[:-1]
        line, column = marks.get(near) or self.keys.get(near) or (1, 1)
        return Location(self.file, line, column, self._written(path))

    def _written(self, path: Path) -> str:
        for field_path, bare in self.bare.items():
            if path[: len(field_path)] == field_path:
                return dotted((*bare, *path[len(field_path) :]))
        return dotted(path)

    def inside(self, path: Path, line: int, column: int) -> Location:
        """A place inside a text, one-based: exact in a literal block, elsewhere the text's beginning."""
        at = self.at(path)
        if path not in self.blocks or path in self.given:
            return at
        return Location(at.file, at.line + line, column + self.blocks[path], at.path)

    def stand_in(self, path: Path, filled: Path) -> None:
        """A bare value stands for a block: its place is that of the field that it fills."""
        self.bare[filled] = path
        places: tuple[dict[Path, Any], ...] = (self.values, self.blocks, self.others, self.given, self.references)
        for known in places:
            if path in known:
                known[filled] = known[path]

    def conceal(self, problem: ConfigProblem) -> None:
        """Take out of a problem what came from outside the file into the value it is about (Invariant 9)."""
        if not isinstance(problem.where, Location):
            return
        path = problem.where.path
        for about, values in self.foreign.items():
            written = self._written(about)
            if path.startswith(written) or written.startswith(path):
                problem.message = _without(problem.message, values)
                problem.why = problem.why and _without(problem.why, values)
                problem.help = problem.help and _without(problem.help, values)
                problem.where = replace(problem.where, path=_without(problem.where.path, values))


def _without(text: str, values: Iterable[str]) -> str:
    """The text with the values masked, also as they look in quotes; of a very short one, which may be a part of any word, only
    these."""
    spelled = [
        {value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]} for value in values
    ]
    for form in sorted(set().union(*spelled), key=len, reverse=True):
        if len(form) >= _SHORT:
            text = text.replace(form, MASK)
        elif form:
            text = re.sub(rf"""(['"`]){re.escape(form)}(?=['"`])""", rf"\1{MASK}", text)
    return text


def dotted(path: Path) -> str:
    """`transforms[1].jq`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(
    file: FilePath, shown: str, interpolate: Callable[[str], Interpolated], problems: list[ConfigProblem]
) -> Document:
    """The file's document; what is wrong with it is told to `problems`, and its data is None where it cannot be read at all.

    :param shown: how messages call the file.
    :param interpolate: applied to every scalar value; raises `ConfigProblem`, to which the place is added here.
    """
    document = Document(shown)
    try:
        root, text = read_yaml(file, shown=shown)
    except ConfigurationError as error:
        problems.extend(error.problems)
        return document
    document.data = _Reader(document, _LINE_END.split(text), interpolate, problems).plain(root, ())
    return document


@dataclass(slots=True)
class _Reader:
    """Nodes to plain data, their places to the document."""

    document: Document
    lines: list[str]
    interpolate: Callable[[str], Interpolated]
    problems: list[ConfigProblem]

    def plain(self, node: Node, path: Path) -> Any:
        document, value = self.document, node.value
        document.values[path] = node.mark
        if isinstance(value, dict):
            document.keys.update({(*path, key): mark for key, mark in node.keys.items()})
            return {key: self.plain(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.plain(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        if node.style == "literal":
            self._indent(node, path)
        return self._replaced(node, path) if "${" in value else value

    def _indent(self, node: Node, path: Path) -> None:
        """Find how far a literal block is indented: its first line with text stands in the file behind that much space."""
        for number, text in enumerate(node.value.split("\n")):
            line = self.lines[node.mark[0] + number] if node.mark[0] + number < len(self.lines) else ""
            if text.strip():
                if line.endswith(text):
                    self.document.blocks[path] = len(line) - len(text)
                return

    def _replaced(self, node: Node, path: Path) -> Any:
        try:
            text, values, names = self.interpolate(node.value)
        except ConfigProblem as error:
            error.where = self.document.at(path)
            self.problems.append(error)
            return node.value
        if names:
            self.document.references[path] = Reference(node.value, names)
        if values:
            self.document.foreign[path] = values
        if text != node.value:
            self.document.blocks.pop(path, None)
        if node.style in ("literal", "folded"):
            return text
        try:
            typed = resolve(text)
        except ValueError as error:
            self.problems.append(ConfigProblem("config.number_out_of_range", str(error), where=self.document.at(path)))
            return None
        if typed is None or isinstance(typed, str):
            return text
        self.document.others[path] = text if node.style == "plain" else typed
        return typed if node.style == "plain" else text
