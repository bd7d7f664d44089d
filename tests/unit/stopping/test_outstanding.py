import asyncio

from tests.fakes import FakeGenerator, FakeRewardPool, make_prompt, make_request
from v05ray.ports import PendingCall
from v05ray.stopping.outstanding import MOST, Outstanding, WatchedRewards, describe, pending_calls


def test_what_is_alike_is_one_entry_and_the_longest_comes_first():
    now = 10.0
    given = Outstanding(clock=lambda: now)
    with given("generator-0", "draw", count=4, prompt_id="b"):
        now = 20.0
        with given("generator-0", "draw", count=2, prompt_id="b"), given("generator-1", "load of version 3"):
            now = 71.0
            assert given.pending() == [
                PendingCall("generator-0", "draw", 61.0, 6, "b"),
                PendingCall("generator-1", "load of version 3", 51.0),
            ]
        assert given.pending() == [PendingCall("generator-0", "draw", 61.0, 4, "b")]
    assert given.pending() == []


def test_a_large_batch_reports_only_its_oldest_calls():
    now = 0.0
    given = Outstanding(clock=lambda: now)
    entries = []
    for index in range(MOST + 10):
        now = float(index)
        entries.append(given("g", "draw", prompt_id=f"p{index}"))
        entries[-1].__enter__()
    calls = given.pending()
    assert [one.prompt_id for one in calls] == [f"p{index}" for index in range(MOST)]


def test_the_words_name_prompt_actor_work_and_seconds():
    calls = [
        PendingCall("the reward actor", "verdict", 3.2, 1, "p17"),
        PendingCall("generator-1", "draw", 61.4, 2, "p17"),
        PendingCall("learner rank 0", "accumulate", 5.0),
    ]
    assert describe(calls, ["p17"]) == (
        "prompt 'p17' (2 draws at generator-1 for 61 s, 1 verdict at the reward actor for 3 s); "
        "learner rank 0 (accumulate for 5 s)"
    )
    assert describe([PendingCall("g", "draw", 1.0, 1, "a")], ["z", "a", "y", "x"]) == (
        "prompts 'a' (1 draw at g for 1 s), 'z', 'y' and 1 more"
    )
    assert describe([], ["a", "b"]) == "prompts 'a', 'b'"
    assert describe([PendingCall(f"generator-{i}", "load of version 2", 9.0 - i) for i in range(5)]) == (
        "generator-0 (load of version 2 for 9 s), generator-1 (load of version 2 for 8 s), "
        "generator-2 (load of version 2 for 7 s) and 2 more"
    )
    assert describe([]) == "no pending work reported"


async def test_a_role_that_does_not_even_say_what_it_waits_for_is_named_itself():
    class Frozen:
        async def waiting(self) -> list[PendingCall]:
            await asyncio.Event().wait()
            return []

    given = Outstanding()
    with given("value-0", "prediction"):
        calls = await pending_calls({"the scheduler": Frozen(), "the value pool": given}, within_s=0.05)
    assert [(one.actor, one.what) for one in calls] == [("the scheduler", "no answer"), ("value-0", "prediction")]


async def test_a_verdict_that_is_out_is_known_with_its_prompt():
    rewards = WatchedRewards(FakeRewardPool(latency=0.02))
    prompt = make_prompt("p")
    (rollout,) = await FakeGenerator({"p": [1.0]}).draw(make_request(prompt, [0]))
    scoring = asyncio.create_task(rewards.score(prompt, rollout))
    await asyncio.sleep(0)
    assert [(one.actor, one.what, one.prompt_id) for one in await rewards.waiting()] == [
        ("the reward actor", "verdict", "p")
    ]
    assert (await scoring).reward == 1.0
    assert await rewards.waiting() == []
