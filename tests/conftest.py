"""Fixtures that several layers share: the small models, made once a session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warm-started tiny Qwen3 (float32), as `make tiny` makes it."""
    from v05ray.models.tiny import prepare

    return prepare(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def random_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3 with random weights: for engines, which need no skill."""
    from v05ray.models.tiny import prepare

    return prepare(tmp_path_factory.mktemp("models") / "random", success=0)
