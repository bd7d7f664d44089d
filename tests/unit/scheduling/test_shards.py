import asyncio
import random
from collections.abc import Sequence

import pytest

from tests.fakes import SAMPLING, FakeGenerator, FakeRewardPool, make_prompt, make_request
from v05ray.config import BudgetConfig, Spec
from v05ray.ports import BatchRequest, GeneratorLost, PendingCall, Served, Weights
from v05ray.scheduling.generators import GeneratorPool, NoGeneratorLeft
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.scheduling.shards import Shards
from v05ray.scheduling.snapshot import ReplicaState
from v05ray.types import Prior, WeightsProof

NAMES = [f"p{i}" for i in range(32)]


def shards_of(count: int) -> Shards:
    return Shards([GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0) for _ in range(count)])


async def staffed(count: int, *generators: FakeGenerator) -> Shards:
    shards = shards_of(count)
    shards.add(generators)
    await shards.until_ready()
    return shards


@pytest.mark.parametrize("halt_fraction", [0.0, 0.25])
async def test_any_number_of_shards_decides_alike(halt_fraction: float):
    rng = random.Random(1)
    rewards = {name: [rng.choice([1.0, -1.0]) for _ in range(16)] for name in NAMES}
    priors = {name: Prior(name, rng.uniform(-0.9, 0.9), 0) for name in NAMES}
    rounds = BudgetConfig(rule=Spec(name="osla"), halt_fraction=halt_fraction, mode="rounds")
    results = []
    for count in (1, 2, 4):
        drawing = await staffed(count, *(FakeGenerator(rewards, f"g{i}") for i in range(4)))
        scheduler = RolloutScheduler(drawing, rounds, seed=0)
        batch = BatchRequest(1, 0, tuple(map(make_prompt, NAMES)), priors, SAMPLING)
        groups = [group async for group in scheduler.run(batch)]
        results.append({g.prompt.prompt_id: (g.rewards, g.stop.reason) for g in groups})
    assert results[0] == results[1] == results[2]
    # With the halt on, the whole batch halts once, however its prompts are spread over the shards.
    assert ("halted" in {reason for _, reason in results[0].values()}) == (halt_fraction > 0)


async def test_replicas_are_dealt_out_evenly_and_so_is_the_work():
    generators = [FakeGenerator({"p": [1.0]}, f"g{i}", latency=0.01) for i in range(4)]
    parts = [GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0) for _ in range(2)]
    drawing = Shards(parts)
    drawing.add(generators)
    await drawing.until_ready()
    assert [sorted((await part.snapshot()).replicas) for part in parts] == [["g0", "g2"], ["g1", "g3"]]
    await asyncio.gather(*(drawing.draw(make_request(make_prompt("p"), [i])) for i in range(8)))
    assert [len(generator.requests) for generator in generators] == [2, 2, 2, 2]


async def test_a_prompt_goes_where_its_prefix_is_unless_the_queue_there_costs_more():
    slow = [FakeGenerator({"p": [1.0]}, name, latency=0.05) for name in ("g0", "g1")]
    drawing = await staffed(2, *slow)
    prompt = make_prompt("p", num_tokens=4)
    (first,) = await drawing.draw_scored(prompt, make_request(prompt, [0]), prefer="g1")
    assert first.rollout.generator_id == "g1"
    busy = asyncio.create_task(drawing.draw_scored(prompt, make_request(prompt, [1]), prefer="g1"))
    await asyncio.sleep(0.01)
    (other,) = await drawing.draw_scored(prompt, make_request(prompt, [2]), prefer="g1")
    assert other.rollout.generator_id == "g0"
    assert (await busy)[0].rollout.generator_id == "g1"


async def test_a_shard_that_lost_all_its_replicas_hands_its_draws_to_another():
    doomed, living = FakeGenerator({"p": [1.0]}, "doomed", lost_after=0), FakeGenerator({"p": [1.0]}, "living")
    drawing = await staffed(2, doomed, living)
    prompt = make_prompt("p")
    scored = await drawing.draw_scored(prompt, make_request(prompt, [0, 1]))
    assert {one.rollout.generator_id for one in scored} == {"living"}
    await drawing.load_weights(Weights(1, [], 0))
    assert drawing.version == 1
    assert (await drawing.draw(make_request(prompt, [2])))[0].policy_version == 1
    living.lose()
    with pytest.raises(NoGeneratorLeft, match="in any of 2 shards"):
        await drawing.draw(make_request(prompt, [3]))


async def test_a_drained_replica_gets_no_more_and_is_gone():
    drawing = await staffed(2, FakeGenerator({"p": [1.0]}, "a"), FakeGenerator({"p": [1.0]}, "b"))
    await drawing.drain("a")
    prompt = make_prompt("p")
    assert {(await drawing.draw(make_request(prompt, [i])))[0].generator_id for i in range(3)} == {"b"}
    assert (await drawing.snapshot()).replicas == {"a": ReplicaState.GONE, "b": ReplicaState.READY}
    with pytest.raises(ValueError, match="no shard has a generator 'a'"):
        await drawing.drain("a")


async def test_what_every_shard_waits_for_is_reported_and_a_frozen_shard_is_named_itself():
    class Frozen(GeneratorPool):
        async def waiting(self) -> Sequence[PendingCall]:
            await asyncio.Event().wait()
            return ()

    slow = [FakeGenerator({"p": [1.0]}, name, latency=30.0) for name in ("a", "b", "c")]
    limits = {"draw_timeout_s": 60.0, "max_outstanding_seqs": 2}
    parts = [kind(FakeRewardPool(), **limits) for kind in (GeneratorPool, GeneratorPool, Frozen)]
    drawing = Shards(parts, reply_s=0.1)
    drawing.add(slow)
    await drawing.until_ready()
    prompt = make_prompt("p")
    draws = [asyncio.create_task(parts[0].draw(make_request(prompt, [i, i + 1]))) for i in (0, 2)]
    await asyncio.sleep(0.01)
    assert {(one.actor, one.what, one.count, one.prompt_id) for one in await drawing.waiting()} == {
        ("a", "draw", 2, "p"),
        ("the queue for a generator", "draw", 2, "p"),
        ("scheduler shard 2", "no answer", 1, None),
    }
    for draw in draws:
        draw.cancel()


async def test_it_is_said_of_all_shards_that_one_had_no_room_for_the_weights():
    class Full(FakeGenerator):
        async def load_weights(self, weights: Weights) -> Served:
            raise GeneratorLost("full", no_room=True)

    drawing = await staffed(
        2, Full({"p": [1.0]}, "full", restarts=True), FakeGenerator({"p": [1.0]}, "lost", lost_after=0)
    )
    await drawing.load_weights(Weights(1, [], 0))
    with pytest.raises(NoGeneratorLeft) as raised:
        await drawing.draw(make_request(make_prompt("p"), [0]))
    assert raised.value.no_room


async def test_the_reports_of_all_shards_are_one():
    proof = WeightsProof({"w": 1})
    drawing = await staffed(2, FakeGenerator({"p": [1.0]}, "a"), FakeGenerator({"p": [1.0]}, "b"))
    report = await drawing.load_weights(Weights(1, [], 0, proof=proof))
    assert [served.proof for served in report.served] == [proof, proof]
    assert report.barred == ()
