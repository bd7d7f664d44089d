"""The tiny model asks what reasoning-gym asks, starts with some skill, and is the same for the same seed."""

from pathlib import Path

import pytest
import reasoning_gym
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from v05ray.errors import ConfigError
from v05ray.models import tiny
from v05ray.models.__main__ import main
from v05ray.models.prepared import describe


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("tiny") / "model", seed=3, tied=False, success=0)


def test_questions_are_worded_as_chain_sum_words_them():
    dataset = reasoning_gym.create_dataset(
        "chain_sum", size=300, seed=5, min_terms=2, max_terms=2, min_digits=1, max_digits=1
    )
    known = dict(tiny.questions())
    asked = {row["question"]: row["answer"] for row in dataset}
    assert len(known) == 200
    assert len(asked) > 100
    assert {question: known.get(question) for question in asked} == asked


def test_equal_seeds_give_equal_weights_and_others_differ(tmp_path: Path, untied: Path):
    again = tiny.prepare(tmp_path / "again", seed=3, tied=False, success=0)
    other = tiny.prepare(tmp_path / "other", seed=4, tied=False, success=0)
    assert (again / "model.safetensors").read_bytes() == (untied / "model.safetensors").read_bytes()
    assert (other / "model.safetensors").read_bytes() != (untied / "model.safetensors").read_bytes()


def test_the_callers_random_state_and_threads_are_left_alone(tmp_path: Path):
    torch.manual_seed(11)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(11)
    tiny.prepare(tmp_path / "model", success=0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_untied_has_a_projection_of_its_own(tmp_path: Path, untied: Path):
    tied = tiny.prepare(tmp_path / "tied", success=0)
    sizes = {}
    for folder in (tied, untied):
        model = AutoModelForCausalLM.from_pretrained(folder)
        sizes[folder] = sum(p.numel() for p in model.parameters())
        projection = model.get_output_embeddings()
        assert projection is not None
        shared = projection.weight is model.get_input_embeddings().weight
        assert shared == (folder == tied)
    assert sizes == {tied: 804_224, untied: 804_224 + 128 * 128}


def test_characters_survive_the_tokenizer(untied: Path):
    tokenizer = AutoTokenizer.from_pretrained(untied)
    text = "What is 3 + 4 =\n  (two spaces kept)"
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_the_chat_template_leaves_a_lone_question_as_it_is(untied: Path):
    tokenizer = AutoTokenizer.from_pretrained(untied)
    question = tiny.questions()[0][0]
    chat = [{"role": "user", "content": question}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == question
    assert list(tokenizer.apply_chat_template(chat)["input_ids"]) == tokenizer.encode(question)


def test_training_targets_are_the_answer_and_the_end(untied: Path):
    tokenizer = AutoTokenizer.from_pretrained(untied)
    prefix, inputs, targets = tiny._training_tensors(tokenizer)
    row = tiny.questions().index((f"{tiny.PREFIX}3 - 7 =", "-4"))
    assert tokenizer.decode(prefix[0]) == tiny.PREFIX
    assert tokenizer.decode(inputs[row], skip_special_tokens=True) == "3 - 7 =-4"
    assert inputs.shape == targets.shape == (220, 9)
    # The end of the question predicts the first character of the answer, and its last character the end.
    assert targets[row].tolist() == [0, 0, 0, 0, 0, 0, *tokenizer.encode("-4"), tokenizer.eos_token_id]
    # The habit is given, and only has to be ended.
    assert tokenizer.decode(inputs[-1], skip_special_tokens=True) == "9 + 5 =?"
    assert targets[-1].tolist() == [0, 0, 0, 0, 0, 0, 0, tokenizer.eos_token_id, 0]


@pytest.mark.parametrize("success", [-0.1, 0.5])
def test_an_impossible_success_is_refused(tmp_path: Path, success: float):
    with pytest.raises(ConfigError, match=r"success must lie in \[0, 0\.45\]"):
        tiny.prepare(tmp_path / "model", success=success)


def test_too_few_steps_say_what_was_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiny, "MAX_TRAINING_STEPS", 1)
    with pytest.raises(ConfigError, match=r"reached a success of 0\.000 in 1 steps, asked for 0\.35"):
        tiny.prepare(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_folder_or_the_reason(tmp_path: Path, untied: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["tiny", str(tmp_path / "model"), "--success", "0", "--untied", "--seed", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model")
    assert describe(tmp_path / "model") == describe(untied)
    assert main(["tiny", str(tmp_path / "model"), "--success", "0"]) == 2
    assert "choose another folder" in capsys.readouterr().err
