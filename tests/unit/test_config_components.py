from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.builtins import SINKS, SOURCES, TRANSFORMS
from penstock.components import KINDS, Catalog
from penstock.config.base import ComponentConfig
from penstock.errors import UsageError


def test_every_built_in_component_keeps_the_contract_of_its_class() -> None:
    catalog = Catalog(plugins=False)
    tables = {"source": SOURCES, "transform": TRANSFORMS, "sink": SINKS}
    for kind in KINDS:
        assert catalog.names(kind) == sorted(tables[kind])
        for name in catalog.names(kind):
            cls = catalog.find(kind, name)
            undescribed = [field for field, info in cls.Config.model_fields.items() if not info.description]
            assert (cls.name, issubclass(cls.Config, ComponentConfig), undescribed, bool(cls.__doc__)) == (name, True, [], True)


@pytest.mark.parametrize(
    ("name", "help"), [("stdot", "did you mean 'stdout'?"), ("zebra", "one of drop, file, postgres, sqlite, stdout")]
)
def test_an_unknown_component_is_answered_with_the_nearest(name: str, help: str) -> None:
    with pytest.raises(UsageError) as caught:
        Catalog().find("sink", name)
    assert (caught.value.code, caught.value.help) == ("config.unknown_component", help)


@pytest.mark.parametrize("target", ["no_such_module:Sink", "penstock.errors:NoSuchClass"])
def test_a_component_whose_module_is_broken_says_so(target: str) -> None:
    with pytest.raises(UsageError) as caught:
        Catalog(sinks={"mine": target}, plugins=False).find("sink", "mine")
    assert (caught.value.code, caught.value.message) == ("component.broken", "the sink 'mine' cannot be imported")


def test_listing_components_imports_none_of_them() -> None:
    code = (
        "import sys; from penstock.components import Catalog; [Catalog().names(k) for k in ('source', 'transform', 'sink')];"
        "print([m for m in sys.modules if m.split('.')[0] in ('connectors', 'transforms', 'pydantic', 'jq')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
