import asyncio
import re
import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.fakes import FakeGenerator, FakeRewardPool, make_prompt, make_request
from v05ray.errors import ConfigError
from v05ray.ports import GeneratorLost, Served, Weights
from v05ray.scheduling.generators import MAX_ATTEMPTS, MAX_RESTARTS, GeneratorPool, NoGeneratorLeft, PoolExhausted
from v05ray.scheduling.snapshot import ReplicaState
from v05ray.types import WeightsProof

REWARDS = {f"p{i}": [1.0, -1.0] for i in range(8)}


async def started(*generators: FakeGenerator, **options: Any) -> GeneratorPool:
    pool = GeneratorPool(FakeRewardPool(), **{"draw_timeout_s": 5.0, **options})
    pool.add(generators)
    await pool.until_ready()
    return pool


def request(name: str = "p0", indices: tuple[int, ...] = (0, 1)):
    return make_request(make_prompt(name), indices)


async def test_work_goes_to_the_generator_with_the_least_outstanding_tokens():
    slow, fast = (FakeGenerator(REWARDS, name, latency=0.05) for name in ("slow", "fast"))
    pool = await started(slow, fast)
    await asyncio.gather(pool.draw(request("p0", (0, 1, 2, 3))), pool.draw(request("p1")), pool.draw(request("p2")))
    assert [r.prompt_id for r in slow.requests] == ["p0"]
    assert [r.prompt_id for r in fast.requests] == ["p1", "p2"]
    assert (await pool.snapshot()).workload.outstanding_tokens == 0


async def test_a_preferred_generator_is_taken_unless_its_queue_costs_more_than_the_prefix_saves():
    a, b = (FakeGenerator(REWARDS, name, latency=0.05) for name in ("a", "b"))
    pool = await started(a, b)
    await pool.draw(request("p0"), prefer="b")
    busy = asyncio.create_task(pool.draw(request("p1", (0, 1, 2, 3)), prefer="b"))
    await asyncio.sleep(0.01)
    await pool.draw(request("p0", (2, 3)), prefer="b")  # 80 tokens wait at b, the prefix is worth 4
    await busy
    assert [r.prompt_id for r in b.requests] == ["p0", "p1"]
    assert [r.prompt_id for r in a.requests] == ["p0"]


async def test_a_lost_draw_is_drawn_by_another_with_the_same_indices_and_seeds():
    dying = FakeGenerator(REWARDS, "dying", lost_after=0)
    living = FakeGenerator(REWARDS, "living")
    pool = await started(dying, living)
    wanted = request("p0", (0, 1))
    rollouts = await pool.draw(wanted, prefer="dying")
    assert [r.sample_index for r in rollouts] == [0, 1]
    assert living.requests == [wanted]
    assert (await pool.snapshot()).num_lost_draws == 2
    assert (await pool.snapshot()).replicas == {"dying": ReplicaState.GONE, "living": ReplicaState.READY}


async def test_a_restarted_generator_gets_the_current_weights_before_any_work():
    generator = FakeGenerator(REWARDS, "g", restarts=True)
    pool = await started(generator)
    await pool.load_weights(Weights(3, None, 0))
    generator.lost_after = 0
    rollouts = await pool.draw(request())
    assert {r.policy_version for r in rollouts} == {3}
    assert [w.version for w in generator.loaded] == [3, 3]
    assert (await pool.snapshot()).num_restarts == 1


async def test_rollouts_of_a_stale_version_are_never_handed_out():
    stale = FakeGenerator(REWARDS, "stale", restarts=True)
    pool = await started(stale)
    await pool.load_weights(Weights(2, None, 0))
    stale.version = 1  # as if it had been restarted behind the pool's back
    rollouts = await pool.draw(request())
    assert {r.policy_version for r in rollouts} == {2}
    assert (await pool.snapshot()).num_lost_draws == 2


async def test_a_frozen_generator_loses_its_draw_at_the_timeout():
    frozen = FakeGenerator(REWARDS, "frozen", latency=60.0)
    living = FakeGenerator(REWARDS, "living")
    pool = await started(frozen, living, draw_timeout_s=0.05)
    rollouts = await pool.draw(request(), prefer="frozen")
    assert {r.generator_id for r in rollouts} == {"living"}


async def test_no_generator_left_is_an_error_and_not_a_wait():
    pool = await started(FakeGenerator(REWARDS, "only", lost_after=0))
    with pytest.raises(PoolExhausted, match="no generator is left of 1"):
        await pool.draw(request())


