"""Logs and the texts that are shown: whole lines, safe ones."""

from __future__ import annotations

import io
import json

import pytest

from penstock.errors import ConfigProblem, ConfigurationError, Location, Transient
from penstock.observe.log import Incident, JsonLog, TextLog, from_error, stream_writer
from penstock.observe.text import printable, printable_json, shorten

HOSTILE = "a\x1b]0;owned\x07\nerror[x]: forged\r\x9b2J\u202e\u2028b\x7f"


class FixedClock:
    def now(self) -> float:
        return 1_795_237_200.25

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


def test_an_incident_is_one_line_for_people() -> None:
    lines: list[str] = []
    TextLog(lines.append)(Incident("warning", "shutdown.timeout", "not all was delivered", "run again", pipeline="orders"))
    assert lines == ["warning[shutdown.timeout]: orders: not all was delivered · run again"]


def test_colors_appear_only_where_they_are_asked_for() -> None:
    plain: list[str] = []
    colored: list[str] = []
    incident = Incident("error", "x.y", "m")
    TextLog(plain.append)(incident)
    TextLog(colored.append, color=True)(incident)
    assert plain == ["error[x.y]: m"]
    assert colored == ["\x1b[1;31merror[x.y]\x1b[0m: m"]


def test_an_incident_is_one_json_object_for_programs() -> None:
    lines: list[str] = []
    JsonLog(lines.append, FixedClock())(Incident("info", "run.started", "started", pipeline="orders"))
    assert [json.loads(line) for line in lines] == [
        {"time": "2026-11-21T05:00:00.250Z", "level": "info", "code": "run.started", "message": "started", "pipeline": "orders"}
    ]


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_incidents_below_the_level_are_left_out(level: str) -> None:
    lines: list[str] = []
    order = ["debug", "info", "warning", "error"]
    log = TextLog(lines.append, level)  # type: ignore[arg-type]  # the parameter is one of the levels
    for each in order:
        log(Incident(each, each, "m"))  # type: ignore[arg-type]  # likewise
    assert [line.split("[")[0] for line in lines] == order[order.index(level) :]


def test_nothing_in_a_message_forges_a_line_or_steers_a_terminal() -> None:
    stream = io.StringIO()
    TextLog(stream_writer(stream))(Incident("error", "x", HOSTILE, help=HOSTILE, where=HOSTILE, why=HOSTILE, pipeline=HOSTILE))
    JsonLog(stream_writer(stream), FixedClock())(Incident("error", "x", HOSTILE, help=HOSTILE))
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert text.replace("\n", "").isprintable()


def test_json_lines_give_the_message_back_exactly() -> None:
    lines: list[str] = []
    JsonLog(lines.append, FixedClock())(Incident("error", "x", HOSTILE))
    assert json.loads(lines[0])["message"] == HOSTILE


def test_a_configuration_error_is_one_incident_for_each_mistake() -> None:
    problems = [
        ConfigProblem("config.a", "first", where=Location("p.yaml", 3, 1)),
        ConfigProblem("config.b", "second", help="do"),
    ]
    assert from_error(ConfigurationError(problems)) == [
        Incident("error", "config.a", "first", where="p.yaml:3:1"),
        Incident("error", "config.b", "second", "do"),
    ]
    assert from_error(Transient("t", "m", why="w"), "orders") == [Incident("error", "t", "m", pipeline="orders", why="w")]


def test_printable_text_escapes_controls_and_keeps_every_other_character() -> None:
    assert printable(HOSTILE) == "a\\x1b]0;owned\\x07\\nerror[x]: forged\\r\\x9b2J\\u202e\\u2028b\\x7f"
    assert printable("Grüße 🎁 naïve\ttab\n", keep="\n\t") == "Grüße 🎁 naïve\ttab\n"
    assert printable("\ud800") == "\\ud800"


def test_printable_json_is_the_same_document() -> None:
    text = json.dumps({"k": HOSTILE, "g": "Grüße"}, ensure_ascii=False).encode()
    shown = printable_json(text)
    assert json.loads(shown) == json.loads(text)
    assert shown.decode().isprintable()


def test_shortened_text_says_so() -> None:
    assert [shorten("abcdef", length) for length in (6, 5, 1)] == ["abcdef", "abcd…", "…"]
