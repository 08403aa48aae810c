"""YAML with places: every key and value knows its line and column, and what a hostile or careless file can do is bounded.

YAML 1.2 core scalars (`no` is a string), one document, no tags, no duplicate keys, no merge keys; size, depth, aliases and
expanded nodes are capped. Source: YAML 1.2.2, chapter 10.3 (core schema).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.config.scalars import joined, resolve
from penstock.errors import ConfigProblem, ConfigurationError, Location

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_NODES = 50_000

Style = Literal["plain", "quoted", "literal", "folded"]
Mark = tuple[int, int]

_STYLES: dict[str | None, Style] = {"'": "quoted", '"': "quoted", "|": "literal", ">": "folded"}


@dataclass(slots=True)
class Node:
    """A value and its place.

    :ivar value: a scalar, a list of nodes, or a mapping of nodes by key.
    :ivar mark: line and column of the value, one-based.
    :ivar keys: for a mapping, the place of each key.
    :ivar style: how a scalar is written; only a plain one can be anything but text. The text of a literal one (`|`) begins on the
        line behind the mark.
    :ivar size: values in it, itself included, aliases expanded.
    :ivar height: levels of lists and mappings in it.
    """

    value: Any
    file: str
    mark: Mark = (0, 0)
    keys: dict[str, Mark] = field(default_factory=dict)
    style: Style = "plain"
    size: int = 1
    height: int = 0

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


def _sized(node: Node, inner: Collection[Node]) -> Node:
    node.size = 1 + sum(each.size for each in inner)
    node.height = 1 + max((each.height for each in inner), default=0)
    return node


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
        if self.nodes > MAX_NODES:
            raise _refused("config.too_large", f"the file holds more than {MAX_NODES} values", self._place(event))
        if depth > MAX_DEPTH:
            raise self._too_deep(event)
        if kind == "AliasEvent":
            return self._alias(event, depth)
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
        style = _STYLES.get(event.style, "plain")
        try:
            value = resolve(event.value) if style == "plain" else joined(event.value)
        except UnicodeError:
            self._problem("config.not_utf8", "half of a surrogate pair is no character", event)
            value = None
        except ValueError as error:
            self._problem("config.number_out_of_range", str(error), event)
            value = None
        return Node(value, self.file, mark, style=style)

    def _sequence(self, events: Iterator[Any], mark: Mark, depth: int) -> Node:
        items = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            items.append(self._node(event, events, depth + 1))
        return _sized(Node(items, self.file, mark), items)

    def _mapping(self, events: Iterator[Any], mark: Mark, depth: int) -> Node:
        node = Node({}, self.file, mark)
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            key = self._key(event, events, depth)
            inner = next(events)
            value = self._node(inner, events, depth + 1)
            if value.value is None and inner.start_mark.index == inner.end_mark.index:
                value.mark = (event.start_mark.line + 1, event.start_mark.column + 1)  # nothing is there: show its key
            if key in node.value:
                help = f"the first is at line {node.keys[key][0]}: keep one of them"
                self._problem("config.duplicate_key", f"the key '{key}' stands twice", event, help)
                continue
            node.value[key] = value
            node.keys[key] = (event.start_mark.line + 1, event.start_mark.column + 1)
        return _sized(node, node.value.values())

    def _key(self, event: Any, events: Iterator[Any], depth: int) -> str:
        key = self._node(event, events, depth + 1)
        if isinstance(key.value, (dict, list)):
            self._problem("config.key_not_text", "a key must be text", event)
            return ""
        if key.value == "<<" and key.style == "plain":
            self._problem(
                "config.merge_key", "merge keys (<<) are not part of YAML 1.2", event, "write the fields out, or use an alias"
            )
        return key.value if isinstance(key.value, str) else str(getattr(event, "value", key.value))

    def _alias(self, event: Any, depth: int) -> Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            raise _refused("config.too_many_aliases", f"more than {MAX_ALIASES} aliases", self._place(event))
        anchor = self.anchors.get(str(event.anchor))
        if anchor is None:
            raise _refused("config.unknown_alias", f"there is no anchor '&{event.anchor}' before this alias", self._place(event))
        if depth + anchor.height > MAX_DEPTH:
            raise self._too_deep(event)
        return anchor

    def _too_deep(self, event: Any) -> ConfigurationError:
        return _refused("config.too_deep", f"nested more than {MAX_DEPTH} deep", self._place(event))

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag
        if tag is not None and not (tag == "!" and getattr(event, "style", None)):
            self._problem("config.tag", f"tags are not allowed: {tag}", event, "remove it; a quoted value is always text")

    def _place(self, event: Any) -> Location:
        return Location(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _problem(self, code: str, message: str, event: Any, help: str | None = None) -> None:
        self.problems.append(ConfigProblem(code, message, where=self._place(event), help=help))
