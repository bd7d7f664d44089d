"""A bundle comes back bit for bit, without a copy, whole or not at all."""

import dataclasses
import pickle
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from v05ray.weights import Bucket, TensorEntry, WeightsError, check_bundle, check_names, pack, unpack

NAMED = [
    ("embed", torch.arange(6, dtype=torch.float32).reshape(2, 3)),
    ("norm", torch.tensor([1.5, -2.0], dtype=torch.bfloat16)),
    ("head", torch.full((40,), 7.0)),
]


def bundle(version: int = 3, bucket_bytes: int = 128) -> list[Bucket]:
    return list(pack(NAMED, version=version, bucket_bytes=bucket_bytes))


def test_the_layout_by_hand():
    first, second = bundle()
    # 6 floats are 24 bytes; the next tensor starts at 64 and takes 4; 40 floats (160 bytes) do not fit into 128.
    assert first.entries == (TensorEntry("embed", "float32", (2, 3), 0), TensorEntry("norm", "bfloat16", (2,), 64))
    assert (first.version, first.index, first.last, first.num_bytes) == (3, 0, False, 68)
    assert second.entries == (TensorEntry("head", "float32", (40,), 0),)
    assert (second.version, second.index, second.last, second.num_bytes) == (3, 1, True, 160)
    assert first.data[:24].view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert first.data[24:64].tolist() == [0] * 40


def test_what_was_packed_is_read_back():
    read = dict(unpack(check_bundle(bundle()[::-1], version=3)))
    assert list(read) == ["embed", "norm", "head"]
    for name, tensor in NAMED:
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@given(st.lists(st.tuples(shapes, dtypes), min_size=1, max_size=8), st.integers(1, 600), st.integers(0, 2**31))
def test_any_tensors_survive_any_bucket_size(kinds: list[tuple[tuple[int, ...], torch.dtype]], size: int, seed: int):
    rng = torch.Generator().manual_seed(seed)
    named = [(f"t{i}", torch.randn(shape, generator=rng).to(dtype)) for i, (shape, dtype) in enumerate(kinds)]
    buckets = check_bundle(list(pack(named, version=1, bucket_bytes=size)), version=1)
    read = list(unpack(buckets))
    assert [name for name, _ in read] == [name for name, _ in named]
    for (_, got), (_, sent) in zip(read, named, strict=True):
        assert got.dtype == sent.dtype
        assert got.shape == sent.shape
        assert (
            got.contiguous().view(-1).view(torch.uint8).tolist()
            == sent.contiguous().view(-1).view(torch.uint8).tolist()
        )


def test_a_view_that_is_not_contiguous_is_packed_by_value():
    matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    ((_, read),) = unpack(pack([("t", matrix.T)], version=0))
    assert read.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_each_tensor_is_copied_before_the_next_is_asked_for():
    scratch = torch.zeros(4)

    def reused() -> Iterator[tuple[str, Tensor]]:
        for value in (1.0, 2.0):
            yield f"t{value:.0f}", scratch.fill_(value)

    read = dict(unpack(list(pack(reused(), version=0))))
    assert read["t1"].tolist() == [1.0] * 4
    assert read["t2"].tolist() == [2.0] * 4


def test_read_only_data_is_read_in_place_and_without_a_warning():
    (bucket,) = pack(NAMED, version=3)
    bucket.data.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = dict(unpack([bucket]))
    assert read["embed"].data_ptr() == bucket.data.ctypes.data
    assert torch.equal(read["head"], NAMED[2][1])


def test_a_bucket_travels_by_pickle_with_its_bytes_out_of_band():
    (bucket,) = pack(NAMED, version=3)
    buffers: list[pickle.PickleBuffer] = []
    inline = pickle.dumps(bucket, protocol=5, buffer_callback=buffers.append)
    assert len(inline) < 1000
    assert sum(b.raw().nbytes for b in buffers) == bucket.num_bytes
    again = pickle.loads(inline, buffers=buffers)
    assert again.entries == bucket.entries
    assert np.array_equal(again.data, bucket.data)


def spoiled(change: str) -> list[Bucket]:
    first, second = bundle()
    match change:
        case "none":
            return []
        case "first missing":
            return [second]
        case "last missing":
            return [first]
        case "twice":
            return [first, first, second]
        case "two ends":
            return [dataclasses.replace(first, last=True), second]
        case "other version":
            return [first, dataclasses.replace(second, version=2)]
        case "shorter":
            return [first, dataclasses.replace(second, data=second.data[:-4])]
        case "longer":
            return [first, dataclasses.replace(second, data=np.append(second.data, np.uint8(0)))]
        case "same tensor":
            return [first, dataclasses.replace(second, entries=(TensorEntry("norm", "float32", (40,), 0),))]
        case "overlap":
            return [
                dataclasses.replace(first, entries=(first.entries[0], TensorEntry("norm", "bfloat16", (34,), 0))),
                second,
            ]
        case "strange dtype":
            return [first, dataclasses.replace(second, entries=(TensorEntry("head", "int8", (160,), 0),))]
    raise AssertionError(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("none", "version 3: no buckets came"),
        ("first missing", r"not whole: got buckets \[1\]"),
        ("last missing", r"not whole: got buckets \[0\], of which none is the last"),
        ("twice", r"got buckets \[0, 0, 1\]"),
        ("two ends", r"of which \[0, 1\] is the last"),
        ("other version", "version 3: got buckets of version 2"),
        ("shorter", "bucket 1 has 156 bytes, its manifest says 160"),
        ("longer", "bucket 1 has 161 bytes, its manifest says 160"),
        ("same tensor", "'norm' came twice"),
        ("overlap", "'norm' starts at byte 0, where it cannot be"),
        ("strange dtype", "'head' has dtype 'int8'; float32 and bfloat16 can be carried"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(change: str, message: str):
    with pytest.raises(WeightsError, match=message):
        check_bundle(spoiled(change), version=3)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([NAMED[0], NAMED[0]], "'embed' came twice"),
        ([("ids", torch.tensor([1]))], "'ids' has dtype 'int64'; float32 and bfloat16 can be carried"),
    ],
)
def test_what_cannot_be_packed_is_refused(named: list[tuple[str, Tensor]], message: str):
    with pytest.raises(WeightsError, match=message):
        list(pack(named, version=0))


def test_a_rank_without_tensors_packs_nothing():
    assert list(pack([], version=0)) == []


SHAPES = {"embed": (2, 3), "norm": (2,), "head": (40,)}


def test_names_and_shapes_must_be_the_models_own():
    check_names(bundle(), SHAPES)
    check_names(bundle(), {**SHAPES, "tied": (1,)}, optional=["tied"])
    check_names(bundle(), {"embed": (2, 3), "norm": (2,)}, optional=["head"])
    with pytest.raises(WeightsError, match=r"1 tensors are missing \(such as \['bias'\]\), 0 are unknown"):
        check_names(bundle(), {**SHAPES, "bias": (1,)})
    with pytest.raises(WeightsError, match=r"0 tensors are missing .* 1 are unknown to it \(such as \['norm'\]\)"):
        check_names(bundle(), {"embed": (2, 3), "head": (40,)})
    with pytest.raises(WeightsError, match=r"'embed' is \(2, 3\), the model has \(3, 2\)"):
        check_names(bundle(), {**SHAPES, "embed": (3, 2)})
