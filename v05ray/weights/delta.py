"""Only what changed travels: a bucket as a whole once, then the elements that differ from the version before.

    sender                                              receiver
    links = [sender.link(bucket) for bucket in pack()]  receiver.missing(chains) -> links to fetch
    chains = sender.chains(references, sizes)           receiver.assemble(chains, fetched) -> whole buckets

A bucket's chain begins with the bucket as a whole, followed by one delta a version. A receiver that holds a version of
the chain fetches the deltas after it; a newcomer fetches all of it. The chain begins again where a delta would not pay,
and where the deltas together would cost a newcomer too much. Nothing here knows the transport: a link's `reference` is
its own.
"""

import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from v05ray.weights.buckets import Bucket, WeightsError

PAYS_BELOW = 0.75
"""A delta that has more than this share of the bucket's bytes is not sent: the bucket is."""
CHAIN_BELOW = 0.5
"""Deltas of a chain together, as a share of the bucket's bytes, beyond which the bucket is sent as a whole."""


@dataclass(frozen=True, slots=True)
class BucketDelta:
    """The elements of a bucket that are not as in the version before."""

    version: int
    index: int
    """The bucket's position in its bundle."""
    item_bytes: int
    """Bytes of an element: 2, or 4 where all of the bucket is float32."""
    num_items: int
    """Elements of the bucket, gaps between tensors included."""
    num_changed: int
    positions: npt.NDArray[Any]
    """uint32 [num_changed], rising; or, where that is smaller, uint8 [num_items / 8]: a bit for every element."""
    values: npt.NDArray[Any]
    """uint16 or uint32 [num_changed]: the new bits."""
    checksum: int
    """CRC-32 of the whole bucket as it is after this delta."""

    @property
    def num_bytes(self) -> int:
        """Length of the data."""
        return self.positions.nbytes + self.values.nbytes


@dataclass(frozen=True, slots=True)
class Link:
    """One version of one bucket's chain, on its way."""

    version: int
    reference: Any
    """Where the `Bucket` or `BucketDelta` is."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Chains:
    """All that any receiver needs for one version; `chains[i]` are the links of bucket i, the whole bucket first."""

    sender: str
    """Versions of another sender are not the same weights."""
    chains: tuple[tuple[Link, ...], ...]


def delta(old: Bucket, new: Bucket) -> BucketDelta | None:
    """What makes `new` of `old`; None where their layouts differ, so that only the whole will do."""
    if old.entries != new.entries or old.num_bytes != new.num_bytes or old.last != new.last:
        return None
    item_bytes = 4 if all(entry.dtype == "float32" for entry in new.entries) else 2
    kind = np.dtype(f"u{item_bytes}")
    before, after = old.data.view(kind), new.data.view(kind)
    changed = before != after
    num_changed = int(np.count_nonzero(changed))
    if 4 * num_changed > -(-len(changed) // 8):
        positions: npt.NDArray[Any] = np.packbits(changed)
    else:
        positions = np.flatnonzero(changed).astype(np.uint32)
    checksum = zlib.crc32(new.data.data)
    return BucketDelta(
        new.version, new.index, item_bytes, len(changed), num_changed, positions, after[changed], checksum
    )


def apply(old: Bucket, change: BucketDelta) -> Bucket:
    """The bucket after the change, written in place; raises `WeightsError` where it is not the sender's bucket."""
    items = old.data.view(np.dtype(f"u{change.item_bytes}"))
    if len(items) != change.num_items or old.index != change.index:
        raise WeightsError(
            f"a delta to version {change.version} of bucket {change.index} ({change.num_items} elements) does not fit "
            f"bucket {old.index} of version {old.version} ({len(items)}); send the bucket as a whole"
        )
    if change.positions.dtype == np.uint8:
        positions = np.flatnonzero(np.unpackbits(change.positions, count=change.num_items))
    else:
        positions = change.positions
    items[positions] = change.values
    if zlib.crc32(old.data.data) != change.checksum:
        raise WeightsError(
            f"bucket {change.index} is not the learners' after its delta to version {change.version}: its checksum "
            "differs; send the bucket as a whole"
        )
    return replace(old, version=change.version)


