from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config import schema
from penstock.config.loader import load_pipeline
from penstock.config.model import Pipeline
from penstock.errors import ConfigurationError, Location

SOUND: dict[str, Any] = {
    "pipeline": "p",
    "source": {"file": {"paths": ["a.jsonl"], "format": "csv"}, "event": {"type": "order", "subject": ".id"}},
    "dedup": {"window": "24h", "key": ".data.id"},
    "transforms": [
        {"name": "enrich", "jq": "{id, total: (.price * 2)}", "set": {"type": "x", "extra": ".id"}, "when": ".id != null"},
        {"filter": ".total > 0", "on_error": "skip", "retry": {"max_attempts": 2}},
        {"redact": {"fields": [".a"], "with": "hash", "key": "k"}},
        {"set": {"subject": ".id"}},
    ],
    "sinks": [
        {"name": "a", "sqlite": {"path": "a.db", "table": "t", "key": ["id"], "columns": {"id": ".id"}}, "when": ".id > 1"},
        "stdout",
    ],
    "retry": {"max_attempts": 3, "max_delay": "5s"},
    "limits": {"rate": "5/s", "in_flight_bytes": "1MiB"},
    "batching": {"count": 5, "bytes": "1KiB", "period": "1s"},
    "dead_letter": {"lane": "stop", "alert_threshold": 3},
    "workers": 1,
    "tests": [{"name": "t", "input": {"data": {"id": 1}}, "output": [{"data": {}}]}],
}
WORDS = ["jq", "set", "validate", "source", "Workers", "event", "retry", "on_invalid", "order_by", "x", "name", "${A}", "str"]
ODD = ["${", "$${", "${GONE}", "${file:x}", "file", "a.b@1", ".a (", ".trigger.data", "1s", ""]
TEXTS = st.sampled_from([*WORDS, *ODD]) | st.text(max_size=5)
SCALARS = st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2), max_leaves=4
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The paths of everything in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *path) for key, inner in items for path in places(inner))]


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """The sound document with a few values replaced, removed or added."""
    document = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 3))):
        *inside, last = draw(st.sampled_from(places(document)[1:]))
        holder: Any = document
        for part in inside:
            holder = holder[part]
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del holder[last]
        elif how == "replace" or not isinstance(holder, dict):
            holder[last] = draw(VALUES)
        else:
            holder[draw(st.sampled_from(WORDS))] = draw(VALUES)
        if len(places(document)) < 2:
            break
    return document


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


def load(project: Path, document: Any, environment: Mapping[str, str]) -> Pipeline:
    file = project / "p.yaml"
    file.write_text(json.dumps(document), encoding="utf-8")
    return load_pipeline(file, environment=environment, project=project)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(damaged(), st.sampled_from(["7", "", "jq", "hunter2-é\n'x'"]))
def test_any_damage_is_either_harmless_or_told_with_its_place(project: Path, document: Any, variable: str) -> None:
    try:
        pipeline = load(project, document, {"A": variable})
    except ConfigurationError as error:
        problems = error.problems
    else:
        assert len(pipeline.version) == 64
        return
    assert problems != []
    for problem in problems:
        assert isinstance(problem.where, Location)
        assert (problem.where.line >= 1, problem.where.column >= 1, problem.message != "") == (True, True, True)
        assert "hunter2" not in problem.render()


CHECK = jsonschema_rs.validator_for(json.loads(schema.FILE.read_text(encoding="utf-8")))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(damaged())
def test_what_the_loader_takes_the_published_schema_takes(project: Path, document: Any) -> None:
    try:
        load(project, document, {"A": "7"})
    except ConfigurationError:
        return
    assert [error.message for error in CHECK.iter_errors(document)] == []
