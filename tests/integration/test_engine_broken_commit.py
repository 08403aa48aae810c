"""After a commit that failed the run commits nothing more: what the group wrote would be committed along with the next one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from engine_parts import crash_at

import penstock
from penstock.engine.assemble import Surroundings, assemble
from penstock.engine.claim import claim_pipeline
from penstock.engine.claimed import Claimed
from penstock.engine.run import RunOptions
from penstock.engine.work import Work
from penstock.errors import PenstockError
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.reader import JournalReader
from penstock.observe.status import RunStatus
from penstock.spi import Batch, Position

PIPELINE = """\
pipeline: shop
source: { file: { paths: [in.jsonl] } }
sink: { file: { path: out.jsonl } }
"""


def work(number: int) -> Work:
    """One event, on its way to the sink as it is."""
    event = Event(str(number), "file:in.jsonl", "t", raw=b'{"n":%d}' % number, position=bytes([number]))
    batch = Batch("in.jsonl", [event], end=Position(bytes([number])))
    return Work(batch, 0.0, 1.0, [event], outputs=[event])


async def claimed_with(faults: Faults, project: Path, stack: AsyncExitStack) -> Claimed:
    options = RunOptions(faults=faults)
    assembly = assemble(penstock.load(project / "shop.yaml"), Surroundings(options.clock, options.random, faults))
    return await claim_pipeline(assembly, options, RunStatus("shop", "v"), stack)


@pytest.mark.parametrize("point", ["after_sink_write", "after_journal", "before_note"])
async def test_nothing_is_committed_behind_a_commit_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.yaml").write_text(PIPELINE)
    async with AsyncExitStack() as stack:
        claimed = await claimed_with(crash_at(point), tmp_path, stack)
        with pytest.raises(PenstockError) as first:
            await claimed.committer.commit([work(1)])
        with pytest.raises(PenstockError) as second:
            await claimed.committer.commit([work(2)])
        assert second.value is first.value
    async with AsyncExitStack() as stack:
        claimed = await claimed_with(Faults(), tmp_path, stack)
        assert claimed.standing.positions == {}
        await claimed.committer.commit([work(1)])
        await claimed.committer.commit([work(2)])
        await claimed.finish(drained=True)
    assert (tmp_path / "out.jsonl").read_text() == '{"n":1}\n{"n":2}\n'
    assert len(list(JournalReader(tmp_path / ".penstock" / "journal" / "shop").range(0.0, 1e11))) == 2
