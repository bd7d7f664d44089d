"""What ends a response besides the model's own tokens: read from the config, checked, and put to the engine."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from v05ray.cli import evaluate as eval_cli
from v05ray.config import Config
from v05ray.config.run import MOST_STOPS
from v05ray.errors import ConfigError
from v05ray.generation.core import _stop_texts
from v05ray.job.config_files import load_config, make_config, to_yaml
from v05ray.job.model_checks import check_model_folder
from v05ray.launch.evaluation import fingerprint
from v05ray.types import Sampling


def config_of(*overrides: str, model: Any = "m", **sections: Any) -> Config:
    return make_config({"model": {"path": model, "max_length": 64}, "data": {"train": "jsonl"}, **sections}, overrides)


def training(*overrides: str, **sampling: object) -> Sampling:
    return config_of(*overrides, sampling={"max_tokens": 16, **sampling}).sampling.draws()


def evaluation(*overrides: str, **sections: dict) -> Sampling:
    config = config_of(*overrides, **sections)
    return config.evaluation.draws_with(config.sampling)


def test_without_stops_there_are_none():
    assert training() == Sampling(1.0, 1.0, 16)
    assert training("sampling.stop=", "sampling.stop_token_ids=null") == Sampling(1.0, 1.0, 16)


@pytest.mark.parametrize(
    ("written", "stop"),
    [
        ("###", ("###",)),
        (["</answer>", "\n\nQuestion:"], ("</answer>", "\n\nQuestion:")),
        ([" "], (" ",)),
        ([], ()),
        (None, ()),
    ],
)
def test_one_text_or_a_list_of_them(written: object, stop: tuple[str, ...]):
    assert training(stop=written).stop == stop


def test_token_ids_are_one_or_a_list():
    assert training(stop_token_ids=5).stop_token_ids == (5,)
    assert training(stop_token_ids=[5, 0]).stop_token_ids == (5, 0)


@pytest.mark.parametrize(
    ("typed", "stop"),
    [
        ("###", ("###",)),  # no comment of YAML's
        ("Question: ", ("Question: ",)),  # no mapping
        ("42", ("42",)),
        ("on", ("on",)),
        (r'"\n\n"', ("\n\n",)),
        (r'["\n\n", "###"]', ("\n\n", "###")),
        ("[Q, 7]", ("Q", "7")),
    ],
)
def test_a_stop_on_the_command_line_is_taken_as_typed(typed: str, stop: tuple[str, ...]):
    assert training(f"sampling.stop={typed}").stop == stop
    assert evaluation(f"evaluation.stop={typed}").stop == stop


def test_the_file_reads_back_to_the_same(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: {path: m}\ndata: {train: jsonl}\nsampling:\n  stop: 2025-11-25\n  stop_token_ids: [1, 2]\n"
        'evaluation: {stop: [7, "a\\nb"]}\n'
    )
    config = load_config(job)
    assert config.sampling.draws().stop == ("2025-11-25",)
    assert config.evaluation.draws_with(config.sampling).stop == ("7", "a\nb")
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"stop": ""}, r"sampling\.stop: an empty text would end every response at once; .*got ''"),
        ({"stop": ["a", ""]}, "empty text"),
        ({"stop": [["a"]]}, r"\['a'\] is no text; give a text or a list of texts"),
        ({"stop": {"a": "b"}}, r"is no text"),
        ({"stop": "x" * 257}, "256 characters at most, one has 257"),
        ({"stop": "\ud83d"}, "half of a character"),
        ({"stop": [str(i) for i in range(MOST_STOPS + 1)]}, "65 are more than 64"),
        ({"stop_token_ids": [-1]}, r"sampling\.stop_token_ids: -1 is no token id"),
        ({"stop_token_ids": [True]}, "is no token id"),
        ({"stop_token_ids": [1.5]}, r"1\.5 is no token id"),
        ({"stop_token_ids": ["<eos>"]}, "'<eos>' is no token id, .*a text belongs into `stop`"),
        ({"stop_token_ids": list(range(MOST_STOPS + 1))}, "65 are more than 64"),
    ],
)
@pytest.mark.parametrize("section", ["sampling", "evaluation"])
def test_what_could_end_no_response_is_refused_at_load(section: str, bad: dict, message: str):
    with pytest.raises(ConfigError, match=message.replace("sampling", section)) as caught:
        config_of(**{section: bad})
    assert "\n" not in str(caught.value)


def test_an_evaluation_has_stops_of_its_own_or_those_of_training():
    trained = {"stop": ["###"], "stop_token_ids": [5], "include_stop": True}
    assert evaluation(sampling=trained) == Sampling(1.0, 1.0, 24, (5,), ("###",), True)
    own = evaluation(sampling=trained, evaluation={"stop": "Q:", "stop_token_ids": []})
    assert own == Sampling(1.0, 1.0, 24, (), ("Q:",), True)
    assert evaluation("evaluation.stop=[]", sampling=trained).stop == ()


def parsed(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    eval_cli.add_parser(parser.add_subparsers())
    return eval_cli.config_of(parser.parse_args(["eval", *arguments]))[0]


def test_the_evaluation_commands_flags(tmp_path: Path):
    job = tmp_path / "job.yaml"
    job.write_text("model: {path: m}\ndata: {train: jsonl}\nsampling: {stop: a}\n")
    texts = ("###", '"', "it's: \\n", "\n\nQ", "é [x]", "null")
    flags = [part for text in texts for part in ("--stop", text)]
    config = parsed(str(job), *flags, "--stop-token-ids", "3,4")
    assert config.evaluation.draws_with(config.sampling) == Sampling(1.0, 1.0, 24, (3, 4), texts)
    assert parsed(str(job)).evaluation.stop is None
    for flags in (["--stop", ""], ["--stop-token-ids", "a"], ["--stop-token-ids", "1 2"]):
        with pytest.raises(ConfigError, match=r"evaluation\.stop"):
            parsed(str(job), *flags)


@pytest.mark.parametrize("section", ["sampling", "evaluation"])
def test_a_token_that_the_model_cannot_draw_is_refused_before_the_run(tmp_path: Path, section: str):
    for name in ("tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    settings = {"model_type": "llama", "vocab_size": 128, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(settings))

    def refusal(token: int) -> str:
        with pytest.raises(ConfigError) as caught:
            check_model_folder(config_of(model=str(tmp_path), **{section: {"stop_token_ids": [2, token]}}))
        return str(caught.value)

    assert refusal(128) == (
        f"{section}.stop_token_ids has 128, and the model's tokens are 0 to 127; take ids of this model's own "
        f"tokenizer, or give the text in {section}.stop"
    )
    assert "stop_token_ids" not in refusal(127)  # the folder's missing weights


def test_the_engine_reads_along_only_where_a_text_is_looked_for():
    assert _stop_texts(Sampling(1.0, 1.0, 16, (7,), (), True)) == {"detokenize": False}
    stopped = _stop_texts(Sampling(1.0, 1.0, 16, (), ("##", "\n"), True))
    assert (stopped["stop"], stopped["detokenize"]) == (["##", "\n"], True)
    assert stopped["include_stop_str_in_output"]
    assert not stopped["skip_special_tokens"]  # a stop text may be a special token


def test_an_evaluation_with_other_stops_is_another_one(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")

    def prints(**sampling: object) -> dict:
        return fingerprint(config_of(model=str(tmp_path), sampling=sampling), [])

    plain = prints()
    assert not {"stop", "stop_token_ids", "include_stop"} & plain.keys()  # continued as before there were any
    others = [prints(stop="a"), prints(stop=["a", "b"]), prints(stop="a", include_stop=True), prints(stop_token_ids=1)]
    assert all(one not in others[:i] and one != plain for i, one in enumerate(others))
