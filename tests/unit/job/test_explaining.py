from pathlib import Path

import pytest

from tests.unit.job.writing import MINIMAL, SHORT, write
from v05ray.errors import ConfigError
from v05ray.job.config_files import load_config, make_config


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"learner": {"learning_rat": 1}}, "unknown key 'learner.learning_rat'; did you mean 'learning_rate'?"),
        ({"learnr": {}}, "unknown key 'learnr'; did you mean 'learner'?"),
        ({"recipe": "grop"}, "unknown recipe 'grop'; did you mean 'grpo'?"),
        ({"advantage": {"name": "v06"}}, "unknown advantage 'v06'; did you mean 'v05'?"),
        ({"advantage": {"sigma_flor": 1}}, "has no option 'sigma_flor'; did you mean 'sigma_floor'?"),
        ({"budget": {"rule": {"name": "osla", "n_max": 2}}}, "n_max"),
        ({"run": {"prompts_per_step": 0}}, "run.prompts_per_step: Input should be greater than or equal to 1, got 0"),
        ({"value": {"enabled": False}}, "value.enabled"),
        ({"value": {"support_size": 600}}, "value.support_size 600 exceeds value.support_capacity 512"),
        ({"sampling": {"max_tokens": 512}}, "sampling.max_tokens 512 leaves no room"),
        ({"model": {}}, "model.path is required"),
        ({"recipe": "grpo", "budget": {"rule": {"name": "fixed", "n": 1}}}, "2"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(written: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        make_config({**MINIMAL, **written})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe=GRPO", "unknown recipe 'GRPO'; did you mean 'grpo'?"),
        ("num_steps=5", "unknown key 'num_steps'; did you mean 'run.num_steps'?"),
        ("num_threads=5", "did you mean 'generators.num_threads' or 'value.num_threads' or 'learner.num_threads'?"),
        ("RUN.seed=5", "unknown key 'RUN'; did you mean 'run'?"),
        ("generators.num_threads=two", "generators.num_threads: .*valid integer.* or .*'auto', got 'two'"),
        ("budget.rule.n_max=abc", "budget rule 'osla': n_max: expected a whole number, got 'abc'"),
        ("budget.rule.cold_start=4.5", "cold_start: expected a whole number, got 4.5"),
        ("advantage.sigma_floor=null", "advantage 'v05': sigma_floor: expected a number, got None"),
        ("advantage.sigma_floor=yes", "advantage 'v05': sigma_floor: "),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(tmp_path: Path, override: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        load_config(write(tmp_path, SHORT), [override])
    assert "\n" not in str(caught.value)


def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, SHORT), ["data.train={name: jsonl, weight: abc}"])
    assert str(caught.value).count("\n") == 0
    assert "data.train.0.weight: Input should be a valid number" in str(caught.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], r"data\.train: Tuple should have at least 1 item"),
        ([{"name": "jsonl", "weight": 0}], r"data\.train\.0\.weight: Input should be greater than 0"),
        ([{"name": "jsonl"}, {"path": "x"}], r"data\.train\.1\.name is required"),
    ],
)
def test_a_list_of_sources_that_cannot_be_read_is_refused_by_its_place(train, message):
    with pytest.raises(ConfigError, match=message):
        make_config({**MINIMAL, "data": {"train": train}})
