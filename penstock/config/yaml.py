"""YAML with places: every key and value knows its line and column, and what a hostile or careless file can do is bounded.

YAML 1.2 core scalars (`no` is a string), one document, no tags, no duplicate keys, no merge keys; size, depth, aliases and
expanded nodes are capped. Source: YAML 1.2.2, chapter 10.3 (core schema).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from penstock.errors import ConfigProblem, ConfigurationError, Location

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_NODES = 100_000

Style = Literal["plain", "quoted", "block", "given"]
Mark = tuple[int, int]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(slots=True)
class Node:
    """A value and its place.

    :ivar value: a scalar, a list of nodes, or a mapping of nodes by key.
    :ivar mark: line and column of the value, one-based.
    :ivar keys: for a mapping, the place of each key.
    :ivar style: how a scalar is written; only a plain one can be anything but text. `given`: it does not come from a file.
    :ivar interpolated: the text came about through `${…}`, so it is not shown in messages.
    :ivar text: a block scalar's first line is `mark[0] + 1`.
    """

    value: Any
    file: str
    mark: Mark = (0, 0)
    keys: dict[str, Mark] = field(default_factory=dict)
    style: Style = "plain"
    interpolated: bool = False
    size: int = 1

    def at(self, path: str, *, key: str | None = None) -> Location:
        """Where it stands; with `key`, where that key of the mapping stands."""
        line, column = self.keys.get(key, self.mark) if key is not None else self.mark
        return Location(self.file, line, column, path)

    def plain(self) -> Any:
        """The value as JSON would hold it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def walk(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """Every node under this one, itself included, with its path."""
        yield path, self
        if isinstance(self.value, dict):
            for key, node in self.value.items():
                yield from node.walk(join(path, key))
        elif isinstance(self.value, list):
            for index, node in enumerate(self.value):
                yield from node.walk(f"{path}[{index}]")

    def with_value(self, value: Any) -> Node:
        """The same place with another value."""
        return replace(self, value=value)


def join(path: str, key: str) -> str:
    """The configuration path of a key."""
    return f"{path}.{key}" if path else key


def read_yaml(file: Path, *, shown: str | None = None) -> tuple[Node, str]:
    """The document of a file, and its text.

    :param shown: how messages call the file.
    :raises ConfigurationError: it cannot be read, or is not the YAML described above.
    """
    shown = shown or str(file)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(
            "config.unreadable", f"{shown} cannot be read: {error.strerror}", Location(shown), "is the path right?"
        ) from error
    if len(content) > MAX_BYTES:
        raise _refused("config.too_large", f"the file is larger than {MAX_BYTES >> 20} MiB", Location(shown))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused("config.not_utf8", f"byte {error.start} is not UTF-8", Location(shown, line)) from error
    return parse_yaml(text, shown), text


def parse_yaml(text: str, file: str) -> Node:
    """The one document of a text; an empty one is null.

    :raises ConfigurationError: it is not the YAML described above.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _Builder(file).build(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
        raise _refused(
            "config.yaml", f"this is not YAML: {error.problem or error.context}", place, _syntax_help(error)
        ) from error
    except YAMLError as error:
        raise _refused("config.yaml", f"this is not YAML: {str(error).splitlines()[0]}", Location(file)) from error


def resolve(text: str) -> Any:
    """A plain scalar's value by the YAML 1.2 core schema.

    :raises ValueError: it is a number that JSON cannot say.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and NaN cannot be used")
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text} is too large for a number")
        return number
    return text


def _integer(text: str) -> int:
    if len(text) > 1000:
        raise ValueError("the number has more than 1,000 digits")
    return int(text)


def _syntax_help(error: Any) -> str | None:
    problem = error.problem or ""
    if "cannot start any token" in problem:
        return (
            "indent with spaces, and quote a value that begins with @, ` or %" if "'\\t'" not in problem else "indent with spaces"
        )
    if "but got '{'" in problem:
        return "inside { } and [ ] put a reference such as ${VAR} in quotes"
    if "mapping values are not allowed" in problem:
        return "quote a value that holds ': ', or write it as a block with |"
    return None


def _refused(code: str, message: str, where: Location, help: str | None = None) -> ConfigurationError:
    return ConfigurationError([ConfigProblem(code, message, where=where, help=help)])


