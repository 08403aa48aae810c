"""What PostgreSQL 16 and 18 sent, decoded and compared with the tables that they held."""

from __future__ import annotations

from typing import Any

import pytest
from pgoutput_parts import CASES, VERSIONS, catalog, golden

from connectors.sources._pgoutput import Decoder, xid_of
from connectors.sources._pgoutput_messages import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Message,
    Origin,
    RelationMessage,
    ReplicaIdentity,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    TypeMessage,
    Update,
    drift,
)
from penstock.event import decode, encode

Rows = list[dict[str, Any]]


@pytest.fixture(params=VERSIONS)
def recorded(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    return golden(request.param)


def decoded(decoder: Decoder, messages: list[bytes]) -> list[Message]:
    """Every message, in the order in which it came."""
    found: list[Message] = []
    streamed = False
    for message in messages:
        found.append(decoder.decode(message, streamed))
        streamed = (streamed or isinstance(found[-1], StreamStart)) and not isinstance(found[-1], StreamStop)
    return found


def committed(decoder: Decoder, messages: list[bytes]) -> list[Message]:
    """The messages of streamed transactions in the order of their commits, without the rows that were rolled back.

    What stands in a block is decoded at the commit, and only then: tables change their looks in the order of commits.
    """
    kept: dict[int, list[tuple[int | None, bytes]]] = {}
    found: list[Message] = []
    block: int | None = None
    for raw in messages:
        if block is not None and raw[:1] != b"E":
            kept.setdefault(block, []).append((xid_of(raw), raw))
            continue
        message = decoder.decode(raw)
        match message:
            case StreamStart(xid=xid):
                block = xid
            case StreamStop():
                block = None
            case StreamAbort(xid=xid, subxid=subxid) if xid == subxid:
                del kept[xid]
            case StreamAbort(xid=xid, subxid=subxid):
                kept[xid] = [(owner, raw) for owner, raw in kept[xid] if owner != subxid or raw[:1] in b"RY"]
            case StreamCommit(xid=xid):
                found += [decoder.decode(entry, True) for _, entry in kept.pop(xid)]
            case _:
                found.append(message)
    assert not kept
    return found


def mirror(messages: list[Message]) -> dict[str, Rows]:
    """The tables as the messages make them."""
    tables: dict[str, Rows] = {}
    for message in messages:
        match message:
            case RelationMessage():
                evolve(tables.setdefault(message.relation.name, []), message)
            case Insert():
                tables[message.relation.name].append(message.new)
            case Update():
                identity = message.old or {name: message.new[name] for name in message.relation.key}
                changed = found_by(tables[message.relation.name], identity)
                changed.update({name: value for name, value in message.new.items() if value is not UNCHANGED})
            case Delete():
                rows = tables[message.relation.name]
                rows.remove(found_by(rows, message.old))
            case Truncate():
                for relation in message.relations:
                    tables[relation.name].clear()
    return tables


def evolve(rows: Rows, message: RelationMessage) -> None:
    found = message.previous and drift(message.previous, message.relation)
    for row in rows if found else []:
        row.update({column.name: None for column in found.added})
        for column in found.dropped:
            del row[column.name]


def found_by(rows: Rows, identity: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in identity.items()))


def in_order(rows: Rows) -> list[bytes]:
    return sorted(encode(dict(sorted(row.items()))) for row in rows)


def converted(recorded: dict[str, Any], decoder: Decoder) -> dict[str, Rows]:
    """The tables as they were in the end, by the converters that a snapshot uses."""
    types = {relation.name: {c.name: c.type_oid for c in relation.columns} for relation in decoder.relations.values()}

    def value(table: str, column: str, text: str | None) -> Any:
        return None if text is None else decoder.types.converter(types[table][column])(text.encode())

    return {
        table: [{name: value(table, name, text) for name, text in row.items()} for row in rows]
        for table, rows in recorded["rows"].items()
    }


@pytest.mark.parametrize("capture", ["whole", "streamed"])
def test_a_mirror_of_the_messages_equals_the_tables(recorded: Any, capture: str) -> None:
    header, captures = recorded
    decoder = Decoder(catalog(header))
    tables = mirror((committed if capture == "streamed" else decoded)(decoder, captures[capture]))
    expected = converted(header, decoder)
    assert sorted(tables) == sorted(expected)
    for table, rows in expected.items():
        assert in_order(tables[table]) == in_order(rows), table


@pytest.mark.parametrize("capture", ["whole", "streamed"])
def test_every_type_has_the_value_that_a_reader_expects(recorded: Any, capture: str) -> None:
    header, captures = recorded
    messages = decoded(Decoder(catalog(header)), captures[capture])
    full, empty = [m for m in messages if isinstance(m, Insert) and m.relation.name == "every_type"]
    assert full.fault is None
    assert list(full.new) == ["id", *(f"c{n}" for n in range(len(CASES)))]
    for n, (kind, literal, expected) in enumerate(CASES):
        value = full.new[f"c{n}"]
        assert (value, type(value)) == (expected, type(expected)), f"{kind}: {literal}"
    assert decode(encode(full.new)) == full.new
    assert empty.new == {"id": 2, **{f"c{n}": None for n in range(len(CASES))}}


