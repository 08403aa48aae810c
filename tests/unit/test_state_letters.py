"""Dead letters: provisional, merged, settled after a crash, listed. Rules 7, 9 and 10, and "One commit, in this order"."""

from __future__ import annotations

import pytest
from state_builders import at, claim_at, claimant, commit, letter, note, version

from penstock.errors import Fenced, UsageError, Violation
from penstock.ledger import Claim, JobRecord
from penstock.state.letter_desk import Act
from penstock.state.records import Delivered, Happening, LetterQuery, Repeat, Status
from penstock.state.store import StateStore

ANY = LetterQuery(status=())


@pytest.fixture
async def store(store: StateStore) -> StateStore:
    """A run holds it."""
    await store.hold()
    await store.issue_epoch(version())
    return store


async def listed(store: StateStore) -> dict[str, tuple[str, list[str]]]:
    letters, _ = await store.letters(ANY)
    return {one.id: (one.status, list(one.owed)) for one in letters}


async def test_a_letter_comes_back_whole(store: StateStore) -> None:
    original = letter(
        "l1", 7, why="why", help="help", violations=[Violation(".price", "minimum", "too low")],
        delivered=[Delivered("s", 1)], time="2026-01-01T00:00:00Z", attempts=3, repeats=2, reread=True, job="j", status="open",
        redelivered=True,
    )  # fmt: skip
    await store.put_dead_letters(1, 1, [original], [])
    await store.note(1, note(1))
    assert await store.letters(LetterQuery()) == ([original], None)
    (without_bodies,), _ = await store.letters(LetterQuery(), bodies=False)
    assert (without_bodies.record, without_bodies.original, without_bodies.id) == (b"", None, "l1")


async def test_a_letter_is_not_listed_before_its_group_is_noted_but_the_run_knows_its_key(store: StateStore) -> None:
    assert not await store.has_open_letters()
    await store.put_dead_letters(1, 4, [letter("l1", 1), letter("l2", 2)], [])
    await store.put_dead_letters(1, 5, [letter("l3", 3)], [])
    assert await listed(store) == {}
    assert await store.letter_groups(ANY) == []
    assert await store.letter_counts() == {}
    assert await store.has_open_letters()
    assert [found.id for found in await store.open_letters([letter("l1", 1).key or b"", letter("x", 9).key or b""])] == ["l1"]
    await store.note(1, note(4))
    assert set(await listed(store)) == {"l1", "l2"}


