import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import SAMPLING, FakeGenerator, FakeRewardPool, make_prompt
from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.config import BudgetConfig, Spec, ValueConfig
from v05ray.errors import ConfigError
from v05ray.ledger import LedgerReader, LedgerWriter
from v05ray.ledger.recorded import RecordedGroup, RecordedRollout
from v05ray.ports import BatchRequest
from v05ray.priors.repair import Priors
from v05ray.priors.repair import settings as prior_settings
from v05ray.replay import Changes, Report, Settings, StepReplayer, figures, open_ledger, replay
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.stats.shrinkage import fuse
from v05ray.types import Decision, Draw, Prior, Stop

NUM_PROMPTS = 24


async def record(
    run_dir: Path,
    *,
    seed: int = 0,
    num_steps: int = 2,
    advantage: str = "v05",
    prior: bool = True,
    value: ValueConfig | None = None,
    **fields: Any,
) -> LedgerReader:
    """A run by the real scheduler on scripted generators of uneven speed, recorded as the driver does.

    With `value` the priors are repaired as it says, and the odd ones among the prompts always get the base rate.
    """
    trust = None if value is None else Priors(value)
    budget = BudgetConfig(**{"rule": Spec(name="osla"), "halt_fraction": 0.25} | fields)
    rng = random.Random(seed)
    pool = GeneratorPool(FakeRewardPool(), draw_timeout_s=5.0)
    names = [f"p{i}" for i in range(NUM_PROMPTS)]
    scripts = {name: [rng.choice([1.0, -1.0, -1.0, 0.3]) for _ in range(16)] for name in names}
    delays = {(name, i): rng.random() ** 3 / 100 for name in names for i in range(-1, 64)}
    lengths = {(name, i): rng.randint(1, 9) for name in names for i in range(-1, 64)}
    pool.add(
        [
            FakeGenerator(scripts, g, latency=lambda n, i: delays[n, i], num_tokens=lambda n, i: lengths[n, i])
            for g in "abc"
        ]
    )
    await pool.until_ready()
    scheduler = RolloutScheduler(pool, budget, seed=seed)
    estimator = advantages.build(advantage)
    meta = {
        "rule": budget.rule.model_dump(),
        "advantage": {"name": advantage},
        **{name: getattr(budget, name) for name in ("halt_fraction", "dispatch_multiple", "mode", "on_halt")},
    }
    if value is not None:
        meta["priors"] = prior_settings(value)
    writer = LedgerWriter(run_dir / "ledger")
    for step in range(1, num_steps + 1):
        priors = {n: Prior(n, rng.uniform(-0.9, 0.9), 0) for n in names} if prior else {}
        if trust is not None:
            priors = trust.repair(
                [replace(one, origin="v0" if int(n[1:]) % 2 else "base_rate") for n, one in priors.items()]
            )
        prompts = tuple(make_prompt(name) for name in names)
        batch = BatchRequest(step, 0, prompts, priors, SAMPLING, greedy_reward="greedy" in estimator.needs)
        groups = [group async for group in scheduler.run(batch)]
        groups.sort(key=lambda group: names.index(group.prompt.prompt_id))
        views = [GroupView.of(group) for group in groups]
        computed = estimator.compute(views)
        estimator.observe(views)
        if trust is not None:
            trust.observe(priors, views)
        values = {view.prompt_id: one.values for view, one in zip(views, computed, strict=True)}
        writer.append_step(step, groups, values, meta)
    return open_ledger(run_dir)


