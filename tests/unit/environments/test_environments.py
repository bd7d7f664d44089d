"""A batch of two turns a rollout, from the draw to the learner's tensors and to the ledger's report."""

from pathlib import Path

import pytest

from tests.fakes import SAMPLING, FakeEnvironment, FakeGenerator, FakeRewardPool, make_prompt
from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.config import BudgetConfig, Spec
from v05ray.learning.batching import collate, make_rows
from v05ray.ledger import LedgerReader, LedgerWriter
from v05ray.ports import BatchRequest
from v05ray.replay.explain import explain
from v05ray.scheduling.generators import GeneratorPool
from v05ray.scheduling.scheduler import RolloutScheduler
from v05ray.training.feeding import train_samples
from v05ray.training.metrics import rollout_metrics
from v05ray.training.samples import write_samples
from v05ray.types import RolloutGroup

BUDGET = BudgetConfig(rule=Spec.model_validate({"name": "fixed", "n": 2}), halt_fraction=0.0)


@pytest.fixture
async def group() -> RolloutGroup:
    """Prompt 0 1 2 3; each rollout: 0 1 2, then the observation 90 91, then 0 1 2. Rewards 1 and -1."""
    pool = GeneratorPool(FakeRewardPool(), make_environment=FakeEnvironment, draw_timeout_s=5.0)
    pool.add([FakeGenerator({"p": [1.0, -1.0]}, name) for name in ("a", "b")])
    await pool.until_ready()
    scheduler = RolloutScheduler(pool, BUDGET, seed=0)
    batch = BatchRequest(1, 0, (make_prompt("p"),), {}, SAMPLING)
    (group,) = [group async for group in scheduler.run(batch)]
    return group


async def test_both_turns_are_scored_as_one_rollout(group: RolloutGroup):
    assert group.rewards == (1.0, -1.0)
    assert [one.rollout.token_ids for one in group.scored] == [(0, 1, 2, 90, 91, 0, 1, 2)] * 2
    assert len({turn.generator_id for turn in group.scored[0].rollout.turns}) == 1  # which holds the context
    assert GroupView.of(group).lengths == (6, 6)
    assert rollout_metrics([group], {"p": (1.0, -1.0)})["response_length/mean"] == 6


async def test_the_learner_computes_all_tokens_and_learns_the_sampled_ones(group: RolloutGroup):
    (computed,) = advantages.build("grpo").compute([GroupView.of(group)])
    samples = train_samples(group, computed)
    assert [sample.response_ids for sample in samples] == [(0, 1, 2, 90, 91, 0, 1, 2)] * 2
    assert samples[0].loss_mask == (True, True, True, False, False, True, True, True)
    batch = collate(make_rows(samples, 100, share_prefix=True), "sequence_mean")
    assert batch.input_ids_BL.tolist() == [[0, 1, 2, 3, 0, 1, 2, 90, 91, 0, 1, 0, 0, 0, 0, 0]]
    assert batch.target_N.tolist() == [0, 1, 2, 0, 1, 2] * 2
    assert batch.predictor_U[batch.position_N].tolist() == [3, 4, 5, 8, 9, 10] * 2
    assert batch.weight_N.tolist() == pytest.approx([1 / 6] * 12)


async def test_the_ledger_has_both_turns_and_explain_tells_them(group: RolloutGroup, tmp_path: Path):
    LedgerWriter(tmp_path).append_step(1, [group], {"p": (1.0, -1.0)}, {"rule": {"name": "fixed", "n": 2}})
    reader = LedgerReader(tmp_path)
    (back,) = reader.groups(1)
    rollout = back.rollouts[0]
    assert (rollout.num_tokens, rollout.logprob_sum) == (6, -3.0)
    assert [(turn.response, turn.observation, turn.observation_tokens, turn.num_tokens) for turn in rollout.turns] == [
        ("[reward=1.0]", None, 0, 3),
        ("[reward=1.0]", "and now?", 2, 3),
    ]
    assert reader.check_conservation().ok
    lines = [line.strip() for line in explain(reader, "p").splitlines() if " turn " in line]
    name = group.scored[0].rollout.generator_id
    assert lines[:2] == [
        f"turn 1: 3 tokens, stop, log-prob -1.50, {name}, 0.00 s: '[reward=1.0]'",
        f"turn 2: 3 tokens, stop, log-prob -1.50, {name}, 0.00 s: '[reward=1.0]' after 'and now?'",
    ]
    assert len(lines) == 4


async def test_a_person_reads_what_was_said_between_the_turns(group: RolloutGroup, tmp_path: Path):
    write_samples(tmp_path / "step.md", 1, [group], num_rollouts=1)
    text = (tmp_path / "step.md").read_text()
    assert "first response (correct):\n\n    [reward=1.0]\n\nthen it was shown:\n\n    and now?\n\n" in text
    assert text.endswith("and responded:\n\n    [reward=1.0]\n")
