import pytest

from tests.unit.machine.test_fit import AMX, config
from v05ray.machine.estimate import Speed, estimate, guessed_speed, minutes

# 100 tokens/s and 10 tokens a response: .1 s a rollout; learning from it takes as long again.
SPEED = Speed(100.0, 10.0, measured=True)


def test_a_step_takes_from_the_cold_start_alone_to_the_cap_of_every_prompt() -> None:
    run = {"num_steps": 10, "prompts_per_step": 8}
    found = estimate(config(run=run, evaluation={"every": 0}), SPEED, num_eval=0)
    assert found.step_s == pytest.approx((8 * 4 * 0.2, 8 * 16 * 0.2))
    assert found.run_s == pytest.approx((64.0, 256.0))


def test_learning_takes_longer_by_its_epochs_and_the_old_logprobs() -> None:
    run, evaluation = {"num_steps": 10, "prompts_per_step": 8}, {"every": 0}
    found = estimate(config(run=run, evaluation=evaluation, learner={"epochs": 3}), SPEED, num_eval=0)
    # Four rollouts of .1 s each to draw; three epochs and a forward pass, a third of one, to learn from.
    assert found.step_s[0] == pytest.approx(8 * 4 * 0.1 * (1 + 3 + 1 / 3))
    halves = estimate(config(run=run, evaluation=evaluation, learner={"mini_batch_prompts": 4}), SPEED, num_eval=0)
    assert halves.step_s[0] == pytest.approx(8 * 4 * 0.1 * (1 + 1 + 1 / 3))


def test_evaluations_count_at_the_start_when_due_and_at_the_end() -> None:
    settings = {"run": {"num_steps": 25, "prompts_per_step": 8}, "evaluation": {"every": 10, "samples_per_prompt": 1}}
    found = estimate(config(**settings), SPEED, num_eval=50)
    assert found.first_evaluation_s == pytest.approx(50 * 2 * 0.1)
    assert found.run_s[0] - 25 * found.step_s[0] == pytest.approx(4 * 10.0)  # after steps 0, 10, 20 and 25


def test_a_resumed_run_takes_what_is_left() -> None:
    settings = {"run": {"num_steps": 30, "prompts_per_step": 8}, "evaluation": {"every": 10}}
    whole, rest = (estimate(config(**settings), SPEED, num_eval=0, steps_done=done) for done in (0, 20))
    assert rest.run_s[0] == pytest.approx(whole.run_s[0] / 3)


def test_a_fixed_budget_has_one_figure() -> None:
    text = str(estimate(config(recipe="rloo", run={"prompts_per_step": 8}), SPEED, num_eval=0))
    assert "26 s for a step" in text


def test_before_anything_is_drawn_the_speed_is_guessed_and_says_so() -> None:
    speed = guessed_speed(config(model={"path": "m", "dtype": "bfloat16"}), AMX, 135_000_000)
    assert speed.tokens_per_s == pytest.approx(0.3 * 1100e9 / 270e6)
    assert "(guessed)" in str(estimate(config(), speed, num_eval=10))


def test_times_have_no_more_digits_than_an_estimate_deserves() -> None:
    assert [minutes(s) for s in (0.2, 40, 100, 3000, 7800)] == ["1 s", "40 s", "2 min", "50 min", "2 h 10 min"]
