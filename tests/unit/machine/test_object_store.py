"""What a run needs of Ray's object store, and what is said where there is less."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayTaskError
from safetensors.numpy import save_file

from v05ray.actors.loss import describe_loss, full_store
from v05ray.config import Config
from v05ray.errors import ConfigError, RunError
from v05ray.job.config_files import make_config
from v05ray.machine.layout import Node
from v05ray.machine.object_store import MIB, needed_mib, private_mib, shortage, weights_bytes
from v05ray.ports import GeneratorLost
from v05ray.scheduling.generators import NoGeneratorLeft


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """100 Mi elements in two files, as empty as files can be."""
    for index, name in enumerate(("model-00001-of-00002", "model-00002-of-00002")):
        tensors = {f"layer.{index}": np.zeros((1024, 50 * 1024), np.int8)}
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata={"format": "pt"})
    return tmp_path


def config(model: Path, *, dtype: str = "bfloat16", store: int | None = None, send: str = "full") -> Config:
    cluster = {} if store is None else {"object_store_mib": store}
    sections = {"cluster": cluster, "weights": {"send": send}}
    return make_config({"model": {"path": str(model), "dtype": dtype}, "data": {"train": "jsonl"}, **sections})


def test_weights_are_counted_over_all_files_in_the_dtype_they_are_sent_in(model: Path):
    assert weights_bytes(model, "bfloat16") == 200 * MIB
    assert weights_bytes(model, "float32") == 400 * MIB
    assert weights_bytes(model / "nowhere", "float32") == 0


def test_two_versions_and_a_batch_find_room_by_default(model: Path):
    assert needed_mib(config(model)) == 128 + 2 * 200
    assert private_mib(config(model)) == 528
    assert private_mib(config(model, store=300)) == 300
    # The deltas of one version are there until the next whole one has come.
    assert needed_mib(config(model, send="delta")) == 128 + 2.5 * 200


def test_a_small_store_is_named_with_what_it_costs(model: Path):
    nodes = [Node("a", {"CPU": 1.0, "object_store_memory": 100.0 * MIB}), Node("b", {"CPU": 1.0})]
    message = shortage(config(model), nodes)
    assert message is not None
    assert "has 100 MiB, less than the 528 MiB" in message
    assert shortage(config(model), [Node("a", {"object_store_memory": 528.0 * MIB})]) is None
    assert shortage(config(model), [Node("a", {"CPU": 1.0})]) is None  # the size is not known


@pytest.mark.parametrize("content", [b"", b"\x05\0\0\0\0\0\0\0nojsn", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors is not a whole safetensors file"):
        weights_bytes(tmp_path, "float32")


@pytest.mark.parametrize("error", [OutOfDiskError("Local disk is full"), ObjectStoreFullError("full")])
def test_a_store_that_cannot_even_spill_ends_the_run_with_the_way_on(error: Exception):
    for raised in (error, RayTaskError("put_weights", "traceback", error)):
        message = full_store(raised)
        assert isinstance(message, RunError)
        assert "continue with --resume" in str(message)
        assert describe_loss(raised) is None  # no fresh actor would find more room
    assert full_store(ValueError("other")) is None


def test_a_generator_without_room_is_a_loss_until_it_was_the_last():
    last = RayTaskError("load_weights", "traceback", pickle.loads(pickle.dumps(NoGeneratorLeft("of 1", no_room=True))))
    assert "the last generator found no room for new weights" in str(full_store(last))
    assert full_store(NoGeneratorLeft("of 1")) is None
    assert full_store(GeneratorLost("g0", no_room=True)) is None
