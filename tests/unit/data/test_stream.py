"""The prompt stream: laws of its order, and of its cursor."""

import json
from collections import Counter
from itertools import chain

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.fakes import make_prompt
from v05ray.data import PromptSource, PromptStream
from v05ray.data.stream import describe
from v05ray.errors import ConfigError


def stream(num_prompts, batch_size, *, shuffle=True, seed=0) -> PromptStream:
    prompts = [make_prompt(f"p{i}") for i in range(num_prompts)]
    return PromptStream([PromptSource("data", prompts)], batch_size=batch_size, shuffle=shuffle, seed=seed)


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
    assert prompts.epochs == {"data": 2.0}


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
def test_a_resumed_stream_continues_as_an_uninterrupted_one(size, shuffle, num_before, num_after):
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


def several(weights, sizes, batch_size, *, shuffle=True, seed=0) -> PromptStream:
    """Sources `a`, `b`, ... with these numbers of prompts `a0`, `a1`, ..."""
    sources = [
        PromptSource(name, [make_prompt(f"{name}{i}", source=name) for i in range(size)], weight)
        for name, weight, size in zip("abcdef", weights, sizes, strict=False)
    ]
    return PromptStream(sources, batch_size=batch_size, shuffle=shuffle, seed=seed)


def test_an_order_of_one_source_and_a_cursor_from_before_there_were_several_are_kept():
    prompts = stream(7, 3)
    assert [ids(prompts.next_batch()) for _ in range(2)] == [["p2", "p1", "p3"], ["p0", "p6", "p4"]]
    saved = {
        "epoch": 1,
        "position": 5,
        "carried": [5],
        "num_after_carried": 2,
        "prompts": "7:727ec1e7eb0df622",
        "shuffle": True,
        "seed": 0,
    }
    resumed = stream(7, 3)
    resumed.load_state_dict(saved)
    assert [ids(resumed.next_batch()) for _ in range(3)] == [["p0", "p5", "p1"], ["p0", "p4", "p3"], ["p2", "p6", "p5"]]
    with pytest.raises(ConfigError, match="cursor has sources 1, this run has 2"):
        several([1, 1], [7, 7], 3).load_state_dict(saved)


def test_places_go_to_the_source_furthest_behind_its_weight():
    mixed = several([3, 1], [4, 4], 4, shuffle=False)
    assert [ids(mixed.next_batch()) for _ in range(3)] == [
        ["a0", "a1", "b0", "a2"],  # 3/1 > 1/1; 3/3 = 1/1: the first; 3/5 < 1/1; 3/5 > 1/3
        ["a3", "a0", "b1", "a1"],
        ["a2", "a3", "b2", "a0"],
    ]
    assert mixed.epochs == {"a": 9 / 4, "b": 3 / 4}


@st.composite
def mixes(draw):
    weights = draw(st.lists(st.floats(0.1, 10), min_size=1, max_size=5))
    sizes = draw(st.lists(st.integers(1, 12), min_size=len(weights), max_size=len(weights)))
    batch_size = draw(st.integers(1, 12))
    assume(all(w / sum(weights) * batch_size <= size for w, size in zip(weights, sizes, strict=True)))
    assume(batch_size <= sum(sizes))
    return weights, sizes, batch_size


@given(mixes(), st.integers(0, 3), st.integers(1, 25))
def test_shares_follow_the_weights_no_batch_repeats_a_prompt_and_every_epoch_deals_each_once(mix, seed, num_batches):
    weights, sizes, batch_size = mix
    mixed = several(weights, sizes, batch_size, seed=seed)
    batches = [ids(mixed.next_batch()) for _ in range(num_batches)]
    assert all(len(set(batch)) == batch_size for batch in batches)
    dealt = list(chain.from_iterable(batches))
    for name, weight, size in zip("abcdef", weights, sizes, strict=False):
        of_source = [one for one in dealt if one[0] == name]
        assert abs(len(of_source) - weight / sum(weights) * len(dealt)) < 2
        for start in range(0, len(of_source) - size + 1, size):
            assert len(set(of_source[start : start + size])) == size


@given(mixes(), st.booleans(), st.integers(0, 10), st.integers(1, 10))
def test_a_resumed_mix_continues_as_an_uninterrupted_one(mix, shuffle, num_before, num_after):
    whole, resumed = several(*mix, shuffle=shuffle), several(*mix, shuffle=shuffle)
    for _ in range(num_before):
        whole.next_batch()
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert resumed.state_dict() == whole.state_dict()
    assert [ids(resumed.next_batch()) for _ in range(num_after)] == [ids(whole.next_batch()) for _ in range(num_after)]


def test_sources_are_shuffled_differently_and_by_the_seed():
    def order(seed):
        mixed = several([1, 1], [40, 40], 80, seed=seed)
        batch = ids(mixed.next_batch())
        return [[one[1:] for one in batch if one[0] == name] for name in "ab"]

    first, second = order(0)
    assert first != second
    assert order(0) == [first, second]
    assert order(1) != [first, second]


def test_a_cursor_over_another_mix_is_refused():
    state = several([3, 1], [9, 9], 4).state_dict()
    for other, message in (
        (several([2, 1], [9, 9], 4), "weight 3, this run has 2"),
        (several([3, 1], [9, 8], 4), "prompts "),
        (several([3, 1, 1], [9, 9, 9], 4), "sources 2, this run has 3"),
    ):
        with pytest.raises(ConfigError, match=f"cursor has {message}"):
            other.load_state_dict(state)


def test_a_source_too_small_for_its_share_of_a_batch_is_refused():
    with pytest.raises(ConfigError, match=r"source 'b' has 2 prompts, and its weight gives it 3\.0 of the 4"):
        several([1, 3], [10, 2], 4)


def test_a_mix_is_described_with_sizes_weights_and_shares():
    assert describe(several([3, 1], [1200, 40], 4).sources) == [
        "source a   1,200 prompts  weight 3       share 75.0%",
        "source b      40 prompts  weight 1       share 25.0%",
    ]
    assert describe(stream(5, 2).sources) == []
