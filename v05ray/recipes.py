"""Named algorithms: each binds an advantage estimator, a budget rule, a loss and what shapes it, and a group filter.

A recipe is only config values. One that the file names lies beneath the file: what the file says wins. One that the
command line names (`recipe=grpo`) replaces the file's algorithm: it lies above the file, beneath what the command line
says beside it (`config_files`). `check_needs` then says whether the parts fit.

A KL penalty is part of `grpo` alone: DeepSeekMath's own .04, estimated by k3 (`losses.kl`). `dr_grpo`, `dapo` and `opo`
leave it out on purpose. rloo, remax and reinforce_pp were published with one inside the reward of a learned model,
whose errors it guards against; a verifier makes none, so it is left out here, and `learner.kl_coefficient` with
`learner.kl_estimator: k1` brings it back.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from v05ray import advantages, budget
from v05ray.advantages import Estimator
from v05ray.budget import Rule
from v05ray.errors import ConfigError
from v05ray.registry import suggest

Aggregation = Literal["token_mean", "sequence_mean", "constant_length"]
"""How token losses add up over the batch; see `losses.aggregation`."""
GroupFilter = Literal["none", "mixed"]
"""Which groups count in the loss; see `losses.group_filter`."""
KlEstimator = Literal["k1", "k2", "k3"]
"""How the KL penalty is estimated; see `losses.kl`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One algorithm of the literature, or ours."""

    name: str
    source: str
    """Where it comes from."""
    advantage: Mapping[str, Any]
    """Name and options of the estimator."""
    rule: Mapping[str, Any]
    """Name and options of the budget rule."""
    loss: str = "ppo"
    """Name of the policy loss (`losses`)."""
    aggregation: Aggregation = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    group_filter: GroupFilter = "none"
    kl_coefficient: float = 0.0
    kl_estimator: KlEstimator = "k3"
    overlong_buffer: int | Literal["auto"] | None = None
    """`rewards.overlong_buffer`."""
    mode: Literal["async", "rounds"] = "async"
    """`rounds` where the rule allots over the whole batch."""

    @property
    def uses_prior(self) -> bool:
        """Whether the value model is asked for priors."""
        estimator = advantages.build(**self.advantage)
        rule = budget.build(self.rule["name"], {k: v for k, v in self.rule.items() if k != "name"})
        return "prior" in estimator.needs or "prior" in rule.needs

    def defaults(self) -> dict[str, Any]:
        """Nested config values in the shape of `config.Config`; a fresh copy."""
        return deepcopy(
            {
                "advantage": dict(self.advantage),
                "budget": {"rule": dict(self.rule), "mode": self.mode},
                "learner": {
                    "policy_loss": {"name": self.loss},
                    "aggregation": self.aggregation,
                    "clip_low": self.clip_low,
                    "clip_high": self.clip_high,
                    "group_filter": self.group_filter,
                    "kl_coefficient": self.kl_coefficient,
                    "kl_estimator": self.kl_estimator,
                    # An estimator that needs the whole batch cannot learn from groups one by one.
                    **({"stream_tokens": 0} if advantages.build(**self.advantage).scope == "batch" else {}),
                },
                "rewards": {"overlong_buffer": self.overlong_buffer},
                "value": {"enabled": self.uses_prior},
            }
        )


_OSLA = {"name": "osla", "cold_start": 4, "cost": 1 / 256, "n_max": 16}
_FIXED = {"name": "fixed", "n": 16}
_GRPO = {"name": "grpo"}

_ALL = (
    # V0.5 and its repairs
    Recipe("v05", "arXiv 2603.10848", {"name": "v05"}, _OSLA),
    Recipe("v05_loo", "arXiv 2603.10848, leave-one-out", {"name": "v05_loo"}, _OSLA),
    Recipe("v05_eb", "ours: empirical Bayes", {"name": "v05_eb"}, _OSLA),
    Recipe("v05_eb_loo", "ours: empirical Bayes, leave-one-out", {"name": "v05_eb_loo"}, _OSLA),
    # The field's estimators, each with a fixed group
    Recipe("grpo", "arXiv 2402.03300", _GRPO, _FIXED, aggregation="sequence_mean", kl_coefficient=0.04),
    Recipe("dr_grpo", "arXiv 2503.20783", {"name": "dr_grpo"}, _FIXED, aggregation="constant_length"),
    Recipe("rloo", "arXiv 2402.14740", {"name": "rloo"}, _FIXED),
    Recipe("reinforce_pp", "arXiv 2501.03262", {"name": "reinforce_pp"}, {"name": "fixed", "n": 1}),
    Recipe("reinforce_pp_baseline", "arXiv 2501.03262", {"name": "reinforce_pp_baseline"}, _FIXED),
    Recipe("remax", "arXiv 2310.10505", {"name": "remax"}, {"name": "fixed", "n": 1}),
    Recipe("opo", "arXiv 2505.23585", {"name": "opo"}, _FIXED),
    Recipe("bnpo", "arXiv 2506.02864", {"name": "bnpo"}, _FIXED),
    Recipe("mc_grpo", "arXiv 2601.22582", {"name": "mc_grpo"}, {"name": "fixed", "n": 17}),
    Recipe("qae", "arXiv 2509.22611", {"name": "qae"}, _FIXED, clip_high=0.28),
    Recipe("ha_dw", "arXiv 2601.08521", {"name": "ha_dw"}, _FIXED),
    Recipe("krpo", "arXiv 2505.07527", {"name": "krpo"}, _FIXED),
    Recipe("spo", "arXiv 2509.13232", {"name": "spo"}, {"name": "fixed", "n": 1}),
    Recipe("ebpo", "arXiv 2602.05165", {"name": "ebpo"}, _FIXED),
    Recipe("james_stein", "arXiv 2511.03710", {"name": "james_stein"}, _FIXED),
    # The field's budgets
    # Its rule draws until a group is mixed; the filter leaves out what is uniform even at n_max.
    Recipe(
        "dapo",
        "arXiv 2503.14476",
        _GRPO,
        {"name": "dapo", "n": 16, "n_max": 64},
        clip_high=0.28,
        group_filter="mixed",
        overlong_buffer="auto",
    ),
    Recipe("reinforce_ada", "arXiv 2510.04996", _GRPO, {"name": "reinforce_ada", "n": 8, "n_max": 32}),
    Recipe("pilot_commit", "arXiv 2605.26606", _GRPO, {"name": "pilot_commit"}),
    Recipe("knapsack", "arXiv 2509.25849", _GRPO, {"name": "knapsack", "mean_rollouts": 8}),
    Recipe("v0_allocation", "arXiv 2602.03584", _GRPO, {"name": "v0_allocation", "mean_rollouts": 8}),
    Recipe("vip", "arXiv 2602.01601", {"name": "rloo"}, {"name": "vip", "mean_rollouts": 8}),
    Recipe("hora", "arXiv 2605.07114", _GRPO, {"name": "hora", "mean_rollouts": 8}, mode="rounds"),
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
"""Every recipe by name."""


def get(name: str) -> Recipe:
    """The recipe; raises `ConfigError` with the nearest valid name."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}{suggest(name, RECIPES)}")
    return RECIPES[name]


