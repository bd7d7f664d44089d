"""Which verifier judges which source: an entry of `data.train` or `data.eval` may bring one of its own."""

from collections.abc import Mapping

from v05ray.config import Component, Config, RewardsConfig, VerifierSpec
from v05ray.config.verifier import BY_SOURCE
from v05ray.errors import ConfigError
from v05ray.rewards.verifiers import check_verifier


def source_verifiers(config: Config) -> dict[str, VerifierSpec]:
    """Verifiers by the label of their source; `rewards.verifier`, for all others, under the empty name.

    Raises `ConfigError` for a source with a verifier and no label, or one label with two verifiers.
    """
    chosen = {"": config.rewards.verifier}
    of_label: dict[str, VerifierSpec] = {}
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
                    f"{key}: source {spec.label!r} has verifier {verifier.shown!r} here and "
                    f"{of_label[spec.label].shown!r} elsewhere; give the same `verifier` in data.train and data.eval, "
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
    both = VerifierSpec.model_validate({"name": BY_SOURCE, "default": default, "sources": of_source})
    return config.rewards.model_copy(update={"verifier": both})


def take_apart(verifier: VerifierSpec) -> tuple[VerifierSpec, Mapping[str, VerifierSpec]]:
    """What judges by default, and what judges the sources with a verifier of their own, by label."""
    if verifier.name != BY_SOURCE:
        return verifier, {}
    options = verifier.options
    by_label = {label: VerifierSpec.model_validate(one) for label, one in options["sources"].items()}
    return VerifierSpec.model_validate(options["default"]), by_label


def check_verifiers(rewards: RewardsConfig) -> None:
    """Raises `ConfigError` for an unknown verifier or option in any part; imports none of what they need."""
    default, by_label = take_apart(rewards.verifier)
    for one in (default, *by_label.values()):
        for single in one.singles:
            try:
                check_verifier(single.name, single.options, rewards.deadline_s)
            except ConfigError as error:
                raise ConfigError(
                    f"{single.label}: {error}" if isinstance(single, Component) else str(error)
                ) from error
