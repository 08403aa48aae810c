"""`import penstock`: cheap, complete, and refusing to run with a stranger's package in the place of one of ours."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import penstock
from penstock._guard import ROOMS, refuse_strangers

HOME = Path(penstock.__file__).parent.parent


def run_python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that knows nothing but the standard library, the site packages and `path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_strangers_package_that_hides_ours_stops_the_import_with_one_line(tmp_path: Path, room: str, kind: str) -> None:
    if kind == "package":
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    else:
        (tmp_path / f"{room}.py").touch()
    result = run_python("import penstock", tmp_path, HOME)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        f"ImportError: the package '{room}' in {tmp_path} hides the one that penstock brings, in {HOME}; "
        "rename yours, or put its directory behind penstock's on sys.path"
    )


def test_a_strangers_package_behind_ours_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "transforms").mkdir()
    (tmp_path / "transforms" / "__init__.py").touch()
    result = run_python("import penstock, transforms; print(transforms.__file__)", HOME, tmp_path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, str(HOME / "transforms" / "__init__.py"), "")


def test_a_directory_without_code_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    result = run_python("import penstock", tmp_path, HOME)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_strangers_package_that_was_imported_first_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "dlq.py").touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dlq; sys.path.pop(0); import penstock"
    result = run_python(code, HOME)
    assert result.returncode == 1
    assert f"the package 'dlq' in {tmp_path} hides" in result.stderr.splitlines()[-1]


def test_the_same_directory_under_another_name_is_no_stranger(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(HOME)
    result = run_python("import connectors, penstock; print('fine')", link)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "fine", "")


def test_an_incomplete_installation_says_so(tmp_path: Path) -> None:
    (tmp_path / "penstock").symlink_to(HOME / "penstock")
    code = f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p and p != {str(HOME)!r}]; import penstock"
    result = run_python(code, tmp_path)
    assert result.returncode == 1
    assert "penstock is not installed completely: its package 'backfill' is missing" in result.stderr.splitlines()[-1]


def test_looking_for_strangers_costs_less_than_a_millisecond() -> None:
    def once() -> float:
        sys.path_importer_cache.clear()
        started = time.perf_counter()
        refuse_strangers(str(HOME))
        return time.perf_counter() - started

    assert min(once() for _ in range(20)) < 0.001


def test_importing_penstock_imports_no_dependency() -> None:
    code = "import sys, penstock; print(*sorted({n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names)))"
    result = run_python(code, HOME)
    ours_and_start_up = {"__main__", "penstock", "sitecustomize", "usercustomize", "_distutils_hack"}
    third_party = {name for name in result.stdout.split() if not name.startswith(("_", "__editable__"))}
    assert third_party <= ours_and_start_up, result.stderr


def test_every_public_name_can_be_had_and_is_typed_as_itself() -> None:
    tree = ast.parse(Path(penstock.__file__).read_text())
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(penstock.__all__) - {"__version__"} == set(typed)
    assert typed == penstock._HOME_OF
    assert all(getattr(penstock, name) is not None for name in penstock.__all__)
    assert set(penstock.__all__) <= set(dir(penstock))


@pytest.mark.parametrize("module", ["spi", "ledger", "errors"])
def test_whatever_the_contracts_speak_of_is_public(module: str) -> None:
    tree = ast.parse((HOME / "penstock" / f"{module}.py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    defined |= {
        name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets if isinstance(name, ast.Name)
    }
    assert {name for name in defined - {"ExitStatus"} if not name.startswith("_")} <= set(penstock.__all__)


def test_the_contributors_page_lists_what_is_public() -> None:
    listed = set(
        re.findall(r"`(\w+)`", (HOME / "CONTRIBUTING.md").read_text().partition("| for | names |")[2].partition("\n\n")[0])
    )
    of_programs = {"Pipeline", "RunSummary", "load", "run", "SystemClock", "__version__"}
    general = {"PenstockError", "ComponentError", "ConfigurationError", "UsageError"}
    assert listed == set(penstock.__all__) - of_programs - general


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'nothing'"):
        penstock.nothing  # type: ignore[attr-defined]  # noqa: B018 the access is the test


def test_the_package_carries_its_types() -> None:
    assert (HOME / "penstock" / "py.typed").is_file()
