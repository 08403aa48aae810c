"""From the file's blocks to components: which one a block names, its configuration, its programs, its instance.

An instance is built here once, and thrown away: its constructor is the check (schemas exist, functions can be found, programs
compile), and it tells what else the pipeline's version depends on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel

from penstock.builtins import room
from penstock.clock import SystemClock
from penstock.components import Catalog, Kind, build, unknown
from penstock.config.base import ComponentConfig, Jq
from penstock.config.document import Document, Path
from penstock.config.foreign import foreign_spellings
from penstock.config.model import Component
from penstock.config.programs import programs
from penstock.config.refuse import SPELLINGS, later_component
from penstock.config.shorthand import as_block
from penstock.config.suggest import nearest
from penstock.config.validate import fields_at, takes_secret, unknown_field, validated
from penstock.errors import ConfigProblem, Location, PenstockError
from penstock.faults import Faults
from penstock.spi import Context, Expressions

S = TypeVar("S", bound=ComponentConfig)

_LIKE_A_SECRET = re.compile(r"(^|_)(PASS(WORD|WD|PHRASE)?|SECRET|TOKEN|CREDENTIALS?|API_?KEY|PRIVATE_KEY)(_|$)", re.IGNORECASE)
_PLACE = re.compile(r"line (\d+), column (\d+) of the program")


@dataclass(slots=True)
class Resolver:
    """Resolves the blocks of one file; every problem is told to `problems`.

    :ivar registry: directory of the schemas, where the configuration names one.
    :ivar schema_texts: of a stored version, which takes the schemas as they were; None: from the directory.
    :ivar parts: what the pipeline's version depends on beyond the file: texts of schemas, digests of Python steps.
    """

    document: Document
    pipeline: str
    file: FilePath
    project: FilePath
    problems: list[ConfigProblem]
    registry: FilePath | None = None
    schema_texts: Mapping[str, str] | None = None
    expressions: Expressions = field(default_factory=lambda: room("expressions")())
    parts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    catalog: Catalog = field(default_factory=Catalog)

    def resolve(self, kind: Kind, entry: Any, path: Path, beside: type[S]) -> tuple[Component | None, S | None]:
        """The component of a block, and the fields beside it; None for what could not be made."""
        block = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(block, dict):
            example = self.catalog.names(kind)[0]
            self.problem("config.invalid_value", f"a {kind} was expected: a name, or a block such as `{example}: {{…}}`", path)
            return None, None
        siblings = fields_at(beside, ())
        named = [key for key in block if key not in siblings]
        if not named:  # `set` is a transform, and may stand beside one
            named = [key for key in block if self.catalog.has(kind, key)]
            siblings = [field for field in siblings if field not in named]
        name = None if self._is_typed(kind, block, named, path) else self._choose(kind, named, path, siblings)
        around = {key: block[key] for key in block if key in siblings}
        for place in [path] if isinstance(entry, str) else [(*path, key) for key in around]:
            self.refuse_secrets(place)
        self.check_programs(beside, around, path)
        fields = validated(beside, around, self.document, path, self.problems)
        if name is None:
            return None, fields
        return self._component(kind, name, block[name], path), fields

    def _is_typed(self, kind: Kind, block: dict[str, Any], named: Sequence[str], path: Path) -> bool:
        """Whether it is a block as other systems have it, with `type: file`, which is told."""
        if not isinstance(block.get("type"), str) or any(self.catalog.has(kind, key) for key in named):
            return False
        help = f"its name is the key: `{block['type']}: {{ … }}`"
        self.problem("config.no_component", f"`type` names no {kind} here", (*path, "type"), help, key=True)
        return True

    def _choose(self, kind: Kind, named: Sequence[str], path: Path, siblings: list[str]) -> str | None:
        """Which of the keys names the component; the others are unknown fields."""
        known = [key for key in named if self.catalog.has(kind, key)]
        if len(known) > 1:
            self.problem("config.several_components", f"one {kind} was expected, here are {' and '.join(known)}", path)
            return None
        meant = known or [key for key in named if self._meant(kind, key)] or list(named)
        if not meant:
            names = ", ".join(self.catalog.names(kind))
            self.problem("config.no_component", f"this names no {kind}", path, f"one of {names}")
            return None
        self._refuse_others(kind, meant[0], [key for key in named if key != meant[0]], path, siblings)
        return meant[0]

    def _refuse_others(self, kind: Kind, name: str, others: Sequence[str], path: Path, siblings: list[str]) -> None:
        """Unknown fields beside a component: often its own, one level too high."""
        own = fields_at(self.catalog.find(kind, name).Config, ()) if others and name in self.catalog.builtin(kind) else []
        for key in others:
            problem = unknown_field(key, siblings, self.document, (*path, key))
            if key in own:
                problem.help = f"it belongs to the {kind}: `{name}: {{ {key}: … }}`"
            self.problems.append(problem)

    def _meant(self, kind: Kind, key: str) -> str | None:
        """The component that a word which is none was probably meant for."""
        if later_component(kind, key, Location("")) is not None:
            return key
        names = self.catalog.names(kind)
        return SPELLINGS[key] if SPELLINGS.get(key) in names else nearest(key, names)

    def _component(self, kind: Kind, name: str, options: Any, path: Path) -> Component | None:
        at = self.document.at((*path, name), key=True)
        cls = self._class(kind, name, at)
        if cls is None:
            return None
        model: type[ComponentConfig] = cls.Config
        inside: Path = (*path, name)
        options = as_block(model, options, self.document, inside)
        found = len(self.problems)
        self.refuse_secrets(inside, model)
        self.check_programs(model, options, inside)
        config = validated(model, options, self.document, inside, self.problems)
        if config is None:
            return None
        component = Component(name, config, at)
        if len(self.problems) == found:
            self._construct(kind, component)
        return component

    def _class(self, kind: Kind, name: str, at: Location) -> Any:
        try:
            if self.catalog.has(kind, name):
                return self.catalog.find(kind, name)
        except PenstockError as error:
            self.problems.append(_located(error, at))
            return None
        later = later_component(kind, name, at)
        missing = unknown(kind, name, self.catalog.names(kind), self._meant(kind, name))
        self.problems.append(later or _located(missing, at))
        return None

    def _construct(self, kind: Kind, component: Component) -> None:
        try:
            instance = build(kind, component, self.context(component.kind), catalog=self.catalog)
        except PenstockError as error:
            self.problems.append(_located(error, component.location))
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
            registry=self.registry,
            schema_texts=self.schema_texts,
        )

    def refuse_secrets(self, path: Path, model: type[BaseModel] | None = None) -> None:
        """A file that holds a secret may fill secret fields alone: whatever stands in others is named and shown. A variable that
        is called like one is warned of.

        :param model: of the block at the path; None where it has no secret field.
        """
        for place, reference in self.document.references.items():
            if place[: len(path)] != path or place in self.document.bare.values():
                continue
            if model is not None and takes_secret(model, place[len(path) :]):
                continue
            self.warnings += [
                f"${{{name}}} is called like a secret, and {self.document.at(place).path} is for none: what it holds may show"
                for name in reference.names
                if _LIKE_A_SECRET.search(name) and not reference.is_secret
            ]
            if reference.is_secret:
                self.problems.append(  # Invariant 9: refused before anything can keep it
                    ConfigProblem(
                        "config.secret_in_plain_field",
                        "${file:…} brings a secret, and this field is for none",
                        where=self.document.at(place),
                        why="what stands here is no secret to names, errors and dead letters",
                        help="write ${VAR} for what is no secret; `pipe connectors NAME` shows which fields are secret",
                    )
                )

    def check_programs(self, model: type[BaseModel], data: Any, path: Path) -> None:
        """Compile every program of a block, and look for spellings from elsewhere."""
        for inner, text, jq in programs(model, data):
            self._check_program(text, jq, (*path, *inner))

    def _check_program(self, text: str, jq: Jq, path: Path) -> None:
        foreign = foreign_spellings(text, literal=jq.literal)
        for what, instead, offset in foreign:
            line, column = text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)
            where = self.document.inside(path, line, column)
            self.problems.append(ConfigProblem("config.foreign_spelling", what, where=where, help=instead))
        if foreign:
            return
        try:
            if jq.literal:
                self.expressions.fields({str(path[-1]): text}, jq.view)
            else:
                self.expressions.program(text, jq.view)
        except PenstockError as error:
            place = _PLACE.search(error.why or "")
            where = self.document.inside(path, int(place[1]), int(place[2])) if place else self.document.at(path)
            self.problems.append(_located(error, where))

    def problem(self, code: str, message: str, path: Path, help: str | None = None, *, key: bool = False) -> None:
        """Tell what is wrong at a path."""
        self.problems.append(ConfigProblem(code, message, where=self.document.at(path, key=key), help=help))


def _located(error: PenstockError, where: Location) -> ConfigProblem:
    """An error as a problem of the file; where it names a place of its own, such as a line of a schema, that is kept in words."""
    why = error.why
    if isinstance(error.where, Location) and str(error.where) not in (why or ""):
        why = f"{error.where}: {why}" if why else str(error.where)
    return ConfigProblem(error.code, error.message, where=where, why=why, help=error.help)
