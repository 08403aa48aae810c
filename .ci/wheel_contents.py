"""Assert what a wheel holds: exactly our top-level packages, and in them exactly the files of the source tree."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

PACKAGES = {"penstock", "connectors", "transforms", "registry", "dlq", "backfill", "verify"}


def main(wheel: Path, tree: Path) -> str | None:
    """None when all is well, else what is wrong."""
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    top = {name.partition("/")[0] for name in names}
    metadata = {name for name in top if name.startswith("penstock-") and name.endswith(".dist-info")}
    if top - metadata != PACKAGES or len(metadata) != 1:
        return f"the wheel's top-level names are {sorted(top)}, not {sorted(PACKAGES)} and one dist-info"
    held = {name for name in names if name.partition("/")[0] in PACKAGES}
    expected = {
        path.relative_to(tree).as_posix()
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    if held != expected:
        return f"missing from the wheel: {sorted(expected - held)}; in the wheel, not in the tree: {sorted(held - expected)}"
    if "penstock/py.typed" not in held:
        return "the wheel has no penstock/py.typed"
    print(f"{wheel.name}: {len(held)} files in {', '.join(sorted(PACKAGES))}")
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
