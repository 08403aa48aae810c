"""The command as a whole: lazy verbs, errors, exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from penstock.cli import backfill, checkpoint, dlq, jobs, schema
from penstock.cli.lazy import GlobalOption, LazyGroup, Settings, Verb
from penstock.cli.main import VERBS, cli, execute, main
from penstock.cli.terminal import Terminal
from penstock.errors import EnvironmentFault, ExitStatus

GROUPS: dict[str, LazyGroup] = {
    "backfill": backfill.backfill,
    "checkpoint": checkpoint.checkpoint,
    "dlq": dlq.dlq,
    "jobs": jobs.jobs,
    "schema": schema.schema,
}
LEAVES = [[name] for name in VERBS if name not in GROUPS] + [
    [name, verb] for name, group in GROUPS.items() for verb in group.list_commands(click.Context(group))
]


def pipe(*arguments: str) -> int:
    return execute(list(arguments), Settings(), Terminal.of_process())


def fresh(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from penstock.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "slow = {'pydantic', 'rich', 'jq', 'asyncio', 'msgspec', 'sqlite3', 'ruamel', 'prometheus_client', 'penstock.config'}\n"
        "verbs = {m for m in sys.modules if m.startswith('penstock.cli.')} \n"
        "verbs -= {f'penstock.cli.{m}' for m in ('main', 'lazy', 'terminal')}\n"
        "print('LOADED', sorted(slow & sys.modules.keys()), sorted(verbs))"
    )
    assert fresh(code).splitlines()[-1] == "LOADED [] []"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_verb_loads_says_what_it_does_and_takes_the_global_options(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pipe(*path, "--help") == ExitStatus.DONE
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: pipe {' '.join(path)} ")
    assert "Global options:" in text
    for option in ("--env-file", "--log-level", "--project", "--tz"):
        assert option in text


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_and_every_verb_that_prints_data_is_documented(path: list[str]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    assert isinstance(command, Verb)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    own = {name for p in command.params if not isinstance(p, GlobalOption) for name in p.opts}
    silent = {"new", "completion", "reset", "adopt", "export", "config"}
    assert "--json" in own or path[-1] in silent or path == ["schema", "show"]


def test_a_misspelt_verb_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe("statsu") == ExitStatus.USAGE
    assert pipe("dlq", "shwo", "x") == ExitStatus.USAGE
    assert capsys.readouterr().err == (
        "error[usage.unknown_verb]: pipe has no verb 'statsu'\n  help: did you mean 'status'?\n"
        "error[usage.unknown_verb]: pipe dlq has no verb 'shwo'\n  help: did you mean 'show'?\n"
    )


@pytest.mark.parametrize("arguments", [["run"], ["run", "--nope", "x"], ["run", "x", "--max-events", "0"], ["dlq", "show"]])
def test_a_wrong_command_line_is_a_usage_error_in_our_words(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(*arguments) == ExitStatus.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.match(r"error\[usage\.invalid\]: .+\n  help: pipe \w+.* --help says what there is\n$", captured.err)


def test_help_lists_options_and_no_arguments_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe("run", "--help") == ExitStatus.DONE
    options = capsys.readouterr().out.partition("Options:\n")[2].partition("\n\n")[0]
    assert all(line.startswith(("  -", "   ")) for line in options.splitlines())


def test_a_choice_that_is_missing_is_told_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe("completion") == ExitStatus.USAGE
    assert capsys.readouterr().err.splitlines()[0] == (
        "error[usage.invalid]: Missing argument 'SHELL'. Choose from: bash, zsh, fish"
    )


@pytest.mark.parametrize("arguments", [[], ["dlq"]])
def test_without_a_verb_the_help_is_talk(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe(*arguments) == ExitStatus.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: pipe")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe("--version") == ExitStatus.DONE
    assert re.fullmatch(r"pipe \(penstock\) \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_global_options_stand_before_or_after_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    @click.command("look", cls=Verb)
    @click.pass_obj
    def look(settings: Settings) -> None:
        seen.append(settings)

    monkeypatch.setattr(sys.modules[__name__], "look_verb", look, raising=False)
    monkeypatch.setitem(VERBS, "look", (f"{__name__}:look_verb", "Look."))
    assert pipe("--tz", "UTC", "--log-level", "debug", "look", "--log-level", "error", "--project", str(tmp_path)) == 0
    [settings] = seen
    assert (settings.tz, settings.log_level, settings.project) == ("UTC", "error", tmp_path)


def use_verb(monkeypatch: pytest.MonkeyPatch, raises: BaseException) -> None:
    @click.command("look", cls=Verb)
    def look() -> None:
        raise raises

    monkeypatch.setattr(sys.modules[__name__], "look_verb", look, raising=False)
    monkeypatch.setitem(VERBS, "look", (f"{__name__}:look_verb", "Look."))


def test_an_expected_error_has_its_own_exit_status_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_verb(monkeypatch, EnvironmentFault("state.held", "held by process 7", help="stop it"))
    assert pipe("look") == ExitStatus.ENVIRONMENT
    assert capsys.readouterr().err == "error[state.held]: held by process 7\n  help: stop it\n"


def test_an_unexpected_error_is_short_and_its_traceback_is_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_verb(monkeypatch, ZeroDivisionError("division by zero"))
    assert pipe("look") == ExitStatus.FAILED
    short = capsys.readouterr().err
    assert short.startswith("error[internal.error]: ZeroDivisionError: division by zero\n")
    assert "Traceback" not in short
    assert pipe("look", "--log-level", "debug") == ExitStatus.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    use_verb(monkeypatch, KeyboardInterrupt())
    assert pipe("look") == ExitStatus.INTERRUPTED


def test_main_ends_the_process_with_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["statsu"])
    assert caught.value.code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipe("completion", shell) == ExitStatus.DONE
    assert "_PIPE_COMPLETE" in capsys.readouterr().out


def test_verbs_complete_without_loading_them() -> None:
    items = cli.shell_complete(click.Context(cli), "s")
    assert [item.value for item in items] == ["status", "signal", "schema"]
