"""Drawing, aborting and updating on a real engine (float32, tied embeddings)."""

import asyncio
import logging
from collections.abc import Callable

import pytest
import torch

from tests.e2e.generation.conftest import MAX_LENGTH, PROMPT, Reference, request
from v05ray.errors import ConfigError
from v05ray.generation.engine import Engine
from v05ray.types import Rollout
from v05ray.weights import WeightsError, pack


@pytest.fixture(scope="module")
def served(start: Callable[..., tuple[Engine, Reference]]) -> tuple[Engine, Reference]:
    return start(tied=True)


@pytest.fixture
def engine(served: tuple[Engine, Reference]) -> Engine:
    return served[0]


@pytest.fixture
def reference(served: tuple[Engine, Reference]) -> Reference:
    return served[1]


def assert_fits(rollout: Rollout, expected: torch.Tensor) -> None:
    assert len(rollout.logprobs) == len(rollout.token_ids)
    assert (torch.tensor(rollout.logprobs) - expected).abs().max() <= 1e-4


async def test_temperature_and_top_p_are_in_the_logprobs(engine: Engine, reference: Reference):
    for rollout in await engine.draw(request(temperature=0.7, top_p=0.6, seeds=(1, 2, 3, 4))):
        probs = (reference.logits(PROMPT, rollout.token_ids) / 0.7).softmax(-1)
        ordered, order = probs.sort(descending=True)
        # The nucleus: the most likely tokens until their mass, without the last one's own, reaches top_p.
        kept = (ordered.cumsum(-1) - ordered) < 0.6
        nucleus = torch.zeros_like(probs).scatter(-1, order, ordered * kept)
        drawn = nucleus.gather(-1, torch.tensor(rollout.token_ids)[:, None])[:, 0] / nucleus.sum(-1)
        assert_fits(rollout, drawn.log())


async def test_greedy_takes_the_most_likely_token_even_beside_sampled_ones(engine: Engine, reference: Reference):
    greedy, sampled = await asyncio.gather(
        engine.draw(request("greedy", temperature=0.0, seeds=(1, 2))), engine.draw(request("sampled"))
    )
    for rollout in greedy:
        best = reference.logits(PROMPT, rollout.token_ids).argmax(-1)
        assert rollout.token_ids == tuple(best.tolist())
        assert_fits(rollout, reference.logprobs(PROMPT, rollout.token_ids))
    assert greedy[0].token_ids == greedy[1].token_ids != sampled[0].token_ids


async def test_a_seed_gives_the_same_rollout_in_any_batch_and_another_seed_another(engine: Engine):
    first = await engine.draw(request(seeds=(1, 2, 3, 4)))
    crowd, again = await asyncio.gather(
        engine.draw(request("crowd", token_ids=PROMPT[:17], seeds=(7, 8, 9))), engine.draw(request(seeds=(4, 3)))
    )
    assert [r.token_ids for r in again] == [first[3].token_ids, first[2].token_ids]
    assert len({r.token_ids for r in first}) == 4
    assert len(crowd) == 3


async def test_many_draws_at_once_come_back_each_to_its_own(engine: Engine, reference: Reference):
    # More requests (60) than the engine runs together (16), of prompts of many lengths.
    asked = [
        request(f"p{i}", token_ids=PROMPT[: 5 + 3 * i], seeds=(3 * i, 3 * i + 1, 3 * i + 2), max_tokens=4 + i % 9)
        for i in range(20)
    ]
    for wanted, rollouts in zip(asked, await asyncio.gather(*map(engine.draw, asked)), strict=True):
        assert [(r.prompt_id, r.sample_index) for r in rollouts] == [(wanted.prompt_id, i) for i in range(3)]
        for rollout in rollouts:
            assert rollout.generator_id == "g7"
            assert rollout.seconds > 0
            ended = rollout.finish_reason == "stop"
            assert ended == (rollout.token_ids[-1] == 2)  # <eos>, kept
            assert ended or len(rollout.token_ids) == wanted.sampling.max_tokens
            assert_fits(rollout, reference.logprobs(wanted.token_ids, rollout.token_ids))


