"""Pack named tensors into flat buckets, check that a bundle is whole, read it without copying.

A bucket carries its own part of the manifest, so a bundle streams: the sender never holds more than two buckets besides
the tensors themselves. The last bucket says that it is the last, so a receiver knows whether it has all of them.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

BUCKET_BYTES = 256 << 20
"""Size of a bucket: large enough that few are sent, small enough that two fit beside the model."""

ALIGNMENT = 64
"""Every tensor starts at a multiple of this many bytes: a cache line, and the strictest alignment of a vector load."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes per element of the dtypes that a policy may have."""


class WeightsError(ValueError):
    """A bundle is not whole, or not the one that was asked for; nothing of it may be served."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies in its bucket."""

    name: str
    dtype: str
    """`float32` or `bfloat16`."""
    shape: tuple[int, ...]
    offset: int
    """In bytes from the start of the bucket."""

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Length of the tensor's data."""
        return self.num_elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of one version's weights: flat bytes, and what they are."""

    version: int
    index: int
    """Position in the bundle, from 0."""
    last: bool
    """True for the bundle's final bucket alone."""
    entries: tuple[TensorEntry, ...]
    data: npt.NDArray[np.uint8]
    """[num_bytes]; read-only when it comes from shared memory."""

    @property
    def num_bytes(self) -> int:
        """Length of the data."""
        return len(self.data)


class _Filling:
    """One bucket while it is being filled."""

    def __init__(self, capacity: int) -> None:
        self.entries: list[TensorEntry] = []
        self.used = 0
        # Pages of an empty array cost nothing until they are written.
        self.data = np.empty(capacity, np.uint8)

    def fits(self, num_bytes: int) -> bool:
        return _aligned(self.used) + num_bytes <= len(self.data)

    def add(self, name: str, tensor: "Tensor") -> None:
        import torch

        entry = TensorEntry(name, _dtype_name(name, tensor), tuple(tensor.shape), _aligned(self.used))
        end = entry.offset + entry.num_bytes
        self.data[self.used : entry.offset] = 0  # the gap is sent too: equal weights give equal bytes
        source = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
        self.data[entry.offset : end] = source.numpy()
        self.entries.append(entry)
        self.used = end

    def sealed(self, version: int, index: int, *, last: bool) -> Bucket:
        return Bucket(version, index, last, tuple(self.entries), self.data[: self.used])


def pack(named: "Iterable[tuple[str, Tensor]]", *, version: int, bucket_bytes: int = BUCKET_BYTES) -> Iterator[Bucket]:
    """Yields the tensors as buckets, copying each tensor before the next is asked for.

    A tensor is never split: one larger than `bucket_bytes` gets a bucket of its own. No tensors give no buckets (a rank
    that only helps to gather has none), which no receiver takes for a bundle. Raises `WeightsError` for a name that
    comes twice, or a dtype other than float32 and bfloat16.
    """
    filling, index = None, 0
    names: set[str] = set()
    for name, tensor in named:
        if name in names:
            raise WeightsError(f"tensor {name!r} came twice; names must be unique")
        names.add(name)
        num_bytes = tensor.numel() * tensor.element_size()
        if filling is not None and not filling.fits(num_bytes):
            yield filling.sealed(version, index, last=False)
            filling, index = None, index + 1
        if filling is None:
            filling = _Filling(max(bucket_bytes, num_bytes))
        filling.add(name, tensor)
    if filling is not None:
        yield filling.sealed(version, index, last=True)


def check_bundle(buckets: Sequence[Bucket], *, version: int) -> tuple[Bucket, ...]:
    """The buckets in order, if they are exactly one whole bundle of this version; else raises `WeightsError`.

    Buckets may arrive in any order. Refused are: none at all, another version, one missing or twice, data that is
    longer or shorter than its manifest says, and a tensor that comes twice.
    """
    ordered = tuple(sorted(buckets, key=lambda bucket: bucket.index))
    if not ordered:
        raise WeightsError(f"weights of version {version}: no buckets came")
    wrong = sorted({bucket.version for bucket in ordered} - {version})
    if wrong:
        raise WeightsError(f"weights of version {version}: got buckets of version {', '.join(map(str, wrong))}")
    indices = [bucket.index for bucket in ordered]
    ends = [bucket.index for bucket in ordered if bucket.last]
    if indices != list(range(len(ordered))) or ends != [len(ordered) - 1]:
        raise WeightsError(
            f"weights of version {version} are not whole: got buckets {indices}, of which {ends or 'none'} is the last;"
            " send them all again, each once"
        )
    names: set[str] = set()
    for bucket in ordered:
        _check_data(bucket)
        twice = names & {entry.name for entry in bucket.entries}
        if twice:
            raise WeightsError(f"weights of version {version}: tensor {min(twice)!r} came twice")
        names |= {entry.name for entry in bucket.entries}
    return ordered


def check_names(
    buckets: Iterable[Bucket], expected: Mapping[str, tuple[int, ...]], *, optional: Iterable[str] = ()
) -> None:
    """Raises `WeightsError` unless the tensors are exactly the `expected` ones, by name and shape.

    `optional` names may be missing or be there (a projection that is tied to the embedding is stored by some).
    """
    given = {entry.name: entry.shape for bucket in buckets for entry in bucket.entries}
    optional = set(optional)
    missing = sorted(expected.keys() - given.keys() - optional)
    unknown = sorted(given.keys() - expected.keys() - optional)
    reshaped = sorted(n for n in given.keys() & expected.keys() if tuple(given[n]) != tuple(expected[n]))
    if missing or unknown:
        raise WeightsError(
            f"weights do not fit the model: {len(missing)} tensors are missing (such as {missing[:3]}),"
            f" {len(unknown)} are unknown to it (such as {unknown[:3]})"
        )
    if reshaped:
        name = reshaped[0]
        raise WeightsError(f"weights do not fit the model: {name!r} is {given[name]}, the model has {expected[name]}")


def unpack(buckets: Iterable[Bucket]) -> "Iterator[tuple[str, Tensor]]":
    """Yields (name, tensor) as views of the buckets' data: nothing is copied, so nothing may be written in place."""
    import torch

    for bucket in buckets:
        with warnings.catch_warnings():
            # The data may be shared memory that cannot be written; torch warns that its tensors can not know.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            flat = torch.from_numpy(bucket.data)
        for entry in bucket.entries:
            part = flat[entry.offset : entry.offset + entry.num_bytes]
            yield entry.name, part.view(getattr(torch, entry.dtype)).view(entry.shape)


def _check_data(bucket: Bucket) -> None:
    end = 0
    for entry in bucket.entries:
        if entry.dtype not in ITEM_BYTES:
            raise WeightsError(f"tensor {entry.name!r} has dtype {entry.dtype!r}; {_dtypes()} can be carried")
        if entry.offset < end or entry.offset % ALIGNMENT:
            raise WeightsError(f"tensor {entry.name!r} starts at byte {entry.offset}, where it cannot be")
        end = entry.offset + entry.num_bytes
    if end != bucket.num_bytes:
        raise WeightsError(
            f"weights of version {bucket.version}: bucket {bucket.index} has {bucket.num_bytes} bytes,"
            f" its manifest says {end}; send it again"
        )


def _dtype_name(name: str, tensor: "Tensor") -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise WeightsError(f"tensor {name!r} has dtype {dtype!r}; {_dtypes()} can be carried")
    return dtype


def _dtypes() -> str:
    return " and ".join(ITEM_BYTES)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
