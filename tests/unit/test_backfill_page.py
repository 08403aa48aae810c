"""The page of a report: whole, inert, and harmless whatever the events hold."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from backfill.comparison import Comparison, Made
from backfill.page import CAUSES_SHOWN, page
from backfill.report import About, document
from backfill.request import LetterGroup, Request, Result, Sample, StepFlow

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
VOID = {"meta", "br", "i"}


class Reading(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.depth: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.depth.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.depth.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reading:
    reading = Reading()
    reading.feed(text)
    reading.close()
    assert reading.depth == []
    return reading


def a_report(name: str = "shop", word: str = "x", causes: int = 1) -> dict[str, Any]:
    comparison = Comparison([f".data.{word}"])
    comparison.identical("delivered", 7)
    comparison.add(word, Made("delivered", [{"id": word, "data": word}]), Made("filtered"))
    for number in range(causes):
        output = {"id": "1", "data": {f"{word}{number}": word}}
        comparison.add(word, Made("delivered", [output]), Made("delivered", [{**output, "data": {f"{word}{number}": 2}}]))
    result = Result(
        total=20,
        read=10,
        delivered=8,
        filtered=1,
        dead_lettered=1,
        outputs=8,
        seconds=2.0,
        sinks={word: 8},
        steps={word: StepFlow(10, 9, 1, 0, 0.001)},
        letters={"f": LetterGroup("f", word, word, word, 1, word)},
        samples=[Sample(word, [word], '{"data":"<b>"}')],
        comparison=comparison,
        unlike={word: 3},
    )
    request = Request(mode="shadow", start=0.0, end=86400.0, file="f", version=word, against=word, filter=word, ignore=[word])
    return document(About(job="j", pipeline=name, state="done", request=request), result)


def test_it_tells_what_the_report_tells() -> None:
    text = " ".join(" ".join(read(page(a_report())).text).split())
    for said in (
        "shop: shadow comparison",
        "Outputs differ.",
        "1970-01-01T00:00:00.000Z to before 1970-01-02T00:00:00.000Z",
        "identical 7",
        ".data.x0 type: 1",
        "What could not be made again as it was",
        "Dead letters it would make",
    ):
        assert said in text


def test_data_stays_text() -> None:
    reading = read(page(a_report(EVIL, EVIL)))
    assert not {"script", "img"} & set(reading.tags)
    assert not [name for name, _ in reading.attributes if name.startswith("on") or name in ("src", "href")]
    assert EVIL in "".join(reading.text)


def test_it_loads_and_runs_nothing() -> None:
    reading = read(page(a_report()))
    policies = [value for name, value in reading.attributes if name == "content"]
    assert "default-src 'none'; style-src 'unsafe-inline'" in policies
    assert not {"link", "script", "iframe", "object"} & set(reading.tags)
    assert "url(" not in page(a_report())


def test_many_causes_are_cut_and_that_is_said() -> None:
    reading = read(page(a_report(causes=CAUSES_SHOWN + 30)))
    assert reading.tags.count("details") == CAUSES_SHOWN + 1
    assert any("further places" in text for text in reading.text)


def test_a_dry_run_has_no_comparison() -> None:
    request = Request(mode="dry_run", start=0.0, end=1.0, file="f", version="v")
    report = document(About(job="j", pipeline="shop", state="done", request=request), Result())
    text = " ".join(read(page(report)).text)
    assert "Outputs" not in text
    assert "dry run" in text
