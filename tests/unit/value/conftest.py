from collections.abc import Iterator

import pytest

from v05ray.value.embedding import torch_threads


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Models this small lose time to more than one thread, and most of it on a busy machine."""
    with torch_threads(1):
        yield
