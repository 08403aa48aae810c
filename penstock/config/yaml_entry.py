"""An entry added to a list of a YAML file whose text otherwise stays as it is: comments, quotes, order, line ends.

The text is cut at one place, which the parser's own marks give. Whether the result says what it should is checked by reading it
again; where it does not, nothing is returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from penstock.config.scalars import resolve
from penstock.config.yaml import Node, parse_yaml
from penstock.errors import ConfigProblem, UsageError

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./ -]*(?<! )")
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_WIDTH = 110


def with_entry(text: str, key: str, entry: Mapping[str, Any], file: str) -> str:
    """The text of a file with one more entry at the end of the list under this key, which is made where there is none.

    :raises ConfigurationError: the text is no YAML.
    :raises UsageError: `dlq.cannot_insert`, where the list is written so that nothing can be added; the entry is in `help`.
    """
    root = parse_yaml(text, file)
    ends = "\r\n" if "\r\n" in text else "\n"
    plain = text.replace("\r\n", "\n")
    made = _made(plain, root, key, entry)
    if made is None or not _says(made, root, key, entry, file):
        shown = "\n".join(["", f"{key}:", *_item(entry, 2)])
        raise UsageError("dlq.cannot_insert", f"{file} cannot be added to by a program", help=f"add this to it yourself:{shown}")
    return made.replace("\n", ends)


def _made(text: str, root: Node, key: str, entry: Mapping[str, Any]) -> str | None:
    if not isinstance(root.value, dict):
        return None
    if key not in root.value:
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}\n{key}:\n{_lines(_item(entry, 2))}"
    lines = text.split("\n")
    line, end = root.keys[key][0] - 1, _end(lines, root, key)
    value = root.value[key].value
    if isinstance(value, list) and value and _is_block(lines, root.value[key]):
        indent = lines[value[0].mark[0] - 1].index("-")
        return "\n".join([*lines[:end], *_spaced(lines, root.value[key], end), *_item(entry, indent), *lines[end:]])
    if value is None or value == []:
        head = re.match(r"""(["']?[\w-]+["']?\s*:)\s*(\[\s*\]|null|~)?\s*(#.*)?$""", lines[line])
        if head is None:
            return None
        kept = " ".join(filter(None, (head[1], head[3])))
        return "\n".join([*lines[:line], kept, *lines[line + 1 : end], *_item(entry, 2), *lines[end:]])
    return _in_flow(lines, end, entry) if isinstance(value, list) else None


def _end(lines: list[str], root: Node, key: str) -> int:
    """The line behind the last one that belongs to the key: what stands between it and the next key belongs to that."""
    later = [mark[0] - 1 for mark in root.keys.values() if mark > root.keys[key]]
    end = min(later, default=len(lines))
    while end and (not lines[end - 1].strip() or lines[end - 1].startswith(("#", "..."))):
        end -= 1
    return end


def _is_block(lines: list[str], node: Node) -> bool:
    return lines[node.value[0].mark[0] - 1].lstrip().startswith("- ") and not lines[node.mark[0] - 1].strip().startswith("[")


def _spaced(lines: list[str], node: Node, end: int) -> list[str]:
    """An empty line, where the entries before have one between them."""
    if len(node.value) < 2:
        return [""] if end - node.value[0].mark[0] > 2 else []
    return [""] if not lines[node.value[1].mark[0] - 2].strip() else []


def _in_flow(lines: list[str], end: int, entry: Mapping[str, Any]) -> str | None:
    """Behind the last entry between brackets."""
    head, bracket, tail = lines[end - 1].rpartition("]")
    if not bracket or (tail.strip() and not tail.lstrip().startswith("#")):
        return None
    above = lines[end - 2] if end > 1 else ""
    if not head.strip() and above.rstrip().endswith(","):
        indent = above[: len(above) - len(above.lstrip())]
        return "\n".join([*lines[: end - 1], f"{indent}{_flow(_escaped(entry))},", *lines[end - 1 :]])
    before = "\n".join([*lines[: end - 1], head]).rstrip()
    comma = "" if before.endswith(",") else ","
    return "\n".join([f"{before}{comma} {_flow(_escaped(entry))}]{tail}", *lines[end:]])


def _says(text: str, root: Node, key: str, entry: Mapping[str, Any], file: str) -> bool:
    """Whether the text says all that it said, and the entry."""
    try:
        now, before = parse_yaml(text, file).plain(), root.plain()
    except ConfigProblem:
        return False
    before[key] = [*(before.get(key) or []), _escaped(entry)]
    return bool(now == before) and json.dumps(now, sort_keys=True) == json.dumps(before, sort_keys=True)  # 1 is not 1.0, nor true


def _escaped(value: Any) -> Any:
    """What references to variables are looked for in."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, Mapping):
        return {str(name): _escaped(inner) for name, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _item(entry: Mapping[str, Any], indent: int) -> list[str]:
    inner = _block(_escaped(entry), indent + 2)
    return [" " * indent + "- " + inner[0].lstrip(), *inner[1:]]


def _block(value: Any, indent: int) -> list[str]:
    """Lines of a mapping or list; what fits on one is written there."""
    space = " " * indent
    if isinstance(value, dict):
        lines = []
        for name, inner in value.items():
            head = f"{space}{_scalar(name)}:"
            lines += _one_line(head, inner, indent) or [head, *_block(inner, indent + 2)]
        return lines
    lines = []
    for inner in value:
        nested = _one_line(f"{space}-", inner, indent)
        if nested is None:
            below = _block(inner, indent + 2)
            nested = [f"{space}- {below[0].lstrip()}", *below[1:]]
        lines += nested
    return lines


def _one_line(head: str, value: Any, indent: int) -> list[str] | None:
    line = f"{head} {_flow(value)}"
    nested = isinstance(value, (dict, list)) and bool(value)
    return None if nested and len(line) > _WIDTH else [line]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_scalar(name)}: {_flow(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and resolve(value) == value and len(value) < 200:
        return value
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
