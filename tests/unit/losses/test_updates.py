"""How many updates a batch makes, what is refused, and the one line that says which clips cannot act."""

from typing import Any

import pytest

from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.losses.updates import describe_updates, most_updates


def config_of(learner: dict[str, Any], **run: Any) -> Config:
    run = {"prompts_per_step": 32, "num_steps": 10, **run}
    return make_config({"model": {"path": "m"}, "data": {"train": "jsonl"}, "run": run, "learner": learner})


@pytest.mark.parametrize(
    ("learner", "expected"),
    [
        ({}, 1),
        ({"epochs": 3}, 3),
        ({"mini_batch_prompts": 32}, 1),
        ({"mini_batch_prompts": 16}, 2),
        ({"mini_batch_prompts": 15, "epochs": 2}, 6),  # 32 prompts in 3 of 11, 11 and 10
    ],
)
def test_the_number_of_updates_by_hand(learner: dict[str, Any], expected: int) -> None:
    assert most_updates(config_of(learner)) == expected


@pytest.mark.parametrize(
    ("learner", "said", "not_said"),
    [
        ({}, "the ratio is 1: learner.clip_low, clip_high cannot act; ppo, gspo and cispo have the same", "dual_clip"),
        (
            {"mini_batch_prompts": 32, "dual_clip": 3},
            "learner.clip_low, clip_high, dual_clip cannot act",
            "epochs with",
        ),
        ({"importance_cap": None}, "against the engine's log-probabilities", "cannot act"),
        ({"epochs": 2, "stream_tokens": 9}, "up to 2 per batch, 2 epochs with mini-batches of the whole", "cannot act"),
        ({"epochs": 2, "stream_tokens": 9}, "so learner.stream_tokens has no effect", "cannot act"),
        ({"mini_batch_prompts": 8}, "up to 4 per batch, 1 epoch with mini-batches of at most 8 prompts", "stream_"),
    ],
)
def test_one_line_says_what_can_act(learner: dict[str, Any], said: str, not_said: str) -> None:
    line = describe_updates(config_of(learner))
    assert said in line
    assert not_said not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"mini_batch_prompts": 33}, r"mini_batch_prompts 33 is more than a batch has \(run.prompts_per_step 32\)"),
        ({"mini_batch_prompts": 0}, "greater than or equal to 1"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"schedule": "cosine", "warmup_steps": 10}, "no step left after learner.warmup_steps 10: run.num_steps is 10"),
        ({"schedule": "linear", "warmup_steps": 4, "schedule_steps": 4}, "learner.schedule_steps is 4"),
        ({"schedule": "cosin"}, "'constant', 'cosine' or 'linear'"),
        ({"min_rate_fraction": 1.5}, "less than or equal to 1"),
        ({"entropy_coefficient": -0.1}, "greater than or equal to 0"),
        ({"truncated": "drop"}, "'learn' or 'leave_out'"),
    ],
)
def test_what_cannot_be_is_refused(learner: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(learner)


def test_a_constant_rate_may_warm_up_over_the_whole_run() -> None:
    assert config_of({"warmup_steps": 10}).learner.warmup_steps == 10
