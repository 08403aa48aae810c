"""The report as a page: one HTML file that needs nothing else, runs nothing, and can be handed to a reviewer.

Everything that comes from data is escaped, and the page's own policy lets nothing be loaded or run (Invariant 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from backfill.style import STYLE
from penstock.journal.lines import VERSION_DIGITS

CAUSES_SHOWN = 100
UNFOLDED = 5
"""Causes whose examples are seen at once."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_COMPARED = (("identical", "same"), ("changed", "changed"), ("missing", "missing"), ("extra", "extra"))
_OUTCOMES = (("delivered", "same"), ("filtered", "quiet"), ("deduplicated", "extra"), ("dead_lettered", "missing"))
_VERDICTS = {
    "clean": "No output differs.",
    "different": "Outputs differ.",
    "incomplete": "No output differs, and not every event could be compared.",
    "nothing": "No event was compared.",
}


def page(report: Mapping[str, Any]) -> str:
    """The HTML of a report (`backfill.report.document`)."""
    title = f"{report['pipeline']}: {_MODES[report['mode']]}"
    parts = [
        _head(title, report),
        _native(report),
        *_shadow(report),
        _outcomes(report),
        _steps(report),
        _letters(report),
        _samples(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{''.join(parts)}</body>\n</html>\n"
    )


_MODES = {"dry_run": "dry run", "shadow": "shadow comparison", "live": "backfill"}


def _head(title: str, report: Mapping[str, Any]) -> str:
    facts = [
        ("events", f"{report['from']} to before {report['to']}"),
        ("steps of", report["against"] or "the pipeline file"),
        ("version", report["version"][:VERSION_DIGITS]),
        ("filter", report["filter"]),
        ("ignored", ", ".join(report["ignore"])),
        ("job", f"{report['job']} ({report['state']})"),
        ("took", f"{report['seconds']:,.1f} s, {report['events_per_second']:,} events/s"),
    ]
    said = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts if value)
    verdict = report.get("verdict")
    line = f'<p class="verdict {verdict}">{_VERDICTS[verdict]}</p>' if verdict else ""
    return f"<h1>{escape(title)}</h1>\n{line}<dl>{said}</dl>\n"


def _native(report: Mapping[str, Any]) -> str:
    """What the source held, where the range was read from it."""
    native = report["native"]
    if native is None:
        return ""
    rows = [
        ("of the range", f"{native['events']:,}"),
        ("the journal does not tell of", f"{native['unknown']:,}"),
        ("changed at the source since they were received", f"{native['changed']:,}"),
        ("without a known time: of the range or not", f"{native['unplaced']:,}"),
    ]
    named = [
        (escape(each["partition"]), f"<code>{escape(each['id'])}</code>", escape(each["why"])) for each in native["examples"]
    ]
    examples = _table(("partition", "record", "why no time is known"), named) if named else ""
    return _section("Read from the source", _table(("events", "#count"), rows) + examples)


def _shadow(report: Mapping[str, Any]) -> list[str]:
    compared = report.get("comparison")
    if compared is None:
        return []
    parts = [_section("Outputs", _bar([(name, kind, compared[name]) for name, kind in _COMPARED]))]
    moved = [row for row in compared["outcomes"] if row["before"] != row["after"]]
    if moved:
        rows = [(escape(row["before"]), escape(row["after"]), f"{row['events']:,}") for row in moved]
        parts.append(_section("Outcomes that changed", _table(("was", "is", "#events"), rows)))
    if report["unlike"]:
        reasons = [(escape(why), f"{count:,}") for why, count in sorted(report["unlike"].items())]
        parts.append(_section("What could not be made again as it was", _table(("why", "#events"), reasons)))
    if compared["causes"]:
        parts.append(_section("What differs, and where", _causes(compared["causes"])))
    return parts


def _causes(causes: Sequence[Mapping[str, Any]]) -> str:
    most = max(cause["count"] for cause in causes)
    shown = "".join(_cause(cause, most, unfolded=number < UNFOLDED) for number, cause in enumerate(causes[:CAUSES_SHOWN]))
    more = len(causes) - CAUSES_SHOWN
    return shown + (f'<p class="dim">and {more:,} further places</p>' if more > 0 else "")


