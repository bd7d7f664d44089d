import asyncio

import pytest

from v05ray.watchdog import Stalled, Watchdog, some


async def test_a_stage_without_progress_is_told_and_then_ended_by_name():
    notes: list[str] = []
    dog = Watchdog(note_s=0.05, limit_s=0.17, note=notes.append)
    with pytest.raises(
        Stalled, match=r"step 7, draw: no progress for 0.17 s, waiting for prompt 'p3'; raise run.stall"
    ):
        async with dog.stage("draw", 7, lambda: some(["p3"])):
            await asyncio.Event().wait()
    assert len(notes) in (2, 3)
    assert notes[0].startswith("step 7, draw: nothing for 0 s, waiting for prompt 'p3'")


async def test_progress_starts_the_clock_anew():
    notes: list[str] = []
    dog = Watchdog(note_s=0.2, limit_s=0.3, note=notes.append)
    async with dog.stage("draw", 1, lambda: "nothing"):
        for _ in range(8):
            await asyncio.sleep(0.06)
            dog.progressed()
    assert notes == []


async def test_a_timeout_of_the_work_itself_stays_what_it_is():
    dog = Watchdog(note_s=1, limit_s=1, note=print)
    with pytest.raises(TimeoutError, match="of its own") as caught:
        async with dog.stage("learn", 1, lambda: "nothing"):
            raise TimeoutError("of its own")
    assert not isinstance(caught.value, Stalled)


def test_three_prompts_are_named_and_the_rest_counted():
    assert some(["a"]) == "prompt 'a'"
    assert some(["a", "b", "c", "d", "e"]) == "prompts 'a', 'b', 'c' and 2 more"
