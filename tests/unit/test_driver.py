"""The whole loop on in-process fakes behind the ports: real driver, scheduler, budget machine, ledger, checkpoints."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes import FakeGenerator, FakeLearner, FakeRewardPool, FakeTracker, FakeValuePool, make_prompt
from v05ray.checkpoint import Checkpoints
from v05ray.config import Config
from v05ray.config_files import make_config
from v05ray.data.stream import PromptStream
from v05ray.driver import Trainer
from v05ray.ledger import LedgerReader, LedgerWriter
from v05ray.ports import Roles
from v05ray.scheduling.drawing import LocalDrawing
from v05ray.scheduling.pool import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.watchdog import Stalled

NAMES = [f"p{i}" for i in range(12)]


@dataclass
class World:
    """Everything of one run that is not the trainer."""

    learner: FakeLearner = field(default_factory=FakeLearner)
    tracker: FakeTracker = field(default_factory=FakeTracker)
    values: FakeValuePool = field(default_factory=lambda: FakeValuePool(default=-0.9))
    generator: FakeGenerator = field(
        default_factory=lambda: FakeGenerator(
            {name: random.Random(name).choices([1.0, -1.0], k=16) for name in NAMES},
            latency=lambda n, i: 0.001 * (i % 5),
        )
    )


class SilentProgress:
    def __init__(self) -> None:
        self.sealed = 0

    def group_sealed(self, group) -> None:
        self.sealed += 1

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


def config_of(**changes: dict) -> Config:
    written: dict = {
        "model": {"path": "m"},
        "data": {"train": "jsonl"},
        "run": {"num_steps": 4, "prompts_per_step": 4, "checkpoint_every": 2},
        "evaluation": {"every": 2, "samples_per_prompt": 2},
    }
    for section, change in changes.items():
        written[section] = {**written.get(section, {}), **change} if isinstance(change, dict) else change
    return make_config(written)


async def trainer_of(
    config: Config, world: World, folder: Path, *, eval_names: tuple[str, ...] = ("p0", "p1")
) -> Trainer:
    pool = GeneratorPool(draw_timeout_s=5.0)
    pool.add([world.generator])
    await pool.until_ready()
    rewards = FakeRewardPool()
    return Trainer(
        config,
        Roles(
            scheduler=RolloutScheduler(LocalDrawing(pool, rewards), config.budget, seed=config.run.seed),
            rewards=rewards,
            learners=world.learner,
            tracker=world.tracker,
            values=world.values if config.value.enabled else None,
        ),
        stream=PromptStream([make_prompt(n) for n in NAMES], batch_size=4, shuffle=True, seed=0),
        eval_prompts=[make_prompt(name) for name in eval_names],
        ledger=LedgerWriter(folder / "ledger"),
        checkpoints=Checkpoints(folder, config.model_dump(mode="json"), keep=2),
        progress=SilentProgress(),
        samples=folder / "samples",
    )


async def test_a_run_trains_publishes_records_and_evaluates(tmp_path: Path):
    world = World()
    state = await (await trainer_of(config_of(), world, tmp_path)).run()
    assert state.step == 4
    assert [weights.version for weights in world.generator.loaded] == [1, 2, 3, 4]
    assert [entry["step"] for entry in state.curve] == [0, 2, 4]
    ledger = LedgerReader(tmp_path / "ledger")
    assert list(ledger.steps) == [1, 2, 3, 4]
    assert ledger.rollouts().num_rows == state.totals.num_rollouts == sum(len(a) for a in world.learner.accumulated)
    assert state.totals.num_prompts == 16
    assert (tmp_path / "checkpoints" / "step-000004" / "manifest.json").is_file()
    assert [path.name for path in world.tracker.artifacts] == ["step-000002.md", "step-000004.md"]
    sample = (tmp_path / "samples" / "step-000004.md").read_text()
    assert "question p" in sample
    assert "prior -0.90 (v0); " in sample


async def test_every_rollout_is_trained_on_with_its_own_advantage(tmp_path: Path):
    world = World()
    await (await trainer_of(config_of(run={"num_steps": 1}), world, tmp_path)).run()
    table = LedgerReader(tmp_path / "ledger").rollouts(1).to_pylist()
    recorded = sorted((row["prompt_id"], row["advantage"]) for row in table)
    trained = sorted((s.prompt_id, s.advantages[0]) for call in world.learner.accumulated for s in call)
    assert [name for name, _ in trained] == [name for name, _ in recorded]
    assert [value for _, value in trained] == pytest.approx([value for _, value in recorded])


async def test_the_value_model_is_conditioned_on_what_the_run_has_seen(tmp_path: Path):
    world = World()
    await (await trainer_of(config_of(), world, tmp_path)).run()
    assert [len(support) for _, support, _, _ in world.values.calls] == [4, 8, 12]
    assert [version for _, _, version, _ in world.values.calls] == [1, 2, 3]


async def test_the_first_prior_is_the_measured_rate_of_the_policy_that_the_run_starts_from(tmp_path: Path):
    world = World(generator=FakeGenerator({name: [1.0, 1.0, 1.0, -1.0] for name in NAMES}))
    config = config_of(run={"num_steps": 1}, evaluation={"samples_per_prompt": 4})
    await (await trainer_of(config, world, tmp_path)).run()
    decisions = LedgerReader(tmp_path / "ledger").decisions(1).to_pylist()
    assert {(row["prior"], row["prior_origin"]) for row in decisions} == {(0.5, "base_rate")}  # 3 of 4 are right


async def test_without_an_evaluation_the_value_model_is_asked_from_the_first_step(tmp_path: Path):
    world = World()
    await (await trainer_of(config_of(), world, tmp_path, eval_names=())).run()
    assert [len(support) for _, support, _, _ in world.values.calls] == [0, 4, 8, 12]


@pytest.mark.parametrize("stream_tokens", [0, 1])
async def test_streaming_changes_when_groups_are_learned_from_and_not_what(tmp_path: Path, stream_tokens: int):
    world = World()
    config = config_of(learner={"stream_tokens": stream_tokens})
    await (await trainer_of(config, world, tmp_path)).run()
    assert len(world.learner.accumulated) == (4 if stream_tokens == 0 else 16)
    samples = sorted((s.prompt_id, s.advantages[0]) for call in world.learner.accumulated for s in call)
    if stream_tokens:
        reference = World()
        await (await trainer_of(config_of(), reference, tmp_path / "whole")).run()
        assert samples == sorted((s.prompt_id, s.advantages[0]) for call in reference.learner.accumulated for s in call)


async def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path):
    whole, broken = World(), World()
    expected = await (await trainer_of(config_of(), whole, tmp_path / "whole")).run()

    folder = tmp_path / "broken"
    first = await trainer_of(config_of(), broken, folder)
    stopped = await first.run(lambda: first.state.step == 3)
    assert stopped.step == 3
    again = World(learner=FakeLearner())
    resumed = await trainer_of(config_of(), again, folder)
    latest = Checkpoints(folder, config_of().model_dump(mode="json"), keep=2).latest()
    assert latest is not None
    await resumed.resume(latest.folder)
    assert again.generator.version == 3
    state = await resumed.run()

    assert again.learner.weight == whole.learner.weight
    assert state.totals == expected.totals
    assert state.curve == expected.curve
    for step in (1, 2, 3, 4):
        columns = ["prompt_id", "sample_index", "reward", "advantage", "policy_version"]
        one, other = (LedgerReader(tmp_path / run / "ledger").rollouts(step, columns) for run in ("whole", "broken"))
        assert one.to_pylist() == other.to_pylist()


async def test_rollouts_recorded_after_the_checkpoint_are_taken_back_at_a_resume(tmp_path: Path):
    world = World()
    await (await trainer_of(config_of(), world, tmp_path)).run()
    resumed = await trainer_of(config_of(), World(), tmp_path)
    await resumed.resume(tmp_path / "checkpoints" / "step-000002")
    assert list(LedgerReader(tmp_path / "ledger").steps) == [1, 2]


async def test_a_recipe_without_a_prior_asks_no_value_model(tmp_path: Path):
    world = World()
    await (await trainer_of(config_of(recipe="grpo", value={"enabled": False}), world, tmp_path)).run()
    assert world.values.calls == []
    assert all(name != "v05/prior_mean" for _, metrics in world.tracker.metrics for name in metrics)


async def test_an_error_in_the_learner_ends_the_run_and_is_not_swallowed(tmp_path: Path):
    class Broken(FakeLearner):
        async def accumulate(self, samples) -> None:
            raise RuntimeError("rank 1 is gone")

    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        await (await trainer_of(config_of(), World(learner=Broken()), tmp_path)).run()


async def test_metrics_have_the_fields_names_and_hand_worked_values(tmp_path: Path):
    world = World(generator=FakeGenerator({name: [1.0, 1.0, 1.0, -1.0] for name in NAMES}))
    world.values.default = 0.5  # agrees with every mean of 4: nobody is topped up
    await (await trainer_of(config_of(run={"num_steps": 1}), world, tmp_path, eval_names=())).run()
    (metrics,) = [m for _, m in world.tracker.metrics if "critic/score/mean" in m]
    assert metrics["critic/score/mean"] == 0.5
    assert metrics["v05/rollouts_per_prompt"] == 4
    assert metrics["v05/stopped_accepted_fraction"] == 1
    assert metrics["v05/topped_up_fraction"] == 0
    assert metrics["response_length/mean"] == 3
    assert metrics["v05/prior_mean"] == 0.5
    for name in (
        "timing_s/gen",
        "timing_s/learn",
        "timing_s/update_actor",
        "timing_s/update_weights",
        "perf/throughput",
    ):
        assert metrics[name] > 0


async def test_a_step_that_does_not_fit_the_grace_is_given_up_and_nothing_of_it_counts(tmp_path: Path):
    class Slow(FakeLearner):
        async def accumulate(self, samples) -> None:
            await super().accumulate(samples)
            if self.num_steps == 1:
                await asyncio.sleep(30)

        async def step(self) -> dict[str, float]:
            first.leave_by(asyncio.get_running_loop().time() + 0.4)
            return await super().step()

    whole = World()
    expected = await (await trainer_of(config_of(), whole, tmp_path / "whole")).run()

    folder, broken = tmp_path / "broken", World(learner=Slow())
    first = await trainer_of(config_of(run={"checkpoint_every": 0}), broken, folder)
    started = time.monotonic()
    state = await first.run(lambda: first.abandoned)
    assert first.abandoned
    assert time.monotonic() - started < 5
    assert state.step == 1
    assert list(LedgerReader(folder / "ledger").steps) == [1]
    (aside,) = LedgerReader(folder / "ledger").superseded
    assert aside.steps == (2,)  # what was scored of the step given up

    resumed = await trainer_of(config_of(), again := World(), folder)
    latest = Checkpoints(folder, config_of().model_dump(mode="json"), keep=2).latest()
    assert latest is not None
    assert latest.step == 1
    await resumed.resume(latest.folder)
    assert (await resumed.run()).totals == expected.totals
    assert again.learner.weight == whole.learner.weight


async def test_what_was_scored_in_a_step_that_failed_is_kept_aside(tmp_path: Path):
    class Broken(FakeLearner):
        async def step(self) -> dict[str, float]:
            raise RuntimeError("rank 1 is gone")

    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        await (await trainer_of(config_of(), World(learner=Broken()), tmp_path)).run()
    ledger = LedgerReader(tmp_path / "ledger")
    assert ledger.steps == ()
    (aside,) = ledger.superseded
    assert aside.check_conservation().num_prompts == 4


async def test_a_stage_that_stands_still_is_ended_and_named(tmp_path: Path):
    class Frozen(FakeValuePool):
        async def predict(self, prompts, support, *, policy_version, seed):
            await asyncio.Event().wait()

    bounds = {"stall_s": 0.1, "silence_s": 0.03}
    config = config_of(
        run=bounds, generators={"draw_timeout_s": 0.1, "load_timeout_s": 0.1}, learner={"timeout_s": 0.1}
    )
    trainer = await trainer_of(config, World(values=Frozen()), tmp_path, eval_names=())
    trainer._watchdog._limit_s = 0.1  # a minute more than the learner's own, else
    with pytest.raises(Stalled, match=r"step 1, prior: no progress for 0.1 s, waiting for the value actors"):
        await trainer.run()
