"""Policy losses by name, what weights their tokens, and how token losses add up over a batch.

To add one: a class with `@loss("name")` in a file here, imported below; or `policy_loss: {name: python, path: ...}`.
"""

from v05ray.config import LearnerConfig
from v05ray.losses import cispo, gspo, ppo
from v05ray.losses.base import LOSSES, Loss, LossInput, Surrogate, loss

__all__ = ["LOSSES", "Loss", "LossInput", "Surrogate", "build", "cispo", "gspo", "loss", "ppo"]


def build(config: LearnerConfig) -> Loss:
    """The loss that `learner.policy_loss` names; raises `ConfigError` for an unknown name or option."""
    clips = {"clip_low": config.clip_low, "clip_high": config.clip_high, "dual_clip": config.dual_clip}
    return LOSSES.build(config.policy_loss.name, config.policy_loss.options, offered=clips)