async def test_a_prompt_that_kills_every_generator_is_named():
    class Poisoned(FakeGenerator):
        async def restart(self) -> None:
            await super().restart()
            self.lost_after = len(self.requests)

    pool = await started(Poisoned(REWARDS, "g", restarts=True, lost_after=0))
    with pytest.raises(PoolExhausted, match=f"prompt 'p0': {MAX_ATTEMPTS} generators were lost"):
        await pool.draw(request())


async def test_a_draining_generator_finishes_what_it_has_and_gets_no_more():
    leaving, staying = (FakeGenerator(REWARDS, name, latency=0.05) for name in ("leaving", "staying"))
    pool = await started(leaving, staying)
    last = asyncio.create_task(pool.draw(request("p0"), prefer="leaving"))
    await asyncio.sleep(0.01)
    drained = asyncio.create_task(pool.drain("leaving"))
    await asyncio.sleep(0)
    await pool.draw(request("p1"), prefer="leaving")
    await drained
    assert {r.generator_id for r in await last} == {"leaving"}
    assert [r.prompt_id for r in staying.requests] == ["p1"]
    assert (await pool.snapshot()).replicas["leaving"] is ReplicaState.GONE


async def test_one_that_drains_while_it_comes_up_is_gone_and_stays_so():
    class Slow(FakeGenerator):
        async def ready(self):
            await asyncio.sleep(0.05)

    pool = await started(FakeGenerator(REWARDS, "g"))
    pool.add([Slow(REWARDS, "slow")])
    await asyncio.sleep(0.01)
    await asyncio.wait_for(pool.drain("slow"), 0.03)
    await asyncio.sleep(0.08)
    assert (await pool.snapshot()).replicas == {"g": ReplicaState.READY, "slow": ReplicaState.GONE}


async def test_new_weights_wait_for_no_replica_on_the_way_up_and_a_newcomer_serves_them():
    class Slow(FakeGenerator):
        async def ready(self):
            await asyncio.sleep(0.1)

    pool, slow = await started(FakeGenerator(REWARDS, "g")), Slow(REWARDS, "slow")
    pool.add([slow])
    await pool.load_weights(Weights(1, None, 0))
    await asyncio.wait_for(pool.load_weights(Weights(2, None, 0)), 0.05)
    assert (await pool.snapshot()).replicas == {"g": ReplicaState.READY, "slow": ReplicaState.STARTING}
    await pool.until_ready()
    assert [weights.version for weights in slow.loaded] == [2]
    (rollout, *_) = await pool.draw(request(), prefer="slow")
    assert (rollout.generator_id, rollout.policy_version) == ("slow", 2)


