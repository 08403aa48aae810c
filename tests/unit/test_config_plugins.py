from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_parts import Project

from penstock.components import Catalog
from penstock.errors import UsageError

MODULE = """
from penstock.config.base import ComponentConfig, DataProgram
from pydantic import Field

class Config(ComponentConfig):
    shorthand = "program"
    program: DataProgram = Field(description="A program.")

class Shout:
    "Shouts."
    name = "shout"
    Config = Config

    def __init__(self, config, context):
        self.config = config

    def apply(self, events):
        return list(events)

class Bare:
    "No component."
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    project = Project(tmp_path)
    project.write("site/shout_plugin.py", MODULE)
    project.write("site/shout_broken.py", "raise ValueError('no licence')")
    return project


def install(project: Project, distribution: str, *entries: str) -> None:
    """What pip leaves behind of a package with entry points."""
    project.write(f"site/{distribution}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    project.write(f"site/{distribution}-1.dist-info/entry_points.txt", "[penstock.transforms]\n" + "\n".join(entries) + "\n")


def pipeline(transform: object) -> str:
    return json.dumps({"pipeline": "p", "source": "stdin", "transforms": [transform], "sink": "drop"})


def test_an_installed_component_is_used_as_a_built_in_one(project: Project) -> None:
    install(project, "shout", "shout = shout_plugin:Shout")
    step = project.load(pipeline({"shout": ".a", "when": ".b"})).steps[0]
    assert (step.name, step.component.kind, step.component.config.model_dump()) == ("shout-1", "shout", {"program": ".a"})
    assert [code for code, _ in project.found(pipeline({"shout": ".a ("}))] == ["jq.syntax"]
    assert project.problems(pipeline({"shuot": ".a"}))[0].help == "did you mean 'shout'?"


def test_an_installed_component_does_not_replace_a_built_in_one(project: Project) -> None:
    install(project, "shout", "jq = shout_plugin:Shout")
    assert Catalog().find("transform", "jq").__module__ == "transforms.jq"
    assert Catalog().names("transform") == Catalog(plugins=False).names("transform")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("shout_broken:Shout", "ValueError: no licence"),
        ("shout_gone:Shout", "ModuleNotFoundError: No module named 'shout_gone'"),
        ("shout_plugin:Gone", "AttributeError: module 'shout_plugin' has no attribute 'Gone'"),
        ("shout_plugin:Bare", "it has no `Config`, so it is no component"),
    ],
)
def test_a_broken_plugin_is_a_located_problem(project: Project, target: str, why: str) -> None:
    install(project, "shout", f"shout = {target}")
    problems = project.problems(pipeline({"shout": ".a", "nope": 1}))
    assert [(problem.code, problem.why) for problem in problems] == [("component.broken", why), ("config.unknown_field", None)]


def test_two_plugins_of_one_name_are_refused_where_it_is_used(project: Project) -> None:
    install(project, "shout", "shout = shout_plugin:Shout")
    install(project, "other", "shout = other_plugin:Shout")
    with pytest.raises(UsageError) as caught:
        Catalog().find("transform", "shout")
    assert (caught.value.code, caught.value.why) == ("component.ambiguous", "other_plugin:Shout and shout_plugin:Shout")
    assert Catalog().find("transform", "jq").name == "jq"
