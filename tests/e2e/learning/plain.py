"""What the learner should do, written the slow and obvious way: one sequence at a time, all logits, torch's AdamW."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from v05ray.config import LearnerConfig
from v05ray.types import TrainSample


class PlainLearner:
    """The policy loss with a token mean over sampled tokens and truncated importance weights, in float32."""

    def __init__(self, folder: Path, config: LearnerConfig, temperature: float = 1.0) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._start = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._config, self._temperature = config, temperature
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=config.betas, weight_decay=config.weight_decay
        )
        self._num_updates = 0

    def logprobs(self, sample: TrainSample) -> torch.Tensor:
        return self._logprobs(self.model, sample)

    def _logprobs(self, model: nn.Module, sample: TrainSample) -> torch.Tensor:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        logits = model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1] / self._temperature
        return torch.log_softmax(logits, -1).gather(1, torch.tensor(sample.response_ids)[:, None]).squeeze(1)

    def penalty(self, sample: TrainSample) -> torch.Tensor:
        """Schulman's estimators of the KL from the starting model; k1 in the reward, so its score is not followed."""
        logp = self.logprobs(sample)
        with torch.no_grad():
            start = self._logprobs(self._start, sample)
        ratio = (start - logp).exp()
        return {
            "k1": (logp - start).detach() * logp,
            "k2": 0.5 * (logp - start) ** 2,
            "k3": ratio - 1 - ratio.log(),
        }[self._config.kl_estimator]

    def step(self, samples: Sequence[TrainSample]) -> dict[str, float]:
        assert self._config.importance_cap is not None
        self._optimiser.zero_grad()
        total = torch.zeros(())
        for sample in samples:
            logp = self.logprobs(sample)
            ratio = (logp.detach() - torch.tensor(sample.logprobs)).exp()
            weight = ratio.clamp(max=self._config.importance_cap)
            mask = torch.tensor(sample.loss_mask, dtype=torch.float32)
            total = total - (mask * weight * torch.tensor(sample.advantages) * logp).sum()
            if self._config.kl_coefficient:
                total = total + self._config.kl_coefficient * (mask * self.penalty(sample)).sum()
        (total / sum(sum(sample.loss_mask) for sample in samples)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm)
        self._num_updates += 1
        for group in self._optimiser.param_groups:
            group["lr"] = self._config.learning_rate * min(1.0, self._num_updates / max(1, self._config.warmup_steps))
        self._optimiser.step()
        return {"actor/grad_norm": norm.item(), "actor/lr": self._optimiser.param_groups[0]["lr"]}
