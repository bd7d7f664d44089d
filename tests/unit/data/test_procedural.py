"""Generated tasks: distinct questions, exactly as many as asked for or an error that says how many there are."""

from collections import Counter
from typing import Any

import pytest

from tests.unit.data.tokenizing import CharTokenizer
from v05ray.config import DataConfig
from v05ray.data import load_prompts, load_splits
from v05ray.errors import ConfigError

SUMS = {
    "name": "reasoning_gym",
    "task": "chain_sum",
    "parameters": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
}
SINGLE_DIGITS = {**SUMS, "parameters": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}
"""10 x 10 operands and two operators: 200 questions."""


def load(spec, *, seed=0, limit=None):
    config = DataConfig.model_validate({"train": spec})
    return load_prompts(config.train, config, CharTokenizer(), max_prompt_tokens=2000, seed=seed, limit=limit)


def splits(train, held_out, *, seed=0, num_eval=None):
    config = DataConfig.model_validate({"train": train, "eval": held_out})
    return load_splits(config, CharTokenizer(), max_prompt_tokens=2000, seed=seed, num_eval=num_eval)


def test_a_sum_carries_its_answer_and_its_scorers_entry():
    prompt = load({**SUMS, "size": 3})[0]
    entry: Any = prompt.metadata["entry"]
    assert prompt.source == prompt.metadata["task"] == "chain_sum"
    assert entry["question"] == prompt.text
    assert entry["answer"] == prompt.answer
    assert eval(entry["metadata"]["expression"]) == int(prompt.answer)


def test_the_seed_decides_and_the_specs_own_seed_comes_first():
    texts = [tuple(p.text for p in load({**SUMS, "size": 20, **own}, seed=seed)) for own, seed in (
        ({}, 1), ({}, 1), ({}, 2), ({"seed": 1}, 2), ({"seed": 1}, 3),
    )]  # fmt: skip
    assert texts[0] == texts[1] == texts[3] == texts[4]
    assert texts[2] != texts[0]


def test_growing_the_size_keeps_the_first_questions():
    small, large = (load({**SUMS, "size": size, "seed": 1}) for size in (50, 1200))
    assert [p.prompt_id for p in large[:50]] == [p.prompt_id for p in small]
    assert len({p.text for p in large}) == 1200


def test_all_questions_of_a_small_task_are_found_and_one_more_is_an_error():
    assert len({p.text for p in load({**SINGLE_DIGITS, "size": 200})}) == 200
    with pytest.raises(ConfigError, match=r"only 200 distinct questions exist.* but 201 are asked for; lower `size`"):
        load({**SINGLE_DIGITS, "size": 201})
    assert len(load({**SINGLE_DIGITS, "size": 1000}, limit=150)) == 150


def test_train_and_eval_are_distinct_and_full_even_where_questions_are_few():
    both = splits({**SINGLE_DIGITS, "size": 120}, {**SINGLE_DIGITS, "size": 80})
    assert (len(both.train), len(both.eval)) == (120, 80)
    assert not {p.text for p in both.train} & {p.text for p in both.eval}
    with pytest.raises(ConfigError, match=r"only 120 distinct questions .*80 in_eval"):
        splits({**SINGLE_DIGITS, "size": 121}, {**SINGLE_DIGITS, "size": 80})


def test_the_first_questions_of_eval_do_not_depend_on_training_data():
    alone = splits({**SUMS, "size": 10}, {**SUMS, "size": 500}, num_eval=50)
    other = splits({**SUMS, "size": 900}, {**SUMS, "size": 500}, num_eval=50)
    assert [p.prompt_id for p in alone.eval] == [p.prompt_id for p in other.eval]
    assert len(alone.eval) == 50


def test_a_mix_follows_its_weights_and_a_task_that_runs_out_leaves_it():
    spec = {
        "name": "reasoning_gym",
        "size": 1000,
        "tasks": [{"task": "chain_sum", "weight": 3}, {"task": "gcd", "weight": 1}],
    }
    counts = Counter(p.source for p in load(spec))
    assert 700 < counts["chain_sum"] < 800
    tiny = {"task": "chain_sum", "parameters": SINGLE_DIGITS["parameters"], "weight": 100}
    counts = Counter(p.source for p in load({"name": "reasoning_gym", "size": 300, "tasks": [tiny, {"task": "gcd"}]}))
    assert counts == {"chain_sum": 200, "gcd": 100}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "chain_sums"}, "no task 'chain_sums'; did you mean 'chain_sum'?"),
        ({"task": "chain_sum", "parameters": {"max_term": 2}}, "no parameter 'max_term'; did you mean 'max_terms'?"),
        ({"task": "chain_sum", "parameters": {"max_terms": 1}}, "refuses its parameters"),
        ({"task": "chain_sum", "size": 0}, "size must be at least 1"),
        ({}, "either `task` (one) or `tasks` (a mix)"),
        ({"tasks": []}, "`tasks` is empty"),
        ({"tasks": [{"tsk": "gcd"}]}, "a mix entry has no 'tsk'; did you mean 'task'?"),
        ({"tasks": [{"weight": 1}]}, "a mix entry needs `task`"),
        ({"tasks": [{"task": "gcd", "weight": 0}]}, "weight of 'gcd' must be above 0"),
        ({"tasks": [{"task": "gcd"}], "parameters": {}}, "inside each entry of `tasks`"),
        ({"task": "rearc"}, "does not accept its own metadata after JSON"),
    ],
)
def test_refusals_say_what_to_do(options, message):
    with pytest.raises(ConfigError) as error:
        load({"name": "reasoning_gym", "size": 5, **options})
    assert message in str(error.value)