async def test_a_letter_without_position_stands_at_once(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", position=b"")], [])
    await store.put_dead_letters(
        1, 2, [letter("l1", position=b"", last_at=9.0)], [Repeat("l1", "p", b""), Repeat("l1", "p", b"")]
    )
    ((found,), _) = await store.letters(ANY)
    assert (found.attempts, found.repeats, found.first_at, found.last_at) == (2, 2, 1.0, 9.0)


async def test_a_second_failure_is_merged_with_the_first(store: StateStore) -> None:
    first = letter("l1", owed=["a"], delivered=[Delivered("s", 0)], attempts=2, repeats=1, first_at=1.0)
    second = letter("l1", owed=["b", "a"], attempts=3, message="anew", fingerprint="f2", first_at=5.0, last_at=5.0)
    await store.put_dead_letters(1, 1, [first], [])
    await store.note(1, note(1))
    await store.put_dead_letters(1, 2, [second], [])
    assert [(one.message, one.attempts) for one in (await store.letters(ANY))[0]] == [("l1 has no price", 2)]
    await store.note(1, note(2))
    ((found,), _) = await store.letters(ANY)
    assert (found.message, found.fingerprint, found.attempts, found.repeats) == ("anew", "f2", 5, 1)
    assert (list(found.owed), found.delivered, found.first_at, found.last_at) == (["a", "b"], [Delivered("s", 0)], 1.0, 5.0)


@pytest.mark.parametrize("ended", ["resolved", "discarded", "superseded"])
async def test_a_settled_letter_that_fails_again_is_open_and_only_what_is_new_counts(store: StateStore, ended: str) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", delivered=[Delivered("s", 0)])], [])
    await store.note(1, note(1))
    assert await store.set_status(1, ["l1"], ended) == ["l1"]  # type: ignore[arg-type]  # one of the literal's values
    await store.put_dead_letters(1, 2, [letter("l1", owed=["b"], delivered=[Delivered("t", 1)])], [])
    await store.note(1, note(2))
    ((found,), _) = await store.letters(ANY)
    assert (found.status, list(found.owed), found.delivered) == ("open", ["b"], [Delivered("t", 1)])


async def test_putting_a_group_again_changes_nothing(store: StateStore) -> None:
    for _ in range(2):
        await store.put_dead_letters(1, 1, [letter("l1")], [Repeat("l1", "p", at(3).order)])
    for _ in range(2):
        await store.note(1, note(1))
    ((found,), _) = await store.letters(ANY)
    assert (found.attempts, found.repeats) == (1, 1)


async def test_repeats_count_once_when_their_group_is_noted(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1")], [])
    await store.note(1, note(1))
    repeats = [Repeat("l1", "p", at(5).order), Repeat("l1", "p", at(6).order)]
    await store.put_dead_letters(1, 2, [], repeats)
    assert (await store.letters(ANY))[0][0].repeats == 0
    await store.note(1, note(2, repeats=repeats))
    assert (await store.letters(ANY))[0][0].repeats == 2


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (4, 4, {}),  # died before any ledger committed: the event will be read again
        (5, 4, {"l1": ("open", ["a"])}),  # b reads it again
        (5, 6, {"l1": ("open", ["a", "b"])}),
    ],
)
async def test_a_claim_settles_a_provisional_letter_by_who_has_passed_it(
    store: StateStore, a: int, b: int, expected: dict[str, tuple[str, list[str]]]
) -> None:
    await store.put_dead_letters(1, 3, [letter("l1", 5)], [Repeat("l1", "p", at(6).order)])
    epoch = await store.issue_epoch(version())
    await store.settle(epoch, {"a": claim_at(a), "b": claim_at(b), "other": claim_at(99)})
    assert await listed(store) == expected
    assert [one.repeats for one in (await store.letters(ANY))[0]] == ([int(b == 6)] if expected else [])
    await store.note(epoch, note(9))
    assert await listed(store) == expected  # nothing was left behind that a later group would bring to light


