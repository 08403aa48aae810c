"""Writes the golden journal of the format as it is now: `python tests/golden/record_journal.py tests/golden/journal_v1`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from journal_parts import BEGAN, corrections_of, lines_of, write, writer

from penstock.journal.head import HEAD


def main(directory: Path) -> None:
    """Two segments, of which the first has a commit that is corrected."""
    directory.mkdir()
    (directory / HEAD).write_text(json.dumps({"format": 1, "id": "0123456789abcdef"}) + "\n")
    journal = writer(directory, roll=1)
    lines = lines_of(1, 2, 3)
    lines.texts[1] = lines.texts[1].replace(b',"event"', b',"given":{"id":"source-2"},"event"')
    lines.others[1] = "source-2"
    journal.append(lines)
    journal.append(corrections_of(3))
    journal.commit()
    write(journal, 4, 5, at=BEGAN + 60)
    journal.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
