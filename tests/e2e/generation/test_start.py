"""Settings that cannot be served are reported as the user's to fix, before a model is loaded."""

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.generation.conftest import GENERATORS, MAX_LENGTH
from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.errors import ConfigError
from v05ray.generation.engine import Engine
from v05ray.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("start") / "model", success=0)


async def refused(folder: Path, generators: GeneratorsConfig = GENERATORS, max_length: int = MAX_LENGTH) -> str:
    engine = Engine(folder, generators, ModelConfig(path=folder, max_length=max_length), generator_id="g0")
    with pytest.raises(ConfigError) as refusal:
        await engine.ready()
    assert not engine.alive
    engine.close()
    return str(refusal.value)


async def test_a_context_longer_than_the_models(folder: Path):
    message = await refused(folder, max_length=600)
    assert f"vLLM cannot serve model.path {folder}" in message
    assert "max_model_len (600)" in message


@pytest.fixture
def roomy(tmp_path: Path, folder: Path) -> Path:
    """The same model, which says that it has room for a very long context."""
    copy = Path(shutil.copytree(folder, tmp_path / "roomy"))
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(
        config.replace('"max_position_embeddings": 512', '"max_position_embeddings": 99999')
    )
    return copy


async def test_a_kv_cache_without_room_for_one_response(roomy: Path):
    assert "KV cache" in await refused(roomy, GeneratorsConfig(kv_cache_mib=16), max_length=90_000)


async def test_a_gpu_where_vllm_is_built_for_cpus(folder: Path):
    message = await refused(folder, GeneratorsConfig(num_gpus=1))
    assert "num_gpus is 1, but the installed vLLM is the one for CPUs" in message


async def test_a_folder_without_safetensors(tmp_path: Path):
    (tmp_path / "config.json").touch()
    assert "holds no weights; save the model as safetensors" in await refused(tmp_path)


async def test_an_environment_that_was_not_set(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING")
    assert "the generator's environment is not set" in await refused(folder)


async def test_a_folder_that_needs_its_own_code(folder: Path, tmp_path: Path):
    copy, marker = tmp_path / "own-code", tmp_path / "it-ran"
    shutil.copytree(folder, copy)
    (copy / "its_own.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "its_own.C", "AutoModelForCausalLM": "its_own.M"}}
    (copy / "config.json").write_text(json.dumps(config))
    assert "vLLM cannot serve" in await refused(copy)
    assert not marker.exists()
