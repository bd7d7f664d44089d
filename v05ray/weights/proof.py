"""Proof that a generator serves the weights that the learners hold: checksums of tensors, log-probs of a probe.

    learners:   checksum(tensor) of every tensor that is sent       generator: the same of what its engine multiplies by
    learners:   log-probs of a few fixed responses                  generator: the same
    difference(expected, served, tolerance)                         None, or what differs

The two complete each other: a checksum sees one wrong bit, in every tensor that can be read back; the probe sees what
no reading covers (experts packed by a kernel, parts of a split engine, a loader that puts a tensor in a wrong place).
"""

import math
import zlib
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from v05ray.types import WeightsProof

if TYPE_CHECKING:
    from torch import Tensor

AS_PROJECTION = " (as the output projection)"
"""Put behind the embedding's name: what a tied model multiplies by in the end, which an engine may keep as a copy."""

_NAMED = 3
"""Tensors that a difference names."""


def checksum(tensor: "Tensor") -> int:
    """CRC-32 of a float32 or bfloat16 tensor's bytes in C order, -0 and numbers below the normal ones taken for 0.

    A matrix product gives those as 0 (some CPUs also skip the subnormal ones), and products are the only way to read
    weights that a kernel has packed.
    """
    import torch

    bits = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
    return zlib.crc32(_canonical(bits, tensor.element_size()).data)


def _canonical(data: Any, item_bytes: int) -> Any:
    """[num_bytes] uint8 -> the same bits, as integers of an element each, without those that count as 0."""
    kind, shown = (np.uint16, 16 - 8) if item_bytes == 2 else (np.uint32, 32 - 8)
    bits = data.view(kind)
    # Shifted left, the sign is gone; the exponent's 8 bits come first.
    small = (bits << kind(1)) < kind(1 << shown)
    return np.where(small, kind(0), bits) if small.any() else bits


def difference(expected: WeightsProof, served: WeightsProof, tolerance_nats: float) -> str | None:
    """What of the served weights is not as expected, in a few words; None where all is.

    A tensor that the engine cannot read back (its checksum is None) is left to the probe. `tolerance_nats`: largest
    mean |difference| of the probe's log-probabilities, in nats a token.
    """
    absent = sorted(expected.checksums.keys() - served.checksums.keys())
    if absent:
        return f"no checksum of {_names(absent)} came"
    wrong = [
        name
        for name, found in served.checksums.items()
        if found is not None and found != expected.checksums.get(name.removesuffix(AS_PROJECTION))
    ]
    if wrong:
        return f"{_names(wrong)} {'is' if len(wrong) == 1 else 'are'} not as sent"
    lengths = [[len(one) for one in proof.logprobs] for proof in (expected, served)]
    if lengths[0] != lengths[1]:
        return f"the probe has {lengths[0]} tokens, the answer {lengths[1]}"
    nats = [
        abs(ours - theirs)
        for ours_T, theirs_T in zip(expected.logprobs, served.logprobs, strict=True)
        for ours, theirs in zip(ours_T, theirs_T, strict=True)
    ]
    if nats and not fmean(nats) <= tolerance_nats:  # a NaN is no agreement
        largest = max(nats, key=lambda one: math.inf if math.isnan(one) else one)
        return (
            f"the probe's log-probabilities differ by {fmean(nats):.2g} nats a token (largest {largest:.2g}), where "
            f"{tolerance_nats:g} is the bound"
        )
    return None


def _names(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
