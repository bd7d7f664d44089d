"""Which verifier judges a response: one, or several whose rewards are combined into one."""

from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from v05ray.config.section import Spec
from v05ray.registry import PLUGIN

WEIGHTED = "weighted"
"""Name of a `VerifierSpec` that is a list."""
BY_SOURCE = "by_source"
"""Name of the one that `rewards.by_source` makes of the sources' own verifiers."""


class Component(Spec):
    """One verifier of several: `{name: python, path: "mine:layout", scale: zero_one, weight: 0.2, label: layout}`."""

    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Its share of the reward, relative to the other weights; 0 reports its rewards and trains on none of them, and a
    negative one punishes what it rewards. The first one's is above 0."""
    label: str = Field(default="", min_length=1)
    """What metrics, the ledger and messages call it; by default its name, of `python` the function's."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        spec = {"name": value} if isinstance(value, str) else value
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            return spec
        path = spec.get("path")
        default = path.rpartition(":")[2] if spec["name"] == PLUGIN and isinstance(path, str) else spec["name"]
        return spec if spec.get("label") is not None else {**spec, "label": default or spec["name"]}


class VerifierSpec(Spec):
    """A verifier with its options, or a list of them, the first of which says what is right.

    Of a list the reward is sum(weight_i reward_i) / sum(|weight_i|), of rewards that each lie on [-1, 1].
    """

    several_of: ClassVar[type[Spec] | None] = Component
    components: tuple[Component, ...] = ()
    """The verifiers of a list, at least one; empty where there is a single one."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, Spec) and not isinstance(value, cls):
            value = value.model_dump()
        if not isinstance(value, list | tuple):
            return value
        if len(value) == 1 and not (isinstance(value[0], dict) and {"weight", "label"} & value[0].keys()):
            return value[0]
        return {"name": WEIGHTED, "components": value}

    @model_validator(mode="after")
    def _components_fit(self) -> "VerifierSpec":
        if (self.name == WEIGHTED) != bool(self.components):
            raise ValueError("several verifiers are a list of one or more, each with its name and options")
        if not self.components:
            if found := [key for key in ("weight", "label") if key in self.options and self.name != BY_SOURCE]:
                raise ValueError(f"`{found[0]}` belongs to a verifier in a list; leave it out, or write a list")
            return self
        labels = [one.label for one in self.components]
        for index, one in enumerate(self.components):
            if one.name in (WEIGHTED, BY_SOURCE):
                raise ValueError(f"{one.name!r} cannot be one of several verifiers; list single ones")
            if one.label in labels[:index]:
                raise ValueError(f"two verifiers of a list are called {one.label!r}; give one of them another `label`")
        if self.components[0].weight <= 0:
            raise ValueError(
                f"the first verifier of a list says what is right, so its weight is above 0, got "
                f"{self.components[0].weight:g}; put another one first"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> Any:
        written = serialize(self)
        components = written.pop("components")
        return list(components) if self.components else written

    @property
    def singles(self) -> tuple[Spec, ...]:
        """Every verifier that it is made of."""
        return self.components or (self,)

    @property
    def shown(self) -> str:
        """`math`, or `math + layout` of a list."""
        return " + ".join(one.label for one in self.components) if self.components else self.name

    @property
    def weight_of_others(self) -> float:
        """Of all but the first verifier of a list, without their signs."""
        return sum(abs(one.weight) for one in self.components[1:])

    @property
    def others_can_outweigh(self) -> bool:
        """Whether the others together can turn the sign of the reward against the first one's."""
        return bool(self.components) and self.weight_of_others >= self.components[0].weight