async def test_one_that_fails_its_weights_holds_no_other_up_while_it_restarts():
    class Failing(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            if weights.version == 1:
                raise GeneratorLost("no")
            return await super().load_weights(weights)

        async def restart(self) -> None:
            await asyncio.sleep(60)

    pool = await started(FakeGenerator(REWARDS, "g"), Failing(REWARDS, "failing"))
    await asyncio.wait_for(pool.load_weights(Weights(1, None, 0)), 1.0)
    assert (await pool.snapshot()).replicas == {"g": ReplicaState.READY, "failing": ReplicaState.STARTING}
    await pool.close()


async def test_the_pool_meters_what_it_is_asked_for_and_what_it_answers():
    pool = await started(FakeGenerator(REWARDS, "g", latency=0.05, num_tokens=3))
    start = time.monotonic()
    answered = asyncio.create_task(pool.draw(request("p0", (0, 1))))
    given_up = asyncio.create_task(pool.draw(request("p1", (0,))))
    await asyncio.sleep(0.01)
    given_up.cancel()
    assert (await pool.snapshot()).workload.outstanding_tokens == 3 * (4 + 16)
    await answered
    work = (await pool.snapshot()).workload
    assert (work.outstanding_tokens, work.answered_bound, work.answered_tokens) == (0, 2 * (4 + 16), 2 * (4 + 3))
    assert work.ready_s == pytest.approx(work.generating_s)
    assert 0.04 < work.generating_s <= time.monotonic() - start


async def test_a_full_generator_is_given_no_more_until_it_answers():
    most = 0

    class Counting(FakeGenerator):
        live = 0

        async def draw(self, request):
            nonlocal most
            self.live += len(request.sample_indices)
            most = max(most, self.live)
            try:
                return await super().draw(request)
            finally:
                self.live -= len(request.sample_indices)

    pool = await started(Counting(REWARDS, "g", latency=0.01), max_outstanding_seqs=4)
    drawn = await asyncio.gather(*(pool.draw(request(f"p{i}", (0, 1))) for i in range(8)))
    assert [rollouts[0].prompt_id for rollouts in drawn] == [f"p{i}" for i in range(8)]
    assert most == 4


async def test_what_waits_goes_to_the_first_generator_with_room_and_in_order():
    slow, fast = FakeGenerator(REWARDS, "slow", latency=0.2), FakeGenerator(REWARDS, "fast", latency=0.01)
    pool = await started(slow, fast, max_outstanding_seqs=2)
    await asyncio.gather(*(pool.draw(request(f"p{i}")) for i in range(8)))
    assert [r.prompt_id for r in slow.requests] == ["p0"]
    assert [r.prompt_id for r in fast.requests] == [f"p{i}" for i in range(1, 8)]


async def test_a_draw_larger_than_the_limit_gets_a_generator_of_its_own():
    pool = await started(FakeGenerator(REWARDS, "g"), max_outstanding_seqs=2)
    assert len(await pool.draw(request("p0", (0, 1, 2, 3)))) == 4


async def test_a_cancelled_wait_hands_its_turn_on():
    pool = await started(FakeGenerator(REWARDS, "g", latency=0.02), max_outstanding_seqs=2)
    draws = [asyncio.create_task(pool.draw(request(f"p{i}"))) for i in range(3)]
    await asyncio.sleep(0.005)
    draws[1].cancel()
    (rollout, *_) = await asyncio.wait_for(draws[2], 1.0)
    assert rollout.prompt_id == "p2"


async def test_losing_the_last_generator_ends_those_who_wait_for_it():
    pool = await started(FakeGenerator(REWARDS, "g", latency=0.02, lost_after=1), max_outstanding_seqs=2)
    results = await asyncio.gather(*(pool.draw(request(f"p{i}")) for i in range(4)), return_exceptions=True)
    assert any(isinstance(result, PoolExhausted) for result in results)
    assert (await pool.snapshot()).workload.outstanding_tokens == 0


async def test_a_start_and_an_update_that_hang_are_given_up_at_their_timeouts():
    class Frozen(FakeGenerator):
        async def ready(self) -> None:
            await asyncio.Event().wait()

    living = FakeGenerator(REWARDS, "living")
    pool = await started(Frozen(REWARDS, "frozen"), living, start_timeout_s=0.05)
    assert (await pool.snapshot()).replicas == {"frozen": ReplicaState.GONE, "living": ReplicaState.READY}

    class Stuck(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            if not self.loaded:
                self.loaded.append(weights)
                await asyncio.Event().wait()
            return await super().load_weights(weights)

    stuck = Stuck(REWARDS, "stuck", restarts=True)
    pool = await started(stuck, load_timeout_s=0.05)
    await pool.load_weights(Weights(1, None, 0))
    assert ((await pool.snapshot()).num_restarts, stuck.version) == (1, 1)
    assert (await pool.snapshot()).replicas == {"stuck": ReplicaState.READY}


async def test_a_frozen_generator_holds_no_abort_up():
    class Frozen(FakeGenerator):
        async def abort(self, prompt_id: str) -> None:
            await asyncio.Event().wait()

    pool = await started(Frozen(REWARDS, "frozen"), draw_timeout_s=0.05)
    await asyncio.wait_for(pool.abort("p0"), 2.0)


@pytest.mark.parametrize("no_room", [False, True])
async def test_the_last_failure_is_reported_when_none_is_left(no_room: bool):
    class Refusing(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            raise GeneratorLost("g: ValueError('bucket 3 does not fit')", no_room=no_room)

    pool = await started(Refusing(REWARDS, "g", restarts=True))
    with pytest.raises(NoGeneratorLeft, match=r"bucket 3 does not fit.*see the generators' logs") as raised:
        await pool.load_weights(Weights(1, None, 0))
    assert raised.value.no_room is no_room


@dataclass
class Refusing(FakeGenerator):
    """Cannot start, or cannot load a version."""

    refuses: str = "ready"
    num_restarts: int = 0

    async def ready(self) -> None:
        if self.refuses == "ready":
            raise ConfigError("the KV cache has no room for model.max_length")

    async def load_weights(self, weights: Weights) -> Served:
        if self.refuses == "load_weights":
            raise ConfigError("weights do not fit the model")
        return await super().load_weights(weights)

    async def restart(self) -> None:
        self.num_restarts += 1


async def test_a_replica_that_can_never_start_is_reported_at_once_and_not_restarted():
    refusing = Refusing(REWARDS, "refusing")
    slow = FakeGenerator(REWARDS, "slow")
    slow.ready = asyncio.Event().wait  # type: ignore[method-assign,assignment]
    pool = GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0)
    pool.add([slow, refusing])
    async with asyncio.timeout(2):
        with pytest.raises(ConfigError, match="the KV cache has no room"):
            await pool.until_ready()
        with pytest.raises(ConfigError, match="the KV cache has no room"):
            await pool.draw(request())
    assert (refusing.num_restarts, (await pool.snapshot()).num_restarts) == (0, 0)
    await pool.close()


async def test_weights_that_do_not_fit_are_reported_at_once_and_the_replica_is_not_restarted():
    refusing = Refusing(REWARDS, "refusing", refuses="load_weights")
    pool = await started(refusing)
    async with asyncio.timeout(2):
        with pytest.raises(ConfigError, match="weights do not fit"):
            await pool.load_weights(Weights(1, None, 0))
    assert refusing.num_restarts == 0


PROOF = WeightsProof({"embed": 5, "norm": 6}, ((-1.0, -2.0),))
PROVED = Weights(1, None, 0, proof=PROOF, tolerance_nats=0.01)


@dataclass
class Liar(FakeGenerator):
    """Answers its first weight updates with these proofs, later ones rightly."""

    answers: list[WeightsProof | None] = field(default_factory=list)

    async def load_weights(self, weights: Weights) -> Served:
        served = await super().load_weights(weights)
        return replace(served, proof=self.answers.pop(0)) if self.answers else served


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (WeightsProof({"embed": 5, "norm": 7}, PROOF.logprobs), "norm is not as sent"),
        (WeightsProof(PROOF.checksums, ((-1.0, -2.5),)), r"the probe's log-probabilities differ by 0\.25 nats a token"),
        (WeightsProof({"norm": 6}, PROOF.logprobs), "no checksum of embed came"),
        (None, "it gave no proof"),
    ],
)
async def test_a_generator_that_serves_something_else_is_barred_named_and_restarted(
    answer: WeightsProof | None, why: str, caplog: pytest.LogCaptureFixture
):
    liar, honest = Liar(REWARDS, "liar", restarts=True, answers=[answer]), FakeGenerator(REWARDS, "honest")
    pool = await started(liar, honest)
    report = await pool.load_weights(PROVED)
    assert [served.proof for served in report.served][:1] == [PROOF]
    (barred,) = report.barred
    assert barred.startswith("liar does not serve version 1: ")
    assert barred.endswith("; it is restarted")
    assert re.search(why, barred)
    await pool.until_ready()
    assert (await pool.snapshot()).replicas == {"liar": ReplicaState.READY, "honest": ReplicaState.READY}
    seen = await pool.snapshot()
    assert (seen.num_barred, seen.num_restarts, [w.version for w in liar.loaded]) == (1, 1, [1, 1])
    assert "liar failed to load version 1 (liar does not serve version 1" in caplog.text
    # The newcomer's proof is reported with the next update.
    later = await pool.load_weights(replace(PROVED, version=2))
    assert sorted(served.version for served in later.served) in ([1, 2, 2], [2, 2])
    assert later.barred == ()


