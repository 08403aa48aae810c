"""A text in somebody's editor, as `git commit` and `kubectl edit` do it: again, what is wrong at its top, until it is right."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from penstock.cli.terminal import Terminal
from penstock.errors import PenstockError, UsageError
from penstock.observe.text import printable

T = TypeVar("T")
_MARK = "# "


def in_editor(text: bytes, head: list[str], read: Callable[[bytes], T], terminal: Terminal) -> T:
    """What `read` makes of the text that somebody saved.

    :param head: lines above the text; they are no part of it.
    :param read: called with the text; a `UsageError` of it opens the editor again, with the error at the top.
    :raises UsageError: `dlq.no_editor`, `dlq.editor_failed`; what `read` raised, where the text was left as it was then:
        the draft is kept, and named.
    """
    directory = Path(tempfile.mkdtemp(prefix="penstock-edit-"))  # of this user alone
    draft = directory / "event.json"
    problem: list[str] = []
    while True:
        draft.write_bytes(_commented([*problem, *head]) + text + b"\n")
        draft.chmod(0o600)
        _run(draft, terminal)
        saved = _uncommented(draft.read_bytes())
        try:
            result = read(saved)
        except UsageError as error:
            if saved == text and problem:
                raise _given_up(error, draft) from error
            problem, text = [*_told(error), ""], saved
            continue
        draft.unlink()
        directory.rmdir()
        return result


def _run(draft: Path, terminal: Terminal) -> None:
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command and not (terminal.asks and terminal.interactive):
        raise UsageError(
            "dlq.no_editor", "there is no terminal for an editor", help="set EDITOR, or give --jq PROGRAM or --file FILE"
        )
    try:
        done = subprocess.run([*shlex.split(command or "vi"), str(draft)], check=False)  # their own editor
    except (OSError, ValueError) as error:
        raise UsageError("dlq.editor_failed", f"the editor {command or 'vi'} cannot be started", why=str(error)) from error
    if done.returncode:
        raise UsageError(
            "dlq.editor_failed", f"the editor ended with {done.returncode}: nothing was changed", help=f"the draft is {draft}"
        )


def _told(error: PenstockError) -> list[str]:
    lines = [f"error: {error.message}"] + [f"{name}: {text}" for name, text in (("why", error.why), ("help", error.help)) if text]
    return [printable(line) for text in lines for line in text.splitlines()]


def _commented(lines: list[str]) -> bytes:
    return "".join((_MARK + line).rstrip() + "\n" for line in lines).encode()


def _uncommented(text: bytes) -> bytes:
    lines = text.split(b"\n")
    while lines and (lines[0].startswith(b"#") or not lines[0].strip()):
        lines.pop(0)
    return b"\n".join(lines).rstrip(b"\r\n\t ")


def _given_up(error: UsageError, draft: Path) -> UsageError:
    return UsageError(error.code, error.message, why=error.why, help=f"nothing was changed; the draft is {draft}")
