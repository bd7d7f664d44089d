"""How many updates a batch makes, what that asks of the config, and what it says about the clip.

A ratio is taken against the learner's weights before the first update of the batch, so in that update it is 1. A batch
that is learned from in one update never has another ratio, and no clip of it acts.
"""

from v05ray.config import Config
from v05ray.errors import ConfigError


def most_updates(config: Config) -> int:
    """Optimiser updates of a step in which every prompt counts."""
    learner, num_prompts = config.learner, config.run.prompts_per_step
    per_epoch = -(-num_prompts // learner.mini_batch_prompts) if learner.mini_batch_prompts else 1
    return learner.epochs * per_epoch


def check_updates(config: Config) -> None:
    """Raises `ConfigError` for mini-batches larger than a batch, and a schedule with no step after its warm-up."""
    learner, num_prompts = config.learner, config.run.prompts_per_step
    if learner.mini_batch_prompts is not None and learner.mini_batch_prompts > num_prompts:
        raise ConfigError(
            f"learner.mini_batch_prompts {learner.mini_batch_prompts} is more than a batch has "
            f"(run.prompts_per_step {num_prompts}); lower it, or leave it out for one mini-batch"
        )
    num_steps = schedule_steps(config)
    if learner.schedule != "constant" and learner.warmup_steps >= num_steps:
        source = "run.num_steps" if learner.schedule_steps is None else "learner.schedule_steps"
        raise ConfigError(
            f"learner.schedule: {learner.schedule} has no step left after learner.warmup_steps {learner.warmup_steps}: "
            f"{source} is {num_steps}; lower the warm-up, or set learner.schedule: constant"
        )


def schedule_steps(config: Config) -> int:
    """The step at which the learning rate's schedule is at its minimum."""
    return config.learner.schedule_steps or config.run.num_steps


def describe_updates(config: Config) -> str:
    """One line for `doctor` and the log: updates per batch, and which settings cannot act with that number."""
    learner, most = config.learner, most_updates(config)
    if most == 1:
        name = learner.policy_loss.name
        if learner.importance_cap is None:
            return (
                "updates: one per batch; with learner.importance_cap off the ratio is taken against the engine's "
                "log-probabilities, so the clip acts only on how far those differ from the learner's"
            )
        clips = ("clip_low", "clip_high") if learner.dual_clip is None else ("clip_low", "clip_high", "dual_clip")
        same = "; ppo, gspo and cispo have the same gradient then" if name in ("ppo", "gspo", "cispo") else ""
        return (
            f"updates: one per batch, in which the ratio is 1: learner.{', '.join(clips)} cannot act{same}; for more "
            "updates set learner.mini_batch_prompts or learner.epochs"
        )
    unused = ", so learner.stream_tokens has no effect" if learner.stream_tokens else ""
    mini = learner.mini_batch_prompts
    epochs = "1 epoch" if learner.epochs == 1 else f"{learner.epochs} epochs"
    of = "the whole batch" if mini is None or mini >= config.run.prompts_per_step else f"at most {mini} prompts"
    return f"updates: up to {most} per batch, {epochs} with mini-batches of {of}; the batch is collected first{unused}"
