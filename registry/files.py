"""The registry's first floor: JSON Schemas in files, `SUBJECT/VERSION.json` below one directory (`schemas/` beside a pipeline).

Subjects are `[a-z0-9][a-z0-9._-]*`, versions positive integers. A schema may be of draft 4, 6, 7, 2019-09 or 2020-12, as its
`$schema` says (default 2020-12), and may refer to others of the registry as files do, `../SUBJECT/VERSION.json`, or in full,
`registry:///SUBJECT/VERSION.json`, either with or without a fragment. Nothing else is ever fetched.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import ConfigProblem, Location, PenstockError, Permanent
from penstock.event import decode
from registry.validation import Loaded, Validator, compile_schema

SUBJECT = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)
_FILE = re.compile(r"[1-9][0-9]*\.json", re.ASCII)
_BYTE = re.compile(r"\(byte (\d+)\)")
_REF = re.compile(r"(?P<subject>[^@]*)(?:@(?P<version>.*))?", re.DOTALL)
_URI = re.compile(r"registry:///(?P<subject>[a-z0-9][a-z0-9._-]*)/(?P<version>[1-9][0-9]*)\.json", re.ASCII)


class Ref(NamedTuple):
    """One schema: `shop.order_line@1`."""

    subject: str
    version: int

    def __str__(self) -> str:
        return f"{self.subject}@{self.version}"

    @property
    def uri(self) -> str:
        """What relative references in the schema start from."""
        return f"registry:///{self.subject}/{self.version}.json"


class FileRegistry:
    """Schemas below `directory`. Files are read when asked for, and each validator is compiled once.

    Every method raises `ConfigProblem`: `registry.invalid_ref`, `.unknown_subject`, `.unknown_version` (with what was probably
    meant), `.unreadable`, `.invalid_schema`, `.foreign_ref` (with the file and the path inside it).
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._validators: dict[Ref, Validator] = {}

    def subjects(self) -> list[str]:
        """All subjects, sorted."""
        if not self.directory.is_dir():
            return []
        return sorted(entry.name for entry in self.directory.iterdir() if entry.is_dir() and SUBJECT.fullmatch(entry.name))

    def versions(self, subject: str) -> list[int]:
        """The versions of a subject, ascending; none for one that does not exist."""
        folder = self.directory / subject
        if not SUBJECT.fullmatch(subject) or not folder.is_dir():
            return []
        return sorted(int(entry.stem) for entry in folder.iterdir() if _FILE.fullmatch(entry.name))

    def resolve(self, text: str) -> Ref:
        """`subject@3`, `subject@latest` or `subject` (the latest) to a schema that is there."""
        match = _REF.fullmatch(text)
        subject, version = (match["subject"], match["version"]) if match else (text, None)
        if not SUBJECT.fullmatch(subject):
            raise ConfigProblem(
                "registry.invalid_ref",
                f"{text!r} names no schema",
                help="write SUBJECT@VERSION or SUBJECT@latest; subjects are of a-z, 0-9, '.', '_' and '-'",
            )
        versions = self.versions(subject)
        if not versions:
            raise self._unknown_subject(subject)
        if version in (None, "latest"):
            return Ref(subject, versions[-1])
        if version is None or not re.fullmatch(r"[1-9][0-9]*", version, re.ASCII) or int(version) not in versions:
            found = ", ".join(f"{subject}@{n}" for n in versions)
            raise ConfigProblem("registry.unknown_version", f"there is no schema {text!r}", help=f"there are: {found}")
        return Ref(subject, int(version))

    def _unknown_subject(self, subject: str) -> ConfigProblem:
        close = difflib.get_close_matches(subject, self.subjects(), n=1)
        help = f"did you mean {close[0]!r}?" if close else f"put the schema into {self.directory / subject / '1.json'}"
        why = None if self.directory.is_dir() else f"there is no directory {self.directory}"
        return ConfigProblem("registry.unknown_subject", f"there is no schema of the subject {subject!r}", why=why, help=help)

    def path(self, ref: Ref) -> Path:
        """The file of a schema."""
        if not SUBJECT.fullmatch(ref.subject) or ref.version < 1:  # Invariant 12: a reference never leaves the directory
            raise ConfigProblem("registry.invalid_ref", f"{str(ref)!r} names no schema")
        return self.directory / ref.subject / f"{ref.version}.json"

    def text(self, ref: Ref) -> str:
        """The schema as it is written."""
        path = self.path(ref)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigProblem(
                "registry.unreadable", f"the schema {ref} cannot be read", where=Location(str(path)), why=str(error)
            ) from error

    def schema(self, ref: Ref) -> Any:
        """The schema as Python values."""
        text = self.text(ref)
        try:
            return decode(text.encode())
        except Permanent as error:
            place = _place(self.path(ref), text, error)
            raise ConfigProblem(
                "registry.invalid_schema",
                f"the schema {ref} is not JSON",
                where=place,
                why=f"{place}: {error.why or error.message}",
            ) from error

    def validator(self, ref: Ref) -> Validator:
        """The compiled schema."""
        found = self._validators.get(ref)
        if found is None:
            found = self._validators[ref] = compile_schema(self._loaded(ref), self._load)
        return found

    def texts(self, ref: Ref) -> dict[str, str]:
        """The text of the schema and of all that it refers to, by `subject@version`: together they decide what is valid."""
        return {str(each): self.text(each) for each in (ref, *map(self.resolve, self.validator(ref).references))}

    def check(self) -> list[PenstockError]:
        """Everything that is wrong in the directory: invalid schemas, references to nowhere, files that are no schema's."""
        problems: list[PenstockError] = []
        for entry in sorted(self.directory.rglob("*")) if self.directory.is_dir() else []:
            parts = entry.relative_to(self.directory).parts
            if entry.is_dir() and len(parts) == 1 and SUBJECT.fullmatch(parts[0]):
                continue
            if len(parts) != 2 or not SUBJECT.fullmatch(parts[0]) or not _FILE.fullmatch(parts[1]):
                problems.append(_stray(entry))
                continue
            try:
                self.validator(Ref(parts[0], int(entry.stem)))
            except ConfigProblem as error:
                problems.append(error)
        return problems

    def _loaded(self, ref: Ref) -> Loaded:
        return Loaded(str(ref), ref.uri, str(self.path(ref)), self.schema(ref))

    def _load(self, uri: str) -> Loaded:
        match = _URI.fullmatch(uri)
        if match is None:
            raise ConfigProblem(
                "registry.foreign_ref",
                f"a schema refers to {uri!r}, which is not in the registry",
                help="copy it into the registry and write ../SUBJECT/VERSION.json",
            )
        ref = Ref(match["subject"], int(match["version"]))
        return self._loaded(self.resolve(str(ref)))