def check_same(report: Report) -> None:
    assert report.reproduced
    assert report.differing == ()
    assert report.num_same == report.before.num_prompts
    assert report.before == report.after
    assert report.after.num_short == 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"halt_fraction": 0.0},
        {"mode": "rounds"},
        {"mode": "rounds", "dispatch_multiple": 8},
        {"dispatch_multiple": 3},
        {"on_halt": "abort", "halt_fraction": 0.5},
        {"on_halt": "abort", "halt_fraction": 1.0, "dispatch_multiple": 2},
        {"rule": Spec.model_validate({"name": "osla", "cost": 0.001, "cold_start": 2, "n_max": 16})},
        {"rule": Spec.model_validate({"name": "osla", "mean_rollouts": 6.0})},
        {"rule": Spec.model_validate({"name": "osla", "token_aware": True})},
        {"rule": Spec.model_validate({"name": "fixed", "n": 5}), "advantage": "grpo", "prior": False},
        {"rule": Spec.model_validate({"name": "reinforce_ada"}), "advantage": "rloo", "prior": False},
        {"rule": Spec.model_validate({"name": "dapo"}), "advantage": "grpo"},
        {"advantage": "v05_eb_loo"},
        {"advantage": "james_stein"},
        {"advantage": "remax"},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
async def test_the_same_settings_give_the_same_decisions_and_advantages(tmp_path, fields, seed):
    reader = await record(tmp_path, seed=seed, **fields)
    assert reader.check_conservation().ok
    check_same(replay(reader, Changes()))
    replayer = StepReplayer(Settings.recorded(reader.meta(1)))
    for step in reader.steps:
        for one in replayer.step(reader.groups(step)):
            assert one.decisions == one.group.decisions
            assert list(one.advantages.values) == [rollout.advantage for rollout in one.group.rollouts]


async def test_the_record_has_seen_top_ups_halts_and_aborts(tmp_path):
    """The test above would prove little if these never happened in it."""
    reader = await record(tmp_path, on_halt="abort", halt_fraction=0.5)
    assert reader.check_conservation().num_aborted > 0
    stops = replay(reader, Changes()).before.stops
    assert stops["halted"] > 0
    assert stops["accepted"] > 0
    reader = await record(tmp_path, halt_fraction=0.25)
    decisions = reader.decisions().to_pylist()
    assert sum(row["action"] == "draw" and row["num_scored"] > 0 for row in decisions) > 5
    halted = [row for row in decisions if row["reason"] == "halted"]
    assert halted
    assert all(row["open_prompts"] < NUM_PROMPTS / 4 for row in halted)


async def test_without_the_halt_async_and_rounds_replay_to_the_same_budget(tmp_path):
    reader = await record(tmp_path, halt_fraction=0.0)
    report = replay(reader, Changes(mode="rounds"))
    assert report.after.num_short == 0
    assert (report.after.num_rollouts, report.after.stops) == (report.before.num_rollouts, report.before.stops)
    assert report.after.advantage_variance == pytest.approx(report.before.advantage_variance)


async def test_a_higher_cost_and_a_smaller_cap_use_less_of_the_record(tmp_path):
    reader = await record(tmp_path, halt_fraction=0.0)
    report = replay(reader, Changes(rule_options={"cost": 1 / 64}))
    assert report.settings.rule_options == {"cost": 1 / 64}
    assert report.after.num_short == 0
    assert report.after.num_rollouts < report.before.num_rollouts
    assert report.differing
    capped = replay(reader, Changes(rule_options={"n_max": 6}))
    assert max(len(group.rollouts) for group in reader.groups(1)) > 6
    assert capped.after.num_rollouts <= 6 * capped.after.num_prompts
    assert capped.after.num_tokens < report.before.num_tokens


async def test_what_the_record_does_not_hold_is_said(tmp_path):
    reader = await record(tmp_path, rule=Spec.model_validate({"name": "fixed", "n": 4}), num_steps=1)
    report = replay(reader, Changes(rule="fixed", rule_options={"n": 10}))
    assert report.after.num_short == NUM_PROMPTS
    assert report.after.num_missing == NUM_PROMPTS * 6
    assert report.after.num_rollouts == NUM_PROMPTS * 4
    assert report.after.stops == {"cap": NUM_PROMPTS}
    osla = replay(reader, Changes(rule="osla", halt_fraction=0.0))
    assert 0 < osla.after.num_short < NUM_PROMPTS
    assert osla.after.num_rollouts == NUM_PROMPTS * 4
    assert osla.after.num_missing > 0


