"""The verifier pool among verifiers that hang, crash, hog and lie: verdicts come, work continues, nothing is left."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import psutil
import pytest
import uvloop

from tests.fakes import make_prompt, one_turn
from v05ray.config import RewardsConfig
from v05ray.errors import ConfigError
from v05ray.ports import RewardPool
from v05ray.rewards.pool import VerifierPool
from v05ray.types import Prompt, Rollout

HOSTILE = {"name": "python", "path": "tests.unit.rewards.hostile:judge"}
PROMPT = make_prompt("p1", answer="42")


def rollout(text: str, sample_index: int = 0) -> Rollout:
    return one_turn("p1", sample_index, text, (), (), "stop", 0, "g0", 0.0)


@asynccontextmanager
async def pool_of(verifier: object = HOSTILE, **config: object) -> AsyncIterator[VerifierPool]:
    pool = VerifierPool(RewardsConfig.model_validate({"verifier": verifier, **config}))
    try:
        await pool.start()
        yield pool
    finally:
        pool.close()
        await asyncio.sleep(0)


async def verdicts(pool: RewardPool, *texts: str) -> list[tuple[str, float]]:
    scored = await asyncio.gather(*(pool.score(PROMPT, rollout(text, i)) for i, text in enumerate(texts)))
    assert [s.rollout for s in scored] == [rollout(text, i) for i, text in enumerate(texts)]
    return [(s.verdict, s.reward) for s in scored]


RIGHT, WRONG = ("correct", 1.0), ("wrong", -1.0)
TIMEOUT, CRASH, ERROR = ("timeout", -1.0), ("crash", -1.0), ("error", -1.0)


async def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110  (other processes set no events)
        await asyncio.sleep(0.01)
    return condition()


def workers() -> list[psutil.Process]:
    """The pools' processes of this one; other tests may have left children of other kinds."""
    return [one for one in psutil.Process().children() if "v05ray.rewards.worker" in one.cmdline()]


def gone(*pids: int) -> bool:
    return all(not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in pids)


async def test_a_worker_ignores_sigterm_and_its_children_do_not():
    # Inside a run's actors the signal is blocked, which children inherit.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        async with pool_of(num_workers=1) as pool:
            (worker,) = workers()
            worker.send_signal(signal.SIGTERM)
            assert await verdicts(pool, "ends_a_child") == [RIGHT]
            assert worker.is_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_verdicts_are_counted_and_failures_are_named():
    async with pool_of() as pool:
        assert await verdicts(pool, "right", "wrong", "returns 0.5", "raises value", "right") == [
            RIGHT,
            WRONG,
            ("partial", 0.5),
            ERROR,
            RIGHT,
        ]
        expected = {"correct": 2, "wrong": 1, "partial": 1, "error": 1, "timeout": 0, "crash": 0, "unreadable": 0}
        assert pool.stats() == {**expected, "restarts": 0, "workers": 1, "queue_length": 0}
        (failure,) = pool.failures
        assert (failure.prompt_id, failure.sample_index, failure.verdict) == ("p1", 3, "error")
        assert failure.message == "ValueError: on purpose: value"


@pytest.mark.parametrize("deed", ["loops", "loops_in_c"])
async def test_a_verifier_that_hangs_is_killed_and_the_rest_is_judged(deed):
    async with pool_of(deadline_s=0.5) as pool:
        assert await verdicts(pool, "right", deed, "right", "wrong") == [RIGHT, TIMEOUT, RIGHT, WRONG]
        assert pool.stats()["restarts"] == 1
        assert pool.failures[0].message == "no verdict within 0.5 s"


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("exits 7", "exit status 7"),
        ("leaves", "exit status 0"),
        ("segfaults", "SIGSEGV"),
        ("closes_everything", "exit status 1|it closed its connection"),
    ],
)
async def test_a_verifier_that_crashes_is_replaced_and_the_rest_is_judged(deed, message):
    async with pool_of() as pool:
        assert await verdicts(pool, "right", deed, "right", deed, "wrong") == [RIGHT, CRASH, RIGHT, CRASH, WRONG]
        assert pool.stats()["restarts"] == 4  # each crash was seen twice before the response was blamed
        assert re.search(message, pool.failures[0].message)


async def test_what_a_dead_worker_had_not_judged_comes_next_and_in_order():
    order = []

    async def ask(index: int, deed: str) -> None:
        await pool.score(PROMPT, rollout(deed, index))
        order.append(index)

    async with pool_of() as pool:  # which sends sixteen together: the last four wait meanwhile
        await asyncio.gather(*(ask(index, deed) for index, deed in enumerate(["exits 1", *["right"] * 19])))
    assert order == list(range(20))


async def test_a_memory_hog_is_refused_its_memory_and_its_process_retired():
    async with pool_of(memory_mib=64) as pool:
        assert await verdicts(pool, "hogs 8", "hogs 120", "right") == [RIGHT, ERROR, RIGHT]
        assert pool.failures[0].message.startswith("MemoryError")
        assert pool.stats()["restarts"] == 1
    async with pool_of() as pool:
        assert await verdicts(pool, "hogs 120") == [RIGHT]