@dataclass
class Sender:
    """Makes the links of one version after the other; with `deltas` it holds the last version once more."""

    deltas: bool
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    num_elements: int = 0
    """Of the version that was made last."""
    num_changed: int | None = None
    """Of these, how many differ from the version before; None where that was not compared for all."""
    _last: list[Bucket] = field(default_factory=list)
    _next: list[Bucket] = field(default_factory=list)
    """Those of the version in the making; a version that was not sent whole is no base for the next one."""
    _chains: list[list[Link]] = field(default_factory=list)

    def begin(self) -> None:
        """A version begins; its buckets follow in order."""
        self.num_elements, self.num_changed = 0, 0 if self.deltas and self._last else None
        self._next = []

    def link(self, bucket: Bucket) -> Bucket | BucketDelta:
        """What is to be sent of the bucket."""
        self.num_elements += sum(entry.num_elements for entry in bucket.entries)
        if not self.deltas:
            return bucket
        old = self._last[bucket.index] if bucket.index < len(self._last) else None
        change = delta(old, bucket) if old is not None and old.version < bucket.version else None
        self._next.append(bucket)
        if change is None:
            self.num_changed = None
            return bucket
        if self.num_changed is not None:
            self.num_changed += change.num_changed
        earlier = sum(link.num_bytes for link in self._chains[bucket.index][1:])
        pays = change.num_bytes <= PAYS_BELOW * bucket.num_bytes
        return change if pays and earlier + change.num_bytes <= CHAIN_BELOW * bucket.num_bytes else bucket

    def chains(self, sent: Sequence[tuple[Bucket | BucketDelta, Any]]) -> Chains:
        """The version's chains, from what `link` returned and where the transport has put it."""
        chains = []
        for position, (part, reference) in enumerate(sent):
            link = Link(part.version, reference, part.num_bytes)
            chains.append([*self._chains[position], link] if isinstance(part, BucketDelta) else [link])
        self._chains, self._last = chains, self._next
        return Chains(self.name, tuple(map(tuple, chains)))

    @property
    def share_changed(self) -> float | None:
        """Share of the elements that differ from the version before, in [0, 1]; None where that was not compared."""
        return None if self.num_changed is None else self.num_changed / max(1, self.num_elements)


@dataclass
class Receiver:
    """Holds one version of the buckets, as far as deltas may follow, and makes the next of it."""

    _sender: str = ""
    _held: dict[int, Bucket] = field(default_factory=dict)

    def missing(self, chains: Chains) -> list[tuple[Link, ...]]:
        """The links to fetch, per bucket: those after the version that is held, or all of them."""
        return [self._after(chains, index) for index in range(len(chains.chains))]

    def _after(self, chains: Chains, index: int) -> tuple[Link, ...]:
        chain, held = chains.chains[index], self._held.get(index)
        versions = [link.version for link in chain]
        if chains.sender != self._sender or held is None or held.version not in versions:
            return chain
        return chain[versions.index(held.version) + 1 :]

    def assemble(
        self, chains: Chains, fetched: Sequence[Sequence[Bucket | BucketDelta]], *, keep: bool
    ) -> list[Bucket]:
        """The whole buckets, from what `missing` named. `keep` holds them, copied out of the transport's memory.

        Raises `WeightsError` where a delta does not make what the sender has; then nothing is held any more.
        """
        held = self._held if chains.sender == self._sender else {}
        self._sender, self._held = chains.sender, {}
        buckets = [self._bucket(held.get(index), parts, keep=keep) for index, parts in enumerate(fetched)]
        if keep:
            self._held = {bucket.index: bucket for bucket in buckets}
        return buckets

    @staticmethod
    def _bucket(bucket: Bucket | None, parts: Iterable[Bucket | BucketDelta], *, keep: bool) -> Bucket:
        for part in parts:
            if isinstance(part, BucketDelta):
                if bucket is None:
                    raise WeightsError(
                        f"a delta to version {part.version} of bucket {part.index} came without the bucket itself; send"
                        " the bucket as a whole"
                    )
                if not bucket.data.flags.writeable:
                    bucket = replace(bucket, data=bucket.data.copy())
                bucket = apply(bucket, part)
            else:
                bucket = replace(part, data=part.data.copy()) if keep else part
        if bucket is None:
            raise WeightsError("a bucket without any part came; send it as a whole")
        return bucket
