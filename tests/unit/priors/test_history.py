import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.priors.history import PromptHistory
from v05ray.types import Prior


def test_two_visits_worked_by_hand():
    history = PromptHistory(discount=0.5, strength=4)
    history.observe("p", 1.0, 4)  # 4 successes
    history.observe("p", 0.0, 4)  # 2 + 2; with the discounted 4: a = 4, b = 2
    # V0 says p = .5 with weight 4; a and b count half once more: (2 + 2) / (4 + 3).
    assert history.transform(Prior("p", 0.0, 1)).value == pytest.approx(2 * 4 / 7 - 1)


def test_a_new_prompt_keeps_v0s_answer():
    prior = Prior("new", 0.3, 1)
    assert PromptHistory().transform(prior) is prior


def test_without_memory_the_history_says_nothing():
    history = PromptHistory(discount=0)
    history.observe("p", 1.0, 16)
    assert history.transform(Prior("p", -0.4, 1)).value == pytest.approx(-0.4)


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 16)), min_size=1), st.floats(-1, 1))
def test_the_answer_lies_between_v0_and_the_extremes_of_what_was_seen(visits, value):
    history = PromptHistory()
    for mean, count in visits:
        history.observe("p", mean, count)
    means = [mean for mean, _ in visits]
    answer = history.transform(Prior("p", value, 1)).value
    assert min(value, *means) - 1e-9 <= answer <= max(value, *means) + 1e-9


def test_a_restored_history_continues():
    history = PromptHistory()
    history.observe("p", 0.5, 4)
    copy = PromptHistory()
    copy.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert copy.transform(Prior("p", 0.0, 1)) == history.transform(Prior("p", 0.0, 1))


@pytest.mark.parametrize(("mean", "count"), [(1.2, 4), (0.0, 0)])
def test_visits_off_the_scale_are_refused(mean: float, count: int):
    with pytest.raises(ValueError, match="'p'"):
        PromptHistory().observe("p", mean, count)