def _cause(cause: Mapping[str, Any], most: int, *, unfolded: bool) -> str:
    rows = [
        (f"<code>{escape(each['event'])}</code>", _value(each["before"]), _value(each["after"])) for each in cause["examples"]
    ]
    examples = _table(("event", "=before", "=after"), rows)
    head = f"<code>{escape(cause['path'])}</code> {escape(cause['kind'])}: {cause['count']:,}"
    meter = _meter(cause["count"], most)
    return f"<details{' open' if unfolded else ''}><summary>{head}{meter}</summary>{examples}</details>\n"


def _value(text: str | None) -> str:
    return '<span class="dim">nothing</span>' if text is None else escape(text)


def _outcomes(report: Mapping[str, Any]) -> str:
    counts = [(name.replace("_", "-"), kind, report[name]) for name, kind in _OUTCOMES]
    unanswered = sum(report["unanswered"].values())
    bar = _bar([*counts, ("unanswered", "changed", unanswered)] if unanswered else counts)
    whole = report["estimate"]["events"]
    said = [
        f"{report['read']:,} events were looked at" + (f", of about {whole:,} in the range" if whole > report["read"] else "")
    ]
    if report["left_out"]:
        said.append(f"{report['left_out']:,} of them the filter left out")
    said += [
        f"of {count:,} events no answer was kept to the step {escape(step)}, which is not performed here"
        for step, count in report["unanswered"].items()
    ]
    sinks = [(escape(name), f"{count:,}") for name, count in report["sinks"].items()]
    table = _table(("sink", "#outputs"), sinks) if sinks else ""
    return _section("Events", f'{bar}<p class="dim">{"; ".join(said)}.</p>{table}')


def _steps(report: Mapping[str, Any]) -> str:
    steps = report["steps"]
    if not steps:
        return ""
    most = max(step["microseconds_per_event"] for step in steps) or 1.0
    rows = []
    for step in steps:
        each = step["microseconds_per_event"]
        numbers = [f"{step[name]:,}" for name in ("in", "out", "failed", "skipped")]
        rows.append((escape(step["name"]), *numbers, f"{each:,.1f}", _meter(each, most)))
    titles = ("step", "#in", "#out", "#failed", "#skipped", "#µs an event", "")
    return _section("Steps", _table(titles, rows))


def _letters(report: Mapping[str, Any]) -> str:
    groups = report["letters"]
    if not groups:
        return ""
    rows = [
        (f"{g['count']:,}", escape(g["step"]), f"<code>{escape(g['code'])}</code>", escape(g["message"]), escape(g["example"]))
        for g in groups
    ]
    return _section("Dead letters it would make", _table(("#events", "step", "code", "message", "such as"), rows))


def _samples(report: Mapping[str, Any]) -> str:
    if not report["samples"]:
        return ""
    shown = []
    for sample in report["samples"]:
        text = msgspec.json.format(msgspec.json.encode(sample["output"]), indent=2).decode()
        head = f"event <code>{escape(sample['event'])}</code> → {escape(', '.join(sample['sinks']))}"
        shown.append(f"<details><summary>{head}</summary><pre>{escape(text)}</pre></details>\n")
    return _section("Some outputs", "".join(shown))


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>\n{body}\n"


def _meter(value: float, most: float) -> str:
    """How much it is of the largest; the smallest is seen, too."""
    return f'<div class="meter" style="width:{max(1, round(100 * value / most))}%"></div>'


def _bar(parts: Sequence[tuple[str, str, int]]) -> str:
    """Shares of a whole, with their legend."""
    whole = sum(count for _, _, count in parts) or 1
    spans = "".join(
        f'<span class="{kind}" style="width:{100 * count / whole:.3f}%" title="{name}: {count:,}"></span>'
        for name, kind, count in parts
        if count
    )
    legend = "".join(
        f'<li><i class="{kind}"></i>{name} <b>{count:,}</b> <span class="dim">{100 * count / whole:.2f} %</span></li>'
        for name, kind, count in parts
    )
    return f'<div class="bar">{spans}</div><ul class="legend">{legend}</ul>'


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Titles that begin with `#` are of numbers, with `=` of values; cells are HTML."""
    kinds = ["number" if title.startswith("#") else "value" if title.startswith("=") else "" for title in titles]
    kinds = ["chart" if not title else kind for title, kind in zip(titles, kinds, strict=True)]
    head = "".join(f'<th class="{kind}">{title.lstrip("#=")}</th>' for title, kind in zip(titles, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'
