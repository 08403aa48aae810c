"""Test results as JUnit XML, for CI systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from penstock.observe.text import printable

if TYPE_CHECKING:
    from penstock.cli.test import Ran


def junit_xml(ran: Sequence[Ran]) -> str:
    """One suite a pipeline, one case a test; what XML cannot hold is escaped."""
    root = ElementTree.Element("testsuites")
    for name in dict.fromkeys(each.pipeline.name for each in ran):
        _suite(root, name, [each for each in ran if each.pipeline.name == name])
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, name: str, ran: Sequence[Ran]) -> None:
    failures = sum(not each.result.passed for each in ran)
    seconds = sum(each.seconds for each in ran)
    counts = {"tests": str(len(ran)), "failures": str(failures), "errors": "0", "time": f"{seconds:.3f}"}
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts})
    for each in ran:
        attributes = {"classname": name, "name": printable(each.result.case.name), "time": f"{each.seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if not each.result.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": "the output differs", "type": "difference"})
            failure.text = printable(each.result.diff, keep="\n")
