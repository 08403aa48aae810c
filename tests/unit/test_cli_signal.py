"""`pipe signal`, `pipe pause` and `pipe resume` without a run: what they say, and what they leave for the next one."""

from __future__ import annotations

import getpass
import json
import os
import socket
from pathlib import Path

import pytest
from cli_parts import Pipe

from penstock.cli.signal_lines import answer_lines, pause_line, signal_lines
from penstock.cli.terminal import Style
from penstock.state.signal_records import Pause, SignalRecord

PLAIN = Style()
RESUME_HINT = "  pipe resume shop  goes on"


def a_signal(kind: str = "snapshot", *arguments: str, **changes: object) -> SignalRecord:
    return SignalRecord(7, kind, arguments, 100.0, "ann@here", **changes)  # type: ignore[arg-type]  # named by the tests


def test_a_pipeline_that_has_never_run_can_be_paused_and_says_so(shop: Path, pipe: Pipe) -> None:
    assert pipe("signal", "shop") == (0, "", "shop: nothing was asked of it\n")
    assert not (shop / ".penstock").exists()
    status, out, err = pipe("pause", "shop", "--why", "not yet\x1b")
    assert (status, out) == (0, "")
    assert err.splitlines() == ["shop: paused; no run is alive: the next one waits until it is resumed", RESUME_HINT]
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    _, out, _ = pipe("status", "shop", "--json")
    [standing] = json.loads(out)["items"]
    assert (standing["paused"]["by"], standing["paused"]["why"], standing["runs"]) == (by, "not yet\x1b", [])
    shown = pipe("status", "shop")[1]
    assert shown.startswith("shop  paused, not running\n\npaused\n  0 s ago, at ")
    assert f"by {by}: not yet\\x1b\n" in shown
    again = pipe("pause", "shop")[2]
    assert again.startswith("shop: was paused already, 0 s ago")
    assert pipe("resume", "shop") == (0, "", "shop: no longer paused; no run is alive\n")
    assert pipe("resume", "shop") == (0, "", "shop: was not paused\n")
    assert pipe("status", "shop")[1].startswith("shop  never run\n")


def test_a_paused_pipeline_delivers_nothing_under_once_and_ends_with_0(shop: Path, pipe: Pipe) -> None:
    pipe("signal", "shop", "pause")
    status, _, err = pipe("run", "--once", "shop")
    incident, summary = err.splitlines()
    assert (status, json.loads(incident)["code"]) == (0, "run.paused")
    assert summary.startswith("shop: paused: received 0 = ")
    pipe("signal", "shop", "resume")
    assert pipe("run", "--once", "shop")[2].startswith("shop: done: received 6 = ")
    listed = json.loads(pipe("signal", "shop", "--json")[1])["items"]
    assert [(one["kind"], one["state"], one["why"]) for one in listed] == [
        ("resume", "accepted", None),
        ("pause", "accepted", None),
    ]


def test_what_nobody_takes_is_refused_at_once_where_no_run_could_do_it(shop: Path, pipe: Pipe) -> None:
    status, _, err = pipe("signal", "shop", "snapshot", "t")
    assert (status, "signal.unknown" in err) == (2, True)
    assert "the source file takes no signals; every pipeline takes pause and resume" in err
    assert pipe("signal", "shop", "pause", "now")[0] == 2
    assert pipe("signal", "shop")[2] == "shop: nothing was asked of it\n"


@pytest.mark.parametrize(
    "line",
    [
        ("pause", "shop", "--why", "\udcff"),
        ("signal", "shop", "\udcff"),
        ("signal", "shop", "snapshot", "\udcff"),
        ("dlq", "ls", "--code", "\udcff"),
        ("checkpoint", "reset", "shop", "--partition", "\udcff"),
        ("run", "--once", "--set", "\udcff=1", "shop"),
    ],
)
def test_text_that_is_not_utf8_is_a_usage_error(shop: Path, pipe: Pipe, line: tuple[str, ...]) -> None:
    status, out, err = pipe(*line)
    assert (status, out) == (2, "")
    assert "error[usage.invalid]: Invalid value for" in err
    assert "\\udcff" in err
    assert "is not UTF-8" in err
    assert not (shop / ".penstock").exists()


def test_a_user_without_a_name_is_named_by_number(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    _, out, _ = pipe("pause", "shop", "--json")
    document = json.loads(out)
    assert document["made_by"] == f"uid {os.getuid()}@{socket.gethostname()}"
    assert (document["pipeline"], document["kind"], document["state"], document["pid"]) == ("shop", "pause", "waiting", None)


@pytest.mark.parametrize(
    ("record", "pid", "said"),
    [
        (a_signal("pause", outcome="accepted"), 9, ["shop: paused; everything that was read is committed", RESUME_HINT]),
        (
            a_signal("pause", outcome="accepted", why="it was resumed meanwhile"),
            9,
            ["shop: not paused: it was resumed meanwhile"],
        ),
        (a_signal("snapshot", "t", outcome="accepted"), 9, ["shop: signal 7, snapshot t: accepted"]),
        (a_signal("snapshot", "t"), None, ["shop: signal 7, snapshot t: no run is alive: it is taken up by the next"]),
        (
            a_signal("snapshot", "a b", taken_at=1.0),
            9,
            ["shop: signal 7, snapshot 'a b': being taken by the run, process 9", "  pipe signal shop  whether it was taken"],
        ),
        (
            a_signal("pause", taken_at=1.0),
            9,
            [
                "shop: reads nothing more; what was read is still being delivered",
                "  pipe resume shop  goes on",
                "  pipe signal shop  whether it was taken",
            ],
        ),
    ],
)
def test_an_answer_says_how_far_it_got(record: SignalRecord, pid: int | None, said: list[str]) -> None:
    assert answer_lines("shop", record, pid, None, 200.0, PLAIN) == said


def test_signals_are_listed_with_the_reason_of_a_refusal() -> None:
    refused = a_signal("snapshot", "t\x1b", taken_at=160.0, decided_at=161.0, outcome="refused", why="no table t\x1b")
    lines = signal_lines([refused, a_signal("pause")], 220.0, PLAIN, 100)
    assert [line.split() for line in lines] == [
        ["ID", "STATE", "SIGNAL", "SENT", "TAKEN", "BY"],
        ["7", "refused", "snapshot", "'t\\x1b'", "2", "min", "ago", "1", "min", "ago", "ann@here"],
        ["no", "table", "t\\x1b"],
        ["7", "waiting", "pause", "2", "min", "ago", "-", "ann@here"],
    ]
    assert pause_line(Pause(100.0, "ann@here", "a\nb"), 220.0) == "2 min ago, at 1970-01-01 00:01:40Z, by ann@here: a\\nb"
