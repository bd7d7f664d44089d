"""A bundle that another process reads from shared memory."""

import gc
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from v05ray.generation.sharing import NAME, mapped, shared
from v05ray.weights import check_bundle, pack, unpack

NAMED = [
    ("a", torch.arange(5000, dtype=torch.float32)),
    ("b", torch.ones(7, dtype=torch.bfloat16)),
    ("c", torch.ones(3)),
]


def test_what_is_mapped_is_what_was_shared():
    buckets = list(pack(NAMED, version=3, bucket_bytes=1 << 10))
    assert len(buckets) == 2
    buckets[0].data.flags.writeable = False  # as from Ray's store
    with shared(buckets) as bundle:
        there = mapped(bundle)
    # The sender's half is gone by now; what is mapped exists while it is held.
    for (name, tensor), (its_name, its_tensor) in zip(NAMED, unpack(check_bundle(there, version=3)), strict=True):
        assert its_name == name
        assert torch.equal(its_tensor, tensor)
    assert not there[0].data.flags.writeable


def test_the_memory_goes_with_the_last_that_holds_it():
    def num_maps() -> int:
        return Path("/proc/self/maps").read_text().count(NAME)

    with shared(list(pack(NAMED, version=3))) as bundle:
        there = mapped(bundle)
        assert num_maps() == 1
    assert num_maps() == 1
    del there
    gc.collect()
    assert num_maps() == 0
    with pytest.raises(FileNotFoundError):
        mapped(bundle)


def test_another_process_reads_it():
    code = (
        "import pickle, sys; from v05ray.generation.sharing import mapped;"
        "print(*(int(bucket.data.sum()) for bucket in mapped(pickle.load(sys.stdin.buffer))))"
    )
    buckets = list(pack(NAMED, version=3, bucket_bytes=1 << 10))
    with shared(buckets) as bundle:
        sent = pickle.dumps(bundle)
        answer = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert len(sent) < 1000  # the manifest alone
    assert answer.stdout.split() == [str(int(np.sum(bucket.data, dtype=np.int64))).encode() for bucket in buckets]
