import json
import random

import pytest

from v05ray.priors.support import SupportBuffer
from v05ray.types import SupportExample


def example(name: str, score: float = 0.0, version: int = 0) -> SupportExample:
    return SupportExample(name, f"text of {name}", score, version)


def test_it_keeps_the_most_recent() -> None:
    buffer = SupportBuffer(2)
    for name in "abc":
        buffer.add(example(name))
    assert {e.prompt_id for e in buffer.sample(9, random.Random(0))} == {"b", "c"}


def test_a_prompt_seen_again_replaces_its_pair_and_is_recent() -> None:
    buffer = SupportBuffer(2)
    for name, score in (("a", -1), ("b", 0), ("a", 1), ("c", 0)):
        buffer.add(example(name, score))
    assert {(e.prompt_id, e.score) for e in buffer.sample(9, random.Random(0))} == {("a", 1), ("c", 0)}


def test_sampling_is_seeded_and_without_repetition() -> None:
    buffer = SupportBuffer(64)
    for i in range(64):
        buffer.add(example(str(i)))
    one = buffer.sample(16, random.Random(7))
    assert one == buffer.sample(16, random.Random(7))
    assert len({e.prompt_id for e in one}) == 16


def test_it_resumes_through_json() -> None:
    buffer = SupportBuffer(3)
    for i in range(5):
        buffer.add(example(str(i), i / 5, i))
    resumed = SupportBuffer(3)
    resumed.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert resumed.sample(3, random.Random(1)) == buffer.sample(3, random.Random(1))
    smaller = SupportBuffer(2)
    smaller.load_state_dict(buffer.state_dict())
    assert {e.prompt_id for e in smaller.sample(2, random.Random(0))} == {"3", "4"}


def test_a_checkpoint_with_the_sums_of_a_base_rate_is_read() -> None:
    buffer = SupportBuffer(3)
    buffer.add(example("a", 1))
    resumed = SupportBuffer(3)
    resumed.load_state_dict({**buffer.state_dict(), "total": 1.0, "weight": 1.0})
    assert resumed.state_dict() == buffer.state_dict()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        SupportBuffer(0)
    with pytest.raises(ValueError, match=r"score of 'a' must be in \[-1, 1\], got 2"):
        SupportBuffer(1).add(example("a", 2))
    with pytest.raises(ValueError, match=r"support buffer: a state has \['examples'\], got \[\]"):
        SupportBuffer(1).load_state_dict({})
