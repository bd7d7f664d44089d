"""From V0's own answers to the priors that the scheduler gets: first rate, trust, a prompt's own history.

    raw (V0) --PriorTrust--> recalibrated, or the base rate --PromptHistory--> joined with the prompt's own past

What is observed afterwards is always the raw answer, so that V0 is judged by what it said.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from v05ray.advantages import GroupView
from v05ray.config import ValueConfig
from v05ray.types import Prior, Prompt
from v05ray.value.history import PromptHistory
from v05ray.value.trust import PriorTrust

V_MAX = 0.95
"""Bound of the first step's prior, as of all later ones."""


class Priors:
    """Repairs priors and learns from how they turned out; checkpointed by `state_dict`."""

    def __init__(self, config: ValueConfig) -> None:
        self._trust = PriorTrust(
            window=config.trust_window, recalibrate=config.recalibrate, fallback=config.fallback, v_max=V_MAX
        )
        self._history = (
            PromptHistory(discount=config.history_discount, strength=config.history_strength)
            if config.history == "beta"
            else None
        )
        self._raw: dict[str, float] = {}
        """What V0 said about the prompts of the step in progress."""

    @staticmethod
    def first(prompts: Sequence[Prompt], rate: float, policy_version: int) -> list[Prior]:
        """Priors while nothing is known of any prompt, from the policy's measured mean reward `rate` in [-1, 1].

        Without them the first batch would conflict with a prior of 0 and be topped up throughout.
        """
        value = min(max(rate, -V_MAX), V_MAX)
        return [Prior(prompt.prompt_id, value, policy_version, "base_rate") for prompt in prompts]

    def repair(self, raw: Sequence[Prior]) -> dict[str, Prior]:
        """The priors to use, by prompt id."""
        self._raw = {prior.prompt_id: prior.value for prior in raw if prior.origin == "v0"}
        repaired = [self._trust.transform(prior) for prior in raw]
        if self._history is not None:
            repaired = [self._history.transform(prior) for prior in repaired]
        return {prior.prompt_id: prior for prior in repaired}

    def observe(self, views: Sequence[GroupView]) -> None:
        """How the step turned out; only cold-start rewards count, for later ones were drawn because of those."""
        outcomes = [(view.prompt_id, fmean(view.cold_rewards), len(view.cold_rewards)) for view in views]
        self._trust.observe([(self._raw.get(name), mean, count) for name, mean, count in outcomes])
        if self._history is not None:
            for name, mean, count in outcomes:
                self._history.observe(name, mean, count)

    def metrics(self) -> dict[str, float]:
        """`v05/prior_*`."""
        return self._trust.metrics()

    def state_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"trust": self._trust.state_dict(), "history": self._history.state_dict() if self._history else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` returned, under the same config."""
        self._trust.load_state_dict(state["trust"])
        if self._history is not None:
            self._history.load_state_dict(state["history"])
