"""The frozen policy that the run started from, for the KL penalty: log-probabilities, never a gradient."""

from typing import Any

import torch
from torch import Tensor

from v05ray.config import LearnerConfig, ModelConfig
from v05ray.learning.batching import MicroBatch
from v05ray.learning.engine import shard_frozen
from v05ray.learning.loading import load_policy
from v05ray.learning.policy import DTYPES, arguments


class Reference:
    """A second copy of `model.path`, in `model.dtype`: it needs no optimiser, so it costs 2 (bfloat16) or 4 bytes a
    parameter on every rank; under ZeRO-3 it is sharded as the policy is.

    It is read from `model.path` at every start, also of a resumed run, whose checkpoint must name the same path.
    """

    def __init__(self, model: ModelConfig, learner: LearnerConfig, temperature: float, device: torch.device) -> None:
        """Collective."""
        # Nothing to check for shared prefixes: the policy is of the same architecture and was checked.
        policy = load_policy(model, temperature, device, share_prefix=False, checkpointing=False)
        policy.eval().requires_grad_(False)
        self._module: Any = shard_frozen(policy, DTYPES[model.dtype]) if learner.zero_stage == 3 else policy.to(device)

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> Tensor:
        """logp_N, float32, of the batch's targets, computed as the policy's are. Collective under ZeRO-3."""
        logp_N, _ = self._module(*arguments(batch))
        return logp_N
