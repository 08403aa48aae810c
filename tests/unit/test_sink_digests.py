"""What an inspection remembers, against plain dictionaries; and in how little memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from connectors.sinks._digests import Suspects, Wanted

DIGESTS = st.sampled_from([0, 1, 256, -1, -256, (1 << 63) - 1, -(1 << 63)])


@given(st.lists(DIGESTS), st.lists(DIGESTS))
def test_each_digest_is_wanted_as_often_as_it_was_added(added: list[int], seen: list[int]) -> None:
    wanted = Wanted()
    wanted.add(added, range(len(added)))
    wanted.seal()
    counts = Counter(added)
    for digest in seen:
        assert wanted.see(digest) == (counts[digest] > 0)
        counts[digest] -= counts[digest] > 0
    missing = list(wanted.missing())
    assert wanted.left == len(missing) == counts.total()
    assert Counter(added[token] for token in missing) == +counts
    last = {digest: [n for n, each in enumerate(added) if each == digest] for digest in counts}
    assert sorted(missing) == sorted(token for digest, count in counts.items() for token in last[digest][-count:] if count)


@given(st.lists(st.tuples(st.sampled_from(["add", "settle", "clear", "count"]), DIGESTS)))
def test_a_suspect_is_settled_by_what_comes_behind_it(steps: list[tuple[str, int]]) -> None:
    suspects = Suspects()
    model: list[tuple[int, int]] = []
    for token, (step, digest) in enumerate(steps):
        if step == "add":
            suspects.add(digest, token)
            model.append((digest, token))
        elif step == "settle":
            suspects.settle(digest)
            model = [each for each in model if each[0] != digest]
        elif step == "clear":
            suspects.clear()
            model = []
        else:
            assert suspects.count() == len(model)
    assert sorted(suspects.tokens()) == [token for _, token in model]
    assert suspects or not model


def test_what_settles_others_without_end_takes_no_memory_without_end() -> None:
    suspects = Suspects()
    suspects.add(5, 1)
    tracemalloc.start()
    for n in range(300_000):
        suspects.settle(6 + n)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 3 << 20
    assert list(suspects.tokens()) == [1]


def test_a_digest_that_is_wanted_takes_twenty_bytes() -> None:
    tracemalloc.start()
    wanted = Wanted()
    for first in range(0, 100_000, 1000):
        wanted.add(map(hash, map(str, range(first, first + 1000))), range(first, first + 1000))
    wanted.seal()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 24 * 100_000 + 200_000
