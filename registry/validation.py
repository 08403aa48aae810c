"""Compiled schemas: whether data is valid, and every reason why it is not, in words for the people whose data it is.

Values of fields that any schema involved marks `"writeOnly": true` or `"format": "password"` never appear in a message
(Invariant 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

import jsonschema_rs

from penstock.errors import ConfigProblem, Location, Permanent, Violation
from registry._messages import describe, jq_path


class Loaded(NamedTuple):
    """A schema as it was read: its reference as text, its URI, its file, and its content."""

    ref: str
    uri: str
    file: str
    schema: Any


Load = Callable[[str], Loaded]
"""Reads the schema of a URI; raises `ConfigProblem`."""


@dataclass(frozen=True, slots=True)
class Validator:
    """One compiled schema.

    :ivar ref: `subject@version`.
    :ivar is_valid: whether data fits; raises `ValueError` for what is no JSON. The fast way.
    :ivar references: the other schemas that take part, sorted.
    """

    ref: str
    is_valid: Callable[[Any], bool]
    references: tuple[str, ...]
    _validator: jsonschema_rs.Validator
    _secrets: frozenset[str]

    def violations(self, data: Any) -> list[Violation]:
        """Every rule that the data breaks; none where it is valid.

        :raises Permanent: `validate.not_json`, where the data is something that JSON cannot say.
        """
        try:
            errors = list(self._validator.iter_errors(data))
        except ValueError as error:
            raise not_json(error) from error
        return [violation for error in errors for violation in self._describe(error, data)]

    def _describe(self, error: jsonschema_rs.ValidationError, data: Any) -> Iterator[Violation]:
        hidden = not self._secrets.isdisjoint(["", *error.instance_path])
        return describe(error, data, hidden=hidden)

    def failure(self, data: Any) -> Permanent | None:
        """Why the data is not valid: `validate.failed` with all violations, `validate.not_json`, or None where it is valid."""
        try:
            violations = self.violations(data)
        except Permanent as error:
            return error
        if not violations:
            return None
        return Permanent(
            "validate.failed",
            "; ".join(violation.message for violation in violations),
            why=f"the data does not fit {self.ref}",
            violations=violations,
        )


def not_json(error: ValueError) -> Permanent:
    """What is raised for data that no schema can speak about."""
    return Permanent("validate.not_json", "the data is not JSON", why=str(error))


def compile_schema(root: Loaded, load: Load) -> Validator:
    """Check a schema against its draft and compile it, with all that it refers to.

    :raises ConfigProblem: `registry.invalid_schema`, or what `load` raises.
    """
    loaded: dict[str, Loaded] = {}
    problems: list[ConfigProblem] = []

    def retrieve(uri: str) -> Any:
        try:
            found = loaded[uri] = load(uri)
        except ConfigProblem as problem:
            if problem.where is None:
                problem.where, problem.why = Location(root.file), f"it stands in {root.file}"
            problems.append(problem)
            raise
        _check(found)
        return found.schema

    _check(root)
    try:
        validator = jsonschema_rs.validator_for(root.schema, validate_formats=True, retriever=retrieve, base_uri=root.uri)
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        if problems:
            raise problems[0] from error
        raise _refused(root, error) from error
    references = sorted({each.ref for each in loaded.values()} - {root.ref})
    return Validator(root.ref, validator.is_valid, tuple(references), validator, _secret_names(root, loaded))


def _check(loaded: Loaded) -> None:
    """Against the meta-schema of its draft."""
    if not isinstance(loaded.schema, (dict, bool)):
        raise _invalid(loaded, "a schema is an object or a boolean")
    try:
        jsonschema_rs.meta.validate(loaded.schema)
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise _refused(loaded, error) from error


def _refused(loaded: Loaded, error: Exception) -> ConfigProblem:
    if isinstance(error, jsonschema_rs.ValidationError):
        return _invalid(loaded, error.message, jq_path(error.instance_path) if error.instance_path else "")
    return _invalid(loaded, str(error).partition("\n")[0])


def _invalid(loaded: Loaded, why: str, path: str = "") -> ConfigProblem:
    place = f"{loaded.file}, {path}" if path else loaded.file
    return ConfigProblem(
        "registry.invalid_schema",
        f"the schema {loaded.ref} is not valid",
        where=Location(loaded.file, path=path),
        why=f"{place}: {why}",  # a pipeline that names the schema puts its own place in `where`
    )


def _secret_names(root: Loaded, loaded: dict[str, Loaded]) -> frozenset[str]:
    """Names of the fields whose values are secret wherever they stand; `""` where no name tells, and everything is."""
    search = _SecretSearch(root, loaded)
    search.walk(root.schema, "", root)
    return frozenset(search.names)


class _SecretSearch:
    """Follows fields and references. The same part of a schema can be reached under several names."""

    def __init__(self, root: Loaded, loaded: dict[str, Loaded]) -> None:
        self.names: set[str] = set()
        self._documents = {each.ref: each for each in (root, *loaded.values())}
        self._by_uri = {each.uri: each for each in self._documents.values()} | loaded
        self._seen: set[tuple[int, str]] = set()

    def walk(self, node: Any, name: str, document: Loaded) -> None:
        if isinstance(node, list):
            for inner in node:
                self.walk(inner, name, document)
        if not isinstance(node, dict) or (id(node), name) in self._seen:
            return
        self._seen.add((id(node), name))
        if node.get("writeOnly") is True or node.get("format") == "password":
            self.names.add(name)
        for keyword, inner in node.items():
            if keyword in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(inner, str):
                self._follow(inner, name, document)
            elif keyword == "properties" and isinstance(inner, dict):
                for field, schema in inner.items():
                    self.walk(schema, field, document)
            elif keyword not in _NO_SCHEMAS:
                self.walk(inner, name, document)

    def _follow(self, reference: str, name: str, document: Loaded) -> None:
        uri, _, fragment = reference.partition("#")
        target = self._target(uri, document)
        found = _part_of(target.schema, unquote(fragment)) if target else None
        if target is None or found is None:
            self.names.add(name)  # whatever it is, nothing of it is shown
            return
        for node in found:
            self.walk(node, name, target)

    def _target(self, uri: str, document: Loaded) -> Loaded | None:
        if not uri:
            return document
        if uri in self._by_uri:
            return self._by_uri[uri]
        subject, _, file = uri.removeprefix("../").rpartition("/")
        return self._documents.get(f"{subject or document.ref.partition('@')[0]}@{file.removesuffix('.json')}")


def _part_of(schema: Any, fragment: str) -> list[Any] | None:
    """What a fragment can mean: the part at a JSON pointer; for an anchor, any definition; None where there is nothing."""
    if not fragment:
        return [schema]
    if not fragment.startswith("/"):
        return [schema, *(list(schema.get(key, {}).values()) for key in ("$defs", "definitions"))]
    for part in fragment[1:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list):
            schema = schema[int(part)] if part.isdecimal() and int(part) < len(schema) else None
        else:
            schema = schema.get(part) if isinstance(schema, dict) else None
    return None if schema is None else [schema]


_NO_SCHEMAS = frozenset({"$defs", "definitions", "enum", "const", "default", "examples", "required"})
