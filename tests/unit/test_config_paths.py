from __future__ import annotations

from pathlib import Path

import pytest

from penstock.config.lint import lint
from penstock.config.loader import expand, find_pipeline, find_project
from penstock.config.paths import pipeline_name, pipelines_in
from penstock.errors import UsageError


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines/deep").mkdir(parents=True)
    (tmp_path / "penstock.yaml").write_text("workers: 0\n")
    (tmp_path / "pipelines/b.yaml").write_text('pipeline: "billing"  # theirs\n')
    (tmp_path / "pipelines/a.yml").write_text("description: x\npipeline: orders\n")
    (tmp_path / "pipelines/other.yaml").write_text("services: {}\n")
    (tmp_path / "pipelines/broken.yaml").write_text("pipeline: broken\n  x: [\n")
    return tmp_path


def test_the_project_is_the_nearest_directory_with_its_file(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert find_project(project / "pipelines/deep") == project
    assert find_project(elsewhere) == elsewhere


def test_files_globs_and_directories_each_once_in_order(project: Path) -> None:
    assert expand(["pipelines/b.yaml", "pipelines", "pipelines/*.yml"]) == [
        Path(f"pipelines/{name}") for name in ("b.yaml", "a.yml", "broken.yaml")
    ]


def test_names_are_looked_up_in_the_project_unless_a_path_is_called_so(project: Path) -> None:
    assert expand(["billing", "orders", "pipelines/b.yaml"], project) == [
        project / f"pipelines/{name}" for name in ("b.yaml", "a.yml")
    ]
    (project / "orders").mkdir()
    (project / "orders/one.yaml").write_text("pipeline: one\n")
    assert expand(["orders"], project) == [Path("orders/one.yaml")]
    with pytest.raises(UsageError) as caught:
        expand(["biling"], project)
    assert (caught.value.code, caught.value.help) == ("usage.unknown_pipeline", "did you mean 'billing'?")


def test_one_file_by_several_spellings_is_one(project: Path) -> None:
    (project / "link.yaml").symlink_to(project / "pipelines/b.yaml")
    arguments = ["pipelines/b.yaml", "./pipelines/../pipelines/b.yaml", str(project / "pipelines/b.yaml"), "link.yaml"]
    assert expand(arguments) == [Path("pipelines/b.yaml")]


def test_only_readable_files_that_declare_a_pipeline_count_in_a_directory(project: Path) -> None:
    place = project / "odd"
    (place / "folder.yaml").mkdir(parents=True)
    contents = {
        "bom.yaml": "\ufeffpipeline: a\n",
        "quoted.yaml": "'pipeline': 'b'\n",
        "benthos.yaml": "pipeline:\n  processors: []\n",
        "list.yaml": "pipeline: [a]\n",
        "nested.yaml": "x:\n  pipeline: a\n",
    }
    for name, text in contents.items():
        (place / name).write_text(text, encoding="utf-8")
    (place / "penstock.yaml").write_text("pipeline: a\n")
    assert {path.name: pipeline_name(path) for path in pipelines_in(place)} == {"bom.yaml": "a", "quoted.yaml": "b"}
    assert pipeline_name(place / "gone.yaml") is None


def test_a_file_that_cannot_be_read_is_not_left_out_in_silence(project: Path) -> None:
    (project / "pipelines/sealed.yaml").symlink_to("/proc/self/mem")  # which nobody can read from its beginning
    assert [file.name for file in pipelines_in(project / "pipelines")] == ["a.yml", "b.yaml", "broken.yaml", "sealed.yaml"]
    [report] = lint([project / "pipelines/sealed.yaml"], environment={})
    assert [problem.code for problem in report.problems] == ["config.unreadable"]
    assert find_pipeline("billing", project) == project / "pipelines/b.yaml"
    with pytest.raises(UsageError) as caught:
        find_pipeline("zzz", project)
    assert caught.value.help == "there are billing, broken, orders; of one elsewhere write its file"


def test_a_name_that_two_files_have_is_refused(project: Path) -> None:
    (project / "pipelines/copy.yaml").write_text("pipeline: billing\n")
    with pytest.raises(UsageError) as caught:
        find_pipeline("billing", project)
    assert caught.value.code == "usage.same_pipeline"
    assert find_pipeline("pipelines/copy.yaml", project) == Path("pipelines/copy.yaml")


@pytest.mark.parametrize("argument", ["gone.yaml", "pipelines/deep", "gone/*.yaml"])
def test_an_argument_that_names_nothing_is_an_error(project: Path, argument: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(["pipelines/b.yaml", argument])
    assert caught.value.code == "usage.no_files"


def test_a_pipeline_is_found_by_name_or_file(project: Path) -> None:
    assert find_pipeline("billing", project) == project / "pipelines/b.yaml"
    assert find_pipeline("pipelines/b.yaml", project) == Path("pipelines/b.yaml")


def test_an_unknown_pipeline_is_answered_with_the_nearest(project: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_pipeline("oders", project)
    assert (caught.value.code, caught.value.help) == ("usage.unknown_pipeline", "did you mean 'orders'?")
