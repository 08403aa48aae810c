"""A file as plain data beside the places of its keys and values, by path: `("retry", "max_attempts")`, `("tests", 0)`.

References (`${VAR}`) are replaced on the way; a plain scalar is typed after that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from penstock.config.yaml import Node, read_yaml, resolve
from penstock.errors import ConfigProblem, ConfigurationError, Location

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """A file that was read.

    :ivar keys: where each key stands; `values`: where each value begins.
    :ivar blocks: values that are literal block scalars, whose text begins on the next line, with the indentation of that text.
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
        places: tuple[dict[Path, Any], ...] = (self.values, self.blocks, self.others, self.given)
        for known in places:
            if path in known:
                known[filled] = known[path]


def dotted(path: Path) -> str:
    """`transforms[1].jq`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(file: FilePath, shown: str, interpolate: Callable[[str], str], problems: list[ConfigProblem]) -> Document:
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
    document.data = _plain(document, root, (), interpolate, problems)
    _indent(document, text.splitlines())
    return document


def _indent(document: Document, lines: list[str]) -> None:
    """Keep of the block scalars those that are literal (`|`): the lines of a folded one are not those of its text."""
    for path in list(document.blocks):
        line, column = document.values[path]
        if lines[line - 1][column - 1] != "|":
            del document.blocks[path]
            continue
        first = next((text for text in lines[line:] if text.strip()), "")
        document.blocks[path] = len(first) - len(first.lstrip(" "))


def _plain(document: Document, node: Node, path: Path, interpolate: Callable[[str], str], problems: list[ConfigProblem]) -> Any:
    document.values[path] = node.mark
    value = node.value
    if isinstance(value, dict):
        for key, mark in node.keys.items():
            document.keys[(*path, key)] = mark
        return {key: _plain(document, inner, (*path, key), interpolate, problems) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(document, inner, (*path, index), interpolate, problems) for index, inner in enumerate(value)]
    if node.style == "block":
        document.blocks[path] = 0
    if isinstance(value, str) and "$" in value:
        try:
            text = interpolate(value)
            if text == value or node.style == "block":
                return text
            resolved = resolve(text)
            if isinstance(resolved, str):
                return text
            document.others[path] = text if node.style == "plain" else resolved
            return resolved if node.style == "plain" else text
        except ConfigProblem as error:
            error.where = document.at(path)
            problems.append(error)
        except ValueError as error:
            problems.append(ConfigProblem("config.number_out_of_range", str(error), where=document.at(path)))
    return value
