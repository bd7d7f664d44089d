"""A model folder's own code is not run unless the job says so; neither is a data set's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from v05ray.config import Config
from v05ray.data.sources import sources
from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.job.preflight import check_model_folder, load_tokenizer, outside_code

MODEL = {"AutoConfig": "code_of_its_own.C", "AutoModelForCausalLM": "code_of_its_own.M"}
TOKENIZER = {"AutoTokenizer": ["code_of_its_own.T", None]}
CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

Path({marker!r}).touch()
class C(Qwen3Config):
    model_type = "unheard-of"
class M(Qwen3ForCausalLM):
    config_class = C
class T(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that exists once the folder's code has run."""
    return tmp_path / "it-ran"


def folder_with_code(model: Path, tmp_path: Path, marker: Path, which: str) -> Path:
    """A whole tiny model whose model or tokenizer is code of its own; or it ships code that is not needed."""
    folder = tmp_path / which
    shutil.copytree(model, folder)
    (folder / "code_of_its_own.py").write_text(CODE.format(marker=str(marker)))
    if which == "tokenizer":
        change(folder / "tokenizer_config.json", auto_map=TOKENIZER, tokenizer_class="T")
    elif which == "model":
        change(folder / "config.json", auto_map=MODEL, model_type="unheard-of", architectures=["M"])
    else:
        change(folder / "config.json", auto_map=MODEL)
        change(folder / "tokenizer_config.json", auto_map=TOKENIZER)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def job(folder: Path, **model: Any) -> Config:
    return make_config({"model": {"path": str(folder), "dtype": "float32", **model}, "data": {"train": "jsonl"}})


@pytest.mark.parametrize(
    ("which", "named"),
    [
        ("model", r"AutoConfig \(code_of_its_own\.C\), AutoModelForCausalLM \(code_of_its_own\.M\)"),
        ("tokenizer", r"AutoTokenizer \(\['code_of_its_own\.T', None\]\)"),
    ],
)
def test_a_folder_that_needs_its_own_code_is_refused_and_the_code_never_runs(
    random_tiny_model: Path, tmp_path: Path, marker: Path, which: str, named: str
):
    folder = folder_with_code(random_tiny_model, tmp_path, marker, which)
    with pytest.raises(ConfigError, match=rf"needs code that it ships for {named}, .*model\.trust_remote_code=true"):
        check_model_folder(job(folder))
    assert not marker.exists()
    # Allowed, it is named, and it runs: the folder is what it is taken for.
    allowed = job(folder, trust_remote_code=True)
    check_model_folder(allowed)
    assert outside_code(allowed) == [f"model.trust_remote_code: code in {folder} runs"]
    assert not marker.exists()
    use(allowed)
    assert marker.exists()


def use(config: Config) -> None:
    """As the learner and the launcher do."""
    import torch

    from v05ray.learning.loading import load_policy

    load_tokenizer(config)
    load_policy(config.model, 1.0, torch.device("cpu"), share_prefix=False, checkpointing=False)


def test_code_that_is_not_needed_is_not_run(random_tiny_model: Path, tmp_path: Path, marker: Path):
    config = job(folder_with_code(random_tiny_model, tmp_path, marker, "neither"))
    check_model_folder(config)
    use(config)
    assert not marker.exists()


def test_the_learner_by_itself_refuses_too(random_tiny_model: Path, tmp_path: Path, marker: Path):
    folder = folder_with_code(random_tiny_model, tmp_path, marker, "model")
    with pytest.raises(ConfigError, match="transformers cannot load"):
        use(job(folder))
    assert not marker.exists()


def test_weights_that_are_pickles_are_refused_and_not_read(random_tiny_model: Path, tmp_path: Path, marker: Path):
    import torch

    folder = tmp_path / "pickled"
    shutil.copytree(random_tiny_model, folder)
    (folder / "model.safetensors").unlink()

    class Sabotage:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    torch.save(Sabotage(), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds pytorch_model\.bin: pickles, .* save the model as safetensors"):
        check_model_folder(job(folder))
    with pytest.raises((ConfigError, OSError)):  # nor does the learner by itself fall back on them
        use(job(folder))
    assert not marker.exists()
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match="holds no weights; save the model as safetensors"):
        check_model_folder(job(folder))


def test_a_data_sets_loading_script_does_not_run(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "prompts.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    with pytest.raises(ConfigError, match="script"):
        list(sources.build("huggingface", {"path": str(folder)}).rows)
    assert not marker.exists()
