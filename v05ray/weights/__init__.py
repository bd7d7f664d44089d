"""One version of the policy's weights as a bundle of flat buckets, for any transport to carry.

    for bucket in pack(named_tensors, version=7): send(bucket)
    named_tensors = unpack(check_bundle(received, version=7))

Nothing here knows Ray, vLLM or DeepSpeed. Importing it loads no torch.
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

__all__ = [
    "BUCKET_BYTES",
    "Bucket",
    "TensorEntry",
    "WeightsError",
    "check_bundle",
    "check_names",
    "pack",
    "unpack",
]