async def test_a_refused_wish_is_granted_when_the_halt_is_off(tmp_path):
    reader = await record(tmp_path, halt_fraction=1.0, num_steps=1)
    report = replay(reader, Changes(halt_fraction=0.0))
    assert report.before.stops["halted"] > 0
    assert "halted" not in report.after.stops
    assert report.after.num_short == report.before.stops["halted"]


async def test_another_estimator_changes_the_advantages_alone(tmp_path):
    reader = await record(tmp_path)
    report = replay(reader, Changes(advantage="rloo"))
    assert report.differing == ()
    assert report.after.num_rollouts == report.before.num_rollouts
    assert report.after.advantage_variance != report.before.advantage_variance
    assert report.after.advantage_mean == pytest.approx(0.0)  # rloo's groups each have mean 0


async def test_a_part_of_the_steps_is_replayed_with_the_memory_of_those_before(tmp_path):
    reader = await record(tmp_path, rule=Spec.model_validate({"name": "osla", "mean_rollouts": 6.0}), num_steps=3)
    report = replay(reader, Changes(), steps=[3])
    check_same(report)
    assert [step for step, _, _ in report.steps] == [3]
    assert report.before.num_prompts == NUM_PROMPTS


async def test_a_record_that_was_tampered_with_is_not_reproduced(tmp_path):
    reader = await record(tmp_path, num_steps=1)
    (group, *others) = reader.groups(1)
    tampered = replace(group, rollouts=tuple(replace(r, reward=-r.reward) for r in group.rollouts))
    replayed = StepReplayer(Settings.recorded(reader.meta(1))).step([tampered, *others])
    assert replayed[0].decisions != group.decisions


async def test_figures_by_hand(tmp_path):
    reader = await record(tmp_path, num_steps=1, rule=Spec.model_validate({"name": "fixed", "n": 2}))
    group = reader.groups(1)[0]
    pair = group.rollouts[:2]
    hand = replace(
        group,
        prior=Prior(group.prompt_id, -1.0, 0),
        rollouts=(replace(pair[0], reward=1.0, num_tokens=3), replace(pair[1], reward=1.0, num_tokens=4)),
    )
    replayer = StepReplayer(replace(Settings.recorded(reader.meta(1)), advantage="rloo", advantage_options={}))
    found = figures(replayer.step([hand]))
    assert (found.num_prompts, found.num_rollouts, found.num_tokens) == (1, 2, 7)
    assert found.mse_rule == pytest.approx(3.5 / 8)  # b2 = 4 - 1/2, M(2) = b2 / (1 + 2 b2)
    assert found.mse_loo == 0.0  # each reward is what the other one says, and they do not vary
    assert found.advantage_variance == 0.0


def recorded_group(prompt_id: str, rewards: list[float], prior: float) -> RecordedGroup:
    rollouts = tuple(
        RecordedRollout(i, "", reward, "partial", 1, 0.0, "stop", 0, "g", 0.0, None) for i, reward in enumerate(rewards)
    )
    k = len(rewards)
    decisions = (
        Decision(Draw(prompt_id, k), 0, None, prior, None, None, 1),
        Decision(Stop(prompt_id, "fixed"), k, sum(rewards) / k, prior, None, k, 1),
    )
    return RecordedGroup(1, prompt_id, "", "", "", 1, Prior(prompt_id, prior, 0), rollouts, decisions)


def fixed(k: int, advantage: str) -> StepReplayer:
    return StepReplayer(Settings("fixed", {"n": k}, 0.0, 1, "async", "drain", advantage, {}))


