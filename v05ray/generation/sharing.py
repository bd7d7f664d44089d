"""A bundle of weights in memory that other processes of this machine map: one copy, however many read it.

    with shared(buckets) as bundle: ask_every_part(bundle)        # each part: reload(mapped(bundle))

vLLM's message queue would pickle the bundle into every process instead. The memory belongs to a nameless file
(memfd_create(2)): it needs no room in /dev/shm, and the kernel takes it back when the last process that holds it has
ended, however it ended. While a bundle is shared, host memory holds its bytes once more.
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from v05ray.weights import Bucket

NAME = "v05ray-weights"
"""What the memory is called in a process's list of maps."""

_NOTHING = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class SharedBundle:
    """Where a bundle lies; small enough to be sent to a process of the same user and machine."""

    path: str
    """Of the file, by the sharing process's descriptor: it exists while that process shares the bundle."""
    buckets: tuple[Bucket, ...]
    """Without their data."""
    sizes: tuple[int, ...]
    """Bytes of each bucket's data; they follow one another in the file, each from a page's start on."""


@contextmanager
def shared(buckets: Sequence[Bucket]) -> Iterator[SharedBundle]:
    """Copies the buckets' data to where `mapped` finds it, until the block ends. `OSError` where memory is short."""
    sizes = tuple(bucket.num_bytes for bucket in buckets)
    starts = _starts(sizes)
    file = os.memfd_create(NAME)
    try:
        # Now, as an error; a page that is not to be had when it is written would end the process.
        os.posix_fallocate(file, 0, max(starts[-1], 1))
        for bucket, start in zip(buckets, starts, strict=False):
            _write(file, bucket.data.data, start)
        named = tuple(replace(bucket, data=_NOTHING) for bucket in buckets)
        yield SharedBundle(f"/proc/{os.getpid()}/fd/{file}", named, sizes)
    finally:
        os.close(file)


def mapped(bundle: SharedBundle) -> list[Bucket]:
    """The buckets with their data, read-only, not copied; the memory is given back with the last of their arrays."""
    with open(bundle.path, "rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    return [
        replace(bucket, data=data[start : start + size])
        for bucket, start, size in zip(bundle.buckets, _starts(bundle.sizes), bundle.sizes, strict=False)
    ]


def _starts(sizes: Sequence[int]) -> list[int]:
    """Of every bucket, and the end of all."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return starts


def _write(file: int, data: memoryview, start: int) -> None:
    while data:  # one call writes 2 GiB at most
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written
