"""Fixtures that several layers share: the small models, made once a session or once for good."""

import hashlib
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A law holds or not, however busy the machine is.
settings.register_profile("v05ray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("v05ray")

# As in a terminal: nohup and a shell's background ignore these, and what is ignored is inherited.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warm-started tiny Qwen3 (float32), as `make tiny` makes it; a copy of the one that another session made.

    Made again (15 s of training) when torch, transformers or any line of the room that makes it is another.
    """
    import torch
    import transformers

    from v05ray import models
    from v05ray.models.tiny import prepare

    sources = [path.read_bytes() for path in sorted(Path(models.__file__).parent.glob("*.py"))]
    made_of = b"\0".join([torch.__version__.encode(), transformers.__version__.encode(), *sources])
    assert pytestconfig.cache is not None
    kept = pytestconfig.cache.mkdir("v05ray-tiny") / hashlib.sha256(made_of).hexdigest()[:16]
    folder = tmp_path_factory.mktemp("models") / "tiny"
    if not kept.exists():
        prepare(folder)
        shutil.copytree(folder, half := kept.with_name(f"{kept.name}-{os.getpid()}"))
        try:
            half.rename(kept)  # whole or not at all
        except OSError:  # another session was first
            shutil.rmtree(half)
        return folder
    return shutil.copytree(kept, folder)


@pytest.fixture(scope="session")
def random_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3 with random weights: for engines, which need no skill."""
    from v05ray.models.tiny import prepare

    return prepare(tmp_path_factory.mktemp("models") / "random", success=0)
