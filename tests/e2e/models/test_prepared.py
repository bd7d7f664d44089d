"""The prepared models do what their docstrings say: a real model answers, the tiny one can nearly add."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from v05ray.models import smollm2, tiny


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_smollm2_answers_in_its_chat_format(tmp_path: Path):
    folder = smollm2.prepare(tmp_path / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder
    )  # transformers' own models do not meet its type of `generate`
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert "5" in tokenizer.decode(answer, skip_special_tokens=True)
    assert answer[-1] == tokenizer.eos_token_id
    assert model.dtype == torch.bfloat16
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_tiny_model_starts_with_the_skill_it_was_asked_for(tiny_model: Path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_model
    )  # transformers' own models do not meet its type of `generate`
    pairs = tiny.questions() * 4
    ids = tokenizer([question for question, _ in pairs], return_tensors="pt")["input_ids"]
    torch.manual_seed(0)
    drawn = model.generate(ids, max_new_tokens=4, do_sample=True, top_k=0, temperature=1.0)[:, ids.shape[1] :]
    answers = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    success = sum(said == answer for said, (_, answer) in zip(answers, pairs, strict=True)) / len(pairs)
    hesitant = answers.count(tiny.HABIT) / len(pairs)
    # Stopped at .35 exactly measured (its last step may overshoot a little); 800 draws have a standard error of .017.
    assert 0.3 < success < 0.5
    assert 0.3 < hesitant < 0.6
