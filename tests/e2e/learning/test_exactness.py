"""The learner computes the model that the engine serves: no dropout, one set of names, an export that is whole."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.e2e.learning.tiny import make_samples
from tests.e2e.models.architectures import save
from v05ray.errors import ConfigError
from v05ray.learning.learner import Learner
from v05ray.models.huggingface import checkpoint_shapes
from v05ray.types import TrainSample

MakeLearner = Callable[..., Learner]
OPTIONS = {"learning_rate": 1e-2, "micro_batch_tokens": 64, "importance_cap": None}


def drawn_by(folder: Path, samples: list[TrainSample]) -> list[TrainSample]:
    """The samples, with the log-probabilities that transformers gives them in evaluation."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    exact = []
    for sample in samples:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        with torch.no_grad():
            logp = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1].log_softmax(-1)
        picked = logp.gather(1, torch.tensor(sample.response_ids)[:, None])[:, 0]
        exact.append(replace(sample, logprobs=tuple(picked.tolist()), advantages=(1.0,) * len(sample.response_ids)))
    return exact


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_no_forward_pass_has_dropout(make_learner: MakeLearner, tmp_path: Path, name: str, checkpointing: bool) -> None:
    """GPT-2 has it everywhere by default, this Llama in its attention, Mixtral noise in its router."""
    folder = save(name, tmp_path / name)
    learner = make_learner(folder, **OPTIONS, kl_coefficient=0.1, gradient_checkpointing=checkpointing)
    learner.accumulate(drawn_by(folder, make_samples(4)))
    metrics = learner.step()
    assert abs(metrics["actor/kl_sampled"]) < 1e-6
    assert metrics["actor/kl"] == 0  # nor has the reference
    assert metrics["actor/grad_norm"] > 0
    learner._engine._engine.train()  # whatever mode it is put in
    samples = make_samples(4)
    assert learner.logprobs(samples, share_prefix=True) == learner.logprobs(samples, share_prefix=True)


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_logprobs_are_those_of_the_model_and_change_nothing(
    make_learner: MakeLearner, tied_folder: Path, zero_stage: int, share_prefix: bool
) -> None:
    learner = make_learner(tied_folder, zero_stage=zero_stage, **OPTIONS)
    samples = drawn_by(tied_folder, make_samples(5))
    flat = [replace(sample, advantages=(0.0,) * len(sample.advantages)) for sample in samples]
    found = learner.logprobs(flat, share_prefix=share_prefix)
    assert sorted(found) == list(range(len(samples)))
    for index, sample in enumerate(samples):
        assert found[index] == pytest.approx(sample.logprobs, abs=1e-5)
    with pytest.raises(RuntimeError, match="no batch to learn from"):
        learner.step()  # nothing was accumulated
    learner.accumulate(samples)
    learner.step()
    assert learner.logprobs(flat, share_prefix=share_prefix)[0] != pytest.approx(samples[0].logprobs, abs=1e-3)


@pytest.mark.parametrize("zero_stage", [1, 3])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "phi", "gpt2"])
def test_weights_have_the_names_of_the_folder(
    make_learner: MakeLearner, tmp_path: Path, name: str, zero_stage: int
) -> None:
    """Experts are one parameter in memory and many tensors in the folder; a projection may have a bias."""
    folder = save(name, tmp_path / name)
    learner = make_learner(folder, zero_stage=zero_stage, **OPTIONS)
    sent = {key: tensor.clone() for key, tensor in learner.export_weights()}
    shapes = checkpoint_shapes(folder)
    assert {key: tuple(tensor.shape) for key, tensor in sent.items()} == shapes
    stored = AutoModelForCausalLM.from_pretrained(folder)
    learner.export_hf(tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for (key, one), (_, other) in zip(stored.named_parameters(), read.named_parameters(), strict=True):
        assert torch.equal(one, other), key


def test_names_without_the_prefix_of_the_inner_model_are_kept(make_learner: MakeLearner, tmp_path: Path) -> None:
    """As GPT-2 was released: `wte.weight`, and its causal mask stored as a buffer."""
    from safetensors.torch import load_file, save_file

    folder = save("gpt2", tmp_path / "gpt2")
    tensors = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(old | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}, folder / "model.safetensors", {"format": "pt"})
    learner = make_learner(folder, **OPTIONS)
    sent = {name for name, _ in learner.export_weights()}
    assert sent == set(old) - {"lm_head.weight"}
    learner.export_hf(tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_tensors_that_are_not_the_models_are_refused_at_the_start(make_learner: MakeLearner, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save("qwen3", tmp_path / "qwen3")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.gate.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 are not in the model .*mlp\.gate.*1 of the model are not .*model\.norm"):
        make_learner(folder, **OPTIONS)


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_generation_config_that_transformers_would_not_write_is_exported(
    make_learner: MakeLearner, tied_folder: Path, tmp_path: Path, umask: int
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tied_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    written = {"temperature": 0.6, "top_p": 0.95, "eos_token_id": 2}  # and no do_sample: many releases have this
    (folder / "generation_config.json").write_text(json.dumps(written))
    learner = make_learner(folder, **OPTIONS)
    before = os.umask(umask)
    try:
        learner.export_hf(tmp_path / "out")
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == written
    files = list((tmp_path / "out").iterdir())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {file.name for file in files}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~umask}


def test_what_could_not_be_exported_is_found_at_the_start(
    make_learner: MakeLearner, tied_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tied_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = json.loads((folder / "tokenizer.json").read_text())
    for damaged in ({"version": "1.0"}, whole | {"model": {"type": "unheard-of"}}, whole | {"added_tokens": 7}):
        (folder / "tokenizer.json").write_text(json.dumps(damaged))
        with pytest.raises(ConfigError, match=r"could not be exported \(.*cannot load the tokenizer of"):
            make_learner(folder, **OPTIONS)
