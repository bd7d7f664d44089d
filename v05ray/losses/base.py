"""What every policy loss is given and gives back. Legend: N response tokens, one sequence after another; S sequences.

torch is imported for types alone here and in the files of the losses, so that a config can be checked without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast

from v05ray.registry import Form, Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossInput:
    """The response tokens of some sequences. All log-probabilities are in nats, at the sampling temperature.

    Two sequences of two tokens and one, the second one worse than its baseline:

        LossInput(current_N=[-1.2, -.3, -2.0], base_N=[-1.2, -.3, -2.0], sampled_N=[-1.1, -.3, -2.2],
                  advantages_N=[.5, .5, -.5], sequence_N=[0, 0, 1])
    """

    current_N: "Tensor"
    """Float. Under the weights that are differentiated: the only one with a gradient."""
    base_N: "Tensor"
    """Float. What the ratio is taken against: the learner's weights before the first update on the batch, or without an
    importance cap the policy that drew the tokens."""
    sampled_N: "Tensor"
    """Float. Under the policy that drew the tokens, as the engine computed them."""
    advantages_N: "Tensor"
    """Float. Each token has its rollout's."""
    sequence_N: "Tensor"
    """Integer, in [0, S): the sequence of each token."""


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A loss per token, before the importance weight and the aggregation."""

    loss_N: "Tensor"
    """Float, with a gradient in `current_N`."""
    clipped_N: "Tensor"
    """bool: a bound acts on this token, so that its gradient is 0 or scaled down; a metric."""


class Loss(Protocol):
    """A policy loss. Its constructor gets the options; `clip_low`, `clip_high` and `dual_clip` are the config's where
    it names them and no such option is given."""

    name: ClassVar[str] = ""
    """Set by the decorator."""

    def __init__(self) -> None:
        """No options."""

    def __call__(self, inputs: LossInput) -> Surrogate:
        """The loss of every token; all tensors are [N] and on one device."""
        ...


LOSSES: "Registry[Loss]" = Registry(
    "policy loss",
    Form(
        methods={"__call__": 1},
        attributes={"name": None},
        fix="make it a subclass of v05ray.losses.base.Loss with __call__(self, inputs)",
    ),
)
"""Every policy loss by name; `@loss("name")` adds one."""

L = TypeVar("L", bound="type[Loss]")


def loss(name: str) -> Callable[[L], L]:
    """Class decorator: registers a policy loss under its one name."""

    def add(cls: L) -> L:
        cls.name = name
        LOSSES.register(name)(cast("Callable[..., Loss]", cls))
        return cls

    return add