async def test_what_a_verifier_prints_or_reads_disturbs_no_other():
    async with pool_of() as pool:
        assert await verdicts(pool, "prints", "right") == [RIGHT, RIGHT]


async def test_each_verdict_has_its_own_deadline():
    async with pool_of(deadline_s=1) as pool:
        assert await verdicts(pool, *["sleeps 0.4"] * 3) == [RIGHT] * 3


async def test_starting_does_not_count_against_the_deadline():
    spec = {"name": "python", "path": "tests.unit.rewards.hostile:SlowToMake"}
    pool = VerifierPool(RewardsConfig.model_validate({"verifier": spec, "deadline_s": 0.5}))
    try:
        assert await verdicts(pool, "x") == [RIGHT]
    finally:
        pool.close()


LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
"""Ray's actors run on uvloop, which looks at timers before sockets; asyncio does the opposite."""


@LOOPS
def test_a_reply_in_time_counts_although_the_event_loop_was_busy(new_loop):
    async def scenario():
        async with pool_of(deadline_s=0.5) as pool:
            scoring = asyncio.create_task(verdicts(pool, "sleeps 0.15"))
            await asyncio.sleep(0.05)
            time.sleep(0.6)  # noqa: ASYNC251  (this is what is tested)
            assert await scoring == [RIGHT]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@LOOPS
def test_every_event_loop_will_do(new_loop):
    async def scenario():
        async with pool_of(deadline_s=0.5, num_workers=2) as pool:
            deeds = ("right", "loops", "wrong", "exits 1", "right")
            assert await verdicts(pool, *deeds) == [RIGHT, TIMEOUT, WRONG, CRASH, RIGHT]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


async def test_several_workers_judge_at_the_same_time_and_one_that_hangs_stops_no_other(tmp_path):
    async with pool_of(num_workers=2) as pool:
        hanging = asyncio.create_task(verdicts(pool, f"waits_for {tmp_path / 'now'}"))
        await asyncio.sleep(0.05)
        assert await verdicts(pool, *["right"] * 50) == [RIGHT] * 50
        assert not hanging.done()
        (tmp_path / "now").touch()
        assert await hanging == [RIGHT]
        pids = {s.reward for s in await asyncio.gather(*(pool.score(PROMPT, rollout("says_pid")) for _ in range(40)))}
        assert len(pids) == 2


async def test_every_verdict_of_a_storm_is_its_own():
    expected = {
        "right": RIGHT,
        "wrong": WRONG,
        "returns 0.5": ("partial", 0.5),
        "raises value": ERROR,
        "exits 1": CRASH,
        "loops": TIMEOUT,
        "right " + "x" * 1_000_000: RIGHT,
    }
    deeds = Random(0).choices(list(expected), weights=[100, 100, 50, 50, 3, 1, 10], k=300)
    async with pool_of(num_workers=3, deadline_s=1) as pool:
        assert await verdicts(pool, *deeds) == [expected[deed] for deed in deeds]
        counts = Counter(expected[deed][0] for deed in deeds)
        stats = pool.stats()
        assert {verdict: stats[verdict] for verdict in counts} == counts
        assert stats["restarts"] == 2 * counts["crash"] + counts["timeout"]


async def test_an_idle_worker_that_dies_is_replaced_without_blame():
    async with pool_of() as pool:
        for _ in range(3):
            for worker in workers():
                worker.kill()
            assert await verdicts(pool, "right", "right") == [RIGHT, RIGHT]
        assert pool.stats()["crash"] == 0


async def test_a_caller_that_goes_away_leaves_no_trace():
    async with pool_of(deadline_s=5) as pool:
        first = asyncio.create_task(pool.score(PROMPT, rollout("sleeps 0.3")))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(pool.score(PROMPT, rollout("raises value")))
        await asyncio.sleep(0.05)
        first.cancel()
        second.cancel()
        assert await verdicts(pool, "right") == [RIGHT]
        assert pool.stats()["error"] == 0