async def test_text_is_decoded_without_special_tokens(engine: Engine):
    # The tiny vocabulary: <pad> <bos> <eos> <unk>, then the printable characters from the blank (32) on.
    rollouts = await engine.draw(request(seeds=tuple(range(12)), temperature=1.0, max_tokens=40))
    for rollout in rollouts:
        assert rollout.text == "".join(chr(t + 28) if t < 99 else "\n" for t in rollout.token_ids if 3 < t < 100)


async def free_response(engine: Engine) -> Rollout:
    """One that says seven characters, each a token of its own, before anything else."""
    rollouts = await engine.draw(request(seeds=tuple(range(100, 180))))
    return next(r for r in rollouts if len(r.token_ids) >= 7 and all(3 < t < 99 for t in r.token_ids[:7]))


async def test_a_stop_token_ends_the_response_and_is_kept(engine: Engine):
    free = await free_response(engine)
    stop = free.token_ids[4]
    (stopped,) = await engine.draw(request(seeds=(100 + free.sample_index,), stop_token_ids=(stop,)))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]


def assert_begins(stopped: Rollout, free: Rollout, num_tokens: int) -> None:
    """The same tokens with the same log-probabilities, up to where it ended."""
    assert stopped.token_ids == free.token_ids[:num_tokens]
    assert stopped.logprobs == pytest.approx(free.logprobs[:num_tokens], abs=1e-5)
    assert stopped.finish_reason == "stop"


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_text_ends_the_response_whose_tokens_are_all_kept(engine: Engine, include: bool):
    free = await free_response(engine)
    seed = 100 + free.sample_index
    stop = free.text[3:5]  # of two tokens
    end = free.text.index(stop) + 2
    (stopped,) = await engine.draw(request(seeds=(seed,), stop=("no such text", stop), include_stop=include))
    assert_begins(stopped, free, end)
    assert stopped.text == free.text[: end if include else end - 2]
    # Completed by the last token that there may be: finished all the same.
    (last,) = await engine.draw(request(seeds=(seed,), stop=(stop,), max_tokens=end))
    assert_begins(last, free, end)
    (cut,) = await engine.draw(request(seeds=(seed,), stop=(stop,), max_tokens=end - 1))
    assert (cut.finish_reason, cut.text) == ("length", free.text[: end - 1])
    assert engine.stats()["live_requests"] == 0


async def test_of_several_stop_texts_the_first_to_be_whole_ends_the_response(engine: Engine):
    free = await free_response(engine)
    seed, stops = 100 + free.sample_index, (free.text[2:7], free.text[4:6])
    end = min(free.text.index(one) + len(one) for one in stops)
    (stopped,) = await engine.draw(request(seeds=(seed,), stop=stops))
    assert_begins(stopped, free, end)


async def test_a_stop_text_is_looked_for_in_the_response_alone(engine: Engine):
    free = await free_response(engine)
    across = chr(PROMPT[-1] + 28) + free.text[0]
    assert across not in free.text
    (rollout,) = await engine.draw(request(seeds=(100 + free.sample_index,), stop=(across,)))
    assert (rollout.token_ids, rollout.text) == (free.token_ids, free.text)


async def test_a_special_token_may_be_a_stop_text(engine: Engine):
    rollouts = await engine.draw(request(seeds=tuple(range(60)), max_tokens=40))
    unknown = 3
    free = next(r for r in rollouts if unknown in r.token_ids)
    (stopped,) = await engine.draw(request(seeds=(free.sample_index,), max_tokens=40, stop=("<unk>",)))
    assert_begins(stopped, free, free.token_ids.index(unknown) + 1)
    assert free.text.startswith(stopped.text)
    assert "<unk>" not in stopped.text


async def test_an_aborted_response_that_looks_for_a_text_keeps_what_it_had(engine: Engine, reference: Reference):
    drawing = asyncio.create_task(engine.draw(request("long", seeds=tuple(range(40)), max_tokens=75, stop=("##",))))
    await until_live(engine, lambda count: 0 < count < 40)
    await engine.abort("long")
    for rollout in await drawing:
        if rollout.token_ids:
            assert_fits(rollout, reference.logprobs(PROMPT, rollout.token_ids))


