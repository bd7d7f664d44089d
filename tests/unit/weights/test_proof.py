"""What a checksum sees, and what counts as a difference between what was sent and what is served."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from v05ray.types import WeightsProof
from v05ray.weights import AS_PROJECTION, checksum, difference

DTYPES = [torch.float32, torch.bfloat16]


@given(st.sampled_from(DTYPES), st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 7))
def test_one_bit_more_or_less_is_another_checksum(dtype: torch.dtype, size: int, seed: int, bit: int):
    rng = torch.Generator().manual_seed(seed)
    tensor = (torch.rand(size, generator=rng) + 0.5).to(dtype)  # of normal size, and so it stays
    other = tensor.clone()
    other.view(torch.uint8)[0] ^= 1 << (bit if dtype == torch.float32 else bit % 7)
    assert checksum(tensor) != checksum(other)


def test_order_counts_and_layout_does_not():
    tensor = torch.arange(1.0, 7.0).reshape(2, 3)
    assert checksum(tensor) == checksum(tensor.T.contiguous().T) == checksum(tensor.reshape(-1))
    assert checksum(tensor) != checksum(tensor.flip(0))
    assert checksum(torch.zeros(0)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_product_gives_as_zero_counts_as_zero(dtype: torch.dtype):
    tiny = torch.finfo(dtype).smallest_normal
    zeros = checksum(torch.zeros(3, dtype=dtype))
    assert checksum(torch.tensor([-0.0, tiny / 2, -tiny / 4], dtype=dtype)) == zeros
    assert checksum(torch.tensor([0.0, 0.0, -tiny], dtype=dtype)) != zeros


SENT = WeightsProof({"a": 1, "b": 2, "c": 3}, ((-1.0, -2.0), (-3.0,)))


@pytest.mark.parametrize(
    ("served", "message"),
    [
        (SENT, None),
        (WeightsProof({"a": 1, "b": None, "c": 3}, SENT.logprobs), None),  # left to the probe
        (WeightsProof({"a": 1, "b": 2, "c": 3, "b" + AS_PROJECTION: 2}, SENT.logprobs), None),
        (WeightsProof({"a": 1, "c": 3}, SENT.logprobs), "no checksum of b came"),
        (WeightsProof({"a": 1, "b": 3, "c": 2}, SENT.logprobs), "b, c are not as sent"),
        (WeightsProof({"a": 1, "b": 2, "c": 3, "x": 4}, SENT.logprobs), "x is not as sent"),
        (
            WeightsProof({"a": 1, "b": 2, "c": 3, "a" + AS_PROJECTION: 2}, SENT.logprobs),
            "a (as the output projection) is not as sent",
        ),
        (WeightsProof(SENT.checksums, ((-1.0, -2.0),)), "the probe has [2, 1] tokens, the answer [2]"),
        (WeightsProof(SENT.checksums, ((-1.03, -2.03), (-2.97,))), None),
        (
            WeightsProof(SENT.checksums, ((-1.0, -2.0), (-3.6,))),
            "the probe's log-probabilities differ by 0.2 nats a token (largest 0.6), where 0.1 is the bound",
        ),
        (
            WeightsProof(SENT.checksums, ((-1.0, math.nan), (-3.0,))),
            "the probe's log-probabilities differ by nan nats a token (largest nan), where 0.1 is the bound",
        ),
    ],
)
def test_a_difference_names_tensors_or_nats(served: WeightsProof, message: str | None):
    assert difference(SENT, served, 0.1) == message


def test_a_long_list_is_cut():
    sent = WeightsProof({f"t{i}": i for i in range(9)})
    served = WeightsProof({f"t{i}": i + 1 for i in range(9)})
    assert difference(sent, served, 0.1) == "t0, t1, t2 and 6 more are not as sent"