def test_the_leave_one_out_error_by_hand():
    group = recorded_group("p", [1.0, 1.0, -1.0], prior=0.5)
    # rloo: others' means 0, 0, 1: errors 1, 1, 4; less the variance 4/3.
    assert figures(fixed(3, "rloo").step([group])).mse_loo == pytest.approx(2 - 4 / 3)
    # v05 from two rewards: |0 - .5| and |1 - .5| are within 1/sqrt(2), so B = V: errors .25, .25, 2.25.
    assert figures(fixed(3, "v05").step([group])).mse_loo == pytest.approx(2.75 / 3 - 4 / 3)
    assert figures(fixed(3, "v05_loo").step([group])).mse_loo == pytest.approx(2.75 / 3 - 4 / 3)


@pytest.mark.parametrize("advantage", ["rloo", "v05", "v05_loo"])
def test_the_leave_one_out_error_is_the_baselines_true_squared_error(advantage):
    """On worlds with known pass rates: k = 5 rollouts estimate the error of a baseline made from 4."""
    rng = random.Random(7)
    truth = 0.0
    groups = []
    for index in range(4000):
        p = rng.random()
        rewards = [1.0 if rng.random() < p else -1.0 for _ in range(5)]
        prior = max(-0.95, min(0.95, 2 * p - 1 + rng.gauss(0, 0.3)))
        groups.append(recorded_group(f"p{index}", rewards, prior))
        mean = sum(rewards[:4]) / 4
        baseline = mean if advantage == "rloo" else fuse(prior, rewards[:4]).baseline
        truth += (baseline - (2 * p - 1)) ** 2 / 4000
    found = figures(fixed(5, advantage).step(groups)).mse_loo
    assert found == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Changes(rule="oslo"), "unknown budget rule 'oslo'; did you mean 'osla'?"),
        (Changes(rule_options={"costs": 1}), "budget rule 'osla' has no option 'costs'; did you mean 'cost'?"),
        (Changes(advantage="grpoo"), "unknown advantage 'grpoo'"),
        (Changes(advantage="remax"), "remax needs greedy"),
    ],
)
async def test_impossible_changes_are_explained(tmp_path, changes, message):
    reader = await record(tmp_path, num_steps=1)
    with pytest.raises(ConfigError, match=message):
        replay(reader, changes)


async def test_steps_and_settings_that_are_not_there_are_explained(tmp_path):
    reader = await record(tmp_path, num_steps=1)
    with pytest.raises(ConfigError, match=r"has no step to replay; it has \[1\]"):
        replay(reader, Changes(), steps=[7])
    with pytest.raises(ConfigError, match="the ledger does not say the run's 'rule'"):
        Settings.recorded({})


@pytest.fixture(scope="module")
def small_record(tmp_path_factory) -> LedgerReader:
    return asyncio.run(record(tmp_path_factory.mktemp("record"), num_steps=1))


@settings(max_examples=40)
@given(data=st.data())
def test_every_replay_conserves_what_it_draws(small_record, data):
    """Law: whatever the changes, each prompt ends in one stop, within n_max, on a prefix of its own record."""
    reader = small_record
    n_max = data.draw(st.integers(1, 20))
    rule = data.draw(st.sampled_from(["osla", "fixed", "reinforce_ada"]))
    options = {"fixed": {"n": n_max}, "osla": {"cold_start": data.draw(st.integers(1, n_max)), "n_max": n_max}}
    changed = replace(
        Settings.recorded(reader.meta(1)),
        rule=rule,
        rule_options=options.get(rule, {}),
        halt_fraction=data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        dispatch_multiple=data.draw(st.integers(1, 5)),
        mode=data.draw(st.sampled_from(["async", "rounds"])),
        on_halt=data.draw(st.sampled_from(["drain", "abort"])),
    )
    for one in StepReplayer(changed).step(reader.groups(1)):
        drawn = sum(d.action.num_rollouts for d in one.decisions if isinstance(d.action, Draw))
        assert 1 <= one.num_used <= min(drawn, len(one.group.rollouts))
        assert drawn == one.num_used or one.short or one.stop.reason == "halted"
        assert one.short or one.stop.reason == "halted" or one.num_wanted <= one.num_used
        assert len(one.advantages.values) == one.num_used
        assert not any(isinstance(d.action, type(one.stop)) for d in one.decisions[:-1])


