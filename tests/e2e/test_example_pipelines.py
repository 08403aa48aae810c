"""Every example pipeline is sound, passes its own tests, and runs where there is no server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from process_parts import output, pipe

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "pipelines").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", copy_function=shutil.copyfile)
    return tmp_path


def test_all_of_them_are_sound(project: Path) -> None:
    assert pipe(project, "lint", "pipelines")[0] == 0


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_has_tests_and_passes_them(file: Path, project: Path) -> None:
    status, out, _ = pipe(project, "test", f"pipelines/{file.name}")
    assert status == 0, out
    assert int(re.findall(r"(\d+) passed", out)[-1]) >= 1


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_names_the_format_for_the_editor(file: Path) -> None:
    directive, _, schema = file.read_text().splitlines()[0].partition("$schema=")
    assert directive == "# yaml-language-server: "
    assert (file.parent / schema).is_file()


def test_the_quick_start_prints_the_same_warm_readings_in_every_first_run(project: Path) -> None:
    readings = [json.loads(line) for line in output(project, "run", "--once", "pipelines/quickstart.yaml").splitlines()]
    assert len(readings) == 10
    assert readings[0] == {"sensor": "s0", "celsius": 23.7, "fahrenheit": 74.7, "at": "2026-01-01T00:00:00Z"}
    assert pipe(project, "run", "--once", "pipelines/quickstart.yaml")[1] == ""


def test_a_delivery_is_split_into_its_parcels_without_the_telephone_number(project: Path) -> None:
    assert pipe(project, "run", "--once", "pipelines/split_csv.yaml")[0] == 0
    text = (project / "out/parcels.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert "+44" not in text
    assert [(event["subject"], event["data"]["parcel"], event["data"]["number"]) for event in events] == [
        ("D-1001", "P-1", 1),
        ("D-1001", "P-2", 2),
        ("D-1001", "P-3", 3),
        ("D-1002", "P-4", 1),
        ("D-1003", "P-5", 1),
        ("D-1003", "P-6", 2),
    ]
    assert len({event["id"] for event in events}) == 6
