"""A model is read back under the names that were sent, whatever the loader made of them; vLLM's parts are stand-ins.

Each layer keeps its weight as the CPU engine does: packed in a kernel, with an empty parameter, or plain.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from v05ray.generation.reading import ROWS, Reader, Recorder
from v05ray.weights import AS_PROJECTION, checksum, pack, unpack

EMPTY = torch.empty(0)


class UnquantizedLinearMethod:
    """Named as vLLM's; by this name a layer is read through its kernel."""


class UnquantizedEmbeddingMethod:
    """The same for embeddings."""


class OtherMethod:
    """Of experts, for one."""


class Layer(nn.Module):
    """A weight that awaits its tensors on the meta device, and is then packed or kept."""

    def __init__(self, *shape: int, method: Any = None) -> None:
        super().__init__()
        self.quant_method, self.shape = method, shape
        self.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)

    def serve(self, weight: Tensor, *, packed: bool) -> None:
        self.weight = nn.Parameter(EMPTY if packed else weight.clone(), requires_grad=False)
        if packed:
            held = weight.clone()
            self.cpu_linear = lambda x, _, bias: x @ held.T


class Embedding(Layer):
    num_embeddings_padded = 8


class ParallelLMHead(Embedding):
    """Named as vLLM's."""


WIDTH = ROWS + 3
"""More than one product reads at once."""


class Model(nn.Module):
    """Joined q and k, an embedding padded from 5 to 8 rows, a transposed matrix, a norm, experts."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        linear, embedding = UnquantizedLinearMethod(), UnquantizedEmbeddingMethod()
        self.embed = Embedding(8, 4, method=embedding)
        self.qk = Layer(6, WIDTH, method=linear)
        self.conv = Layer(3, 2, method=linear)
        self.norm = Layer(7)
        self.experts = Layer(2, 2, method=OtherMethod())
        self.lm_head = ParallelLMHead(8, 4, method=embedding)
        self.tied = tied

    def load(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Every loader copies into what awaits the weights; the real ones are put in place after."""
        real = {name: torch.zeros(layer.shape) for name, layer in self.named_children() if isinstance(layer, Layer)}
        for name, tensor in named:
            for weights in ({n: getattr(self, n).weight for n in real}, real):  # a count first, then for good
                match name:
                    case "embed" | "lm_head":
                        weights[name].data[:5].copy_(tensor)
                    case "q":
                        weights["qk"].data.narrow(0, 0, 4).copy_(tensor)
                    case "k":
                        weights["qk"].data.narrow(0, 4, 2).copy_(tensor)
                    case "conv":
                        weights["conv"].data.copy_(tensor.t())
                    case "norm" | "experts":
                        weights[name].data.copy_(tensor)
                    case "halved":
                        weights["norm"].data.copy_(tensor / 2)
        for name, weight in real.items():
            layer: Layer = getattr(self, name)
            layer.serve(weight, packed=name in ("qk", "conv", "lm_head"))
        if self.tied:
            self.lm_head.serve(real["embed"], packed=True)


def tensors(**others: Tensor) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = {"embed": (5, 4), "q": (4, WIDTH), "k": (2, WIDTH), "conv": (2, 3), "norm": (7,), "experts": (2, 2)}
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()} | others


def loaded(named: dict[str, Tensor], *, tied: bool = True) -> tuple[Model, Reader]:
    """A model with these weights, which came in one bucket, and its reader."""
    model, bucket = Model(tied=tied), list(pack(named.items(), version=0))
    with Recorder(model, unpack(bucket)) as recorder:
        model.load(unpack(bucket))
    return model, Reader(model, recorder.places, {n: tuple(t.shape) for n, t in named.items()}, "float32")


def test_every_tensor_that_was_copied_is_read_back():
    named = tensors()
    _, reader = loaded(named)
    expected: dict[str, int | None] = {name: checksum(tensor) for name, tensor in named.items()}
    expected |= {"experts": None, "embed" + AS_PROJECTION: expected["embed"]}
    assert reader.checksums(tied=True) == expected


def test_an_untied_projection_is_read_through_its_kernel():
    named = tensors(lm_head=torch.full((5, 4), 3.0))
    model, reader = loaded(named, tied=False)
    assert reader.checksums(tied=False)["lm_head"] == checksum(named["lm_head"])
    model.lm_head.serve(torch.ones(8, 4), packed=True)
    assert reader.checksums(tied=False)["lm_head"] == checksum(torch.ones(5, 4))


def stale_projection(model: Model) -> None:
    model.embed.weight.data += 1


def other_kernel(model: Model) -> None:
    x = torch.eye(WIDTH)
    weight = model.qk.cpu_linear(x, None, None).T.contiguous()
    weight[5, ROWS + 1] += 1
    model.qk.serve(weight, packed=True)


def moved_norm(model: Model) -> None:
    model.norm.weight.data = model.norm.weight.data.roll(1)


def cut_norm(model: Model) -> None:
    model.norm.weight.data = model.norm.weight.data[:5]


@pytest.mark.parametrize(
    ("damage", "differing"),
    [(stale_projection, {"embed"}), (other_kernel, {"k"}), (moved_norm, {"norm"}), (cut_norm, {"norm"})],
)
def test_what_differs_is_what_was_damaged(damage: Callable[[Model], None], differing: set[str]):
    model, reader = loaded(tensors())
    before = reader.checksums(tied=True)
    damage(model)
    after = reader.checksums(tied=True)
    assert {name for name in before if before[name] != after[name]} == differing


def test_a_padding_row_is_no_part_of_a_tensor():
    model, reader = loaded(tensors())
    before = reader.checksums(tied=True)
    model.embed.weight.data[6] = 9.0
    assert reader.checksums(tied=True) == before


def test_what_a_loader_computes_or_leaves_out_cannot_be_read():
    named = {"halved": torch.ones(7), "unused": torch.ones(2)}
    _, reader = loaded(named)
    assert reader.checksums(tied=False) == {"halved": None, "unused": None}
    # A part alone is no tensor.
    model, reader = loaded({"embed": torch.ones(5, 4)})
    partly = Reader(model, reader.places, {"embed": (6, 4)}, "float32")
    assert partly.checksums(tied=False) == {"embed": None}
