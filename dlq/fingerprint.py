"""The fingerprint of a failure: the same cause groups together, whatever ids, values and counts its messages hold.

Algorithm `1`: BLAKE2b with an 8-byte digest over the compact JSON array `["STEP", "CODE", [["PATH", "RULE"], …]]` in ASCII, where
the pairs are those of the violations, array indexes in paths generalised (`.items[3].price` becomes `.items[].price`), each pair
once, sorted by code point. The fingerprint is the character `1` and the digest in lower-case hexadecimal: 17 characters. Another
algorithm takes another first character, so stored fingerprints stay comparable with those that were made the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b

from penstock.errors import Violation

VERSION = "1"
_QUOTED_OR_INDEX = re.compile(r'("(?:[^"\\]|\\.)*")|\[-?\d+\]', re.DOTALL)


def fingerprint(step: str, code: str, violations: Sequence[Violation]) -> str:
    """Digest of step, code and the distinct (path, rule) pairs; messages and values do not count."""
    pairs = sorted({(generalise(violation.path), violation.rule) for violation in violations})
    text = json.dumps([step, code, pairs], ensure_ascii=True, separators=(",", ":"))
    return VERSION + blake2b(text.encode(), digest_size=8).hexdigest()


def generalise(path: str) -> str:
    """A jq path with its array indexes taken out; a quoted key keeps its brackets."""
    return _QUOTED_OR_INDEX.sub(lambda match: match[1] or "[]", path)
