"""Hand-driven and random worlds for the budget machine: rewards by prompt, drawn in sample order."""

import random
from collections.abc import Mapping, Sequence

from v05ray.budget import BatchMachine
from v05ray.types import Decision, Draw, Stop

Rewards = Mapping[str, Sequence[float]]


def play(machine: BatchMachine, rewards: Rewards, rng: random.Random | None = None) -> list[Decision]:
    """Scores every draw with the prompt's next rewards, in order of dispatch, or (with `rng`) in random order.

    Checks conservation on the way: whatever is drawn is scored once, or given up by an abort and counted.
    """
    waiting: list[str] = []
    used = dict.fromkeys(rewards, 0)
    decisions: list[Decision] = []

    def take(new: list[Decision]) -> None:
        nonlocal waiting
        decisions.extend(new)
        for decision in new:
            match decision.action:
                case Draw(prompt_id, count):
                    assert count >= 1
                    waiting += [prompt_id] * count
                case Stop(prompt_id):
                    waiting = [w for w in waiting if w != prompt_id]
        assert machine.num_outstanding == len(waiting)
        assert machine.num_drawn == machine.num_scored + len(waiting) + machine.num_aborted + machine.num_forgotten

    take(machine.start())
    while waiting:
        prompt_id = waiting.pop(rng.randrange(len(waiting)) if rng else 0)
        reward = rewards[prompt_id][used[prompt_id]]
        used[prompt_id] += 1
        take(machine.observe(prompt_id, reward, num_tokens=10))
    assert machine.done
    assert machine.num_open == machine.num_outstanding == 0
    return decisions


def stops(decisions: Sequence[Decision]) -> dict[str, tuple[str, int]]:
    """Reason and number of scored rollouts of each sealed prompt; every prompt is sealed once."""
    sealed: dict[str, tuple[str, int]] = {}
    for decision in decisions:
        if isinstance(decision.action, Stop):
            assert decision.action.prompt_id not in sealed
            sealed[decision.action.prompt_id] = (decision.action.reason, decision.num_scored)
    return sealed


def random_world(rng: random.Random, num_prompts: int, longest: int) -> tuple[dict[str, float | None], Rewards]:
    """Priors of mixed quality and enough rewards for every prompt."""
    priors: dict[str, float | None] = {}
    rewards: dict[str, list[float]] = {}
    for i in range(num_prompts):
        p = rng.random()
        priors[f"p{i}"] = max(-1.0, min(1.0, 2 * p - 1 + rng.gauss(0, 0.7)))
        rewards[f"p{i}"] = [1.0 if rng.random() < p else -1.0 for _ in range(longest)]
    return priors, rewards
