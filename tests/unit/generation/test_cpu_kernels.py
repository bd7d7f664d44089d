import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from v05ray.generation.cpu_kernels import BLOCK, draw


def tokens(probs: list[float], uniforms: list[float]) -> list[int]:
    logprobs = torch.tensor(probs).log().expand(len(uniforms), -1)
    return draw(logprobs, torch.tensor(uniforms, dtype=torch.float64)).tolist()


def test_a_token_is_drawn_where_the_cumulative_probability_first_exceeds_the_uniform() -> None:
    assert tokens([0.25, 0.5, 0.25], [0.0, 0.2, 0.3, 0.7, 0.8, 0.999999]) == [0, 0, 1, 1, 2, 2]


def test_impossible_tokens_are_never_drawn() -> None:
    assert tokens([0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.49, 0.51, 1 - 1e-16]) == [1, 1, 3, 3]


def test_the_whole_vocabulary_is_reached_across_blocks_and_in_a_short_last_one() -> None:
    size = 2 * BLOCK + 3
    middles = [(i + 0.5) / size for i in range(size)]
    assert tokens([1 / size] * size, middles) == list(range(size))


def test_a_token_of_tiny_probability_after_many_others_keeps_its_share() -> None:
    # In a float32 cumulative sum over 50,000 entries the last one, of probability 2e-9, would be lost in rounding.
    size = 50_000
    probs = torch.full((1, size), (1 - 2e-9) / (size - 1), dtype=torch.float64)
    probs[0, -1] = 2e-9
    uniform = torch.tensor([1 - 1e-9, 1 - 1e-4], dtype=torch.float64)
    drawn = draw(probs.log().float().expand(2, -1), uniform)
    assert drawn[0] >= size - 2
    assert abs(drawn[1].item() - size * (1 - 1e-4)) < 3


@given(st.integers(1, 3 * BLOCK), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_is_the_inverse_of_the_cumulative_distribution(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logprobs = torch.log_softmax(3 * torch.randn(4, size, generator=generator), -1)
    uniform = torch.rand(4, dtype=torch.float64, generator=generator)
    drawn = draw(logprobs, uniform)
    cumulative = logprobs.exp().double().cumsum(-1)
    total = cumulative[:, -1]
    above = cumulative.gather(1, drawn[:, None])[:, 0]
    below = above - logprobs.exp().double().gather(1, drawn[:, None])[:, 0]
    assert torch.all(below - 1e-6 <= uniform * total)
    assert torch.all(uniform * total <= above + 1e-6)


def test_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    num_draws = 20_000
    uniform = torch.rand(num_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(probs.log().expand(num_draws, -1), uniform), minlength=4) / num_draws
    assert torch.allclose(counts, probs, atol=0.015)  # four standard deviations


def test_a_target_that_rounding_puts_at_the_very_end_still_gives_a_token_of_the_vocabulary() -> None:
    """A uniform of 1 stands for it: no cumulative sum exceeds the target then."""
    size = BLOCK + 3
    assert tokens([1 / size] * size, [1.0]) == [size - 1]
    assert tokens([0.5, 0.5, 0.0], [1.0]) == [1]
