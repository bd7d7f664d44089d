import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray import advantages
from v05ray.errors import ConfigError

groups = st.lists(st.floats(-1, 1), min_size=2, max_size=32)


def test_grpo_by_hand() -> None:
    # mu = -.5, sd^2 = (2.25 + 3 * .25) / 3 = 1
    assert advantages.get("grpo")([1, -1, -1, -1]) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-5)

    # mu = 0, sd^2 = 2
    assert advantages.get("grpo")([1, -1]) == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)
    # mu = -.5, sd = 1, to which eps = 1 is added
    assert advantages.get("grpo", eps=1)([1, -1, -1, -1]) == pytest.approx([0.75, -0.25, -0.25, -0.25])


def test_dr_grpo_by_hand() -> None:
    assert advantages.get("dr_grpo")([1, -1, -1, -1]) == [1.5, -0.5, -0.5, -0.5]


def test_rloo_by_hand() -> None:
    assert advantages.get("rloo")([1, -1, -1]) == pytest.approx([2, -1, -1])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_equal_rewards_teach_nothing(name: str) -> None:
    assert advantages.get(name)([1, 1, 1]) == [0, 0, 0]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_one_rollout_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs >= 2 rollouts, got 1 for 'group'; raise"):
        advantages.get(name)([1])


@given(groups)
def test_rloo_subtracts_the_mean_of_the_others(rewards: list[float]) -> None:
    for i, value in enumerate(advantages.get("rloo")(rewards)):
        others = rewards[:i] + rewards[i + 1 :]
        assert value == pytest.approx(rewards[i] - sum(others) / len(others), abs=1e-9)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
@given(rewards=groups)
def test_advantages_add_up_to_nothing(name: str, rewards: list[float]) -> None:
    assert sum(advantages.get(name)(rewards)) == pytest.approx(0, abs=1e-6)


def test_grpo_refuses_a_division_by_nothing() -> None:
    with pytest.raises(ConfigError, match="eps must be > 0, got 0"):
        advantages.build("grpo", eps=0)
