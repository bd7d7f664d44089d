"""Several updates on one batch, the slow and obvious way: every loss as its paper writes it, sequence by sequence."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tests.e2e.learning.plain import PlainLearner
from v05ray.types import TrainSample


class PlainUpdates(PlainLearner):
    """The losses of one token or sequence, the ratio taken against the weights before the first update."""

    def batch(self, mini_batches: Sequence[Sequence[TrainSample]], epochs: int, longest: int) -> dict[str, float]:
        """All updates of one batch; `longest` is the L of `constant_length`. Means over the tokens of all updates."""
        with torch.no_grad():
            old = {id(sample): self._base(sample) for one in mini_batches for sample in one}
        acted, moved, num_tokens, norms = 0.0, 0.0, 0, []
        for _ in range(epochs):
            for samples in mini_batches:
                self._optimiser.zero_grad()
                total = torch.zeros(())
                for sample in samples:
                    logp = self.logprobs(sample)
                    loss, clipped = self._token_losses(sample, logp, old[id(sample)])
                    entropy = self._config.entropy_coefficient * self._entropy(sample)
                    total = total + self._weight(sample, samples, longest) * (loss - entropy).sum()
                    if any(sample.advantages) or self._config.entropy_coefficient:
                        acted, num_tokens = acted + clipped.sum().item(), num_tokens + len(logp)
                        moved += (old[id(sample)] - logp.detach()).sum().item()
                total.backward()
                norms.append(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.max_grad_norm).item())
                self._optimiser.param_groups[0]["lr"] = self._config.learning_rate
                self._optimiser.step()
        return {
            "actor/clip_fraction": acted / num_tokens,
            "actor/ppo_kl": moved / num_tokens,
            "actor/grad_norm": sum(norms) / len(norms),
            "actor/num_updates": len(norms),
        }

    def _base(self, sample: TrainSample) -> Tensor:
        """What the ratio is taken against: without a cap the engine."""
        return torch.tensor(sample.logprobs) if self._config.importance_cap is None else self.logprobs(sample)

    def _weight(self, sample: TrainSample, samples: Sequence[TrainSample], longest: int) -> float:
        return {
            "token_mean": 1 / sum(len(one.response_ids) for one in samples),
            "sequence_mean": 1 / len(samples) / len(sample.response_ids),
            "constant_length": 1 / len(samples) / longest,
        }[self._config.aggregation]

    def _entropy(self, sample: TrainSample) -> Tensor:
        ids = torch.tensor([sample.prompt_ids + sample.response_ids])
        logits = self.model(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1] / self._temperature
        return torch.distributions.Categorical(logits=logits).entropy()

    def _token_losses(self, sample: TrainSample, logp: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, whether a bound acts), of each token."""
        config = self._config
        weight = (old - torch.tensor(sample.logprobs)).exp().clamp(max=config.importance_cap or 1.0)
        low, high, advantage = 1 - config.clip_low, 1 + config.clip_high, sample.advantages[0]
        ratio = (logp - old).exp()
        if config.policy_loss.name == "cispo":
            loss = -(ratio.clamp(low, high).detach() * advantage * logp)
            return weight * loss, (ratio < low) | (ratio > high)
        if config.policy_loss.name == "gspo":
            # min(s A, clip(s) A) of the sequence: a number, which its tokens share out.
            ratio = (logp - old).mean().exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(low, high) * advantage)
            acts = torch.full(logp.shape, surrogate.item() != (ratio * advantage).item())
            return -weight * surrogate.expand(len(logp)), acts
        # PPO maximises min(r A, clip(r) A): without gradient above 1 + e where A > 0, below 1 - e where A < 0.
        surrogate = torch.min(ratio * advantage, ratio.clamp(low, high) * advantage)
        acts = (ratio > high) if advantage > 0 else (ratio < low) if advantage < 0 else torch.zeros(len(logp)).bool()
        if config.dual_clip is not None and advantage < 0:
            acts = acts | (ratio > config.dual_clip)
            surrogate = torch.max(surrogate, torch.full(logp.shape, config.dual_clip * advantage))
        return -weight * surrogate, acts
