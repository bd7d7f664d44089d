"""Some rollouts of a step, for a person to read."""

from collections.abc import Sequence
from pathlib import Path

from v05ray.storage import durable
from v05ray.types import Rollout, RolloutGroup, ScoredRollout


def write_samples(path: Path, step: int, groups: Sequence[RolloutGroup], *, num_rollouts: int) -> None:
    """The first rollout of each of the first prompts, as Markdown, with rewards, prior and budget."""
    parts = [f"# Rollouts of step {step}\n"]
    for group in groups[:num_rollouts]:
        first = group.scored[0]
        prior = "none" if group.prior is None else f"{group.prior.value:+.2f} ({group.prior.origin})"
        rewards = " ".join(f"{reward:+g}" for reward in group.rewards)
        parts.append(
            f"## {group.prompt.prompt_id}\n\n"
            f"prior {prior}; {len(group.scored)} rollouts, stopped: {group.stop.reason}; rewards {rewards}\n\n"
            f"question:\n\n{_quoted(group.prompt.text)}\n\nreference: `{group.prompt.answer}`\n\n"
            f"first response ({_verdict(first)}):\n\n{_turns(first.rollout)}\n"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_text(path, "\n".join(parts))


def _verdict(scored: ScoredRollout) -> str:
    read = "" if scored.extracted is None else f", answer read: `{scored.extracted}`"
    scores = "".join(f", {one.label} {one.reward:+g}" for one in scored.components)
    return f"{scored.verdict}{read}{scores}{f', {scored.message}' if scored.message else ''}"


def _turns(rollout: Rollout) -> str:
    """The response; of several turns each one's, with what the environment answered between them."""
    parts = []
    for turn in rollout.turns:
        if turn.observation is not None:
            parts.append(f"then it was shown:\n\n{_quoted(turn.observation.text)}\n\nand responded:")
        parts.append(_quoted(turn.text))
    return "\n\n".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
