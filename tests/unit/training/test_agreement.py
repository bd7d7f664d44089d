"""Learner and engine are compared before a run trains, and a run whose parts disagree stops and says where."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import FakeGenerator, FakeLearner, make_prompt
from tests.unit.training.world import World, config_of, trainer_of
from v05ray.config import Config
from v05ray.training.agreement import NUM_PROMPTS, Agreement, Disagreement, bound, check_agreement

PROMPTS = [make_prompt(f"p{i}") for i in range(12)]


def config(dtype: str = "float32", *, share_prefix: bool = True, **model: float) -> Config:
    return config_of(
        model={"dtype": dtype, **model},
        learner={"share_prefix": share_prefix},
        sampling={"top_p": 0.9, "stop": "#", "stop_token_ids": 5},
    )


async def check(config: Config, disagreement: Callable[[int, bool], float]) -> tuple[Agreement, FakeGenerator]:
    generator = FakeGenerator({prompt.prompt_id: [1.0] for prompt in PROMPTS}, num_tokens=5)
    return await check_agreement(config, PROMPTS, generator.draw, FakeLearner(disagreement=disagreement)), generator


async def test_what_is_measured_and_on_what():
    found, generator = await check(config(), lambda position, _: 4e-4 if position == 4 else -5e-5)
    assert found.num_tokens == NUM_PROMPTS * 2 * 5
    assert found.mean == pytest.approx((4 * 5e-5 + 4e-4) / 5)
    assert found.largest == pytest.approx(4e-4)
    assert found.metrics() == {"actor/agreement_nats": found.mean, "actor/agreement_nats_max": found.largest}
    assert len({request.prompt_id for request in generator.requests}) == NUM_PROMPTS
    assert {request.sampling.top_p for request in generator.requests} == {1.0}
    assert not any(request.sampling.stop or request.sampling.stop_token_ids for request in generator.requests)
    assert {request.sampling.max_tokens for request in generator.requests} == {
        24
    }  # sampling.max_tokens, and 32 at most
    assert {request.token_ids for request in generator.requests} == {(1, 2, 3)}  # the prompts' first token is left out
    _, again = await check(config(), lambda position, _: 0.0)
    assert again.requests == generator.requests


@pytest.mark.parametrize(
    ("disagreement", "share_prefix", "message"),
    [
        (lambda _, shared: 0.5 * shared, True, r"0\.5 nats a token .*set learner\.share_prefix=false"),
        (lambda position, _: 0.1 * position, True, r"first tokens agree \(0\) and later ones do not \(0\.25\)"),
        (lambda position, _: 0.1 * position, False, r"first tokens agree \(0\) and later ones do not \(0\.25\)"),
        (lambda position, _: -0.3, True, r"the first tokens after the prompt differ already \(by 0\.3\)"),
        (lambda position, _: math.nan if position == 3 else 0.0, True, r"nan nats a token on average \(largest nan"),
    ],
)
async def test_a_disagreement_says_which_part_and_is_one_line(
    disagreement: Callable[[int, bool], float], share_prefix: bool, message: str
):
    with pytest.raises(Disagreement, match=message) as caught:
        await check(config(share_prefix=share_prefix), disagreement)
    assert "\n" not in str(caught.value)
    assert "at policy version 0" in str(caught.value)
    assert "0.001 is the bound for float32" in str(caught.value)


async def test_the_bound_goes_by_the_dtype_unless_it_is_given():
    assert bound(config().model) == 1e-3
    await check(config("bfloat16"), lambda *_: 0.09)
    with pytest.raises(Disagreement, match=r"0\.1 is the bound for bfloat16"):
        await check(config("bfloat16"), lambda *_: 0.11)
    await check(config("bfloat16", agreement_nats=0.2), lambda *_: 0.11)


async def test_a_run_that_disagrees_stops_before_it_trains_and_one_that_agrees_records_it(tmp_path: Path):
    world = World(learner=FakeLearner(disagreement=lambda *_: 0.01))
    trainer = await trainer_of(config(), world, tmp_path / "off")
    with pytest.raises(Disagreement):
        await trainer.begin()
    assert world.learner.accumulated == []

    world = World()
    trainer = await trainer_of(config(), world, tmp_path / "on")
    await trainer.begin()
    assert [weights.version for weights in world.generator.loaded] == [0]
    assert world.tracker.metrics == [(0, {"actor/agreement_nats": 0.0, "actor/agreement_nats_max": 0.0})]
    await trainer.run()

    # Resumed, the checkpoint's weights are compared.
    world.learner.disagreement = lambda *_: 0.01
    resumed = await trainer_of(config(), world, tmp_path / "on")
    with pytest.raises(Disagreement, match="at policy version 4"):
        await resumed.resume(tmp_path / "on" / "checkpoints" / "step-000004")
