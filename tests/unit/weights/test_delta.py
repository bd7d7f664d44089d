"""A delta makes of the version before exactly the next one, or is not sent; a newcomer gets everything."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from v05ray.weights import Bucket, BucketDelta, Receiver, Sender, WeightsError, check_bundle, pack, unpack
from v05ray.weights.delta import Chains, apply, delta

BUCKET_BYTES = 4096


def named(seed: int, dtype: torch.dtype = torch.bfloat16) -> list[tuple[str, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"embed": (40, 33), "norm": (33,), "up": (70, 33), "head": (3, 5)}
    return [(name, torch.randn(shape, generator=rng).to(dtype)) for name, shape in shapes.items()]


def moved(tensors: Sequence[tuple[str, Tensor]], share: float, seed: int) -> list[tuple[str, Tensor]]:
    """The same, with about this share of the elements changed."""
    rng = torch.Generator().manual_seed(seed)
    return [(name, torch.where(torch.rand(t.shape, generator=rng) < share, -t, t)) for name, t in tensors]


def send(sender: Sender, tensors: Sequence[tuple[str, Tensor]], version: int) -> Chains:
    sender.begin()
    parts = [sender.link(bucket) for bucket in pack(tensors, version=version, bucket_bytes=BUCKET_BYTES)]
    return sender.chains([(part, part) for part in parts])


def receive(receiver: Receiver, chains: Chains, *, keep: bool = True) -> tuple[list[Bucket], int]:
    """The buckets, and the bytes that were fetched."""
    links = receiver.missing(chains)
    fetched = [[pickle.loads(pickle.dumps(link.reference)) for link in of_bucket] for of_bucket in links]
    num_bytes = sum(link.num_bytes for of_bucket in links for link in of_bucket)
    return receiver.assemble(chains, fetched, keep=keep), num_bytes


def assert_holds(buckets: Sequence[Bucket], tensors: Sequence[tuple[str, Tensor]], version: int) -> None:
    whole = list(pack(tensors, version=version, bucket_bytes=BUCKET_BYTES))
    assert [bucket.entries for bucket in check_bundle(buckets, version=version)] == [one.entries for one in whole]
    for bucket, one in zip(buckets, whole, strict=True):
        assert bucket.data.tobytes() == one.data.tobytes()


def test_a_delta_by_hand():
    first = next(iter(pack([("w", torch.tensor([1.0, 2.0, 3.0, 4.0]))], version=1)))
    second = next(iter(pack([("w", torch.tensor([1.0, 2.5, 3.0, -4.0]))], version=2)))
    change = delta(first, second)
    assert change is not None
    # A bit for each of 4 elements (one byte, the first element first) is less than two indices.
    assert (change.item_bytes, change.num_items, change.num_changed) == (4, 4, 2)
    assert change.positions.tolist() == [0b01010000]
    assert change.values.view(np.float32).tolist() == [2.5, -4.0]
    assert change.num_bytes == 9
    assert apply(first, change).version == 2
    assert dict(unpack([first]))["w"].tolist() == [1.0, 2.5, 3.0, -4.0]


def test_few_changes_are_sent_by_index():
    zeros = torch.zeros(1000, dtype=torch.bfloat16)
    one = zeros.clone()
    one[[3, 998]] = 1.0
    change = delta(*(next(iter(pack([("w", t)], version=v))) for v, t in enumerate((zeros, one))))
    assert change is not None
    assert (change.positions.dtype, change.positions.tolist()) == (np.uint32, [3, 998])
    assert change.num_bytes == 2 * 4 + 2 * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deltas_are_the_whole_bit_by_bit_over_twenty_updates(dtype: torch.dtype):
    sender, receiver, tensors = Sender(deltas=True), Receiver(), named(0, dtype)
    kinds = []
    shares = [0.0, 0.001, 0.01, 0.3, 1.0]
    for version in range(20):
        tensors = moved(tensors, shares[version % 5], seed=version)
        if version == 7:
            tensors[1] = ("norm", torch.full((33,), -0.0, dtype=dtype))  # bits, not values, are compared
        if version == 8:
            tensors[1] = ("norm", torch.full((33,), 0.0, dtype=dtype))
        chains = send(sender, tensors, version)
        buckets, _ = receive(receiver, chains)
        assert_holds(buckets, tensors, version)
        newcomer, _ = receive(Receiver(), chains, keep=False)
        assert_holds(newcomer, tensors, version)
        kinds += [type(of_bucket[-1].reference) for of_bucket in chains.chains]
    assert kinds.count(BucketDelta) > 20
    assert kinds.count(Bucket) > 10


def test_what_travels_and_what_is_reported():
    sender, receiver, tensors = Sender(deltas=True), Receiver(), named(1)
    whole, num_bytes = receive(receiver, send(sender, tensors, 0))
    total = sum(bucket.num_bytes for bucket in whole)
    num_elements = sum(t.numel() for _, t in tensors)
    assert (num_bytes, sender.share_changed, sender.num_elements) == (total, None, num_elements)
    assert receive(receiver, send(sender, tensors, 1))[1] == 0
    assert sender.share_changed == 0.0
    tensors[0][1][2, 7] += 1
    chains = send(sender, tensors, 2)
    assert sender.share_changed == 1 / num_elements
    assert receive(receiver, chains)[1] == 6  # an index and a value
    # One that missed both versions takes both deltas; one that has the last version, nothing.
    late = Receiver()
    late.assemble(chains, [[link.reference for link in one[:1]] for one in chains.chains], keep=True)
    assert receive(late, chains)[1] == 6
    assert receive(receiver, chains)[1] == 0
    # Where all changed a delta would be larger than the whole.
    assert receive(receiver, send(sender, moved(tensors, 1.0, 5), 3))[1] == total
    assert sender.share_changed == 1.0


def test_a_chain_begins_again_before_a_newcomer_has_to_fetch_much_more_than_the_whole():
    sender, tensors = Sender(deltas=True), named(2)
    total = sum(bucket.num_bytes for bucket in pack(tensors, version=0))
    lengths = []
    for version in range(40):
        chains = send(sender, tensors := moved(tensors, 0.05, version), version)
        lengths.append(len(chains.chains[0]))
        assert sum(link.num_bytes for chain in chains.chains for link in chain) <= 1.5 * total + BUCKET_BYTES
    assert max(lengths) > 3
    assert lengths.count(1) > 3


def test_without_deltas_every_version_is_whole_and_nothing_is_kept():
    sender, receiver, tensors = Sender(deltas=False), Receiver(), named(3)
    for version in range(3):
        buckets, num_bytes = receive(receiver, send(sender, tensors, version), keep=False)
        assert num_bytes == sum(bucket.num_bytes for bucket in buckets)
        assert sender.share_changed is None
    assert receiver._held == {}


def test_another_senders_version_of_the_same_number_is_fetched_whole():
    receiver, tensors = Receiver(), named(4)
    receive(receiver, send(Sender(deltas=True), tensors, 5))
    other = moved(tensors, 0.5, 1)
    buckets, num_bytes = receive(receiver, send(Sender(deltas=True), other, 5))
    assert num_bytes == sum(bucket.num_bytes for bucket in buckets)
    assert_holds(buckets, other, 5)


def test_a_version_sent_in_part_is_no_base_and_an_older_number_begins_again():
    sender, receiver, tensors = Sender(deltas=True), Receiver(), named(5)
    receive(receiver, send(sender, tensors, 0))
    lost = moved(tensors, 0.1, 1)
    sender.begin()
    sender.link(next(iter(pack(lost, version=1, bucket_bytes=BUCKET_BYTES))))  # then the store was full
    tensors = moved(lost, 0.1, 2)
    assert_holds(receive(receiver, send(sender, tensors, 2))[0], tensors, 2)
    again = send(sender, tensors, 2)
    assert {len(chain) for chain in again.chains} == {1}
    assert_holds(receive(receiver, again)[0], tensors, 2)


def test_a_base_that_is_not_the_senders_is_found_out_and_forgotten():
    sender, receiver, tensors = Sender(deltas=True), Receiver(), named(6)
    buckets, _ = receive(receiver, send(sender, tensors, 0))
    buckets[0].data[5] ^= 1
    chains = send(sender, moved(tensors, 0.01, 1), 1)
    with pytest.raises(WeightsError, match="bucket 0 is not the learners' after its delta to version 1"):
        receive(receiver, chains)
    assert_holds(receive(receiver, chains)[0], moved(tensors, 0.01, 1), 1)


def test_a_delta_without_its_bucket_or_for_another_one_is_refused():
    first, *_ = pack(named(7), version=0, bucket_bytes=BUCKET_BYTES)
    other = next(iter(pack(named(7), version=0, bucket_bytes=1 << 20)))
    change = delta(first, replace(first, version=1))
    assert change is not None
    assert delta(first, other) is None
    with pytest.raises(WeightsError, match="does not fit bucket 0 of version 0"):
        apply(other, change)
    with pytest.raises(WeightsError, match="came without the bucket itself"):
        Receiver().assemble(Chains("s", ((),)), [[change]], keep=False)
    with pytest.raises(WeightsError, match="without any part"):
        Receiver().assemble(Chains("s", ((),)), [[]], keep=False)


def test_what_is_kept_is_no_view_of_the_transports_memory():
    sender, receiver, tensors = Sender(deltas=True), Receiver(), named(8)
    chains = send(sender, tensors, 0)
    for (link,) in chains.chains:
        link.reference.data.flags.writeable = False  # as in an object store
    buckets = receiver.assemble(chains, [[link.reference for link in one] for one in chains.chains], keep=True)
    assert all(bucket.data.flags.writeable for bucket in buckets)
    assert not np.shares_memory(buckets[0].data, chains.chains[0][0].reference.data)
