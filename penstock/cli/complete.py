"""What shells are offered in the place of an argument. Nothing is imported before a shell asks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from penstock.cli.lazy import Settings

Items = list[CompletionItem]


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Files, as the shell completes them itself."""
    return [CompletionItem(incomplete, type="file")]


def pipelines(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Names of the project's pipelines."""
    from penstock.config.paths import pipeline_name, pipelines_in

    names = {pipeline_name(file) for file in pipelines_in(_project(context) / "pipelines")}
    return _matching(filter(None, names), incomplete)


def sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Names of sources."""
    from penstock.components import Catalog

    return _matching(Catalog().names("source"), incomplete)


def sinks(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Names of sinks."""
    from penstock.components import Catalog

    return _matching(Catalog().names("sink"), incomplete)


def components(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Names of components of every kind."""
    from penstock.components import KINDS, Catalog

    catalog = Catalog()
    return _matching({name for kind in KINDS for name in catalog.names(kind)}, incomplete)


def _project(context: click.Context) -> Path:
    from penstock.cli.project import project_root

    return project_root(context.find_object(Settings) or Settings())


def _matching(names: Iterable[str], incomplete: str) -> Items:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
