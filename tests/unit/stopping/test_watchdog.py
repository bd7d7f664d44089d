import asyncio
import os
import re
import time
from pathlib import Path

import pytest

from v05ray.ports import PendingCall, RoleLost
from v05ray.stopping.disk import Disk, DiskStalled
from v05ray.stopping.outstanding import Outstanding
from v05ray.stopping.watchdog import Stalled, Watchdog


class Frozen:
    async def waiting(self) -> list[PendingCall]:
        await asyncio.Event().wait()
        return []


def dog(
    notes: list[str], *, note_s: float = 0.05, limit_s: float = 0.17, disk_limit_s: float = 0.12, reply_s: float = 0.05
) -> Watchdog:
    return Watchdog(
        note_s=note_s, limit_s=limit_s, disk_limit_s=disk_limit_s, note=notes.append, disk=Disk(), reply_s=reply_s
    )


async def test_a_stage_without_progress_is_reported_and_then_ended_with_actor_and_prompt():
    notes: list[str] = []
    given = Outstanding()
    with given("generator-1", "draw", count=2, prompt_id="p3"), pytest.raises(Stalled) as caught:
        async with dog(notes).stage("draw", 7, {"the scheduler": given}, prompts=["p3", "p4"]):
            await asyncio.Event().wait()
    waits = r"waiting for prompts 'p3' \(2 draws at generator-1 for \d s\), 'p4'"
    assert re.fullmatch(rf"step 7, draw: no progress for 0.17 s, {waits}; raise run.stall_s .*", str(caught.value))
    assert len(notes) in (2, 3)
    assert re.fullmatch(rf"step 7, draw: nothing for \d s, {waits}", notes[0])


async def test_a_role_that_does_not_answer_delays_the_end_by_no_more_than_the_time_to_ask():
    started = time.monotonic()
    with pytest.raises(Stalled, match=r"waiting for prompt 'p'; the scheduler \(no answer for 0 s\)"):
        async with dog([], note_s=9.0).stage("draw", 1, {"the scheduler": Frozen()}, prompts=["p"]):
            await asyncio.Event().wait()
    assert 0.17 <= time.monotonic() - started < 10


async def test_progress_resets_the_clock():
    notes: list[str] = []
    watchdog = dog(notes, note_s=0.2, limit_s=0.3)
    async with watchdog.stage("draw", 1):
        for _ in range(8):
            await asyncio.sleep(0.06)
            watchdog.progressed()
    assert notes == []


async def test_a_timeout_of_the_work_itself_stays_what_it_is():
    with pytest.raises(TimeoutError, match="of its own") as caught:
        async with dog([], note_s=1, limit_s=1).stage("learn", 1):
            raise TimeoutError("of its own")
    assert not isinstance(caught.value, Stalled)


async def test_a_fault_of_a_role_that_is_asked_ends_the_stage_and_is_not_lost():
    class Broken:
        async def waiting(self) -> list[PendingCall]:
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        async with dog([]).stage("draw", 1, {"the scheduler": Broken()}):
            await asyncio.Event().wait()


async def test_a_disk_that_hangs_is_reported_by_its_path_and_no_loss_of_an_actor(tmp_path: Path):
    fifo, notes = tmp_path / "fifo", []
    os.mkfifo(fifo)
    watchdog = dog(notes, limit_s=9.0)
    with pytest.raises(DiskStalled, match=r"step 2, ledger: .* the disk of .* hangs.*--resume") as caught:
        async with watchdog.stage("ledger", 2, writes=tmp_path):
            await watchdog._disk.do(fifo, fifo.write_text, "x")
    assert not isinstance(caught.value, RoleLost)
    assert f"the disk (work at {fifo} for " in str(caught.value)
    assert notes[0].startswith("step 2, ledger: nothing for ")
    assert f"waiting for the disk (work at {fifo} for " in notes[0]
    await asyncio.to_thread(fifo.read_text)  # lets the thread go


class Hanging(Disk):
    """A disk that has stopped to answer."""

    async def responds(self, folder: Path, *, within_s: float = 0.0) -> bool:
        return False


@pytest.mark.parametrize(("disk", "kind"), [(Disk(), Stalled), (Hanging(), DiskStalled)])
async def test_a_rank_that_does_not_save_is_lost_unless_its_disk_hangs(tmp_path: Path, disk: Disk, kind: type):
    watchdog, given = dog([]), Outstanding()
    watchdog._disk = disk
    with given("learner rank 1", "save"), pytest.raises(kind, match=r"learner rank 1 \(save for \d s\)"):
        async with watchdog.stage("checkpoint", 2, {"the learners": given}, writes=tmp_path):
            await asyncio.Event().wait()
    with pytest.raises(RoleLost if kind is Stalled else DiskStalled, match="rank 1 did not finish 'save'"):
        async with watchdog.stage("checkpoint", 2, {"the learners": given}, writes=tmp_path):
            raise RoleLost("learner rank 1 did not finish 'save' within 600 s")
