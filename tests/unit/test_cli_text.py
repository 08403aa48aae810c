"""Tables, numbers, colors: what people see."""

from __future__ import annotations

import io

import pytest

from penstock.cli import numbers
from penstock.cli.table import Column, cell_width, fit, table
from penstock.cli.terminal import Style, Terminal, paint_error
from penstock.errors import ConfigProblem, ConfigurationError, Location, PenstockError

PLAIN = Style()
COLUMNS = [Column("NAME"), Column("COUNT", "right"), Column("MESSAGE", shrinks=True)]
ROWS = [("a", "1,000", "a long message about something"), ("bcd", "7", "short")]


def a_terminal(err: io.StringIO, color: bool = False) -> Terminal:
    return Terminal(io.StringIO(), err, Style(color), Style(color), None, None, False)


def test_a_table_is_aligned_and_whole_where_it_is_piped_on() -> None:
    assert table(COLUMNS, ROWS, PLAIN, None) == [
        "NAME  COUNT  MESSAGE",
        "a     1,000  a long message about something",
        "bcd       7  short",
    ]


def test_a_table_fits_the_terminal_and_says_what_it_cut() -> None:
    lines = table(COLUMNS, ROWS, PLAIN, 30, "  ")
    assert lines == ["  NAME  COUNT  MESSAGE", "  a     1,000  a long message…", "  bcd       7  short"]
    assert max(map(len, lines)) <= 30


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["NAME    FIRST    MESSAGE          LAST", "orders  monday   it went wrong    friday"]),
        (38, ["NAME    FIRST    MESSAGE        LAST", "orders  monday   it went wrong  friday"]),
        (36, ["NAME    FIRST   MESSAGE       LAST", "orders  monday  it went wro…  friday"]),
        (34, ["NAME    FIRST   MESSAGE", "orders  monday  it went wrong"]),
        (27, ["NAME    MESSAGE", "orders  it went wrong"]),
        (5, ["NAME    MESSAGE", "orders  it went wro…"]),
    ],
)
def test_on_a_narrow_terminal_columns_shrink_and_then_yield_the_last_one_first(width: int, lines: list[str]) -> None:
    columns = [Column("NAME"), Column("FIRST", yields=True), Column("MESSAGE", shrinks=True), Column("LAST", yields=True)]
    found = table(columns, [("orders", "monday", "it went wrong", "friday")], PLAIN, width)
    assert [" ".join(line.split()) for line in found] == [" ".join(line.split()) for line in lines]
    assert max(map(len, found)) <= max(width, 20)


def test_a_table_of_hostile_cells_stays_a_table() -> None:
    lines = table([Column("A"), Column("B")], [("x\x1b[2J\n", "y\u202e")], PLAIN, None)
    assert lines == ["A           B", "x\\x1b[2J\\n  y\\u202e"]


def test_colors_do_not_shift_columns() -> None:
    columns = [Column("A", paint=Style(True).cyan), Column("B")]
    assert table(columns, [("xy", "z")], Style(True), None)[1] == "\x1b[36mxy\x1b[0m  z"
    assert table(columns, [("xy", "z")], PLAIN, None)[1] == "xy  z"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("ü", 1), ("", 0)])
def test_widths_are_those_of_a_terminal(text: str, width: int) -> None:
    assert cell_width(text) == width


@pytest.mark.parametrize(("text", "width", "fitted"), [("abcdef", 6, "abcdef"), ("abcdef", 4, "abc…"), ("日本語", 5, "日本…")])
def test_text_is_fitted_by_columns(text: str, width: int, fitted: str) -> None:
    assert fit(text, width) == fitted


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (1.624, "1.62 s"),
        (9.99, "10.0 s"),
        (59.96, "1 min"),
        (65, "1 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (1_051_200, "12 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert numbers.duration(seconds) == text


def test_numbers_read_well() -> None:
    assert numbers.count(40_000) == "40,000"
    assert [numbers.plural(n, "cause") for n in (0, 1, 2_000)] == ["0 causes", "1 cause", "2,000 causes"]
    assert numbers.rate(40_000, 1.6) == "25,000 events/s"
    assert numbers.rate(1, 0.0) == "- events/s"
    assert [numbers.age(s) for s in (-1, 59, 61, 7_300, 200_000)] == ["0 s ago", "59 s ago", "1 min ago", "2 h ago", "2 d ago"]
    assert [numbers.countdown(s) for s in (3, 760, 12_000)] == ["0:03", "12:40", "3:20:00"]
    assert numbers.utc(1_795_237_200.9) == "2026-11-21 05:00:00Z"


def test_an_error_has_all_its_parts_and_no_controls_of_others() -> None:
    err = io.StringIO()
    error = PenstockError("a.b", "what \x1b[31m", where=Location("p.yaml", 3, 4, "retry"), why="why\x07", help="do this")
    a_terminal(err).say_error(error)
    assert err.getvalue() == ("error[a.b]: what \\x1b[31m at retry\n  --> p.yaml:3:4\n  why: why\\x07\n  help: do this\n")


def test_an_error_is_colored_where_colors_are_wanted() -> None:
    problems = [ConfigProblem("a.b", "one"), ConfigProblem("c.d", "two", help="do")]
    text = ConfigurationError(problems).render()
    assert paint_error(text, PLAIN) == text
    assert paint_error(text, Style(True)) == (
        "\x1b[1;31merror[a.b]:\x1b[0m one\n\x1b[1;31merror[c.d]:\x1b[0m two\n\x1b[36m  help:\x1b[0m do"
    )


class FakeStream(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "color", "interactive"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({}, False, False),
    ],
)
def test_no_color_and_dumb_terminals_are_obeyed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], color: bool, interactive: bool
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", FakeStream())
    monkeypatch.setattr("sys.stderr", FakeStream())
    terminal = Terminal.of_process()
    assert (terminal.style.color, terminal.err_style.color, terminal.interactive) == (color, color, interactive)


def test_a_pipe_is_neither_colored_nor_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stderr", FakeStream())
    terminal = Terminal.of_process()
    assert (terminal.style.color, terminal.err_style.color, terminal.width) == (False, bool(terminal.err_style.color), None)


def test_json_is_one_line_that_no_terminal_acts_upon() -> None:
    out = io.StringIO()
    Terminal(out, io.StringIO(), PLAIN, PLAIN, None, None, False).show_json({"a": "\x1b[2J\u202e\u009b", "n": 2**70})
    assert out.getvalue() == '{"a":"\\u001b[2J\\u202e\\u009b","n":1180591620717411303424}\n'
