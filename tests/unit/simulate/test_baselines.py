"""What is read out of the real estimators against baselines worked by hand."""

import random

import pytest

from v05ray import advantages
from v05ray.advantages import GroupView
from v05ray.errors import ConfigError
from v05ray.simulate import baselines
from v05ray.stats.shrinkage import fuse, fuse_loo

MIXED = GroupView("mixed", (1.0, -1.0, -1.0, -1.0), prior=0.9, lengths=(1, 1, 1, 5), greedy_reward=-1.0)
EQUAL = GroupView("equal", (1.0, 1.0, 1.0, 1.0), prior=0.5, lengths=(2, 2, 2, 2), greedy_reward=1.0)


def read(name: str) -> list[list[float]]:
    return baselines.read(baselines.build(name, {}), [MIXED, EQUAL])


@pytest.mark.parametrize(
    ("name", "mixed", "equal"),
    [
        ("grpo", [-0.5] * 4, [1.0] * 4),
        ("dr_grpo", [-0.5] * 4, [1.0] * 4),
        ("bnpo", [-0.5] * 4, [1.0] * 4),
        ("reinforce_pp_baseline", [-0.5] * 4, [1.0] * 4),
        ("rloo", [-1.0, -1 / 3, -1 / 3, -1 / 3], [1.0] * 4),
        ("remax", [-1.0] * 4, [1.0] * 4),
        ("opo", [-0.75] * 4, [1.0] * 4),
        ("mc_grpo", [-1.0] * 4, [1.0] * 4),
        ("qae", [-1.0] * 4, [1.0] * 4),
        ("reinforce_pp", [0.25] * 4, [0.25] * 4),
        ("spo", [0.0] * 4, [0.0] * 4),
    ],
)
def test_the_fields_baselines(name: str, mixed: list[float], equal: list[float]) -> None:
    first, second = read(name)
    assert first == pytest.approx(mixed, abs=1e-5)
    assert second == pytest.approx(equal, abs=1e-5)


def test_the_fused_baselines() -> None:
    first, second = read("v05")
    assert first == pytest.approx([fuse(0.9, MIXED.rewards).baseline] * 4)
    assert second == pytest.approx([fuse(0.5, EQUAL.rewards).baseline] * 4)
    assert read("v05_loo")[0] == pytest.approx([f.baseline for f in fuse_loo(0.9, MIXED.rewards)])


def test_a_scale_without_rewards_is_found_by_a_probe() -> None:
    # x after one reward of 1 from (0, 1): gain = 1.00001 / 1.01001; the next ones by hand in the same way.
    x, variance = 0.0, 1.0
    for reward in EQUAL.rewards:
        variance += 1e-5
        gain = variance / (variance + 1e-2)
        x, variance = x + gain * (reward - x), variance * (1 - gain)
    assert read("krpo")[1] == pytest.approx([x] * 4)


def test_every_estimator_can_be_read() -> None:
    rng = random.Random(0)
    for name in advantages.ESTIMATORS.names:
        estimator = baselines.build(name, {})
        groups = [
            GroupView(
                f"p{i}",
                tuple(rng.choice((1.0, -1.0)) for _ in range(5)),
                prior=rng.uniform(-1, 1),
                lengths=(1, 2, 3, 4, 5),
                greedy_reward=1.0,
            )
            for i in range(12)
        ]
        for own in baselines.read(estimator, groups):
            assert len(own) == 5
            assert all(-1.0001 <= b <= 1.0001 for b in own), name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rloo'"):
        baselines.build("rlo", {})
