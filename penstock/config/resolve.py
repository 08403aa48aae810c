"""From the file's blocks to components: which one a block names, its configuration, its programs, its instance.

An instance is built here once, and thrown away: its constructor is the check (schemas exist, functions can be found, programs
compile), and it tells what else the pipeline's version depends on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel

from penstock.builtins import room
from penstock.clock import SystemClock
from penstock.components import Catalog, Kind, build
from penstock.config.base import ComponentConfig, Jq
from penstock.config.document import Document, Path
from penstock.config.model import Component
from penstock.config.refuse import foreign_program, later_component
from penstock.config.validate import fields_at, unknown_field, validated
from penstock.errors import ConfigProblem, PenstockError, UsageError
from penstock.faults import Faults
from penstock.spi import Context, Expressions

S = TypeVar("S", bound=ComponentConfig)

_PLACE = re.compile(r"line (\d+), column (\d+)")


@dataclass(slots=True)
class Resolver:
    """Resolves the blocks of one file; every problem is told to `problems`.

    :ivar parts: what the pipeline's version depends on beyond the file: texts of schemas, digests of Python steps.
    """

    document: Document
    pipeline: str
    file: FilePath
    project: FilePath
    problems: list[ConfigProblem]
    expressions: Expressions = field(default_factory=lambda: room("expressions")())
    parts: dict[str, str] = field(default_factory=dict)
    catalog: Catalog = field(default_factory=Catalog)

    def resolve(self, kind: Kind, entry: Any, path: Path, beside: type[S]) -> tuple[Component | None, S | None]:
        """The component of a block, and the fields beside it; None for what could not be made."""
        block = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(block, dict):
            self._problem(
                "config.invalid_value",
                f"a {kind} was expected: a name, or a block such as `{self.catalog.names(kind)[0]}: {{…}}`",
                path,
            )
            return None, None
        siblings = fields_at(beside, ())
        named = [key for key in block if key not in siblings]
        if not named:  # `set` is a transform, and may stand beside one
            named = [key for key in block if self.catalog.has(kind, key)]
            siblings = [field for field in siblings if field not in named]
        name = self._choose(kind, named, path, siblings)
        fields = validated(beside, {key: block[key] for key in block if key in siblings}, self.document, path, self.problems)
        if fields is not None:
            self._check_programs(fields, path)
        if name is None:
            return None, fields
        return self._component(kind, name, block[name], path), fields

    def _choose(self, kind: Kind, named: Sequence[str], path: Path, siblings: list[str]) -> str | None:
        known = [key for key in named if key in self.catalog.names(kind)]
        if len(known) > 1:
            self._problem("config.several_components", f"one {kind} was expected, here are {' and '.join(known)}", path)
            return None
        if not known and len(named) == 1:
            return named[0]
        if not known:
            self._problem(
                "config.no_component", f"this names no {kind}", path, help=f"one of: {', '.join(self.catalog.names(kind))}"
            )
            return None
        for key in named:
            if key != known[0]:
                fields = [*siblings, *fields_at(self.catalog.find(kind, known[0]).Config, ())]
                self.problems.append(unknown_field(key, fields, self.document, (*path, key)))
        return known[0]

    def _component(self, kind: Kind, name: str, options: Any, path: Path) -> Component | None:
        at = self.document.at((*path, name), key=True)
        try:
            cls = self.catalog.find(kind, name)
        except UsageError as error:
            later = later_component(kind, name, at)
            self.problems.append(later or ConfigProblem(error.code, error.message, where=at, why=error.why, help=error.help))
            return None
        model: type[ComponentConfig] = cls.Config
        inside: Path = (*path, name)
        if options is None:
            options = {}
        elif not isinstance(options, dict) and model.shorthand is not None:
            field = model.model_fields.get(model.shorthand)
            written = field.alias if field is not None and field.alias else model.shorthand
            options = {written: options}
            self.document.stand_in(inside, (*inside, written))
        config = validated(model, options, self.document, inside, self.problems)
        if config is None:
            return None
        found = len(self.problems)
        self._check_programs(config, inside)
        component = Component(name, config, at)
        if len(self.problems) == found:
            self._construct(kind, component)
        return component

    def _construct(self, kind: Kind, component: Component) -> None:
        try:
            instance = build(kind, component, self.context(component.kind))
        except PenstockError as error:
            self.problems.append(
                ConfigProblem(error.code, error.message, where=component.location, why=error.why, help=error.help)
            )
            return
        version_parts = getattr(instance, "version_parts", None)
        if version_parts is not None:
            self.parts.update(version_parts())

    def context(self, component: str) -> Context:
        """What constructors are given while a file is checked."""
        return Context(
            pipeline=self.pipeline,
            component=component,
            project=self.project,
            directory=self.file.parent,
            expressions=self.expressions,
            clock=SystemClock(),
            random=random.Random(0),
            faults=Faults(),
        )

    def _check_programs(self, config: BaseModel, path: Path) -> None:
        for inner, text, jq in programs(config):
            self.check_program(text, jq, (*path, *inner))

    def check_program(self, text: str, jq: Jq, path: Path) -> None:
        """Compile one program, and look for spellings from elsewhere."""
        foreign = foreign_program(text, literal=jq.literal)
        if foreign is not None:
            what, instead, offset = foreign
            line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
            where = self.document.inside(path, line, column)
            self.problems.append(ConfigProblem("config.foreign_spelling", what, where=where, help=instead))
            return
        try:
            if jq.literal:
                self.expressions.fields({str(path[-1]): text}, jq.view)
            else:
                self.expressions.program(text, jq.view)
        except PenstockError as error:
            place = _PLACE.search(error.why or "")
            where = self.document.inside(path, int(place[1]), int(place[2])) if place else self.document.at(path)
            self.problems.append(ConfigProblem(error.code, error.message, where=where, why=error.why, help=error.help))

    def _problem(self, code: str, message: str, path: Path, help: str | None = None) -> None:
        self.problems.append(ConfigProblem(code, message, where=self.document.at(path), help=help))


def programs(config: BaseModel) -> Iterator[tuple[Path, str, Jq]]:
    """Every jq program of a model, with its path: fields marked `Jq`, maps and lists of them, submodels."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        key = info.alias or name
        marks = list(_marks(info.annotation, info.metadata))
        if isinstance(value, BaseModel):
            for inner, text, jq in programs(value):
                yield (key, *inner), text, jq
        elif marks:
            for inner, text in _texts(value):
                yield (key, *inner), text, marks[0]


def _marks(annotation: Any, metadata: Sequence[Any]) -> Iterator[Jq]:
    yield from (mark for mark in metadata if isinstance(mark, Jq))
    yield from (mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Jq))
    for inner in getattr(annotation, "__args__", ()):
        yield from _marks(inner, ())


def _texts(value: Any) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield (), value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (((key, *path), text) for path, text in _texts(inner))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from (((index, *path), text) for path, text in _texts(inner))
