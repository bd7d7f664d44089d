import json
from typing import Any

import pytest

from v05ray.stats.history import BetaCounts


def test_counts_are_discounted_per_visit() -> None:
    counts = BetaCounts(discount=0.5, initial=(1, 1))
    assert counts.counts("p") == (1, 1)
    counts.add("p", reward_sum=2, num_rewards=4)  # 3 good, 1 bad
    assert counts.counts("p") == (3.5, 1.5)
    counts.add("p", reward_sum=-1, num_rewards=1)
    assert counts.counts("p") == (1.75, 1.75)
    assert counts.mean("p") == 0.5


def test_the_prompt_seen_longest_ago_is_forgotten_and_the_rest_resumes() -> None:
    counts = BetaCounts(capacity=2)
    for key in ("a", "b", "a", "c"):
        counts.add(key, 1, 1)
    assert [key in counts for key in "abc"] == [True, False, True]
    resumed = BetaCounts(capacity=1)
    resumed.load_state_dict(json.loads(json.dumps(counts.state_dict())))
    assert len(resumed) == 1
    assert resumed.counts("c") == counts.counts("c")
    with pytest.raises(ValueError, match="Beta counts: a state has"):
        resumed.load_state_dict({})


def test_the_most_recent_keys_are_resumed() -> None:
    counts = BetaCounts()
    for key in ("a", "b", "c", "d"):
        counts.add(key, 1, 1)
    resumed = BetaCounts(capacity=1)
    resumed.load_state_dict(counts.state_dict())
    assert [key in resumed for key in "abcd"] == [False, False, False, True]


def test_an_unknown_prompt_is_half_a_success_and_half_a_failure() -> None:
    assert BetaCounts().counts("new") == (0.5, 0.5)


def test_graded_rewards_count_as_parts_of_a_success() -> None:
    counts = BetaCounts(discount=1, initial=(1, 1))
    counts.add("p", reward_sum=0.5, num_rewards=1)  # three quarters of a success
    assert counts.counts("p") == (1.75, 1.25)


@pytest.mark.parametrize(
    "settings", [{"initial": (-1, 1)}, {"initial": (1, -1)}, {"discount": -0.1}, {"discount": 1.5}, {"capacity": 0}]
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="initial counts >= 0"):
        BetaCounts(**settings)
