"""What an engine serves, read back under the names of the model folder.

vLLM joins tensors (q, k and v; gate and up), pads the vocabulary, splits and packs. Where each tensor went is recorded
while vLLM's own loader puts the first version in place: every copy is from a part of a tensor that came to a part of a
parameter. Later versions are read from there, wherever the loader has put them.

A CPU engine keeps of most matrices only what a kernel packed, in a form of its own. Those are read through the kernel:
the product with the identity is the matrix, bit by bit (but see `weights.checksum` on zeros). So what is read is what
requests meet, also where an update has forgotten a packed copy.

Not read back: experts (packed by kernels of several forms), scalars, and whatever a loader computes instead of copying.

Legend: N outputs, K inputs of a linear layer, M rows of one product.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from v05ray.weights import AS_PROJECTION, checksum

ROWS = 512
"""M: rows of the identity in one product."""

READABLE = ("UnquantizedLinearMethod", "UnquantizedEmbeddingMethod", "NoneType")
"""vLLM's methods of layers whose weights can be read; `NoneType` where a layer has none, as norms."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of a tensor, as `torch.as_strided` takes it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor, start: int = 0) -> "View":
        """`start` is the element at which the whole begins in the tensor's storage."""
        return cls(tuple(tensor.size()), tuple(tensor.stride()), int(tensor.storage_offset()) - start)

    def on(self, whole: Tensor) -> Tensor:
        """This part of `whole`, whose strides are those of the tensor that it was taken from."""
        return whole.as_strided(self.size, self.stride, int(whole.storage_offset()) + self.offset)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part of a tensor of the folder is in the engine's model."""

    module: str
    parameter: str
    shape: tuple[int, ...]
    """Of the parameter as it was loaded, before a kernel packed it."""
    inside: View
    """Of the parameter."""
    part: View
    """Of the tensor of the folder."""


