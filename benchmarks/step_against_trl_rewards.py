"""The rewards of `step_against_trl`, one function for both sides. What is imported here TRL's environment has too.

v05ray calls them as `python` verifiers, TRL's side through `REWARDS` with the same two texts.
"""

import hashlib
from collections.abc import Callable, Mapping

from v05ray.rewards.answers import last_integer
from v05ray.types import Prompt


def task_reward(answer: str, response: str) -> float:
    """1 where the response's last number is the answer, else -1. Most groups of a small model are uniform."""
    return 1.0 if last_integer(response) == last_integer(answer) else -1.0


def distinct_reward(answer: str, response: str) -> float:
    """A number in [-1, 1) drawn from the texts alone: responses that differ have different rewards.

    So every group with two different responses has a gradient, on both sides, whatever the model can do.
    """
    digest = hashlib.sha256(f"{answer}\n{response}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**47 - 1.0


REWARDS: Mapping[str, Callable[[str, str], float]] = {"task": task_reward, "distinct": distinct_reward}
"""Both, by the name that `--rewards` gives them: (reference answer, response text) -> reward in [-1, 1]."""


def task(prompt: Prompt, response: str) -> float:
    """`task_reward` as a `python` verifier."""
    return task_reward(prompt.answer, response)


def distinct(prompt: Prompt, response: str) -> float:
    """`distinct_reward` as a `python` verifier."""
    return distinct_reward(prompt.answer, response)
