"""What the engine says it sampled with is what transformers computes, before and after an update of the weights."""

from collections.abc import Callable

import pytest
import torch

from tests.e2e.generation.conftest import PROMPT, Reference, request
from v05ray.generation.engine import Engine
from v05ray.types import Rollout
from v05ray.weights import pack

VARIANTS = [(True, "float32", 1e-4), (False, "float32", 1e-4), (True, "bfloat16", 0.3)]


def worst_error(rollouts: list[Rollout], reference: Reference) -> float:
    """Largest |log-prob - transformers' log-prob| over all tokens of all rollouts."""
    return max(
        (torch.tensor(r.logprobs) - reference.logprobs(PROMPT, r.token_ids)).abs().max().item() for r in rollouts
    )


@pytest.fixture(scope="module", params=VARIANTS, ids=["tied", "untied", "tied-bfloat16"])
def variant(
    request: pytest.FixtureRequest, start: Callable[..., tuple[Engine, Reference]]
) -> tuple[Engine, Reference, float]:
    tied, dtype, tolerance = request.param
    return *start(tied=tied, dtype=dtype), tolerance


async def test_logprobs_are_transformers_own_before_and_after_an_update(variant: tuple[Engine, Reference, float]):
    engine, reference, tolerance = variant
    await engine.ready()
    before = await engine.draw(request())
    assert {r.policy_version for r in before} == {0}
    assert worst_error(before, reference) <= tolerance

    reference.perturb(0.3, seed=5)
    buckets = list(pack(reference.named(), version=1, bucket_bytes=1 << 19))
    assert len(buckets) > 2
    for bucket in buckets:
        bucket.data.flags.writeable = False  # as from shared memory
    # The test sees an update that is not there, or only in part: the old draws no longer fit.
    assert worst_error(before, reference) > 10 * tolerance
    assert await engine.load_weights(1, buckets) == 1
    after = await engine.draw(request())
    assert {r.policy_version for r in after} == {1}
    assert worst_error(after, reference) <= tolerance

    # Nothing of the engine may still read the sender's memory, which is given back after the load.
    for bucket in buckets:
        bucket.data.flags.writeable = True
        bucket.data[:] = 0
    again = await engine.draw(request("other", seeds=(8, 9)))
    assert worst_error(again, reference) <= tolerance
    engine.close()  # so that the next variant has the process to itself
