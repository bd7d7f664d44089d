"""How held-out responses are drawn: the evaluation's own sampling, or that of training."""

import json

import pytest

from tests.unit.data.tokenizing import CharTokenizer
from v05ray.config import DataConfig
from v05ray.data.loading import load_splits
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.types import Sampling


def config_of(evaluation: dict, *overrides: str, max_length: int = 64):
    written = {
        "model": {"path": "m", "max_length": max_length},
        "data": {"train": "jsonl"},
        "sampling": {"temperature": 0.9, "top_p": 0.95, "max_tokens": 16},
        "evaluation": evaluation,
    }
    return make_config(written, overrides)


def drawn(config) -> Sampling:
    return config.evaluation.draws_with(config.sampling)


def test_what_is_not_given_is_that_of_training():
    assert drawn(config_of({})) == Sampling(0.9, 0.95, 16)
    assert drawn(config_of({"temperature": 0.6})) == Sampling(0.6, 0.95, 16)
    own = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 48}
    assert drawn(config_of(own)) == Sampling(1.0, 0.9, 48)
    assert drawn(config_of({}, "evaluation.top_p=0.5")) == Sampling(0.9, 0.5, 16)


def test_no_room_for_a_prompt_is_refused_with_the_figures():
    with pytest.raises(ConfigError, match=r"evaluation\.max_tokens 64 leaves no room .* model\.max_length 64"):
        config_of({"max_tokens": 64})


@pytest.mark.parametrize("bad", [{"temperature": 0}, {"top_p": 1.5}, {"max_tokens": 0}])
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=r"evaluation\."):
        config_of(bad)


def test_held_out_prompts_leave_room_for_the_evaluations_own_responses(tmp_path):
    for name, question in (("train", "a" * 40), ("eval", "b" * 30)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": question, "answer": "1"}) + "\n")
    sources = {name: {"name": "jsonl", "path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "eval")}
    data = DataConfig.model_validate({**sources, "chat_template": False})

    def load(room: int | None):
        return load_splits(data, CharTokenizer(), max_prompt_tokens=48, max_eval_prompt_tokens=room, seed=0)

    assert len(load(None).eval) == len(load(31).eval) == 1
    with pytest.raises(ConfigError, match=r"31 tokens, and the context leaves 16; .*evaluation"):
        load(16)