class KeptRegistry(FileRegistry):
    """Schemas by their texts, as a pipeline version keeps them: those that it names, and no others.

    :param texts: by `subject@version`.
    :param directory: where they came from; messages name it.
    """

    def __init__(self, texts: Mapping[str, str], directory: Path) -> None:
        super().__init__(directory)
        self._texts = texts

    def subjects(self) -> list[str]:
        return sorted({name.rpartition("@")[0] for name in self._texts})

    def versions(self, subject: str) -> list[int]:
        names = (name.rpartition("@") for name in self._texts)
        return sorted(int(version) for named, _, version in names if named == subject)

    def text(self, ref: Ref) -> str:
        return self._texts[str(ref)]


def registry_of(directory: Path, texts: Mapping[str, str] | None) -> FileRegistry:
    """The registry of a pipeline: its version's own texts where there are some, else the files."""
    return KeptRegistry(texts, directory) if texts else FileRegistry(directory)


def _place(path: Path, text: str, error: Permanent) -> Location:
    """Where in the file reading failed, as far as the decoder says."""
    said = f"{error.message} {error.why}"
    byte = _BYTE.search(said)
    if byte is None and "truncated" not in said:
        return Location(str(path))
    before = text if byte is None else text.encode()[: int(byte[1])].decode(errors="ignore")
    return Location(str(path), before.count("\n") + 1, len(before) - before.rfind("\n"))


def _stray(entry: Path) -> ConfigProblem:
    return ConfigProblem(
        "registry.stray_file",
        f"{entry.name!r} is no schema",
        where=Location(str(entry)),
        help="schemas are SUBJECT/VERSION.json, with a subject such as shop.order_line and a version such as 1",
    )