@dataclass(slots=True)
class _Builder:
    """Makes nodes of parser events, which come one by one, so that the caps hold while reading."""

    file: str
    anchors: dict[str, Node] = field(default_factory=dict)
    aliases: int = 0
    nodes: int = 0
    problems: list[ConfigProblem] = field(default_factory=list)

    def build(self, events: Any) -> Node:
        events = iter(events)
        root: Node | None = None
        for event in events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent" and root is not None:
                raise _refused(
                    "config.many_documents", "the file holds several YAML documents", self._place(event), "one file, one"
                )
            if kind in ("StreamStartEvent", "StreamEndEvent", "DocumentStartEvent", "DocumentEndEvent"):
                continue
            root = self._node(event, events, 0)
        if self.problems:
            raise ConfigurationError(self.problems)
        return root if root is not None else Node(None, self.file, (1, 1))

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        kind = type(event).__name__
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise _refused("config.too_deep", f"nested more than {MAX_DEPTH} deep", self._place(event))
        if kind == "AliasEvent":
            return self._alias(event)
        self._refuse_tag(event)
        mark = (event.start_mark.line + 1, event.start_mark.column + 1)
        if kind == "ScalarEvent":
            node = self._scalar(event, mark)
        elif kind == "SequenceStartEvent":
            node = self._sequence(events, mark, depth)
        else:
            node = self._mapping(events, mark, depth)
        if node.size > MAX_NODES:
            raise _refused("config.too_large", f"aliases expand to more than {MAX_NODES} values", self._place(event))
        if event.anchor is not None:
            self.anchors[str(event.anchor)] = node
        return node

    def _scalar(self, event: Any, mark: Mark) -> Node:
        style: Style = "block" if event.style in ("|", ">") else "quoted" if event.style else "plain"
        try:
            value = resolve(event.value) if style == "plain" else event.value
        except ValueError as error:
            self.problems.append(ConfigProblem("config.number_out_of_range", str(error), where=Location(self.file, *mark)))
            value = None
        return Node(value, self.file, mark, style=style)

    def _sequence(self, events: Iterator[Any], mark: Mark, depth: int) -> Node:
        items = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            items.append(self._node(event, events, depth + 1))
        return Node(items, self.file, mark, size=1 + sum(item.size for item in items))

    def _mapping(self, events: Iterator[Any], mark: Mark, depth: int) -> Node:
        node = Node({}, self.file, mark)
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            key = self._key(event, events, depth)
            value = self._node(next(events), events, depth + 1)
            if key in node.value:
                help = f"the first is at line {node.keys[key][0]}: keep one of them"
                self._problem("config.duplicate_key", f"the key '{key}' stands twice", event, help)
                continue
            node.value[key] = value
            node.keys[key] = (event.start_mark.line + 1, event.start_mark.column + 1)
        node.size = 1 + sum(value.size for value in node.value.values())
        return node

    def _key(self, event: Any, events: Iterator[Any], depth: int) -> str:
        key = self._node(event, events, depth + 1)
        if isinstance(key.value, (dict, list)):
            self._problem("config.key_not_text", "a key must be text", event)
            return ""
        if key.value == "<<" and key.style == "plain":
            self._problem(
                "config.merge_key", "merge keys (<<) are not part of YAML 1.2", event, "write the fields out, or use an alias"
            )
        return str(event.value) if not isinstance(key.value, str) else key.value

    def _alias(self, event: Any) -> Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise _refused("config.too_many_aliases", f"more than {MAX_ALIASES} aliases", self._place(event))
        anchor = self.anchors.get(str(event.anchor))
        if anchor is None:
            raise _refused("config.unknown_alias", f"there is no anchor '&{event.anchor}' before this alias", self._place(event))
        return anchor

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag
        if tag is not None and not (tag == "!" and getattr(event, "style", None)):
            self._problem("config.tag", f"tags are not allowed: {tag}", event, "remove it; a quoted value is always text")

    def _place(self, event: Any) -> Location:
        return Location(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, code: str, message: str, event: Any, help: str | None = None) -> None:
        self.problems.append(ConfigProblem(code, message, where=self._place(event), help=help))