SUSPICIOUS = ValueConfig(trust_window=64, history="beta")


async def test_priors_are_repaired_again_as_they_were(tmp_path: Path):
    """V0's answers are noise here, so after the first 64 judged groups the gate closes, and most are recalibrated."""
    reader = await record(tmp_path, num_steps=8, value=SUSPICIOUS)
    priors = [group.prior for step in reader.steps for group in reader.groups(step) if group.prior]
    assert any(prior.raw_origin == "v0" and prior.origin == "base_rate" for prior in priors)
    assert any(prior.raw_origin == prior.origin == "v0" and prior.raw != prior.value for prior in priors)
    assert any(prior.raw_origin == "base_rate" for prior in priors)
    check_same(replay(reader, Changes()))


async def test_other_repair_gives_other_priors_and_the_same_answers(tmp_path: Path):
    reader = await record(tmp_path, num_steps=8, value=SUSPICIOUS)
    options = {"fallback": False, "recalibrate": False, "history": "none"}
    report = replay(reader, Changes(prior_options=options))
    assert report.reproduced
    assert len(report.differing) > 0
    replayer = StepReplayer(Changes(prior_options=options).applied(Settings.recorded(reader.meta(1))))
    for step in reader.steps:
        for one in replayer.step(reader.groups(step)):
            assert one.group.prior is not None
            assert one.group.prior.value == pytest.approx(one.group.prior.raw)  # nothing is left to repair


async def test_a_damaged_answer_is_noticed(tmp_path: Path):
    reader = await record(tmp_path, num_steps=8, value=SUSPICIOUS)
    (path,) = (tmp_path / "ledger").glob("decisions-000003.parquet")
    table = pq.read_table(path)
    column = table.schema.get_field_index("raw_prior")
    pq.write_table(table.set_column(column, table.schema.field(column), [[0.5] * len(table)]), path)
    assert not replay(reader, Changes()).reproduced


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fallbck": False}, "priors have no setting 'fallbck'; did you mean 'fallback'?"),
        ({"trust_window": 1}, "prior setting trust_window: Input should be greater than or equal to 64, got 1"),
    ],
)
async def test_settings_of_the_repair_are_checked(tmp_path: Path, options: dict[str, Any], message: str):
    reader = await record(tmp_path, num_steps=1, value=SUSPICIOUS)
    with pytest.raises(ConfigError) as error:
        replay(reader, Changes(prior_options=options))
    assert message in str(error.value)


LEDGERS = Path(__file__).parents[1] / "ledgers"


def test_a_ledger_of_format_1_is_replayed_with_the_priors_that_it_has():
    reader = open_ledger(LEDGERS / "version_1")
    assert reader.meta(1)["rule"] == {"name": "osla", "cost": 0.01}
    priors = [group.prior for step in reader.steps for group in reader.groups(step)]
    assert len(priors) == 10
    assert all(prior is not None and prior.origin == "v0" and prior.raw is None for prior in priors)
    check_same(replay(reader, Changes()))
    with pytest.raises(ConfigError, match=r"does not have the value model's own .*; leave out fallback"):
        replay(reader, Changes(prior_options={"fallback": False}))


def test_a_ledger_of_format_2_is_replayed_with_its_priors_repaired_again():
    """Written before rollouts had turns."""
    reader = open_ledger(LEDGERS / "version_2")
    check_same(replay(reader, Changes()))
    report = replay(reader, Changes(prior_options={"fallback": False}))
    assert report.after.num_prompts == 10
