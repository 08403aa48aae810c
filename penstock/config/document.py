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
    :ivar blocks: values that are block scalars, whose text begins on the next line.
    """

    file: str
    data: Any = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    blocks: set[Path] = field(default_factory=set)

    def at(self, path: Path, *, key: bool = False) -> Location:
        """The place of a value (or of its key); of the nearest thing around it where it does not stand in the file."""
        marks = self.keys if key and path in self.keys else self.values
        near = path
        while near and near not in marks and near not in self.keys:
            near = near[:-1]
        line, column = marks.get(near) or self.keys.get(near) or (1, 1)
        return Location(self.file, line, column, dotted(path))


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
        root, _ = read_yaml(file, shown=shown)
    except ConfigurationError as error:
        problems.extend(error.problems)
        return document
    document.data = _plain(document, root, (), interpolate, problems)
    return document


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
        document.blocks.add(path)
    if isinstance(value, str) and "$" in value:
        try:
            text = interpolate(value)
            return resolve(text) if node.style == "plain" else text
        except ConfigProblem as error:
            error.where = document.at(path)
            problems.append(error)
        except ValueError as error:
            problems.append(ConfigProblem("config.number_out_of_range", str(error), where=document.at(path)))
    return value
