"""Legend: U positions, N tokens, D hidden size, V vocabulary."""

import math

import pytest
import torch
from torch import Tensor, nn

import v05ray.learning.head as head_module
from v05ray.learning.head import LogitsForm, LogprobHead


def dense(
    hidden_UD: Tensor,
    weight_VD: Tensor,
    position_N: Tensor,
    target_N: Tensor,
    temperature: float,
    bias_V: Tensor | None = None,
    form: LogitsForm | None = None,
) -> tuple[Tensor, Tensor]:
    logits_NV = nn.functional.linear(hidden_UD[position_N], weight_VD, bias_V)
    if form is not None:
        if form.softcap is not None:
            logits_NV = form.softcap * torch.tanh(logits_NV / form.softcap)
        logits_NV = form.scale * logits_NV
    logp_NV = torch.log_softmax(logits_NV / temperature, -1)
    return logp_NV.gather(1, target_N[:, None]).squeeze(1), -(logp_NV.exp() * logp_NV).sum(-1)


def head_of(weight_VD: Tensor) -> LogprobHead:
    projection = nn.Linear(weight_VD.shape[1], weight_VD.shape[0], bias=False)
    projection.weight = nn.Parameter(weight_VD.clone())
    return LogprobHead(projection)


def test_by_hand() -> None:
    """Two logits, ln 3 and 0: probabilities 3/4 and 1/4; at temperature 1/2, 9/10 and 1/10."""
    head = head_of(torch.tensor([[math.log(3.0)], [0.0]]))
    logp, entropy = head(torch.ones(1, 1), torch.tensor([0, 0]), torch.tensor([0, 1]), 1.0)
    assert logp.exp().tolist() == pytest.approx([0.75, 0.25])
    assert entropy.tolist() == pytest.approx([-0.75 * math.log(0.75) - 0.25 * math.log(0.25)] * 2)
    logp, _ = head(torch.ones(1, 1), torch.tensor([0, 0]), torch.tensor([0, 1]), 0.5)
    assert logp.exp().tolist() == pytest.approx([0.9, 0.1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [512, 1300])
def test_values_and_gradients_equal_dense_logits(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, temperature: float
) -> None:
    monkeypatch.setattr(head_module, "BLOCK_ELEMENTS", 1)  # blocks of 512: 1300 = 512 + 512 + 276
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=torch.float32)
    weight = 2 * torch.randn(vocabulary, 5)
    # Positions 0 and 3 predict several tokens each, position 3 the same one twice.
    position = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6])
    target = torch.randint(0, vocabulary, (10,))
    target[5] = target[4]
    results = []
    for compute in (head_of(weight), None):
        h = hidden.clone().requires_grad_()
        w = compute.weight if compute else nn.Parameter(weight.clone())
        arguments = (position, target, temperature)
        logp, entropy = compute(h, *arguments) if compute else dense(h, w, *arguments)
        (logp * torch.arange(10.0) + 0.3 * entropy.square()).sum().backward()
        assert h.grad is not None
        assert w.grad is not None
        results.append((logp.detach(), entropy.detach(), h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_gradient_of_logp_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "BLOCK_ELEMENTS", 1)
    torch.manual_seed(1)
    weight, target, position = torch.randn(600, 4), torch.tensor([0, 511, 512, 599]), torch.tensor([2, 1, 0, 0])
    ours = torch.randn(3, 4).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    head_of(weight)(ours, position, target, 1.0)[0].sum().backward()
    dense(theirs, weight, position, target, 1.0)[0].sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    logp, entropy = head_of(torch.tensor([[1000.0], [0.0]]))(
        torch.ones(1, 1), torch.tensor([0]), torch.tensor([0]), 1.0
    )
    assert logp.tolist() == [0.0]
    assert entropy.tolist() == [0.0]


@pytest.mark.parametrize("form", [LogitsForm(0.25), LogitsForm(1.0, 1.5), LogitsForm(0.5, 3.0)])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_scales_softcaps_and_biases_equal_dense_logits(
    monkeypatch: pytest.MonkeyPatch, form: LogitsForm, with_entropy: bool, with_bias: bool
) -> None:
    monkeypatch.setattr(head_module, "BLOCK_ELEMENTS", 1)
    torch.manual_seed(2)
    projection = nn.Linear(5, 1300, bias=with_bias)
    with torch.no_grad():
        projection.weight.normal_()
    weight, bias = (
        None if p is None else p.detach().clone().requires_grad_() for p in (projection.weight, projection.bias)
    )
    assert weight is not None
    position, target = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([0, 511, 512, 1299, 700])
    ours, theirs = (torch.manual_seed(3) and torch.randn(4, 5).requires_grad_() for _ in range(2))
    mine = LogprobHead(projection, form)(ours, position, target, 0.7)
    expected = dense(theirs, weight, position, target, 0.7, bias, form)
    for logp, entropy in (mine, expected):
        loss = (logp * torch.arange(1.0, 6.0)).sum() + (entropy.square().sum() if with_entropy else 0.0)
        loss.backward()
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
    pairs = [(ours.grad, theirs.grad), (projection.weight.grad, weight.grad)]
    pairs += [(projection.bias.grad, bias.grad)] if bias is not None else []
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted, atol=1e-4, rtol=1e-4)


def test_the_form_is_read_from_the_config() -> None:
    from types import SimpleNamespace as Settings

    assert LogitsForm.of(Settings()) == LogitsForm(1.0, None)
    assert LogitsForm.of(Settings(logits_scaling=8.0)) == LogitsForm(0.125)  # Granite divides
    assert LogitsForm.of(Settings(logit_scale=0.0625)) == LogitsForm(0.0625)  # Cohere multiplies
    assert LogitsForm.of(Settings(final_logit_softcapping=30.0)) == LogitsForm(1.0, 30.0)
    assert LogitsForm.of(Settings(final_logit_softcapping=None)) == LogitsForm()  # Gemma 3


def test_the_parameters_are_shared() -> None:
    projection = nn.Linear(4, 8)
    head = LogprobHead(projection)
    assert head.weight is projection.weight
    assert head.bias is projection.bias
    assert LogprobHead(nn.Linear(4, 8, bias=False)).bias is None
