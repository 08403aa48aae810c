"""What the pages show works: pipelines in them are sound and pass their tests, programs in them compile."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from penstock import ComponentConfig, Sink
from penstock.config.loader import load_pipeline
from penstock.engine.preview import run_test

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "guide.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        texts = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        found += [(f"{page.name}-{number}", text) for number, text in enumerate(texts)]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in blocks("yaml")])
async def test_a_pipeline_on_a_page_is_sound_and_passes_its_tests(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for _, module in blocks("python"):
        if (named := re.match(r"# (\w+\.py)\n", module)) is not None:
            (tmp_path / named[1]).write_text(module)
    file = tmp_path / "page.yaml"
    file.write_text(text)
    pipeline = load_pipeline(file, overrides=(), environment={}, project=tmp_path)
    results = [await run_test(pipeline, case) for case in pipeline.tests]
    assert results
    assert [result.diff for result in results] == [""] * len(results)


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in blocks("python")])
def test_python_on_a_page_compiles(text: str) -> None:
    assert compile(text, "page", "exec").co_filename == "page"


def test_the_sink_of_the_contributors_page_is_a_sink() -> None:
    text = next(text for name, text in blocks("python") if name.startswith("CONTRIBUTING"))
    namespace: dict[str, object] = {"__name__": "page"}
    exec(compile(text, "page", "exec", dont_inherit=True), namespace)
    shout = namespace["Shout"]
    assert isinstance(shout, type)
    assert issubclass(shout.Config, ComponentConfig)
    assert isinstance(shout(shout.Config(), None), Sink)