class Recorder(TorchDispatchMode):
    """Inside, notes where `named` (contiguous tensors in one memory or several) are copied to in the model.

    vLLM's reload runs every loader once on tensors without memory, to count, before it runs them for good: those first
    copies are noted.
    """

    def __init__(self, model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self._model = model
        self._sent = {tensor.data_ptr(): (name, tensor) for name, tensor in named if tensor.numel()}
        self._starts = sorted(self._sent)
        self._awaiting: dict[int, tuple[str, str, Tensor]] | None = None
        """Parameters without memory, by storage; they are held, so that no later one gets the same storage."""
        self.places: dict[str, dict[Place, None]] = {name: {} for name, _ in self._sent.values()}
        """By name; a set in the order of the copies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self._note(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _note(self, target: Tensor, source: Tensor) -> None:
        if source.is_meta or target.size() != source.size():
            return
        found = self._find(source)
        if found is None:
            return
        name, start = found
        part = View.of(source, start)
        if not target.is_meta and any(place.part == part for place in self.places[name]):
            return  # noted as it was counted
        owner = self._owner(target)
        if owner is not None:
            module, parameter, whole = owner
            inside = View.of(target, int(whole.storage_offset()))
            self.places[name][Place(module, parameter, tuple(whole.size()), inside, part)] = None

    def _owner(self, target: Tensor) -> tuple[str, str, Tensor] | None:
        """(module, parameter, the parameter itself) that this is a view of."""
        storage = target.untyped_storage()._cdata
        if not target.is_meta:  # such as biases, which have memory throughout
            return next((one for one in self._tensors() if one[2].untyped_storage()._cdata == storage), None)
        if self._awaiting is None:  # all layers await their weights by now
            self._awaiting = {one[2].untyped_storage()._cdata: one for one in self._tensors() if one[2].is_meta}
        return self._awaiting.get(storage)

    def _tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        for module_name, module in self._model.named_modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    yield module_name, name, tensor

    def _find(self, source: Tensor) -> tuple[str, int] | None:
        """The tensor that this is a view of, and where in its storage it begins."""
        address = source.data_ptr()
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        name, whole = self._sent[self._starts[index]]
        same = source.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        if not same or address >= self._starts[index] + whole.nbytes or source.dtype != whole.dtype:
            return None
        # A bucket is one storage of bytes: offsets are counted in elements of the tensor's own type.
        return name, int(whole.storage_offset())


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one model, whose places a `Recorder` has noted."""

    model: nn.Module
    places: Mapping[str, Iterable[Place]]
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors that were sent, by name."""
    dtype: str
    """Theirs: `float32` or `bfloat16`."""

    def checksums(self, *, tied: bool) -> dict[str, int | None]:
        """By name: the checksum of what the model serves of that tensor now; None where it cannot be read.

        With `tied` there is also one of the output projection, under the embedding's name and `AS_PROJECTION`.
        """
        found: dict[str, int | None] = dict.fromkeys(self.shapes)
        last: tuple[tuple[str, str], Tensor | None] = (("", ""), None)
        for name, places in self.places.items():
            parts = []
            for place in places:
                if last[0] != (place.module, place.parameter):  # q, k and v follow one another
                    module = self.model.get_submodule(place.module)
                    last = (place.module, place.parameter), _served(module, place, self._dtype)
                parts.append((place, last[1]))
            found[name] = self._put_together(name, parts)
        return found | (self._projection() if tied else {})

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def _put_together(self, name: str, parts: Iterable[tuple[Place, Tensor | None]]) -> int | None:
        """The checksum of the tensor whose parts lie in these parameters; None unless they are all of it."""
        tensor, num_elements = torch.zeros(self.shapes[name], dtype=self._dtype), 0
        for place, whole in parts:
            if whole is None:
                return None
            place.part.on(tensor).copy_(place.inside.on(whole))
            num_elements += math.prod(place.part.size)
        return checksum(tensor) if num_elements == tensor.numel() else None

    def _projection(self) -> dict[str, int | None]:
        """What a tied model multiplies by in the end: the embedding, or a packed copy of it."""
        named = dict(self.model.named_modules(remove_duplicate=False))
        heads = [module for module in named.values() if type(module).__name__ == "ParallelLMHead"]
        for name, places in self.places.items():
            of_embedding = [place for place in places if hasattr(named[place.module], "num_embeddings_padded")]
            if not of_embedding:
                continue
            module = heads[0] if heads else named[of_embedding[0].module]
            parts = [(place, _multiplied_by(module, place.shape, self._dtype)) for place in of_embedding]
            return {name + AS_PROJECTION: self._put_together(name, parts)}
        return {}


def _served(module: nn.Module, place: Place, dtype: torch.dtype) -> Tensor | None:
    """The parameter as requests meet it; None where it cannot be read."""
    method = type(getattr(module, "quant_method", None)).__name__
    if method not in READABLE:
        return None
    multiplies = method == "UnquantizedLinearMethod" or type(module).__name__ == "ParallelLMHead"
    if multiplies and place.parameter == "weight":
        return _multiplied_by(module, place.shape, dtype)
    tensor = getattr(module, place.parameter)
    return tensor.detach() if tuple(tensor.size()) == place.shape else None


def _multiplied_by(module: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """[N, K]: the weight of a linear layer, through its kernel where it has packed it."""
    product = getattr(module, "cpu_linear", None)
    if product is None:
        return module.weight.detach() if tuple(module.weight.size()) == shape else None
    if len(shape) != 2:
        return None
    K = shape[1]
    weight_NK = torch.empty(shape, dtype=dtype)
    for start in range(0, K, ROWS):
        index_M = torch.arange(min(ROWS, K - start))
        one_MK = torch.zeros(len(index_M), K, dtype=dtype)
        one_MK[index_M, start + index_M] = 1
        weight_NK[:, start : start + len(index_M)] = product(one_MK, module.weight, None).t()
    return weight_NK
