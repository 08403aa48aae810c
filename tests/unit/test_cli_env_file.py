"""Files of variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.cli.env_file import read_env_file
from penstock.cli.lazy import Settings
from penstock.errors import ConfigurationError, UsageError


def test_lines_set_variables_as_a_shell_would(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        '# a comment\n\nA=1\nexport B = two words \nC=\'single # quoted $A\'\nD="line\\nend \\"q\\"" # comment\n'
        "E=\nF=a#b # comment\nA=later\nDSN=postgresql://u:p@h/db?x=1\n"
    )
    assert read_env_file(file) == {
        "A": "later",
        "B": "two words",
        "C": "single # quoted $A",
        "D": 'line\nend "q"',
        "E": "",
        "F": "a#b",
        "DSN": "postgresql://u:p@h/db?x=1",
    }


def test_every_bad_line_is_named_and_no_value_is_shown(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\nhunter2\nB='unclosed hunter2\n1C=hunter2\n")
    with pytest.raises(ConfigurationError) as caught:
        read_env_file(file)
    assert [str(problem.where) for problem in caught.value.problems] == [f"{file}:{line}" for line in (2, 3, 4)]
    assert "hunter2" not in caught.value.render()


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_env_file(tmp_path / "none")
    assert (caught.value.code, caught.value.why) == ("env_file.unreadable", "No such file or directory")


def test_the_environment_overrules_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("PIPE_TEST_A=file\nPIPE_TEST_B=file\n")
    monkeypatch.setenv("PIPE_TEST_A", "environment")
    found = Settings(env_file=file).environment()
    assert (found["PIPE_TEST_A"], found["PIPE_TEST_B"]) == ("environment", "file")
