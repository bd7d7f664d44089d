"""Records that compute: a rollout's sequence from its turns."""

from dataclasses import replace

from tests.fakes import one_turn
from v05ray.types import Observation, Rollout, TrainSample, Turn

FIRST = Turn("8", (23, 2), (-0.9, -0.1), "stop", policy_version=4, generator_id="g0", seconds=0.5)
SECOND = Turn("9", (24, 25, 2), (-0.3, -0.2, -0.1), "length", policy_version=3, generator_id="g1", seconds=0.25)


def test_one_turn_is_its_own_sequence():
    rollout = Rollout("p", 0, (FIRST,))
    assert rollout.token_ids == (23, 2)
    assert rollout.logprobs == (-0.9, -0.1)
    assert rollout.loss_mask == (True, True)
    assert (rollout.num_tokens, rollout.text, rollout.finish_reason) == (2, "8", "stop")
    assert (rollout.policy_version, rollout.generator_id, rollout.seconds) == (4, "g0", 0.5)


def test_observations_stand_between_turns_and_count_nowhere():
    rollout = Rollout("p", 0, (FIRST, replace(SECOND, observation=Observation("wrong", (7, 8)))))
    assert rollout.token_ids == (23, 2, 7, 8, 24, 25, 2)
    assert rollout.logprobs == (-0.9, -0.1, 0.0, 0.0, -0.3, -0.2, -0.1)
    assert rollout.loss_mask == (True, True, False, False, True, True, True)
    assert rollout.num_tokens == 5
    assert (rollout.text, rollout.finish_reason, rollout.generator_id) == ("9", "length", "g1")
    assert rollout.policy_version == 3  # the oldest
    assert rollout.seconds == 0.75


def test_a_turn_is_added_with_what_came_before_it():
    observation = Observation("wrong", (7, 8))
    drawn = one_turn("p", 5, "9", (24, 25, 2), (-0.3, -0.2, -0.1), "length", 3, "g1", 0.25)
    grown = Rollout("p", 5, (FIRST,)).then(observation, drawn)
    assert grown == Rollout("p", 5, (FIRST, replace(SECOND, observation=observation)))


def test_a_train_sample_is_as_long_as_what_was_sampled():
    sample = TrainSample("p", (1,), (23, 2, 7), (-0.9, -0.1, 0.0), (1.0,) * 3, (True, True, False), 0)
    assert sample.num_sampled == 2