async def test_a_barred_generator_draws_nothing_and_one_that_never_serves_what_was_sent_is_given_up():
    wrong = WeightsProof({"embed": 0, "norm": 0}, PROOF.logprobs)
    liar = Liar(REWARDS, "liar", restarts=True, answers=[wrong] * (MAX_RESTARTS + 1))
    honest = FakeGenerator(REWARDS, "honest")
    pool = await started(liar, honest)
    await pool.load_weights(PROVED)
    await pool.until_ready()
    await asyncio.gather(*(pool.draw(request(f"p{i}")) for i in range(8)))
    assert liar.requests == []
    assert (await pool.snapshot()).replicas == {"liar": ReplicaState.GONE, "honest": ReplicaState.READY}
    assert (await pool.snapshot()).num_barred == MAX_RESTARTS + 1


async def test_without_a_generator_left_the_last_difference_is_reported():
    wrong = WeightsProof({"embed": 5, "norm": 0}, PROOF.logprobs)
    pool = await started(Liar(REWARDS, "liar", restarts=True, answers=[wrong] * 9))
    with pytest.raises(NoGeneratorLeft, match="liar does not serve version 1: norm is not as sent"):
        await pool.load_weights(PROVED)


async def test_an_update_that_asks_for_no_proof_bars_none_but_one_of_another_version():
    class Behind(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            await super().load_weights(weights)
            return Served(weights.version - 1) if len(self.loaded) == 1 else Served(weights.version)

    pool = await started(Behind(REWARDS, "behind", restarts=True), Liar(REWARDS, "liar", answers=[None]))
    report = await pool.load_weights(Weights(4, None, 0))
    assert report.barred == ("behind does not serve version 4: it answered as version 3; it is restarted",)
