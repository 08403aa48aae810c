"""The house: what the wheel holds, what the Makefile does with the Python that it finds."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["penstock", "connectors", "transforms", "registry", "dlq", "backfill", "verify"]
MAKE = shutil.which("make")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with the Makefile, and a `bin` that is all of PATH but for the shell's own tools."""
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def add_python(clone: Path, name: str, *, suits: bool) -> None:
    """A Python that says what it is called and notes how it is used."""
    script = clone / "bin" / name
    answer = "exit 0" if suits else "exit 1"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in -c) {answer};; --version) echo "{name}";; -m) mkdir -p .venv/bin; '
        f'printf "#!/bin/sh\\necho {name} \\"\\$@\\" >>used\\n" >.venv/bin/python; chmod +x .venv/bin/python;; esac\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if MAKE is None:
        pytest.skip("these tests run the Makefile, and there is no `make` on PATH; `make test` and .ci/run always have one")
    for tool in ("sh", "mkdir", "chmod", "touch", "sed"):
        link = clone / "bin" / tool
        found = shutil.which(tool)
        if found and not link.exists():
            link.symlink_to(found)
    environment = {"PATH": str(clone / "bin"), "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([MAKE, *arguments], cwd=clone, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_the_wheel_and_the_import_rules_know_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert project["hatch"]["build"]["targets"]["wheel"]["packages"] == PACKAGES
    assert project["importlinter"]["root_packages"] == PACKAGES
    assert project["mypy"]["packages"] == PACKAGES
    assert runpy.run_path(str(ROOT / ".ci" / "wheel_contents.py"))["PACKAGES"] == set(PACKAGES)


def test_the_first_python_that_suits_makes_the_environment(clone: Path) -> None:
    add_python(clone, "python3.13", suits=False)
    add_python(clone, "python3.12", suits=True)
    add_python(clone, "python3", suits=True)
    result = make(clone, "install")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "Making .venv with python3.12"


def test_a_python_that_is_named_comes_first(clone: Path) -> None:
    add_python(clone, "python3.12", suits=True)
    add_python(clone, "mine", suits=True)
    assert "Making .venv with mine" in make(clone, "PYTHON=mine", "install").stdout


def test_without_a_python_that_suits_it_says_what_to_do(clone: Path) -> None:
    add_python(clone, "python3", suits=False)
    result = make(clone, "install")
    assert result.returncode == 2
    assert "error: no Python of at least 3.11 with venv was found; install one, or name it: make PYTHON=" in result.stderr
    assert not (clone / ".venv").exists()


def test_nothing_is_installed_twice(clone: Path) -> None:
    add_python(clone, "python3.12", suits=True)
    make(clone, "install")
    make(clone, "install")
    assert (clone / "used").read_text().splitlines() == [
        "python3.12 -m pip --disable-pip-version-check --quiet install --editable ."
    ]
    assert "Making .venv" not in make(clone, "install").stdout
