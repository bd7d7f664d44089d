import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.learning.mini_batches import split
from v05ray.types import TrainSample


def samples_of(*sizes: int) -> list[TrainSample]:
    """Prompt i with sizes[i] responses; each response of a prompt has another length."""
    return [
        TrainSample(f"p{i}", (1,), (2,) * (k + 1), (0.0,) * (k + 1), (1.0,) * (k + 1), (True,) * (k + 1), 0)
        for i, size in enumerate(sizes)
        for k in range(size)
    ]


def test_thirty_three_prompts_at_sixteen_are_three_of_eleven() -> None:
    mini_batches = split(samples_of(*(1,) * 33), 16, seed=0)
    assert [len(one) for one in mini_batches] == [11, 11, 11]


def test_sizes_are_one_prompt_apart_at_most_by_hand() -> None:
    found = split(samples_of(*(2,) * 5), 3, seed=0)
    assert [len({sample.prompt_id for sample in one}) for one in found] == [3, 2]


@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(1, 45), st.integers(0, 3))
def test_law_every_sample_once_and_prompts_whole(sizes: list[int], most: int, seed: int) -> None:
    samples = samples_of(*sizes)
    found = split(samples, most, seed)
    assert sorted(map(id, samples)) == sorted(id(sample) for one in found for sample in one)
    prompts = [{sample.prompt_id for sample in one} for one in found]
    assert sum(map(len, prompts)) == len(sizes)  # no prompt is in two
    assert max(map(len, prompts)) <= most
    assert max(map(len, prompts)) - min(map(len, prompts)) <= 1
    assert len(found) == -(-len(sizes) // most)
    assert [[samples.index(sample) for sample in one] for one in found] == [
        sorted(samples.index(sample) for sample in one) for one in found
    ]  # the order of the batch is kept within each


def test_the_seed_alone_says_which_prompts_come_together() -> None:
    samples = samples_of(*(3,) * 12)
    assert split(samples, 4, seed=1) == split(samples, 4, seed=1)
    assert split(samples, 4, seed=1) != split(samples, 4, seed=2)
    assert split(samples, None, seed=1) == split(samples, 12, seed=2) == [samples]


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match="0 samples cannot be split"):
        split([], 4, seed=0)
    with pytest.raises(ValueError, match="of 0 prompts"):
        split(samples_of(1), 0, seed=0)
