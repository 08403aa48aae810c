"""Short forms written out: a bare name for a component without options, a bare value for the field that a component declares."""

from __future__ import annotations

from typing import Any

from penstock.components import Catalog, Kind
from penstock.config.base import ComponentConfig
from penstock.config.document import Document, Path
from penstock.errors import PenstockError

_SINGLE: dict[str, Kind] = {"source": "source", "sink": "sink"}
_LISTED: dict[str, Kind] = {"transforms": "transform", "sinks": "sink"}


def as_block(model: type[ComponentConfig], options: Any, document: Document, path: Path) -> Any:
    """The options of a component as a block: nothing is an empty one, a bare value fills the field that is declared for it."""
    if options is None:
        return {}
    if isinstance(options, dict) or model.shorthand is None:
        return options
    field = model.model_fields.get(model.shorthand)
    written = field.alias if field is not None and field.alias else model.shorthand
    document.stand_in(path, (*path, written))
    return {written: options}


def unfold(document: Document, path: Path, catalog: Catalog) -> None:
    """Write out the short forms on the way to a path, so that a field can be set there which the file leaves out.

    `source: stdin` becomes a block for `source.stdin.format`, and `file: a.jsonl` one for `source.file.format`.
    """
    found = _entry(document.data, path)
    if found is None:
        return
    kind, at = found
    holder = _inside(document.data, at[:-1])
    if at and isinstance(holder[at[-1]], str):
        holder[at[-1]] = {holder[at[-1]]: None}
    entry = holder[at[-1]] if at else holder
    if len(path) < len(at) + 2 or not isinstance(entry, dict):
        return
    name = path[len(at)]
    if isinstance(name, str) and entry.get(name) is not None and catalog.has(kind, name):
        try:
            model = catalog.find(kind, name).Config
        except PenstockError:  # told where the component itself is looked up, with its place in the file
            return
        entry[name] = as_block(model, entry[name], document, (*at, name))


def _entry(data: Any, path: Path) -> tuple[Kind, Path] | None:
    """The kind and the place of the component's entry that a path leads into; the first `validate` stands in the file itself."""
    head = path[0]
    if not isinstance(head, str) or not isinstance(data, dict) or len(path) < 2:
        return None
    if head == "validate":
        return "transform", ()
    if head in _SINGLE and head in data:
        return _SINGLE[head], (head,)
    entries, index = data.get(head), path[1]
    if head in _LISTED and isinstance(entries, list) and (isinstance(index, int) or index.isdecimal()):
        return (_LISTED[head], (head, int(index))) if int(index) < len(entries) and len(path) > 2 else None
    return None


def _inside(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data
