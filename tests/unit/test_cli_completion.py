"""What shells are offered, and the scripts by which they ask."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cli_parts import PIPELINE, Pipe
from click.shell_completion import ShellComplete

from penstock.builtins import SINKS, SOURCES
from penstock.cli.main import VERBS, cli


def offered(*words: str) -> list[str]:
    """What is offered in the place of the last word."""
    *before, incomplete = words
    items = ShellComplete(cli, {}, "pipe", "_PIPE_COMPLETE").get_completions(before, incomplete)
    return [item.value if item.type == "plain" else f"<{item.type}>" for item in items]


@pytest.mark.parametrize("verb", ["run", "lint", "test", "try"])
def test_files_are_left_to_the_shell(verb: str) -> None:
    assert offered(verb, "pi") == ["<file>"]


def test_verbs_options_and_choices_are_offered() -> None:
    assert offered("") == list(VERBS)
    assert offered("dlq", "s") == ["show", "stats"]
    assert offered("run", "--ta") == ["--take-over"]
    assert offered("dlq", "ls", "--status", "re") == ["replaying", "resolved"]


def test_names_of_components_are_offered() -> None:
    assert offered("new", "x", "--from", "") == sorted(SOURCES)
    assert offered("new", "x", "--to", "s") == [name for name in sorted(SINKS) if name.startswith("s")]
    assert offered("connectors", "sp") == ["split"]


@pytest.mark.parametrize(
    "words", [("status",), ("dlq", "ls"), ("dlq", "replay"), ("checkpoint", "reset"), ("dlq", "show", "x", "--pipeline")]
)
def test_names_of_pipelines_are_offered(shop: Path, words: tuple[str, ...]) -> None:
    (shop / "pipelines/other.yaml").write_text(PIPELINE.replace("shop", "other", 1))
    assert offered(*words, "") == ["other", "shop"]
    assert offered(*words, "s") == ["shop"]


def test_names_come_from_the_project_that_is_named(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert offered("--project", str(shop), "status", "") == ["shop"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_printed_and_is_one(pipe: Pipe, shell: str) -> None:
    status, script, err = pipe("completion", shell)
    assert (status, "_PIPE_COMPLETE" in script, err) == (0, True, "")
    if (found := shutil.which(shell)) is not None:
        assert subprocess.run([found, "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
