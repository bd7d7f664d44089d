"""The token adapter against a straight-line reimplementation in numpy, written from the paper's description alone."""

import numpy as np
import pytest
import torch

from v05ray.value.adapter import AdapterConfig, TokenAdapter

CONFIG = AdapterConfig(hidden_width=20, num_queries=5, query_width=6, num_heads=3, bottleneck=7)


def make_adapter(config: AdapterConfig = CONFIG) -> TokenAdapter:
    torch.manual_seed(0)
    adapter = TokenAdapter(config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return adapter.eval()


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    erf = np.vectorize(__import__("math").erf)
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def straight_line(state: dict[str, np.ndarray], states: np.ndarray, mask: np.ndarray, num_heads: int) -> np.ndarray:
    """One prompt and one head at a time, padding cut off instead of masked."""
    outputs = []
    for hidden, keep in zip(states, mask.astype(bool), strict=True):
        tokens = hidden[keep]
        x = tokens[-1] @ state["generator.0.weight"].T + state["generator.0.bias"]
        x = gelu(layer_norm(x, state["generator.1.weight"], state["generator.1.bias"]))
        residual = x @ state["generator.4.weight"].T + state["generator.4.bias"]
        static = state["static_queries"][0]
        queries = static + residual.reshape(static.shape)
        kv = tokens @ state["proj_kv.weight"].T + state["proj_kv.bias"]
        q_in = layer_norm(queries, state["ln_q.weight"], state["ln_q.bias"])
        k_in = layer_norm(kv, state["ln_kv.weight"], state["ln_kv.bias"])
        w_q, w_k, w_v = np.split(state["mha.in_proj_weight"], 3)
        b_q, b_k, b_v = np.split(state["mha.in_proj_bias"], 3)
        q, k, v = q_in @ w_q.T + b_q, k_in @ w_k.T + b_k, kv @ w_v.T + b_v
        width = q.shape[1] // num_heads
        heads = []
        for h in range(num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T / np.sqrt(width)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append((weights / weights.sum(1, keepdims=True)) @ v[:, part])
        out = np.concatenate(heads, 1) @ state["mha.out_proj.weight"].T + state["mha.out_proj.bias"]
        outputs.append(out.reshape(-1))
    return np.stack(outputs)


@pytest.mark.parametrize("config", [CONFIG, AdapterConfig(hidden_width=32)], ids=["small", "published"])
def test_it_equals_the_straight_line_reimplementation(config: AdapterConfig):
    adapter = make_adapter(config)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(4, 9, config.hidden_width, generator=generator)
    mask = torch.ones(4, 9, dtype=torch.long)
    for prompt, padding in enumerate((0, 3, 8, 5)):
        mask[prompt, :padding] = 0
    with torch.inference_mode():
        columns = adapter(states, mask).numpy()
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in adapter.state_dict().items()}
    expected = straight_line(state, states.numpy().astype(np.float64), mask.numpy(), config.num_heads)
    assert columns.shape == (4, config.num_queries * config.query_width)
    assert np.abs(columns - expected).max() < 1e-5


def test_padding_states_do_not_matter():
    adapter = make_adapter()
    states = torch.randn(2, 6, 20)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    changed = states.clone()
    changed[0, :2] += 100
    with torch.inference_mode():
        assert torch.equal(adapter(changed, mask), adapter(states, mask))


def test_right_padding_is_refused():
    with pytest.raises(ValueError, match="left padding"):
        make_adapter()(torch.randn(1, 3, 20), torch.tensor([[1, 1, 0]]))


def test_a_fresh_adapter_starts_from_its_static_queries():
    """The generator's last layer is zero, so the last state reaches the columns through keys and values alone."""
    torch.manual_seed(0)
    adapter = TokenAdapter(CONFIG).eval()
    assert not bool(adapter.generator(torch.randn(3, 20)).any())


def test_the_parameter_names_are_the_published_ones():
    names = set(TokenAdapter(CONFIG).state_dict())
    parts = ("weight", "bias")
    expected = {"static_queries", "mha.in_proj_weight", "mha.in_proj_bias"}
    expected |= {
        f"{module}.{part}"
        for module in ("generator.0", "generator.1", "generator.4", "proj_kv", "mha.out_proj", "ln_q", "ln_kv")
        for part in parts
    }
    assert names == expected
