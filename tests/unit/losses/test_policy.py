"""Legend: N tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from v05ray.losses import LOSSES
from v05ray.losses.cispo import clipped_weight
from v05ray.losses.gspo import sequence_ratio
from v05ray.losses.policy import importance_weights, policy_loss
from v05ray.losses.ppo import Ppo, clipped_ratio

LN = math.log


def test_clipped_ratio_by_hand() -> None:
    ratios = [1.5, 0.5, 1.5, 0.5, 1.1, 1.1]
    advantages = tensor([1.0, 1.0, -1.0, -1.0, 2.0, -2.0])
    loss, clipped = clipped_ratio(
        tensor([LN(r) for r in ratios]), torch.zeros(6), advantages, clip_low=0.2, clip_high=0.2
    )
    # Gains are bounded by the clip, losses are not: max(-A r, -A clip(r)).
    assert loss.tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8, -2.2, 2.2])
    assert clipped.tolist() == [True, False, False, True, False, False]


def test_the_two_clips_are_separate() -> None:
    loss, clipped = clipped_ratio(
        tensor([LN(1.25), LN(0.75)]), torch.zeros(2), tensor([1.0, -1.0]), clip_low=0.3, clip_high=0.28
    )
    assert loss.tolist() == pytest.approx([-1.25, 0.75])
    assert clipped.tolist() == [False, False]


def test_dual_clip_bounds_the_loss_of_a_bad_token() -> None:
    logprobs = tensor([LN(5.0), LN(5.0), LN(2.0)], requires_grad=True)
    loss, clipped = clipped_ratio(
        logprobs, torch.zeros(3), tensor([-1.0, 1.0, -1.0]), clip_low=0.2, clip_high=0.2, dual_clip=3.0
    )
    assert loss.tolist() == pytest.approx([3.0, -1.2, 2.0])
    assert clipped.tolist() == [True, True, False]
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, 2.0])


def test_importance_weights_by_hand() -> None:
    old, sampled = tensor([LN(0.3), LN(0.8), LN(0.1), 0.0]), tensor([LN(0.2), LN(0.1), LN(0.2), -1e4])
    assert importance_weights(old, sampled, cap=2.0).tolist() == pytest.approx([1.5, 2.0, 0.5, 2.0])


def test_first_update_with_a_cap_is_a_weighted_reinforce_gradient() -> None:
    """The ratio is 1 at the first update: loss -A w, gradient -A w, nothing clipped however far the sampler was."""
    current = tensor([LN(0.3), LN(0.8), LN(0.1)], requires_grad=True)
    sampled = tensor([LN(0.2), LN(0.1), LN(0.2)])
    losses = policy_loss(
        Ppo(0.2, 0.2),
        current,
        sampled,
        tensor([1.0, -1.0, 2.0]),
        tensor([0, 0, 0]),
        importance_cap=2.0,
    )
    assert losses.loss_N.tolist() == pytest.approx([-1.5, 2.0, -1.0])
    assert losses.clipped_N.tolist() == [False, False, False]
    assert losses.capped_N.tolist() == [False, True, False]
    losses.loss_N.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([-1.5, 2.0, -1.0])


def test_later_update_clips_against_old_and_weighs_old_against_sampled() -> None:
    losses = policy_loss(
        Ppo(0.2, 0.2),
        tensor([LN(0.6)]),
        tensor([LN(0.1)]),
        tensor([1.0]),
        tensor([0]),
        old_N=tensor([LN(0.15)]),
        importance_cap=2.0,
    )
    assert losses.loss_N.tolist() == pytest.approx([-1.2 * 1.5])
    assert losses.clipped_N.tolist() == [True]


def test_without_a_cap_the_clip_is_against_the_sampler() -> None:
    current = tensor([LN(0.3), LN(0.3)], requires_grad=True)
    losses = policy_loss(
        Ppo(0.2, 0.28),
        current,
        tensor([LN(0.2), LN(0.6)]),
        tensor([1.0, 1.0]),
        tensor([0, 0]),
        importance_cap=None,
    )
    assert losses.loss_N.tolist() == pytest.approx([-1.28, -0.5])
    losses.loss_N.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([0.0, -0.5])
    assert losses.capped_N.tolist() == [False, False]


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 0.9), st.floats(0.05, 2.0))
def test_law_clipping_never_promises_more_than_the_plain_ratio(
    log_ratio: float, advantage: float, low: float, high: float
) -> None:
    """The surrogate is pessimistic: the clipped loss is never below -A r."""
    loss, _ = clipped_ratio(
        tensor([log_ratio], dtype=torch.float64),
        torch.zeros(1),
        tensor([advantage], dtype=torch.float64),
        clip_low=low,
        clip_high=high,
    )
    assert loss.item() >= -advantage * math.exp(log_ratio) - 1e-6


def test_gspo_by_hand() -> None:
    """Sequence 0 has token ratios 2 and 1/2, so s = 1; sequence 1 has 4 and 1, so s = 2, clipped for A > 0."""
    current = tensor([LN(2.0), LN(0.5), LN(4.0), 0.0], requires_grad=True)
    sequence, zeros = tensor([0, 0, 1, 1]), torch.zeros(4)
    loss, clipped = sequence_ratio(current, zeros, torch.ones(4), sequence, clip_low=0.2, clip_high=0.2)
    assert loss.tolist() == pytest.approx([-1.0, -1.0, -1.2, -1.2])
    assert clipped.tolist() == [False, False, True, True]
    loss, clipped = sequence_ratio(current, zeros, -torch.ones(4), sequence, clip_low=0.2, clip_high=0.2)
    assert loss.tolist() == pytest.approx([1.0, 1.0, 2.0, 2.0])
    (loss[2:].mean()).backward()
    # The sequence's own loss is s = exp(mean of log-ratios): its gradient is s / T = 2 / 2 for each token.
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([0, 0, 1.0, 1.0])


def test_cispo_by_hand() -> None:
    """Ratios 2, 1/2 and 1 are bounded to 1.2, .8 and 1, and weigh -A log pi; every token keeps a gradient."""
    current = tensor([LN(0.4), LN(0.1), LN(0.3)], requires_grad=True)
    loss, clipped = clipped_weight(
        current, tensor([LN(0.2), LN(0.2), LN(0.3)]), tensor([1.0, 1.0, -2.0]), clip_low=0.2, clip_high=0.2
    )
    assert loss.tolist() == pytest.approx([-1.2 * LN(0.4), -0.8 * LN(0.1), 2.0 * LN(0.3)])
    assert clipped.tolist() == [True, True, False]
    loss.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == pytest.approx([-1.2, -0.8, 2.0])


def test_every_form_has_the_same_gradient_at_the_first_update() -> None:
    for form in ("ppo", "gspo", "cispo"):
        current = tensor([LN(0.3), LN(0.8), LN(0.1)], requires_grad=True)
        losses = policy_loss(
            LOSSES.build(form, {}),
            current,
            tensor([LN(0.2), LN(0.1), LN(0.2)]),
            tensor([1.0, -1.0, 2.0]),
            tensor([0, 1, 1]),
            importance_cap=2.0,
        )
        losses.loss_N.sum().backward()
        assert current.grad is not None
        assert current.grad.tolist() == pytest.approx([-1.5, 2.0, -1.0]), form
