"""The losses give, in float32, what they gave when they were one function; `x` marks a clipped or a capped token."""

import pytest
from torch import tensor

from v05ray import losses
from v05ray.config import LearnerConfig
from v05ray.losses.policy import policy_loss

CURRENT = [-2.49075556, -0.378332734, -2.72240901, -2.45978117, -2.76031017, -0.349935651]
OLD = [-2.61596203, -0.0896578133, -2.40920615, -2.88282919, -2.90542841, -1.11187613]
SAMPLED = [-3.21156406, -0.159413233, -3.38113737, -1.18132734, -2.68423247, 0.0306952596]
ADVANTAGES = [-0.445091546, 0.820813835, -1.16559517, 1.21490741, -1.45714128, -0.0717663392]
SEQUENCE = [0, 0, 0, 1, 1, 2]
RECORDED = [
    (
        "ppo",
        2.0,
        None,
        [0.915150523, -0.659430683, 1.86495233, -0.283661425, 1.35039711, 0.0490472727],
        [0.915150464, -0.659430683, 0.0, 0.0, 1.35039723, 0.0490472764],
        "..xx..",
        "..x...",
    ),
    (
        "ppo",
        2.0,
        1.5,
        [0.915150523, -0.659430683, 1.86495233, -0.283661425, 1.35039711, 0.034339942],
        [0.915150464, -0.659430683, 0.0, 0.0, 1.35039723, 0.0],
        "..xx.x",
        "..x...",
    ),
    (
        "ppo",
        None,
        None,
        [0.915150464, -0.659430683, 2.25231862, -0.338312268, 1.35039723, 0.0574130714],
        [0.915150464, -0.659430683, 2.25231862, -0.338312268, 1.35039723, 0.0],
        ".....x",
        "......",
    ),
    (
        "ppo",
        None,
        1.5,
        [0.667637348, -0.659430683, 1.74839282, -0.338312268, 1.35039723, 0.0574130714],
        [0.0, -0.659430683, 0.0, -0.338312268, 1.35039723, 0.0],
        "x.x..x",
        "......",
    ),
    (
        "gspo",
        2.0,
        None,
        [0.688827991, -0.750816524, 1.98871469, -0.283661425, 1.55171955, 0.0490472727],
        [0.688827991, -0.750816584, 1.98871469, 0.0, 1.55171967, 0.0490472764],
        "...x..",
        "..x...",
    ),
    (
        "gspo",
        None,
        None,
        [0.655338943, -1.05064166, 1.71618605, -0.617178023, 1.16571307, 0.0574130714],
        [0.655338943, 0.0, 1.71618605, -0.617178023, 0.0, 0.0],
        ".x..xx",
        "......",
    ),
    (
        "cispo",
        2.0,
        None,
        [-2.27941608, 0.266380847, -5.07716322, 0.697745025, -3.72751498, -0.0102543104],
        [0.915150523, -0.704091489, 1.86495233, -0.283661425, 1.35039711, 0.0293034185],
        ".xxx.x",
        "..x...",
    ),
    (
        "cispo",
        None,
        None,
        [-1.41902626, 0.249484211, -4.06173038, 2.39072514, -3.72751522, -0.0200908799],
        [0.569717169, -0.659430683, 1.49196184, -0.971925914, 1.35039723, 0.0574130714],
        "x.xx.x",
        "......",
    ),
]


def marks(flags: list[bool]) -> str:
    return "".join("x" if flag else "." for flag in flags)


@pytest.mark.parametrize(("name", "cap", "dual_clip", "loss", "gradient", "clipped", "capped"), RECORDED)
def test_values_and_gradients_are_the_recorded_ones(name, cap, dual_clip, loss, gradient, clipped, capped):
    config = LearnerConfig(policy_loss=name, clip_low=0.2, clip_high=0.28, dual_clip=dual_clip)
    current = tensor(CURRENT, requires_grad=True)
    computed = policy_loss(
        losses.build(config),
        current,
        tensor(SAMPLED),
        tensor(ADVANTAGES),
        tensor(SEQUENCE),
        importance_cap=cap,
        old_N=tensor(OLD),
    )
    computed.loss_N.sum().backward()
    assert current.grad is not None
    # Within two units in the last place: CPUs differ in how they round exp.
    assert computed.loss_N.tolist() == pytest.approx(loss, rel=2.5e-7)
    assert current.grad.tolist() == pytest.approx(gradient, rel=2.5e-7)
    assert (marks(computed.clipped_N.tolist()), marks(computed.capped_N.tolist())) == (clipped, capped)
