"""What cannot be computed exactly is refused by `doctor` in one line, without loading a weight."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.e2e.models.architectures import ROWS, save
from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.job.model_checks import check_model_folder
from v05ray.learning import architecture, checks
from v05ray.learning.head import LogitsForm
from v05ray.models import tiny

ROOT = Path(__file__).parents[3]
SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 128}
RECURRENT = {
    **SIZES,
    "intermediate_size": 64,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def write(folder: Path, kind: str, options: Mapping[str, Any]) -> Path:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **options))
    model.save_pretrained(folder)
    tiny.character_tokenizer().save_pretrained(folder)
    return folder


def job(folder: Path, *, share_prefix: bool = True) -> Config:
    return make_config(
        {
            "model": {"path": str(folder), "dtype": "float32", "max_length": 64},
            "data": {"train": "jsonl"},
            "sampling": {"max_tokens": 16},
            "learner": {"share_prefix": share_prefix},
        }
    )


@pytest.mark.parametrize(
    ("kind", "options", "message", "works_without_sharing"),
    [
        ("qwen3_next", RECURRENT, r"Qwen3NextForCausalLM lets responses see one another .*share_prefix=false", True),
        (
            "bert",
            {**SIZES, "intermediate_size": 64, "is_decoder": True},
            "BertLMHeadModel transforms its logits",
            False,
        ),
        ("bloom", SIZES, "BloomForCausalLM does not support an attention implementation", False),
    ],
)
def test_structures_that_the_learner_cannot_compute(
    tmp_path: Path, kind: str, options: Mapping[str, Any], message: str, works_without_sharing: bool
):
    folder = write(tmp_path, kind, options)
    with pytest.raises(ConfigError, match=message):
        check_model_folder(job(folder))
    if works_without_sharing:
        check_model_folder(job(folder, share_prefix=False))
    else:
        with pytest.raises(ConfigError, match=message):
            check_model_folder(job(folder, share_prefix=False))


def test_doctor_says_it_in_one_line_and_loads_no_weights(tmp_path: Path):
    folder = write(tmp_path / "model", "bloom", SIZES)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(
        whole[: len(whole) // 2].ljust(len(whole), b"\xff")
    )  # NaN, if it were read
    command = [sys.executable, "-m", "v05ray.cli", "doctor", str(ROOT / "jobs" / "tiny_cpu.yaml")]
    done = subprocess.run(
        [*command, f"model.path={folder}", "model.max_length=96"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [one for one in " ".join(done.stdout.split()).split("missing ")[1:] if "model.path" in one]
    assert "BloomForCausalLM does not support an attention implementation" in line
    assert "Traceback" not in done.stdout + done.stderr


def test_tensors_of_another_architecture(tmp_path: Path):
    folder = save("qwen3", tmp_path / "model")
    other = save("mixtral", tmp_path / "other")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"the folder's tensors are not those of Qwen3ForCausalLM: .*experts"):
        check_model_folder(job(folder))


BLINDNESS = {
    "mistral, window": ("tree_masks", lambda settings, mask, depth: mask),
    "gemma2": ("attention_implementation", lambda settings: "sdpa"),
}
"""Parts of the learner that know of a structure, and what they would be without knowing."""


@pytest.mark.parametrize("name", BLINDNESS)
def test_the_check_sees_what_the_learner_would_compute_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = save(name, tmp_path)
    check_model_folder(job(folder))
    monkeypatch.setattr(architecture, *BLINDNESS[name])
    with pytest.raises(ConfigError, match=r"computed wrongly .*: log-probabilities are off by \d"):
        check_model_folder(job(folder))


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere"])
def test_the_check_sees_logits_that_the_learner_would_not_transform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = save(name, tmp_path)
    monkeypatch.setattr(LogitsForm, "of", classmethod(lambda cls, settings: cls()))
    with pytest.raises(ConfigError, match="transforms its logits after the projection"):
        check_model_folder(job(folder))


@pytest.mark.parametrize("name", ROWS)
def test_the_small_model_keeps_the_structure(tmp_path: Path, name: str):
    settings = AutoConfig.from_pretrained(save(name, tmp_path))
    before = settings.to_dict()
    checks.make_small(settings)
    changed = {key for key, value in settings.to_dict().items() if value != before[key]}
    sizes = {"hidden_size", "n_embd", "n_head", "num_attention_heads", "num_key_value_heads", "vocab_size"}
    sizes |= {*checks._SMALL, "num_experts", "layer_types", "pad_token_id", "bos_token_id", "eos_token_id"}
    assert changed <= sizes, changed - sizes
    model = AutoModelForCausalLM.from_config(settings)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": "abc"}, "cannot load .*hidden_size"),
        ({"num_attention_heads": 0}, "cannot load .*by zero"),
        ({"vocab_size": None}, "cannot load .*vocab_size"),
        ({"vocab_size": -1}, "cannot load .*negative dimension"),
        ({"hidden_act": "nope"}, "cannot load .*KeyError: 'nope'"),
        ({"model_type": "nope"}, "cannot load .*does not recognize this architecture"),
        ({"num_hidden_layers": 3}, "of the model are not in the folder"),
    ],
)
def test_a_config_of_wrong_values_is_one_line(tmp_path: Path, change: dict[str, Any], said: str):
    sizes = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
    folder = write(tmp_path, "llama", sizes)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(ConfigError, match=f"model.path: .*{said}") as caught:
        check_model_folder(job(folder))
    assert "\n" not in str(caught.value)
