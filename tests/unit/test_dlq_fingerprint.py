"""Fingerprints: golden values of algorithm 1, and what does and does not divide groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq.fingerprint import fingerprint, generalise
from penstock.errors import Violation


def v(path: str, rule: str, message: str = "") -> Violation:
    return Violation(path, rule, message)


@pytest.mark.parametrize(
    ("step", "code", "violations", "expected"),
    [
        ("jq-1", "jq.failed", [], "143b02afa0403962b"),
        ("validate-1", "validate.failed", [v(".a[3].b", "type")], "1d5d1374ebea21c30"),
        ("source", "decode.invalid_utf8", [], "12032ef857e2c45e6"),
        ("prüfen", "validate.failed", [v(".Preis", "minimum"), v(".items[0]", "type")], "156380bb2fe866035"),
    ],
)
def test_stored_fingerprints_of_algorithm_1_never_change(
    step: str, code: str, violations: list[Violation], expected: str
) -> None:
    assert fingerprint(step, code, violations) == expected


def test_ids_values_and_order_do_not_divide_a_group() -> None:
    one = fingerprint("check", "validate.failed", [v(".items[3].price", "minimum", "o-1: 0 is too small"), v(".name", "type")])
    two = fingerprint(
        "check",
        "validate.failed",
        [v(".name", "type", "o-2"), v(".items[0].price", "minimum", "-7"), v(".items[12].price", "minimum", "0")],
    )
    assert one == two


@pytest.mark.parametrize(
    "other",
    [
        ("check-2", "validate.failed", [v(".a", "type")]),
        ("check", "validate.other", [v(".a", "type")]),
        ("check", "validate.failed", [v(".b", "type")]),
        ("check", "validate.failed", [v(".a", "minimum")]),
        ("check", "validate.failed", [v(".a", "type"), v(".b", "type")]),
        ("check", "validate.failed", []),
    ],
)
def test_step_code_path_and_rule_each_divide(other: tuple[str, str, list[Violation]]) -> None:
    assert fingerprint(*other) != fingerprint("check", "validate.failed", [v(".a", "type")])


@pytest.mark.parametrize(
    ("path", "general"),
    [
        (".items[3].price", ".items[].price"),
        (".[0][12]", ".[][]"),
        (".a[-1]", ".a[]"),
        ('."a[3]"[4]', '."a[3]"[]'),
        ('.["x\\"[1]"][1]', '.["x\\"[1]"][]'),
        (".", "."),
        ("", ""),
    ],
)
def test_array_indexes_are_generalised_and_keys_are_kept(path: str, general: str) -> None:
    assert generalise(path) == general


texts = st.text(max_size=8)


@given(texts, texts, st.lists(st.tuples(texts, texts), max_size=5), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_give_the_same_seventeen_hexadecimal_characters(
    step: str, code: str, pairs: list[tuple[str, str]], random: object
) -> None:
    violations = [v(path, rule) for path, rule in pairs]
    shuffled = [*violations, *violations]
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # Hypothesis' own random
    digest = fingerprint(step, code, violations)
    assert fingerprint(step, code, shuffled) == digest
    assert len(digest) == 17
    assert digest[0] == "1"
    assert set(digest) <= set("0123456789abcdef")
