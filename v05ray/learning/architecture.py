"""What the learner has to know about an architecture: its attention, its window, its randomness in training.

Everything is read from the transformers config (the language model's part of it, where it also has others); nothing is
a list of model names. `checks.py` compares the result with transformers' own logits, so that a config that says more
than is understood here is refused.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SLIDING = "sliding_attention"
"""transformers' name of a layer with a window."""


def attention_implementation(settings: Any) -> str:
    """transformers' attention to load the model with: `eager` where PyTorch's own cannot compute it, else `sdpa`.

    Gemma 2 caps its attention scores softly, which PyTorch's attention has no argument for: transformers leaves the
    cap out there and says nothing.
    """
    return "eager" if getattr(settings, "attn_logit_softcapping", None) else "sdpa"


def attention_window(settings: Any) -> int | None:
    """How far back some or all layers attend, in tokens (itself included); None without limit."""
    window = getattr(settings, "sliding_window", None)
    kinds = getattr(settings, "layer_types", None)
    if not window or (kinds is not None and SLIDING not in kinds):
        return None
    return int(window)


def tree_masks(settings: Any, mask_B1LL: Tensor, depth_BL: Tensor) -> Tensor | Mapping[str, Tensor]:
    """The masks of a prefix tree (True: may attend), one for all layers or one by kind of layer.

    A layer with a window w lets a token attend to its ancestors less than w tokens above it: the depth in the tree is
    the position in the sequence. Without this a shared prefix would be seen whole.
    """
    window = attention_window(settings)
    if window is None:
        return mask_B1LL
    distance_BLL = depth_BL[:, :, None] - depth_BL[:, None, :]
    windowed_B1LL = mask_B1LL & (distance_BLL < window).unsqueeze(1)
    kinds = getattr(settings, "layer_types", None)
    if kinds is None:  # one kind of layer, and the model takes one mask
        return windowed_B1LL
    return {kind: windowed_B1LL if kind == SLIDING else mask_B1LL for kind in set(kinds)}


def additive(mask_B1LL: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask as 0 where attention is allowed and -inf elsewhere, as `eager` attention takes it."""
    return torch.zeros(mask_B1LL.shape, dtype=dtype, device=mask_B1LL.device).masked_fill_(~mask_B1LL, -torch.inf)


def hold_still(model: nn.Module, *, checkpointing: bool) -> None:
    """Switches off all that is random in training: dropout, the noise of routers. Gradients are computed all the same.

    Engines sample without dropout, so a policy gradient with it would be that of another distribution. Gradient
    checkpointing asks a layer whether it is in training: then the layers say so, but none of the modules in them. The
    model's own copy of its config is changed too.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    model.train(False)
    whole: Any = model.config
    for settings in (whole, whole.get_text_config()):
        for name, value in vars(settings).items():
            if "drop" in name and isinstance(value, float):  # some layers ask the config, whatever they are in
                setattr(settings, name, 0.0)
    for module in model.modules():
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if checkpointing and isinstance(module, GradientCheckpointingLayer):
            module.training = True
