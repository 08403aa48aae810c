"""Names that mean a part of the pipeline itself are not for steps and sinks: a dead letter's step would be ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.engine.embed import load
from penstock.errors import ConfigurationError


@pytest.mark.parametrize("name", ["source", "decode", "event", "dedup", "lane", "transforms", "state"])
def test_neither_a_step_nor_a_sink_may_be_called_like_a_part_of_the_pipeline(tmp_path: Path, name: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"pipeline: p\nsource: stdin\ntransforms: [{{name: {name}, jq: .}}]\nsink: {{name: {name}, stdout: {{}}}}\n")

    with pytest.raises(ConfigurationError) as refused:
        load(file, environment={})

    assert [(problem.code, str(problem.where)) for problem in refused.value.problems] == [
        ("config.reserved_name", f"{file}:3:14"),
        ("config.reserved_name", f"{file}:4:7"),
    ]
    assert all(f"cannot be named '{name}'" in problem.message for problem in refused.value.problems)
