"""Steer the cost of a rollout so that a batch uses a given total (ours)."""


class CostController:
    """Multiplies c after every step, so that what is drawn beyond the cold start meets what is wanted beyond it.

        c <- c * clip(extra / wanted extra, 1/4, 4) ^ gain

    Since the extra rollouts grow about like 1/sqrt(c), or somewhat faster, gain = .5 corrects a quarter to three
    quarters of an error per step and averages the noise of small batches. c stays within bounds, so an unreachable
    total (every prior right: no prompt is ever topped up) cannot wind it up.

    >>> controller = CostController(cost=1 / 256, cold_start=4, n_max=16, mean_rollouts=6)
    >>> controller.observe(num_prompts=10, num_rollouts=120, num_tokens=0)  # 80 beyond the cold start, 20 wanted
    >>> controller.cost * 256
    2.0
    """

    def __init__(
        self,
        *,
        cost: float,
        cold_start: int,
        n_max: int,
        mean_rollouts: float | None = None,
        tokens_per_step: float | None = None,
        gain: float = 0.5,
    ) -> None:
        """Exactly one of `mean_rollouts` (per prompt, in (cold_start, n_max)) and `tokens_per_step` (> 0) is given.

        `cost` > 0 is the initial c, in squared reward per rollout; 1 <= `cold_start` <= `n_max`; `gain` in (0, 1].
        Raises `ValueError` for a value out of range.
        """
        if (mean_rollouts is None) == (tokens_per_step is None):
            raise ValueError("give mean_rollouts or tokens_per_step, not both")
        if mean_rollouts is not None and not cold_start < mean_rollouts < n_max:
            raise ValueError(
                f"mean_rollouts must lie between cold_start {cold_start} and n_max {n_max}, got {mean_rollouts}"
            )
        if tokens_per_step is not None and not tokens_per_step > 0:
            raise ValueError(f"tokens_per_step must be > 0, got {tokens_per_step}")
        if not 0 < gain <= 1:
            raise ValueError(f"gain must be in (0, 1], got {gain}")
        self._cold_start = cold_start
        self._mean_rollouts, self._tokens_per_step = mean_rollouts, tokens_per_step
        self._gain = gain
        # At 1/cold_start^2 no prompt is topped up; at 1/(4 n_max)^2 nearly every prompt that disagrees gets n_max.
        self._least, self._most = 1 / (4 * n_max) ** 2, 1 / cold_start**2
        self.cost = min(max(cost, self._least), self._most)
        """The current c."""

    def observe(self, num_prompts: int, num_rollouts: int, num_tokens: int) -> None:
        """Adjust the cost to what one step used; a step without rollouts changes nothing.

        `num_prompts`, `num_rollouts` (cold starts included) and `num_tokens` (of their responses) are >= 0.
        """
        if not num_rollouts:
            return
        cold = num_prompts * self._cold_start
        if self._mean_rollouts is not None:
            extra, wanted = num_rollouts - cold, self._mean_rollouts * num_prompts - cold
        else:
            assert self._tokens_per_step is not None  # one of the two is given
            cold_tokens = num_tokens * cold / num_rollouts
            extra, wanted = num_tokens - cold_tokens, self._tokens_per_step - cold_tokens
        # Where the cold start alone is too much (wanted <= 0) the cost rises as fast as it may.
        ratio = min(max(extra / wanted, 0.25), 4) if wanted > 0 else 4
        self.cost = min(max(self.cost * ratio**self._gain, self._least), self._most)