async def test_the_verifier_sees_the_prompt():
    prompt = Prompt("p1", "a question", (1, 2, 3), "an answer", "src", {"tests": [1, {"a": None}]})
    async with pool_of({"name": "python", "path": "tests.unit.rewards.hostile:sees_prompt"}) as pool:
        assert (await pool.score(prompt, rollout("\ud800 is no character, \n is a line"))).verdict == "correct"
        with pytest.raises(TypeError, match="not JSON serializable"):
            await pool.score(Prompt("p1", "", (), "", "", {"bad": {1, 2}}), rollout("x"))


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ("maths", "did you mean 'math'?"),
        ({"name": "python", "path": "gone.away:f"}, "No module named 'gone'"),
        ({"name": "python", "path": "tests.unit.rewards.hostile:DiesWhenMade"}, "could not be started.*exit status 3"),
    ],
)
async def test_a_verifier_that_cannot_be_built_is_an_error_at_the_start(verifier, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        async with pool_of(verifier):
            pass


async def test_close_ends_workers_and_what_they_started_and_waiting_calls_raise(tmp_path):
    async with pool_of(deadline_s=60) as pool:
        path = tmp_path / "pids"
        calls = [
            asyncio.create_task(pool.score(PROMPT, rollout(f"writes_pid_and_loops {path}"))),
            *(asyncio.create_task(pool.score(PROMPT, rollout("right"))) for _ in range(40)),
        ]
        assert await eventually(path.exists)
        pids = [int(pid) for pid in path.read_text().split()]
        assert not gone(*pids)
        await asyncio.to_thread(pool.close)
        assert await eventually(lambda: gone(*pids))
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert {type(result) for result in results} == {RuntimeError}
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.score(PROMPT, rollout("right"))


@LOOPS
def test_closing_while_workers_start_leaves_nothing(new_loop):
    process = psutil.Process()

    async def close_after(num_turns: int) -> None:
        pool = VerifierPool(RewardsConfig.model_validate({"verifier": "exact", "num_workers": 2}))
        starting = asyncio.create_task(pool.start())
        for _ in range(num_turns):
            await asyncio.sleep(0)
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await starting
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(close_after(3))
        num_fds, num_children = process.num_fds(), len(process.children())
        for num_turns in (*range(2, 12), 50):
            runner.run(close_after(num_turns))
            assert (num_turns, process.num_fds(), len(process.children())) == (num_turns, num_fds, num_children)


async def test_a_killed_verifier_takes_its_children_with_it(tmp_path):
    async with pool_of(deadline_s=1.5) as pool:
        path = tmp_path / "pids"
        assert await verdicts(pool, f"writes_pid_and_loops {path}", "right") == [TIMEOUT, RIGHT]
        assert await eventually(lambda: gone(*(int(pid) for pid in path.read_text().split())))


ORPHAN_MAKER = """
import asyncio, sys
from tests.unit.rewards.test_pool import PROMPT, pool_of, rollout

async def main():
    async with pool_of(deadline_s=1000, num_workers=2) as pool:
        await asyncio.gather(*(pool.score(PROMPT, rollout(f"writes_pid_and_loops {path}")) for path in sys.argv[1:]))

asyncio.run(main())
"""


async def test_workers_end_with_a_parent_that_is_killed_although_they_hold_the_interpreter(tmp_path):
    paths = [tmp_path / "one", tmp_path / "two"]
    parent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", ORPHAN_MAKER, *map(str, paths)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert await eventually(lambda: all(path.exists() for path in paths))
        pids = [int(pid) for path in paths for pid in path.read_text().split()]
        assert not gone(*pids)
    finally:
        parent.kill()
        parent.wait()
    try:
        assert await eventually(lambda: gone(*pids), 5)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_no_descriptors_and_no_processes_are_left():
    process = psutil.Process()
    async with pool_of():
        pass
    await asyncio.sleep(0.05)
    num_fds, num_children = process.num_fds(), len(process.children(recursive=True))
    for _ in range(3):
        async with pool_of(num_workers=2) as pool:
            assert await verdicts(pool, "exits 1", "right") == [CRASH, RIGHT]
        await asyncio.sleep(0.05)
    assert process.num_fds() == num_fds
    assert len(process.children(recursive=True)) == num_children


async def test_a_long_queue_brings_workers_and_idleness_takes_them_away(tmp_path):
    config = RewardsConfig.model_validate({"verifier": HOSTILE, "num_workers": 1, "max_workers": 3})
    pool = VerifierPool(config, grow_after_s=0.2, idle_s=0.5)
    try:
        await pool.start()
        assert pool.stats()["workers"] == 1
        scoring = asyncio.create_task(verdicts(pool, *[f"waits_for {tmp_path / 'now'}"] * 40))
        assert await eventually(lambda: pool.stats()["workers"] == 3)
        await asyncio.sleep(0.4)
        assert (pool.stats()["workers"], pool.stats()["queue_length"] > 0) == (3, True)  # the bound, though many wait
        (tmp_path / "now").touch()
        assert await scoring == [RIGHT] * 40
        assert await eventually(lambda: pool.stats()["workers"] == 1)
        assert len(workers()) == 1
        assert await verdicts(pool, "right") == [RIGHT]
        assert pool.stats()["restarts"] == 0
    finally:
        pool.close()


async def test_without_a_higher_bound_a_long_queue_brings_no_worker(tmp_path):
    pool = VerifierPool(RewardsConfig.model_validate({"verifier": HOSTILE}), grow_after_s=0.05)
    try:
        await pool.start()
        scoring = asyncio.create_task(verdicts(pool, *[f"waits_for {tmp_path / 'now'}"] * 40))
        await asyncio.sleep(0.5)
        assert (pool.stats()["workers"], pool.stats()["queue_length"]) == (1, 24)
        (tmp_path / "now").touch()
        assert await scoring == [RIGHT] * 40
        assert len(workers()) == 1
    finally:
        pool.close()
    with pytest.raises(ValueError, match="num_workers <= max_workers must hold: 2, 1"):
        RewardsConfig(num_workers=2, max_workers=1)
