"""One version of the policy's weights as a bundle of flat buckets, for any transport to carry.

    for bucket in pack(named_tensors, version=7): send(bucket)
    named_tensors = unpack(check_bundle(received, version=7))

`delta` sends what changed since the version before, `proof` shows that what is served is what was sent. Nothing here
knows Ray, vLLM or DeepSpeed. Importing it loads no torch.
"""

from v05ray.weights.buckets import (
    BUCKET_BYTES,
    Bucket,
    TensorEntry,
    WeightsError,
    check_bundle,
    check_names,
    pack,
    unpack,
)
from v05ray.weights.delta import BucketDelta, Chains, Link, Receiver, Sender
from v05ray.weights.proof import AS_PROJECTION, checksum, difference

__all__ = [
    "AS_PROJECTION",
    "BUCKET_BYTES",
    "Bucket",
    "BucketDelta",
    "Chains",
    "Link",
    "Receiver",
    "Sender",
    "TensorEntry",
    "WeightsError",
    "check_bundle",
    "check_names",
    "checksum",
    "difference",
    "pack",
    "unpack",
]
