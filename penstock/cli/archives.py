"""Journals as the verbs that look back use them: which there are, and what they hold of an event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from penstock.cli.lazy import Settings
from penstock.cli.project import DEFAULT_STATE, load_file, project_root
from penstock.cli.stores import StoreRef, if_it_ran
from penstock.config.loader import find_pipeline
from penstock.config.model import Pipeline
from penstock.config.overlay import PREFIX
from penstock.config.paths import PROJECT_FILE, pipeline_name, pipelines_in
from penstock.config.stored import Around
from penstock.engine.versions import Versions
from penstock.errors import PenstockError, UsageError
from penstock.journal.lines import Line
from penstock.journal.reader import JournalReader, ids_of
from penstock.state.pipeline_records import Version

JOURNAL = "journal"


@dataclass(slots=True)
class Archive:
    """The journal of one pipeline, and what is needed to make sense of it.

    :ivar file: of the pipeline, which need not exist any more.
    """

    name: str
    directory: Path
    file: Path
    settings: Settings
    _today: Pipeline | None = None
    _broken: PenstockError | None = None
    _is_loaded: bool = field(default=False)

    @property
    def reader(self) -> JournalReader:
        return JournalReader(self.directory)

    @property
    def today(self) -> Pipeline | None:
        """The pipeline as its file has it now; None where it has none, or one with mistakes (`broken`)."""
        if not self._is_loaded:
            self._is_loaded = True
            try:
                self._today = load_file(self.settings, self.file) if self.file.is_file() else None
            except PenstockError as error:
                self._broken = error
        return self._today

    @property
    def broken(self) -> PenstockError | None:
        """What is wrong with today's file."""
        return self._broken if self.today is None else None

    @property
    def store(self) -> StoreRef:
        """The pipeline's state store."""
        if self.today is None:
            return StoreRef(self.name, project_root(self.settings) / DEFAULT_STATE)
        return StoreRef(self.name, self.today.state, self.today.source.kind, self.today.state_server)

    def versions(self) -> Versions:
        """Its versions: today's, and those that the state store keeps."""

        async def stored() -> Sequence[Version]:
            nothing: Sequence[Version] = ()
            return await if_it_ran(self.store, lambda store: store.versions(), nothing)

        project = project_root(self.settings)
        state = self.today.state if self.today is not None else project / DEFAULT_STATE
        return Versions(Around(self.file, project, state, self.settings.environment(), self.today), stored)


@dataclass(slots=True)
class Found:
    """An event of a journal.

    :ivar line: with the outcome that its commit gave it in the end.
    :ivar later: what replays made of it, oldest first.
    """

    archive: Archive
    line: Line
    later: list[Line] = field(default_factory=list)


def archive_of(settings: Settings, name: str) -> Archive:
    """The journal of a pipeline, by its name or file.

    :raises UsageError: `usage.unknown_pipeline`, where there is neither a file nor a journal; `journal.off`.
    :raises ConfigurationError: the file has mistakes, and no journal is where it is by default.
    """
    project = project_root(settings)
    default = project / DEFAULT_STATE / JOURNAL
    try:
        file = find_pipeline(name, project)
    except UsageError as error:
        if error.code == "usage.unknown_pipeline" and (default / name).is_dir():
            return Archive(name, default / name, project / "pipelines" / f"{name}.yaml", settings)
        raise
    return _loaded(file, default, settings)


def _loaded(file: Path, default: Path, settings: Settings) -> Archive:
    name = pipeline_name(file) or file.stem
    archive = Archive(name, default / name, file, settings)
    today = archive.today
    if today is None:
        if archive.broken is not None and not archive.directory.is_dir():
            raise archive.broken
        return archive
    archive.name = today.name
    archive.directory = today.journal.directory if today.journal is not None else default / today.name
    if today.journal is None and not archive.directory.is_dir():
        raise UsageError(
            "journal.off",
            f"{today.name} keeps no journal",
            why="its file says `journal: off`",
            help="take that out: what comes in from the next run on is kept; `pipe try` shows what steps make of one event",
        )
    return archive


def all_archives(settings: Settings) -> tuple[list[Archive], list[PenstockError]]:
    """The journals of the project's pipelines; and why some cannot be looked for. A pipeline is loaded only where its journal is
    not where it is by default, and something says that it may be elsewhere."""
    project = project_root(settings)
    default = project / DEFAULT_STATE / JOURNAL
    files = {name: file for file in pipelines_in(project / "pipelines") if (name := pipeline_name(file)) is not None}
    there = {path.name for path in default.iterdir() if path.is_dir()} if default.is_dir() else set()
    found: list[Archive] = []
    faults: list[PenstockError] = []
    for name in sorted({*files, *there}):
        if name in there:
            found.append(Archive(name, default / name, files.get(name, project / "pipelines" / f"{name}.yaml"), settings))
            continue
        if not _may_be_elsewhere(files[name], project, settings):
            continue
        try:
            found.append(_loaded(files[name], default, settings))
        except PenstockError as error:
            if error.code != "journal.off":
                faults.append(error)
    return found, faults


def _may_be_elsewhere(file: Path, project: Path, settings: Settings) -> bool:
    """Whether anything that decides where a pipeline's journal lies mentions it: loading a file takes long."""
    if any(name.startswith((f"{PREFIX}STATE", f"{PREFIX}JOURNAL")) for name in settings.environment()):
        return True
    texts = (path.read_bytes() for path in (file, project / PROJECT_FILE) if path.is_file())
    return any(word in text for text in texts for word in (b"state", b"journal"))


def find_event(archive: Archive, identity: str) -> list[Found]:
    """The events of a journal with this id, oldest first."""
    return list(gathered(archive, (record.line for record in archive.reader.find(identity))))


def gathered(archive: Archive, lines: Iterable[Line]) -> Iterator[Found]:
    """Lines as `JournalReader.find` gives them, each correction with the event that it corrects."""
    found: list[Found] = []
    for line in lines:
        if line.corrects is None:
            found.append(Found(archive, line))
            continue
        corrected = next((each for each in reversed(found) if _corrects(line, each.line)), None)
        if corrected is None:  # retention has removed the event itself
            continue
        if line.job is None:
            corrected.line = replace(corrected.line, outcome=line.outcome, step=line.step, letter=line.letter)
        else:
            corrected.later.append(line)
    yield from found


def _corrects(correction: Line, line: Line) -> bool:
    same = (correction.partition, correction.position) == (line.partition, line.position)
    return same and ids_of(line)[-1] == correction.corrects