def check_needs(
    estimator: Estimator,
    rule: Rule,
    *,
    value_enabled: bool,
    mode: Literal["async", "rounds"] = "async",
    stream_tokens: int = 0,
    group_filter: GroupFilter = "none",
    punishes_length: bool = False,
) -> None:
    """Raise `ConfigError`, with the fix, where the chosen parts do not fit; call it before anything heavy.

    Args:
        estimator: as built from `advantage`.
        rule: as built from `budget.rule`.
        value_enabled: `value.enabled`.
        mode: `budget.mode`.
        stream_tokens: `learner.stream_tokens`.
        group_filter: `learner.group_filter`.
        punishes_length: whether `rewards.overlong_buffer` is set.
    """
    for kind, part in (("advantage", estimator), ("budget rule", rule)):
        if "prior" in part.needs and not value_enabled:
            raise ConfigError(
                f"{kind} {part.name!r} needs a prior for every prompt, but value.enabled is false; set value.enabled: "
                "true, or take a recipe without a prior, such as rloo"
            )
    if rule.min_rollouts < estimator.min_rollouts:
        raise ConfigError(
            f"advantage {estimator.name!r} needs >= {estimator.min_rollouts} rollouts per prompt, but the budget rule "
            f"{rule.name!r} may stop at {rule.min_rollouts}; raise its cold_start, n or n_min"
        )
    if group_filter == "mixed" and rule.min_rollouts < 2:
        raise ConfigError(
            f"learner.group_filter: mixed leaves out every group of one rollout, and the budget rule {rule.name!r} may "
            "stop at 1; raise its cold_start, n or n_min, or set learner.group_filter: none"
        )
    if rule.scope == "batch" and mode != "rounds":
        raise ConfigError(
            f"budget rule {rule.name!r} allots over the whole batch at a barrier; set budget.mode: rounds"
        )
    if punishes_length and not estimator.takes_punishments:
        raise ConfigError(
            f"rewards.overlong_buffer makes rewards below -1, and advantage {estimator.name!r} cannot use those: it "
            "compares rewards with a prior or counts successes; leave overlong_buffer out, or take one such as grpo"
        )
    if estimator.scope == "batch" and stream_tokens:
        raise ConfigError(
            f"advantage {estimator.name!r} needs the whole batch, so groups cannot flow to the learner one by one; set "
            f"learner.stream_tokens: 0 (got {stream_tokens})"
        )