def test_the_catalog_knows_every_type_of_every_table(recorded: Any) -> None:
    header, captures = recorded
    decoder = Decoder(catalog(header))
    decoded(decoder, captures["whole"])
    for relation in decoder.relations.values():
        assert decoder.types.missing(relation.type_oids) == set()


def test_replica_identities_decide_what_is_known_of_old_rows(recorded: Any) -> None:
    header, captures = recorded
    decoder = Decoder(catalog(header))
    messages = decoded(decoder, captures["whole"])
    identities = {relation.name: (relation.identity, relation.key) for relation in decoder.relations.values()}
    assert identities["by_default"] == (ReplicaIdentity.DEFAULT, ("id", "part"))
    assert identities["by_full"] == (ReplicaIdentity.FULL, ("id", "body", "note"))
    assert identities["by_nothing"] == (ReplicaIdentity.NOTHING, ())
    assert identities["by_index"] == (ReplicaIdentity.INDEX, ("code",))
    updates = [(m.relation.name, m.old and list(m.old), m.old_is_key, m.unchanged) for m in messages if isinstance(m, Update)]
    assert updates[:6] == [
        ("by_default", ["id", "part"], True, ("body",)),
        ("by_default", None, False, ()),
        ("by_default", ["id", "part"], True, ()),
        ("by_full", ["id", "body", "note"], False, ()),
        ("by_index", None, False, ()),
        ("by_index", ["code"], True, ()),
    ]
    deletes = [(m.relation.name, m.old, m.old_is_key) for m in messages if isinstance(m, Delete)]
    assert deletes == [
        ("by_default", {"id": 3, "part": "c"}, True),
        ("by_full", {"id": 3, "body": None, "note": "gone"}, False),
        ("by_index", {"code": "three"}, True),
        ("parted_1", {"id": 1}, True),
    ]


def test_changes_of_a_table_show_as_drift(recorded: Any) -> None:
    header, captures = recorded
    described = [m for m in decoded(Decoder(catalog(header)), captures["whole"]) if isinstance(m, RelationMessage)]
    found = [drift(m.previous, m.relation) for m in described if m.previous and m.relation.name == "drifting"]
    assert [
        ([c.name for c in d.added], [c.name for c in d.dropped], [(a.type_oid, b.type_oid) for a, b in d.retyped])
        for d in found
        if d is not None
    ] == [(["c"], [], [(23, 20)]), ([], ["b"], []), (["d"], ["c"], [])]


def test_transactions_messages_origins_and_types_are_read(recorded: Any) -> None:
    header, captures = recorded
    messages = decoded(Decoder(catalog(header)), captures["whole"])
    begins, commits = ([m for m in messages if isinstance(m, kind)] for kind in (Begin, Commit))
    assert [b.commit_lsn for b in begins] == [c.commit_lsn for c in commits] == sorted(b.commit_lsn for b in begins)
    assert all(c.end_lsn > c.commit_lsn and c.time == b.time for b, c in zip(begins, commits, strict=True))
    assert [(m.transactional, m.prefix, m.content) for m in messages if isinstance(m, LogicalMessage)] == [
        (True, "noted", b"in the transaction"),
        (False, "beat", b"\0\xff"),
    ]
    assert [m for m in messages if isinstance(m, Origin)] == [Origin(0xABCDEF, "elsewhere")]
    assert ("public", "mood") in {(m.schema, m.name) for m in messages if isinstance(m, TypeMessage)}
    assert [([r.name for r in m.relations], m.cascade, m.restart_identity) for m in messages if isinstance(m, Truncate)] == [
        (["emptied"], True, True)
    ]


def test_streamed_blocks_name_their_transactions_and_what_was_rolled_back(recorded: Any) -> None:
    header, captures = recorded
    messages = decoded(Decoder(catalog(header)), captures["streamed"])
    commits = [m.xid for m in messages if isinstance(m, StreamCommit)]
    aborts = [m for m in messages if isinstance(m, StreamAbort)]
    assert len(commits) == len(set(commits)) == 22
    assert [(m.xid == m.subxid, m.xid in commits, bool(m.abort_lsn)) for m in aborts] == [
        (False, True, True),
        (False, True, True),
        (True, False, True),
    ]
    inserted = [m for m in messages if isinstance(m, Insert) and m.relation.name == "emptied"]
    assert {m.new["id"] for m in inserted if m.xid in {a.subxid for a in aborts}} == {11, 12, 99}
