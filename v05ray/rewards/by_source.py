"""Which verifier judges which source: an entry of `data.train` or `data.eval` may bring one of its own."""

from v05ray.config import Config, RewardsConfig, Spec
from v05ray.registry import ConfigError


def source_verifiers(config: Config) -> dict[str, Spec]:
    """Verifiers by the label of their source; `rewards.verifier`, for all others, under the empty name.

    Raises `ConfigError` for a source with a verifier and no label, or one label with two verifiers.
    """
    chosen = {"": config.rewards.verifier}
    of_label: dict[str, Spec] = {}
    for key, specs in (("data.train", config.data.train), ("data.eval", config.data.eval or ())):
        for index, spec in enumerate(specs):
            if spec.verifier is not None and spec.label is None:
                raise ConfigError(
                    f"{key}: source {index + 1} ({spec.name}) has a verifier and no `label`, by which it is found; "
                    "give it one"
                )
            if spec.label is None:
                continue
            verifier = spec.verifier or config.rewards.verifier
            if of_label.setdefault(spec.label, verifier) != verifier:
                raise ConfigError(
                    f"{key}: source {spec.label!r} has verifier {verifier.name!r} here and "
                    f"{of_label[spec.label].name!r} elsewhere; give the same `verifier` in data.train and data.eval, "
                    "or another `label`"
                )
            if spec.verifier is not None:
                chosen[spec.label] = spec.verifier
    return chosen


def with_source_verifiers(config: Config) -> RewardsConfig:
    """`config.rewards` with a verifier that serves every source; as it is where no source has one of its own."""
    chosen = source_verifiers(config)
    if len(chosen) == 1:
        return config.rewards
    of_source = {name: verifier.model_dump(mode="json") for name, verifier in chosen.items() if name}
    default = config.rewards.verifier.model_dump(mode="json")
    both = Spec.model_validate({"name": "by_source", "default": default, "sources": of_source})
    return config.rewards.model_copy(update={"verifier": both})
