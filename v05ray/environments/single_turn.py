"""The environment of a question and its answer."""

from v05ray.ports import RewardPool
from v05ray.types import Prompt, Rollout, ScoredRollout


class SingleTurn:
    """Implements `ports.Environment`: every rollout ends after its first turn, with the verifiers' verdict."""

    def __init__(self, rewards: RewardPool) -> None:
        self._rewards = rewards

    async def step(self, prompt: Prompt, rollout: Rollout) -> ScoredRollout:
        """The verdict."""
        return await self._rewards.score(prompt, rollout)
