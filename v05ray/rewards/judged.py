"""What a verifier may return besides a bool or a number: the reward together with the answer that it read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Judged:
    """`reward` is a bool, or a number in [-1, 1]; true exactly where it is right."""

    reward: bool | float
    extracted: str | None = None
    """The answer as read from the response; None where it has none."""
    message: str = ""
    """Why it is not right, where the verifier has more to say than that; goes to the ledger."""

    def __bool__(self) -> bool:
        return self.reward is True or self.reward == 1
