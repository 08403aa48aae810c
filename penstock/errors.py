"""The error tree: every error a person sees carries a stable code, what happened, where, why and what to do.

Errors are API. Components classify at their edge: `Transient` is retried with backoff, `Permanent` dead-letters the event that
caused it, `Fatal` stops the run with a reason. `ConfigurationError` collects every mistake of a file at once (Invariant 10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ExitStatus(IntEnum):
    """What the process ends with; the table in docs/reference/cli.md is made from these."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    FOUND = 4
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file, one-based; `path` is the configuration path, such as `retry.max_attempts`."""

    file: str
    line: int = 0
    column: int = 0
    path: str = ""

    def __str__(self) -> str:
        return ":".join([self.file, *(str(n) for n in (self.line, self.column) if n)])


class PenstockError(Exception):
    """The root. `str(error)` is the message alone; `render()` is all four parts, as a terminal shows them.

    :param code: stable, dotted, lower case: `config.unknown_field`, `validate.failed`.
    :param message: what happened, one line, no secrets (Invariant 9).
    :param where: a place in a file, or words such as `partition orders.jsonl, position 0-812`.
    :param why: the cause, where it is not in the message.
    :param help: what to do about it.
    """

    exit_status = ExitStatus.FAILED

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: Location | str | None = None,
        why: str | None = None,
        help: str | None = None,
    ) -> None:
        message = _writable(message)
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = _writable(where) if isinstance(where, str) else where
        self.why = why and _writable(why)
        self.help = help and _writable(help)

    def render(self) -> str:
        """All parts, a line each, as the terminal and the log show them."""
        head = f"error[{self.code}]: {self.message}"
        if isinstance(self.where, Location) and self.where.path and self.where.path not in self.message:
            head += f" at {self.where.path}"
        parts = [head]
        if self.where is not None:
            parts.append(f"  --> {self.where}")
        if self.why:
            parts.append(f"  why: {self.why}")
        if self.help:
            parts.append(f"  help: {self.help}")
        return "\n".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.code, self.message, self.where, self.why, self.help)


def _writable(text: str) -> str:
    """The text, halves of surrogate pairs as escapes: no store, pipe or terminal takes them, and an error must get through."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _rebuild(
    kind: type[PenstockError], code: str, message: str, where: Location | str | None, why: str | None, help: str | None
) -> PenstockError:
    return kind(code, message, where=where, why=why, help=help)


class UsageError(PenstockError):
    """The command line asks for something that does not exist or does not go together. Exit status 2."""

    exit_status = ExitStatus.USAGE


class ConfigProblem(PenstockError):
    """One mistake in a configuration, with its place. Raised in a `ConfigurationError`, never alone."""

    exit_status = ExitStatus.USAGE


class ConfigurationError(PenstockError):
    """Every mistake that was found, in file order (Invariant 10). Exit status 2."""

    exit_status = ExitStatus.USAGE

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        count = len(problems)
        super().__init__("config.invalid", f"{count} mistake{'s' if count != 1 else ''} in the configuration")
        self.problems = list(problems)

    def render(self) -> str:
        return "\n".join(problem.render() for problem in self.problems)

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigurationError, (self.problems,)


class ComponentError(PenstockError):
    """What a source, transform, sink or ledger raises. Always one of the three classes below."""


class Transient(ComponentError):
    """Worth trying again: the engine retries with exponential backoff and full jitter, within `retry`."""


class Unavailable(Transient):
    """A resource of this machine is gone for now (disk full, database locked): retried without limit.

    Meanwhile the run acknowledges nothing, reports itself not ready, and goes on by itself.
    """


class Permanent(ComponentError):
    """This event can never succeed as it is: it becomes a dead letter.

    :param violations: what a validation found, each with the `path` of the value, the `rule` that it breaks, and a message.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: Location | str | None = None,
        why: str | None = None,
        help: str | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(code, message, where=where, why=why, help=help)
        self.violations = list(violations)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_permanent, (type(self), self.code, self.message, self.where, self.why, self.help, self.violations)


def _rebuild_permanent(
    kind: type[Permanent],
    code: str,
    message: str,
    where: Location | str | None,
    why: str | None,
    help: str | None,
    violations: list[Violation],
) -> Permanent:
    return kind(code, message, where=where, why=why, help=help, violations=violations)


class Oversized(Permanent):
    """A record longer than the source's `max_record`: only its head was kept, and it is replayed by reading it again.

    :param length: bytes of the whole record, without what ends it.
    :param digest: blake2b-128 of these bytes, in hexadecimal.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        length: int,
        digest: str,
        where: Location | str | None = None,
        why: str | None = None,
        help: str | None = None,
    ) -> None:
        super().__init__(code, message, where=where, why=why, help=help)
        self.length = length
        self.digest = digest

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_oversized, (self.code, self.message, self.length, self.digest, self.where, self.why, self.help)


def _rebuild_oversized(
    code: str, message: str, length: int, digest: str, where: Location | str | None, why: str | None, help: str | None
) -> Oversized:
    return Oversized(code, message, length=length, digest=digest, where=where, why=why, help=help)


class Fatal(ComponentError):
    """The run stops with this reason; nothing further is acknowledged. Exit status 1."""


class EnvironmentFault(Fatal):
    """The surroundings do not allow the run: a server unreachable, a store damaged or held by another. Exit status 3."""

    exit_status = ExitStatus.ENVIRONMENT


class MissingExtra(EnvironmentFault):
    """A component's client library is not installed; the message names the extra."""

    def __init__(self, component: str, extra: str) -> None:
        super().__init__(
            "environment.missing_extra",
            f"{component} needs a library that is not installed",
            help=f"pip install 'penstock[{extra}]'",
        )


class Fenced(EnvironmentFault):
    """A newer run holds a higher epoch; this one can no longer commit (Invariant 6)."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that a value breaks. `path` is a jq path such as `.items[3].price`; `rule` the JSON Schema keyword."""

    path: str
    rule: str
    message: str


class BatchError(ComponentError):
    """A sink took a part of a batch.

    :param failed: for each event that failed, its index in the batch and why. May be empty, where a sink can take no more until
        the next commit.
    :param not_attempted: indexes of events that the sink did not try, because one before them in their lane failed.

    Every other event of the batch was delivered, unless `nothing_delivered` is set: then the sink undid all of it (a
    transaction), and the engine offers the others again.
    """

    def __init__(
        self,
        failed: Mapping[int, ComponentError],
        *,
        not_attempted: Sequence[int] = (),
        nothing_delivered: bool = False,
    ) -> None:
        first = next(iter(failed.values()), None)
        message = f"{len(failed)} events of a batch failed, the first with: {first}"
        super().__init__("sink.partial", message if failed else f"{len(not_attempted)} events of a batch were not attempted")
        self.failed = dict(failed)
        self.not_attempted = list(not_attempted)
        self.nothing_delivered = nothing_delivered
