"""From a model's parameters, as transformers holds them, to the tensors of its folder, as vLLM reads them.

transformers renames tensors as it loads them, and joins some: all experts of a layer are one parameter in memory
(`mlp.experts.gate_up_proj`), and many tensors in the folder (`block_sparse_moe.experts.3.w1.weight`). Weights are sent
and exported under the folder's names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from v05ray.errors import ConfigError
from v05ray.models.huggingface import is_derived

_LAYER = re.compile(r"^.*?\.\d+(?=\.)")


class FolderNames:
    """Names of one model's tensors in its folder."""

    def __init__(self, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """`shapes` are the folder's tensors; `model` is a transformers model as loaded, or on the meta device."""
        self._model, self._shapes = model, shapes
        self.converts = bool(_conversions(model))
        """Whether tensors of one layer are joined or split; then a layer is converted as a whole."""

    def groups(self) -> Iterator[list[tuple[str, nn.Parameter]]]:
        """All parameters, in the smallest groups that can be converted by themselves."""
        group: list[tuple[str, nn.Parameter]] = []
        last = None
        for name, parameter in self._model.named_parameters():
            found = _LAYER.match(name) if self.converts else None
            layer = found[0] if found else name
            if group and layer != last:
                yield group
                group = []
            group.append((name, parameter))
            last = layer
        if group:
            yield group

    def of(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The folder's names and tensors of whole groups; a tensor may be a view of what was given."""
        if self.converts:
            from transformers.core_model_loading import revert_weight_conversion

            named = revert_weight_conversion(self._model, dict(named)).items()
        for name, tensor in named:
            yield self._name(name), tensor

    def _name(self, name: str) -> str:
        """Old folders leave the name of the inner model out (`wte.weight` for `transformer.wte.weight`), or add it."""
        prefix = f"{self._model.base_model_prefix}."
        short = name.removeprefix(prefix)
        options = (name, short, prefix + name)
        return next((option for option in options if option in self._shapes), name)

    def check(self) -> None:
        """Raises ConfigError unless the model's parameters are the folder's tensors, by name and shape.

        A tied projection may be stored or not, and buffers that follow from the config are no parameters.
        """
        got: dict[str, tuple[int, ...]] = {}
        for group in self.groups():
            whole = [(name, parameter.detach()) for name, parameter in group]
            got |= {name: tuple(tensor.shape) for name, tensor in self.of(whole)}
        tied = {self._name(name) for name in self._model.all_tied_weights_keys}
        missing = sorted(n for n in self._shapes.keys() - got.keys() - tied if not is_derived(n))
        unknown = sorted(got.keys() - self._shapes.keys() - tied)
        reshaped = sorted(n for n in got.keys() & self._shapes.keys() if got[n] != self._shapes[n])
        name = type(self._model).__name__
        if missing or unknown:
            raise ConfigError(
                f"model.path: the folder's tensors are not those of {name}: {len(missing)} are not in the model (such "
                f"as {missing[:2]}), {len(unknown)} of the model are not in the folder (such as {unknown[:2]}); save "
                "the model with save_pretrained"
            )
        if reshaped:
            one = reshaped[0]
            raise ConfigError(
                f"model.path: tensor {one!r} is {self._shapes[one]} in the folder, {name} with its config.json has "
                f"{got[one]}; copy the model again"
            )


def _conversions(model: Any) -> list[Any]:
    """What transformers does to tensors as it loads this model, renamings of the whole model's prefix left out."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange

    found = getattr(model, "_weight_conversions", None)
    if found is None:
        found = get_model_conversion_mapping(model, add_legacy=False) or []
    return [one for one in found if not isinstance(one, PrefixChange)]
