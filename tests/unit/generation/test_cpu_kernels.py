import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from v05ray.generation.cpu_kernels import BLOCK, _sampling, draw, num_noise


def noise(num_draws: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(num_draws, num_noise(size), dtype=torch.float64).exponential_(generator=generator)


def test_the_first_of_two_races_is_the_blocks_and_the_second_that_of_the_winners_entries() -> None:
    size = 2 * BLOCK + 3
    # Everything is equally likely; who has the least noise wins. The last block has three entries.
    for block, entry in ((0, 0), (0, 255), (1, 7), (2, 0), (2, 2)):
        made = torch.ones(1, num_noise(size), dtype=torch.float64)
        made[0, block], made[0, 3 + entry] = 1e-6, 1e-6
        assert draw(torch.full((1, size), 1 / size).log(), made).item() == block * BLOCK + entry


def test_impossible_tokens_are_never_drawn() -> None:
    probs = torch.zeros(3 * BLOCK)
    probs[1] = probs[2 * BLOCK + 5] = 0.5
    drawn = draw(probs.log().expand(500, -1), noise(500, len(probs)))
    assert set(drawn.tolist()) == {1, 2 * BLOCK + 5}


def test_frequencies_are_the_probabilities() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    num_draws = 20_000
    counts = torch.bincount(draw(probs.log().expand(num_draws, -1), noise(num_draws, 4)), minlength=4) / num_draws
    assert torch.allclose(counts, probs, atol=0.015)  # four standard deviations


def test_frequencies_are_the_probabilities_across_blocks_and_in_a_short_last_one() -> None:
    size, num_draws = BLOCK + 3, 20_000
    probs = torch.full((size,), 0.5 / BLOCK)
    probs[BLOCK:] = torch.tensor([0.3, 0.15, 0.05])
    drawn = draw(probs.log().expand(num_draws, -1), noise(num_draws, size, seed=1))
    counts = torch.bincount(drawn, minlength=size) / num_draws
    assert abs(counts[:BLOCK].sum() - 0.5) < 0.015
    assert torch.allclose(counts[BLOCK:], probs[BLOCK:], atol=0.015)
    assert abs(counts[: BLOCK // 2].sum() - 0.25) < 0.015


@given(st.integers(1, 3 * BLOCK), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_logprobs_need_no_norm_and_every_token_is_one_of_the_vocabulary(size: int, seed: int) -> None:
    logits = 3 * torch.randn(4, size, generator=torch.Generator().manual_seed(seed))
    made = noise(4, size, seed)
    drawn = draw(logits, made)
    assert torch.equal(drawn, draw(logits.log_softmax(-1), made))
    assert torch.all((drawn >= 0) & (drawn < size))


def test_the_last_digits_of_the_logits_do_not_change_the_token() -> None:
    """As where other sequences are in the batch. By the inverse of the cumulative distribution one in 200 changes."""
    size, num_draws = 49_152, 320
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(num_draws, size, generator=generator)
    logits[:, :50] += 6
    rounded = logits + 5e-7 * logits.abs() * torch.randn(num_draws, size, generator=generator)
    made = noise(num_draws, size)
    assert torch.equal(draw(logits.log_softmax(-1), made), draw(rounded.log_softmax(-1), made))


def test_a_request_draws_by_its_own_generator_in_any_place_of_the_batch() -> None:
    forward = _sampling(lambda logits, k, p: logits)
    logits = torch.zeros(4, 3 * BLOCK)

    def of_seed(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    together, _ = forward(logits, {0: of_seed(1), 1: of_seed(2), 2: of_seed(3), 3: of_seed(4)}, None, None)
    beside, logprobs = forward(logits, {3: of_seed(1), 0: of_seed(3)}, None, None)
    assert together.tolist()[0] == beside.tolist()[3]
    assert together.tolist()[2] == beside.tolist()[0]
    assert len(set(together.tolist())) == 4
    assert torch.allclose(logprobs.exp().sum(-1), torch.ones(4))