async def test_settling_undoes_a_provisional_merge(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", 5)], [])
    await store.note(1, note(1))
    await store.put_dead_letters(1, 2, [letter("l1", 5, attempts=7)], [])
    await store.settle(1, {"a": claim_at(4), "b": claim_at(4)})
    ((found,), _) = await store.letters(ANY)
    assert (found.attempts, found.message, list(found.owed)) == (1, "l1 has no price", ["a", "b"])


async def test_two_provisional_groups_of_one_letter_settle_into_one(store: StateStore) -> None:
    for group in (2, 3):
        await store.put_dead_letters(1, group, [letter("l1", 5)], [])
    await store.settle(1, {"a": claim_at(5)})
    ((found,), _) = await store.letters(ANY)
    assert (found.attempts, list(found.owed)) == (2, ["a"])


async def test_superseding_survives_a_crash_between_ledger_and_note(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", 1), letter("l2", 2)], [])
    await store.note(1, note(1))
    await store.put_dead_letters(1, 2, [], [], [Repeat("l1", "p", at(5).order), Repeat("l2", "p", at(7).order)])
    await store.settle(1, {"a": claim_at(6)})
    assert {name: status for name, (status, _) in (await listed(store)).items()} == {"l1": "superseded", "l2": "open"}


async def test_job_records_resolve_a_letter_when_every_ledger_that_owes_it_has_one(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", 1), letter("l2", 2), letter("l3", 3)], [])
    await store.note(1, note(1))
    await store.set_status(1, ["l1", "l2"], "replaying", job="j")
    jobs = [JobRecord("j", "l1"), JobRecord("j", "l2"), JobRecord("j", "l3")]

    def claims(a: list[JobRecord], b: list[JobRecord]) -> dict[str, Claim]:
        return {"a": claim_at(9, jobs=a), "b": claim_at(9, jobs=b)}

    for _ in range(2):  # settling is repeatable
        await store.settle(1, claims(jobs, jobs[:1]))
        assert await listed(store) == {"l1": ("resolved", []), "l2": ("replaying", ["b"]), "l3": ("open", ["a", "b"])}


async def test_a_record_of_a_job_does_not_resolve_a_letter_that_failed_again_since(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", 1)], [])
    await store.note(1, note(1))
    await store.set_status(1, ["l1"], "replaying", job="j")
    still = letter("l1", 1, owed=["b"], message="still", delivered=[Delivered("s", 0)])
    await store.note(1, note(2, failed_again=[still], ledgers={"a": "i", "b": "i"}))
    await store.settle(1, {"b": claim_at(9, jobs=[JobRecord("j", "l1")])})
    ((found,), _) = await store.letters(ANY)
    assert (found.status, list(found.owed), found.message, found.attempts, found.job) == ("open", ["b"], "still", 2, None)


async def test_a_replay_settles_no_debt_of_a_ledger_that_the_pipeline_no_longer_has(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter(name, n, owed=["a", "gone"]) for n, name in enumerate(["l1", "l2"], 1)], [])
    await store.put_dead_letters(1, 1, [letter("l3", 3, owed=["gone"])], [])
    await store.note(1, note(1))
    job = (await store.jobs.create("replay", "{}", "ann@here")).id
    await store.set_status(1, ["l1", "l2", "l3"], "replaying", job=job)
    again = letter("l2", 2, owed=["a"], message="still")
    await store.note(1, note(2, resolved=["l1", "l3"], failed_again=[again], ledgers={"a": "i"}))
    await store.jobs.end(1, job, "done")
    assert await listed(store) == {"l1": ("open", ["gone"]), "l2": ("open", ["gone", "a"]), "l3": ("open", ["gone"])}


@pytest.mark.parametrize("fails_again", [False, True])
async def test_a_replay_settles_no_debt_that_came_while_it_was_under_way(store: StateStore, fails_again: bool) -> None:
    """One ledger had passed the event when a run died, and its dead letter stands; the other reads it again, where it fails."""
    await store.put_dead_letters(1, 1, [letter("l1", 1, owed=["a"])], [])
    await store.note(1, note(1))
    job = (await store.jobs.create("replay", "{}", "ann@here")).id
    await store.set_status(1, ["l1"], "replaying", job=job)
    await store.put_dead_letters(1, 2, [letter("l1", 1, owed=["b"])], [])
    await store.note(1, note(2))
    of_job = {"failed_again": [letter("l1", 1, owed=["a"])]} if fails_again else {"resolved": ["l1"]}
    await store.note(1, note(3, **of_job, offered={"l1": ["a"]}, ledgers={"a": "i", "b": "i"}))
    await store.jobs.end(1, job, "done")
    assert await listed(store) == {"l1": ("open", ["b", "a"] if fails_again else ["b"])}


async def test_debts_are_handed_over_once_however_often(store: StateStore) -> None:
    letters = [letter("l1", 1), letter("l2", 2, owed=["b"]), letter("l3", 3, owed=["c", "a"]), letter("l4", 4)]
    await store.put_dead_letters(1, 1, letters, [])
    await store.note(1, note(1))
    await store.set_status(1, ["l4"], "resolved")
    for _ in range(2):
        await store.hand_over(1, {"a": ["a", "new"], "b": ["c"]}, ["l1", "l2", "l4"])
    assert await listed(store) == {
        "l1": ("open", ["a", "new", "c"]), "l2": ("open", ["c"]), "l3": ("open", ["c", "a"]), "l4": ("resolved", ["a", "b"]),
    }  # fmt: skip
    await store.hand_over(1, {"c": ["a"]})
    assert {name: owed for name, (_, owed) in (await listed(store)).items()} == {
        "l1": ["a", "new"], "l2": ["a"], "l3": ["a"], "l4": ["a", "b"],
    }  # fmt: skip


async def test_one_transaction_for_all_steps_where_the_store_is_the_only_ledger(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit_group(commit(1, 1), [letter("l1", 1), letter("l2", 2)], note(1, positions={"p": at(1)}))
    repeats = [Repeat("l1", "p", at(2).order), Repeat("l1", "p", b"")]
    await store.commit_group(commit(2, 2), [], note(2, positions={"p": at(2)}, repeats=repeats, superseded=["l2"]))
    letters, _ = await store.letters(ANY)
    assert [(one.id, one.status, one.repeats) for one in letters] == [("l1", "open", 2), ("l2", "superseded", 0)]
    assert (await store.read_note()).positions == {"p": at(2)}
    with pytest.raises(Fenced):
        await store.commit_group(commit(2, 3), [letter("l3", 3)], note(2))
    assert set(await listed(store)) == {"l1", "l2"}
    assert await store.committed() == (1, 2)


async def test_an_older_epoch_writes_nothing(store: StateStore) -> None:
    await store.issue_epoch(version())
    for attempt in (
        store.put_dead_letters(1, 1, [letter("l1")], []),
        store.note(1, note(1)),
        store.settle(1, {}),
        store.hand_over(1, {"a": ["b"]}),
        store.set_status(1, ["l1"], "open"),
        store.reset(1, None),
    ):
        with pytest.raises(Fenced):
            await attempt
    assert await listed(store) == {}
    assert (await store.read_note()).group == 0


async def test_pages_follow_each_other_in_order_of_first_failure(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter(f"l{n}", n % 3 + 1) for n in range(7)], [])
    await store.note(1, note(1))
    pages, cursor = [], None
    while True:
        letters, cursor = await store.letters(LetterQuery(), after=cursor, limit=3)
        pages.append([one.id for one in letters])
        if cursor is None:
            break
    assert pages == [["l0", "l3", "l6"], ["l1", "l4", "l2"], ["l5"]]
    with pytest.raises(UsageError, match="no cursor"):
        await store.letters(LetterQuery(), after="nonsense")


async def test_filters_choose_letters_and_groups_alike(store: StateStore) -> None:
    await store.put_dead_letters(
        1, 1,
        [letter("aa1", 1), letter("aa2", 2, step="jq-1", fingerprint="f2"), letter("ab3", 3, code="jq.error", type="other")],
        [],
    )  # fmt: skip
    await store.note(1, note(1))
    await store.set_status(None, ["aa1"], "discarded")
    for query, expected in (
        (LetterQuery(), ["aa2", "ab3"]),
        (ANY, ["aa1", "aa2", "ab3"]),
        (LetterQuery(status=["discarded"]), ["aa1"]),
        (LetterQuery(ids=["ab", "aa2"]), ["aa2", "ab3"]),
        (LetterQuery(fingerprint="f2"), ["aa2"]),
        (LetterQuery(step="jq-1"), ["aa2"]),
        (LetterQuery(code="jq.error"), ["ab3"]),
        (LetterQuery(type="other"), ["ab3"]),
        (LetterQuery(after=2.0, before=3.0), ["aa2"]),
    ):
        assert [one.id for one in (await store.letters(query))[0]] == expected
        assert sum(group.count for group in await store.letter_groups(query)) == len(expected)
    assert await store.letter_counts() == {"open": 2, "discarded": 1}


async def test_groups_are_counted_most_frequent_first_with_their_latest_as_example(store: StateStore) -> None:
    letters = [letter(f"l{n}", n, fingerprint="f1" if n < 4 else "f2", repeats=n) for n in range(1, 6)]
    await store.put_dead_letters(1, 1, letters, [])
    await store.note(1, note(1))
    first, second = await store.letter_groups(LetterQuery())
    assert (first.fingerprint, first.count, first.repeats, first.first_at, first.last_at) == ("f1", 3, 6, 1.0, 3.0)
    assert (first.example, first.message, first.code, first.step) == ("l3", "l3 has no price", "validate.failed", "validate-1")
    assert (second.fingerprint, second.count, second.example) == ("f2", 2, "l5")


async def test_a_prefix_must_name_one(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter(n, 1, fingerprint=f) for n, f in (("aa", "f1"), ("aab", "f12"), ("ab", "f2"))], [])
    await store.note(1, note(1))
    for query, code in (
        (LetterQuery(ids=["a"]), "dlq.ambiguous"),
        (LetterQuery(ids=["x"]), "dlq.unknown"),
        (LetterQuery(fingerprint="f"), "dlq.ambiguous"),
        (LetterQuery(fingerprint="g"), "dlq.unknown"),
    ):
        with pytest.raises(UsageError) as caught:
            await store.letters(query)
        assert caught.value.code == code
    for exact in (LetterQuery(ids=["aa"]), LetterQuery(fingerprint="f1")):
        assert [one.id for one in (await store.letters(exact))[0]] == ["aa"]


async def test_discarding_keeps_the_key_and_resolving_does_not(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1", 1), letter("l2", 2)], [])
    await store.note(1, note(1))
    keys = [letter("", n).key or b"" for n in (1, 2)]
    await store.set_status(1, ["l1"], "discarded")
    await store.set_status(1, ["l2"], "resolved")
    assert [(one.id, one.owed) for one in await store.open_letters(keys)] == [("l1", ("a", "b"))]
    assert await store.has_open_letters()
    assert await store.set_status(1, ["l1"], "resolved") == ["l1"]
    assert await store.open_letters(keys) == []
    assert not await store.has_open_letters()


async def test_old_letters_that_are_settled_expire_in_small_steps_and_no_others(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter(f"l{n}", n) for n in range(1, 8)], [])
    await store.note(1, note(1))
    settled: dict[str, Status] = {"l2": "resolved", "l3": "superseded", "l7": "resolved", "l1": "parked", "l4": "replaying"}
    for name, status in settled.items():
        await store.set_status(1, [name], status)
    assert [await store.expire_letters(6.0, limit=1) for _ in range(3)] == [1, 1, 0]
    assert set(await listed(store)) == {"l1", "l4", "l5", "l6", "l7"}


async def test_the_age_of_a_letter_begins_with_the_last_thing_done_with_it(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1"), letter("l2")], [])
    await store.note(1, note(1))
    await store.set_status(1, ["l2"], "discarded")
    assert await store.desk.discard(["l1", "l2"], ["open"], Act("ann@here", "nobody wants it")) == ["l1"]
    discarded = 1_000_000.0
    assert await store.desk.history("l1") == [Happening(discarded, "discarded", "ann@here", {"reason": "nobody wants it"})]
    assert await store.expire_letters(discarded) == 1
    assert set(await listed(store)) == {"l1"}
    assert await store.expire_letters(discarded + 1) == 1
    assert (await store.desk.history("l1"), await store.letter_counts()) == ([], {})


async def test_a_job_that_ends_hands_back_what_it_did_not_replay(store: StateStore) -> None:
    await store.put_dead_letters(1, 1, [letter("l1"), letter("l2", 2)], [])
    await store.note(1, note(1))
    job = (await store.jobs.create("replay", "{}", "ann@here")).id
    await store.set_status(1, ["l1", "l2"], "replaying", job=job)
    assert [(one.id, one.kind, one.options) for one in await store.jobs.open_ones()] == [(job, "replay", "{}")]
    await store.note(1, note(2, resolved=["l1"], ledgers={"a": "i", "b": "i"}))
    await store.jobs.end(1, job, "done")
    assert {name: status for name, (status, _) in (await listed(store)).items()} == {"l1": "resolved", "l2": "open"}
    assert await store.jobs.open_ones() == []
