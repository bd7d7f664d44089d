"""Legend: N tokens, V vocabulary."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from v05ray.losses.kl import KlEstimator, kl_penalty

LN = math.log


@pytest.mark.parametrize(
    ("estimator", "values", "gradients"),
    [
        # d = ln 2, 0, -ln 2: the policy says the token twice as often as the reference, as often, half as often.
        ("k1", [LN(2), 0.0, -LN(2)], [LN(2), 0.0, -LN(2)]),
        ("k2", [LN(2) ** 2 / 2, 0.0, LN(2) ** 2 / 2], [LN(2), 0.0, -LN(2)]),
        ("k3", [LN(2) - 0.5, 0.0, 1 - LN(2)], [0.5, 0.0, -1.0]),
    ],
)
def test_by_hand(estimator: KlEstimator, values: list[float], gradients: list[float]) -> None:
    current_N = tensor([LN(0.5), LN(0.5), LN(0.25)], requires_grad=True)
    penalty_N = kl_penalty(current_N, tensor([LN(0.25), LN(0.5), LN(0.5)]), estimator)
    assert penalty_N.tolist() == pytest.approx(values, abs=1e-7)
    penalty_N.sum().backward()
    assert current_N.grad is not None
    assert current_N.grad.tolist() == pytest.approx(gradients, abs=1e-7)


def test_a_token_that_the_policy_should_never_have_drawn_is_finite() -> None:
    current_N = tensor([-200.0], requires_grad=True)
    penalty_N = kl_penalty(current_N, tensor([-0.1]), "k3")
    penalty_N.sum().backward()
    assert current_N.grad is not None
    assert penalty_N.isfinite().all()
    assert current_N.grad.isfinite().all()


logits = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


@given(logits, logits)
def test_laws_of_the_mean_over_drawn_tokens(current: list[float], reference: list[float]) -> None:
    """Each token of a vocabulary of 3 by its probability: k1 and k3 have the KL's value, k1 and k2 its pull."""
    current_V = tensor(current, dtype=torch.float64, requires_grad=True)
    logp_V = torch.log_softmax(current_V, 0)
    reference_V = torch.log_softmax(tensor(reference, dtype=torch.float64), 0)
    kl = (logp_V.exp() * (logp_V - reference_V)).sum()
    (pull_V,) = torch.autograd.grad(kl, current_V, retain_graph=True)
    chance_V = logp_V.detach().exp()  # how often each token is drawn: no part of the loss's gradient
    for estimator in ("k1", "k2", "k3"):
        penalty_V = kl_penalty(logp_V, reference_V, estimator)
        mean = (chance_V * penalty_V).sum()
        (gradient_V,) = torch.autograd.grad(mean, current_V, retain_graph=True)
        if estimator != "k2":
            assert mean.item() == pytest.approx(kl.item(), abs=1e-9)
        if estimator != "k3":
            assert gradient_V.tolist() == pytest.approx(pull_V.tolist(), abs=1e-9)
        if estimator != "k1":
            assert (penalty_V >= -1e-12).all()
