"""Stored pipeline versions, to compute past events under: found by digest or a beginning of it, and brought back to life."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from penstock.clock import rfc3339
from penstock.config.model import Pipeline
from penstock.config.stored import Around, Kept, Stored, load_version
from penstock.engine.recompute import Recompute
from penstock.errors import ConfigurationError, PenstockError, UsageError
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.pipeline_records import Version


def is_version(pipeline: Pipeline, digest: str) -> bool:
    """Whether a pipeline is of the version that a digest, or its beginning (as the journal has it), names."""
    return bool(digest) and pipeline.version.startswith(digest)


def find_version(versions: Sequence[Version], digest: str) -> Version:
    """The one version whose digest begins so.

    :param versions: what the state store keeps (`StateStore.versions`).
    :raises UsageError: `version.unknown`, with what can be done; `version.ambiguous`.
    """
    found = [version for version in versions if digest and version.version.startswith(digest)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(version.version[:VERSION_DIGITS] for version in found)
        raise UsageError("version.ambiguous", f"{len(found)} versions begin with {digest!r}: {names}", help="write more of it")
    known = ", ".join(f"{version.version[:VERSION_DIGITS]} ({rfc3339(version.created_at)[:16]}Z)" for version in versions[:8])
    raise UsageError(
        "version.unknown",
        f"the version {digest} is not stored",
        why=f"the state store keeps {known}{' and older ones' if len(versions) > 8 else ''}" if known else "it keeps none at all",
        help="--against FILE computes under a file instead, such as that version from your version control",
    )


def load_stored(version: Version, around: Around) -> Stored:
    """A stored version as a pipeline (`penstock.config.stored`).

    :raises UsageError: `version.cannot_be_built`, with all that is in the way.
    """
    try:
        return load_version(Kept(version.version, version.config, version.schemas, version.steps), around)
    except ConfigurationError as error:
        problems: Sequence[PenstockError] = error.problems
        raise UsageError(
            "version.cannot_be_built",
            f"the version {version.version[:VERSION_DIGITS]} cannot be built any more",
            why="; ".join(problem.message for problem in problems),
            help="bring back what it lacks, or compute under a file instead: --against FILE",
        ) from error


@dataclass(slots=True)
class Versions:
    """The versions of one pipeline, each built when a line first names it.

    :ivar around: where stored ones are brought back to life; `around.today` is the pipeline of today's file.
    :ivar stored: asks the state store what it keeps.
    """

    around: Around
    stored: Callable[[], Awaitable[Sequence[Version]]]
    _built: dict[str, Recompute] = field(default_factory=dict)

    async def of(self, digest: str) -> Recompute:
        """The steps of a version, by its digest or a beginning of it.

        :raises UsageError: as `find_version` and `load_stored`.
        """
        if digest not in self._built:
            self._built[digest] = await self._build(digest)
        return self._built[digest]

    async def _build(self, digest: str) -> Recompute:
        today = self.around.today
        if today is not None and is_version(today, digest):
            return Recompute(today)
        stored = load_stored(find_version(await self.stored(), digest), self.around)
        return Recompute(stored.pipeline, doubts=stored.doubts)
