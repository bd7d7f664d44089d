"""From V0's own answers to the priors that the scheduler gets: first rate, trust, a prompt's own history.

    raw (V0) --PriorTrust--> recalibrated, or the base rate --PromptHistory--> joined with the prompt's own past

A repaired prior keeps the answer that it was made of. What is observed afterwards is always that answer, so that V0 is
judged by what it said; and the ledger has both, so that a replay repairs the recorded answers again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from v05ray.advantages import GroupView
from v05ray.config import ValueConfig
from v05ray.errors import ConfigError
from v05ray.priors.history import PromptHistory
from v05ray.priors.trust import PriorTrust
from v05ray.registry import suggest
from v05ray.stats.shrinkage import V_MAX
from v05ray.types import Prior, Prompt

SETTINGS = ("trust_window", "recalibrate", "fallback", "history", "history_discount", "history_strength")
"""What of the section `value` decides how answers are repaired; recorded in the ledger."""


def settings(config: ValueConfig) -> dict[str, Any]:
    """The values of `SETTINGS`, JSON-able."""
    return {name: getattr(config, name) for name in SETTINGS}


def from_settings(recorded: Mapping[str, Any]) -> "Priors":
    """Fresh priors with these `settings`; raises `ConfigError` for an unknown name or a value out of range."""
    for name in recorded:
        if name not in SETTINGS:
            raise ConfigError(f"priors have no setting {name!r}{suggest(name, SETTINGS)}")
    try:
        return Priors(ValueConfig(**recorded))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"prior setting {first['loc'][0]!s}: {first['msg']}, got {first['input']!r}") from None


class Priors:
    """Repairs priors and learns from how they turned out; checkpointed by `state_dict`."""

    def __init__(self, config: ValueConfig) -> None:
        self._trust = PriorTrust(window=config.trust_window, recalibrate=config.recalibrate, fallback=config.fallback)
        self._history = (
            PromptHistory(discount=config.history_discount, strength=config.history_strength)
            if config.history == "beta"
            else None
        )

    @staticmethod
    def first(prompts: Sequence[Prompt], rate: float, policy_version: int) -> list[Prior]:
        """Priors while nothing is known of any prompt, from the policy's measured mean reward `rate` in [-1, 1].

        Without them the first batch would conflict with a prior of 0 and be topped up throughout.
        """
        value = min(max(rate, -V_MAX), V_MAX)
        return [Prior(prompt.prompt_id, value, policy_version, "base_rate") for prompt in prompts]

    def repair(self, raw: Sequence[Prior]) -> dict[str, Prior]:
        """The priors to use, by prompt id, each with the answer that it was made of."""
        repaired = [replace(self._trust.transform(prior), raw=prior.value, raw_origin=prior.origin) for prior in raw]
        if self._history is not None:
            repaired = [self._history.transform(prior) for prior in repaired]
        return {prior.prompt_id: prior for prior in repaired}

    def observe(self, priors: Mapping[str, Prior], views: Sequence[GroupView]) -> None:
        """How the step turned out; only cold-start rewards count, for later ones were drawn because of those.

        `priors` are those that `repair` gave for the step, by prompt id; `views` are in batch order.
        """
        outcomes = [(view.prompt_id, fmean(view.cold_rewards), len(view.cold_rewards)) for view in views]
        raw = {name: prior.raw for name, prior in priors.items() if prior.raw_origin == "v0"}
        self._trust.observe([(raw.get(name), mean, count) for name, mean, count in outcomes])
        if self._history is not None:
            for name, mean, count in outcomes:
                self._history.observe(name, mean, count)

    def metrics(self) -> dict[str, float]:
        """Skill and trust of the prior, as `v05/prior_...`."""
        return self._trust.metrics()

    def state_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"trust": self._trust.state_dict(), "history": self._history.state_dict() if self._history else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned, under the same config."""
        self._trust.load_state_dict(state["trust"])
        if self._history is not None:
            self._history.load_state_dict(state["history"])