async def test_a_response_ends_where_the_context_does(engine: Engine):
    token_ids = PROMPT + PROMPT[: MAX_LENGTH - len(PROMPT) - 3]
    rollouts = await engine.draw(request(token_ids=token_ids, seeds=(1, 2, 3, 4), max_tokens=50))
    assert {len(r.token_ids) for r in rollouts if r.finish_reason == "length"} == {3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": PROMPT * 2}, r"'p' has 160 tokens, .* model\.max_length \(160\); raise it"),
        ({"token_ids": ()}, "'p' has no tokens"),
        ({"token_ids": (5, 4000)}, "engine refused a request.*4000"),
        ({"seeds": ()}, "0 sample indices and 0 seeds"),
        ({"top_p": 1.5}, "engine refused a request with .*top_p=1.5"),
    ],
)
async def test_a_bad_request_is_refused_and_the_engine_lives(engine: Engine, changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        await engine.draw(request(**changes))
    assert len(await engine.draw(request())) == 3
    assert engine.stats()["live_requests"] == 0


async def until_live(engine: Engine, holds: Callable[[float], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds(engine.stats()["live_requests"]):  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.001)


async def test_an_aborted_draw_returns_what_it_had(engine: Engine, reference: Reference):
    long = request("long", seeds=tuple(range(100)), max_tokens=75)
    drawing = asyncio.create_task(engine.draw(long))
    await until_live(engine, lambda count: 0 < count < 100)
    num_aborted = await engine.abort("long")
    rollouts = await drawing
    aborted = [r for r in rollouts if r.finish_reason == "abort"]
    assert len(rollouts) == 100
    assert 0 < len(aborted) == num_aborted < 100
    for rollout in rollouts:
        if rollout.token_ids:
            assert_fits(rollout, reference.logprobs(PROMPT, rollout.token_ids))
        else:
            assert (rollout.finish_reason, rollout.logprobs, rollout.text) == ("abort", (), "")
    assert await engine.abort("long") == 0


async def test_a_cancelled_draw_leaves_nothing_behind(engine: Engine):
    drawing = asyncio.create_task(engine.draw(request(seeds=tuple(range(20)), max_tokens=75)))
    await until_live(engine, lambda count: count > 0)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    await until_live(engine, lambda count: count == 0)
    assert len(await engine.draw(request())) == 3


async def test_a_bundle_that_does_not_fit_leaves_the_old_version_in_service(engine: Engine, reference: Reference):
    version, before = engine.version, await engine.draw(request())
    named = reference.named()
    whole = list(pack(named, version=9, bucket_bytes=1 << 20))
    lacking = list(pack(named[:3] + named[4:], version=9))
    for buckets, message in [
        (lacking, "1 tensors are missing"),
        (whole[:-1], "not whole"),
        (list(pack(named, version=8)), "got buckets of version 8"),
        (list(pack([*named[:-1], (named[-1][0], torch.zeros(7))], version=9)), r"is \(7,\), the model has \(128,\)"),
    ]:
        with pytest.raises(WeightsError, match=message):
            await engine.load_weights(9, buckets)
    assert engine.version == version
    assert [(r.token_ids, r.logprobs) for r in await engine.draw(request())] == [
        (r.token_ids, r.logprobs) for r in before
    ]


async def test_draws_that_an_update_interrupts_are_of_the_new_version_alone(engine: Engine, reference: Reference):
    long = request("long", seeds=tuple(range(24)), max_tokens=60)
    drawing = asyncio.create_task(engine.draw(long))
    await engine.draw(request("other"))  # some of the long draw's tokens are there by now
    reference.perturb(0.3, seed=6)
    version = engine.version + 1
    await engine.load_weights(version, list(pack(reference.named(), version=version)))
    interrupted = await drawing
    assert {r.policy_version for r in interrupted} == {version}
    for rollout in interrupted:
        assert_fits(rollout, reference.logprobs(PROMPT, rollout.token_ids))
    assert [r.token_ids for r in await engine.draw(long)] == [r.token_ids for r in interrupted]


async def test_vllms_log_goes_to_the_owners_file(engine: Engine, tmp_path_factory: pytest.TempPathFactory):
    await engine.ready()
    logs = [path.read_text() for path in tmp_path_factory.getbasetemp().glob("engine*/vllm.log")]
    assert any("INFO vllm.v1.engine.core: init engine" in text for text in logs)
    assert not logging.getLogger("vllm").propagate
