"""One process group of one rank for all in-process learners of these tests."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from v05ray.config import LearnerConfig
from v05ray.learning.environment import environment

os.environ.update(environment(LearnerConfig()))  # pytest reads this file before any test module imports torch

from tests.e2e.learning.tiny import model_config, save_tiny_qwen3
from v05ray.learning.learner import Learner


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen3(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen3(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def port() -> int:
    return free_port()


@pytest.fixture
def make_learner(port: int) -> Callable[..., Learner]:
    """A learner of one rank, ready to accumulate."""

    def make(folder: Path, dtype: str = "float32", max_response_tokens: int = 8, **options: Any) -> Learner:
        config = LearnerConfig.model_validate(options)
        learner = Learner(0, 1, model_config(folder, dtype), config, seed=1, max_response_tokens=max_response_tokens)
        learner.setup("127.0.0.1", port)
        return learner

    return make
