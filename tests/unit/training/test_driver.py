"""The whole loop on in-process fakes behind the ports: real driver, scheduler, budget machine, ledger, checkpoints."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import (
    FakeGenerator,
    FakeLearner,
    FakeRewardPool,
)
from tests.unit.training.world import NAMES, World, config_of, trainer_of
from v05ray.errors import RunError
from v05ray.evaluation.responses import read_responses
from v05ray.ledger import LedgerReader
from v05ray.replay import Changes, replay
from v05ray.storage.checkpoint import Checkpoints
from v05ray.types import Verdict


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
    measured = [(step, m["perf/memory/scheduler_mib"]) for step, m in world.tracker.metrics if "actor/grad_norm" in m]
    assert measured == [(step, 90.5) for step in (1, 2, 3, 4)]
    assert (tmp_path / "checkpoints" / "step-000004" / "manifest.json").is_file()
    assert [path.name for path in world.tracker.artifacts] == ["step-000002.md", "step-000004.md"]
    sample = (tmp_path / "samples" / "step-000004.md").read_text()
    assert "question p" in sample
    assert "prior -0.90 (v0); " in sample


async def test_the_ledger_has_resolved_options_and_raw_priors_and_replays_them(tmp_path: Path):
    budget_options = {"rule": {"name": "osla", "cost": 0.01}}
    config = config_of(budget=budget_options, value={"history": "beta", "min_support": 4}, run={"num_steps": 8})
    await (await trainer_of(config, World(), tmp_path)).run()
    ledger = LedgerReader(tmp_path / "ledger")
    meta = ledger.meta(8)
    assert meta["advantage"].items() >= {"name": "v05", "sigma_floor": 0.1}.items()
    assert meta["rule"].items() >= {"name": "osla", "cost": 0.01, "cold_start": 4, "n_max": 16}.items()
    assert meta["priors"].items() >= {"history": "beta", "trust_window": 256, "fallback": True}.items()
    seen_again = [group.prior for group in ledger.groups(8) if group.prior]
    assert any(prior.value != prior.raw for prior in seen_again)
    report = replay(ledger, Changes())
    assert report.reproduced
    assert report.differing == ()


async def test_evaluation_has_its_own_sampling_and_keeps_every_response(tmp_path: Path):
    world = World()
    own = {"every": 2, "samples_per_prompt": 2, "temperature": 0.6, "top_p": 0.9, "max_tokens": 7, "stop": ["Q:"]}
    trained = {"stop": "#", "stop_token_ids": [5]}
    await (await trainer_of(config_of(evaluation=own, sampling=trained), world, tmp_path)).run()
    assert sorted(path.name for path in (tmp_path / "evaluations").iterdir()) == [
        "step-000000.parquet",
        "step-000002.parquet",
        "step-000004.parquet",
    ]
    rows = read_responses(tmp_path / "evaluations" / "step-000002.parquet")
    assert len(rows) == 2 * (1 + 2)
    assert {(row.step, row.policy_version) for row in rows} == {(2, 2)}
    drawn = [(r.sampling.temperature, r.sampling.top_p, r.sampling.max_tokens) for r in world.generator.requests]
    assert drawn.count((0.6, 0.9, 7)) == 2 * 3
    assert (1.0, 1.0, 24) in drawn
    # In training, and in evaluation both greedy and sampled.
    stops = {(r.sampling.temperature, r.sampling.stop, r.sampling.stop_token_ids) for r in world.generator.requests}
    assert stops == {(1.0, ("#",), (5,)), (0.6, ("Q:",), (5,)), (0.0, ("Q:",), (5,))}


async def test_a_step_of_failed_verdicts_ends_the_run_before_anything_is_learned(tmp_path: Path):
    failing: dict[tuple[str, int], Verdict] = {(name, i): "error" for name in NAMES for i in range(0, 16, 2)}
    world = World(rewards=FakeRewardPool(verdicts=failing))
    config = config_of(rewards={"max_error_fraction": 0.3}, evaluation={"every": 0, "samples_per_prompt": 0})
    with pytest.raises(RunError, match=r"verdicts are failures of the verifier.*x error: scripted error \(such as.*'p"):
        await (await trainer_of(config, world, tmp_path)).run()
    assert world.generator.loaded == []
    assert list(LedgerReader(tmp_path / "ledger").steps) == []
    (aside,) = LedgerReader(tmp_path / "ledger").superseded
    assert "error" in aside.rollouts().column("verdict").to_pylist()


async def test_failed_verdicts_below_the_bound_are_counted(tmp_path: Path):
    failing: dict[tuple[str, int], Verdict] = {(name, 0): "timeout" for name in NAMES[:1]}
    world = World(rewards=FakeRewardPool(verdicts=failing))
    state = await (await trainer_of(config_of(), world, tmp_path)).run()
    assert state.totals.verdicts["timeout"] >= 1
    assert sum(state.totals.verdicts.values()) == state.totals.num_rollouts
    shares = [
        m["v05/verdict_timeout_fraction"] for _, m in world.tracker.metrics if "v05/verdict_timeout_fraction" in m
    ]
    assert len(shares) == 4
    assert 0 < max(shares) < 0.3


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


async def test_the_first_prior_is_of_the_reward_where_that_is_not_only_right_or_wrong(tmp_path: Path):
    world = World(generator=FakeGenerator({name: [1.0, 0.5, -0.5, -0.5] for name in NAMES}))
    config = config_of(run={"num_steps": 1}, evaluation={"samples_per_prompt": 4})
    await (await trainer_of(config, world, tmp_path)).run()
    decisions = LedgerReader(tmp_path / "ledger").decisions(1).to_pylist()
    assert {row["prior"] for row in decisions} == {0.125}  # 1 of 4 is right, which would be -0.5


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


async def test_an_interrupted_run_resumes_as_if_it_had_not_been(tmp_path: Path):
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
    world.values.default = 0.5  # agrees with every mean of 4: no prompt is topped up
    await (await trainer_of(config_of(run={"num_steps": 1}), world, tmp_path, eval_names=())).run()
    (metrics,) = [m for _, m in world.tracker.metrics if "critic/score/mean" in m]
    assert metrics["critic/score/mean"] == 0.5
    assert metrics["v05/rollouts_per_prompt"] == 4
    assert (metrics["data/fake/share"], metrics["data/fake/score/mean"]) == (1, 0.5)
    assert metrics["data/data/epochs"] == 4 / len(NAMES)
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
                first.leave_by(asyncio.get_running_loop().time() + 3.0)  # half of it is left for the checkpoint
                await asyncio.sleep(60)

    whole = World()
    expected = await (await trainer_of(config_of(), whole, tmp_path / "whole")).run()

    folder, broken = tmp_path / "broken", World(learner=Slow())
    first = await trainer_of(config_of(run={"checkpoint_every": 0}), broken, folder)
    started = time.monotonic()
    state = await first.run(lambda: first.abandoned)
    assert first.abandoned
    assert time.monotonic() - started < 30
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
        async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
            raise RuntimeError("rank 1 is gone")

    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        await (await trainer_of(config_of(), World(learner=Broken()), tmp_path)).run()
    ledger = LedgerReader(tmp_path / "ledger")
    assert ledger.steps == ()
    (aside,) = ledger.superseded
    assert aside.check_conservation().num_prompts == 4
