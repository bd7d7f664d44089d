"""The prompt stream: laws of its order, and of its cursor."""

import json
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_prompt
from v05ray.data import PromptStream
from v05ray.registry import ConfigError


def stream(num_prompts, batch_size, *, shuffle=True, seed=0) -> PromptStream:
    prompts = [make_prompt(f"p{i}") for i in range(num_prompts)]
    return PromptStream(prompts, batch_size=batch_size, shuffle=shuffle, seed=seed)


def ids(batch):
    return [prompt.prompt_id for prompt in batch]


@st.composite
def sizes(draw):
    num_prompts = draw(st.integers(1, 12))
    return num_prompts, draw(st.integers(1, num_prompts))


def test_without_shuffling_the_order_is_the_datas_own():
    prompts = stream(5, 2, shuffle=False)
    assert [ids(prompts.next_batch()) for _ in range(5)] == [
        ["p0", "p1"],
        ["p2", "p3"],
        ["p4", "p0"],
        ["p1", "p2"],
        ["p3", "p4"],
    ]
    assert prompts.epoch == 1


def test_a_prompt_already_in_the_batch_is_dealt_later():
    prompts = stream(3, 2, shuffle=False)
    batches = [ids(prompts.next_batch()) for _ in range(3)]
    assert batches == [["p0", "p1"], ["p2", "p0"], ["p1", "p2"]]
    whole = stream(4, 3, shuffle=False)
    assert [ids(whole.next_batch()) for _ in range(3)] == [["p0", "p1", "p2"], ["p3", "p0", "p1"], ["p2", "p3", "p0"]]


def test_epochs_are_shuffled_differently_and_by_the_seed():
    prompts = stream(50, 50)
    first, second = ids(prompts.next_batch()), ids(prompts.next_batch())
    assert first != second
    assert sorted(first) == sorted(second)
    assert ids(stream(50, 50).next_batch()) == first
    assert ids(stream(50, 50, seed=1).next_batch()) != first


@given(sizes(), st.booleans(), st.integers(0, 5), st.integers(1, 30))
def test_no_batch_repeats_a_prompt_and_every_epoch_deals_each_once(size, shuffle, seed, num_batches):
    num_prompts, batch_size = size
    prompts = stream(num_prompts, batch_size, shuffle=shuffle, seed=seed)
    batches = [ids(prompts.next_batch()) for _ in range(num_batches)]
    assert all(len(set(batch)) == batch_size for batch in batches)
    dealt = list(chain.from_iterable(batches))
    for start in range(0, len(dealt) - num_prompts + 1, num_prompts):
        assert set(Counter(dealt[start : start + num_prompts]).values()) == {1}


@given(sizes(), st.booleans(), st.integers(0, 20), st.integers(1, 20))
def test_a_resumed_stream_goes_on_as_an_uninterrupted_one(size, shuffle, num_before, num_after):
    num_prompts, batch_size = size
    whole = stream(num_prompts, batch_size, shuffle=shuffle)
    for _ in range(num_before):
        whole.next_batch()
    resumed = stream(num_prompts, batch_size, shuffle=shuffle)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert resumed.state_dict() == whole.state_dict()
    assert [ids(resumed.next_batch()) for _ in range(num_after)] == [ids(whole.next_batch()) for _ in range(num_after)]


def test_a_cursor_over_other_prompts_or_another_order_is_refused():
    state = stream(5, 2).state_dict()
    for other, name in (
        (stream(6, 2), "prompts"),
        (stream(5, 2, shuffle=False), "shuffle"),
        (stream(5, 2, seed=1), "seed"),
    ):
        with pytest.raises(ConfigError, match=f"cursor has {name}"):
            other.load_state_dict(state)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"batch of 6 prompts .* has 5; lower run\.prompts_per_step"):
        stream(5, 6)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        stream(5, 0)
