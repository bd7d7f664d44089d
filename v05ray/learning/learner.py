"""One rank of the learner: samples in, gradients added up, one update, weights out.

    learner.setup(master_addr, port)        all ranks together
    for samples in arrivals:                any number of times, while other prompts still generate
        learner.accumulate(samples)         every rank gets the same samples and takes its own share of them
    metrics = learner.step()                one update of everything accumulated, or several (`mini_batches`)

An update is that of loss = sum over samples and tokens of weight * token loss / normaliser (see `losses`), however the
samples were split over calls, ranks and micro-batches. A token's loss is the policy's, plus kl_coefficient times its KL
penalty from the policy that the run started from, minus entropy_coefficient times the entropy that it was drawn with.

Where a batch is always one update, gradients are added up as samples arrive. Else samples are kept until all are there,
split into mini-batches of whole prompts, and their log-probabilities computed before the first update.
"""

import json
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed
from torch import Tensor

from v05ray import losses
from v05ray.config import LearnerConfig, ModelConfig
from v05ray.config.section import count_threads
from v05ray.errors import ConfigError
from v05ray.learning import random_state
from v05ray.learning.batching import MicroBatch, Row, check, collate, dummy_micro_batch, has_gradient, plan
from v05ray.learning.engine import ZeroEngine, join
from v05ray.learning.export import check_export, write_model
from v05ray.learning.loading import load_policy
from v05ray.learning.measured import SUMS, Done, means
from v05ray.learning.mini_batches import split
from v05ray.learning.names import FolderNames
from v05ray.learning.policy import DTYPES, arguments, check_folder
from v05ray.learning.reference import Reference
from v05ray.learning.schedule import rate_factor
from v05ray.learning.share import Share, share_of, size_of
from v05ray.losses.aggregation import BatchSize, normaliser
from v05ray.losses.kl import kl_penalty
from v05ray.losses.policy import policy_loss
from v05ray.models.huggingface import checkpoint_shapes
from v05ray.seeding import derive_seed
from v05ray.types import TrainSample

GATHER_ELEMENTS = 64_000_000
"""Parameters that ZeRO-3 makes whole at once when weights are exported."""


class Learner:
    """One data-parallel rank. Methods marked collective are called on all ranks, in the same order."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        model: ModelConfig,
        learner: LearnerConfig,
        *,
        seed: int,
        temperature: float = 1.0,
        max_response_tokens: int = 0,
        num_steps: int = 1,
    ) -> None:
        """`temperature` is that of sampling; `max_response_tokens` is L of `constant_length`, unused otherwise.

        `num_steps` of the run is the length of the learning rate's schedule, where the config names no other.
        """
        check_folder(model.path)
        if learner.micro_batch_tokens < model.max_length:
            raise ConfigError(
                f"learner.micro_batch_tokens={learner.micro_batch_tokens} cannot hold one sequence of "
                f"model.max_length={model.max_length}; raise the former or lower the latter"
            )
        if learner.aggregation == "constant_length" and max_response_tokens < 1:
            raise ConfigError("learner.aggregation=constant_length needs sampling.max_tokens >= 1")
        if learner.num_gpus > 0 and not torch.cuda.is_available():
            raise ConfigError(f"learner.num_gpus={learner.num_gpus:g}, but torch sees no GPU; set learner.num_gpus=0")
        self._rank, self._world_size = rank, world_size
        self._model, self._config = model, learner
        self._loss = losses.build(learner)
        self._seed, self._temperature = seed, temperature
        self._max_response_tokens = max_response_tokens
        self._num_steps = learner.schedule_steps or num_steps
        self._steps_done = 0  # that changed the weights
        self._abandoned = False
        self._device = torch.device("cuda", 0) if learner.num_gpus > 0 else torch.device("cpu")
        self._forget()

    def _forget(self) -> None:
        self._size = BatchSize()
        self._held: list[TrainSample] = []
        self._left: deque[Share | None] | None = None
        self._done: list[Done] = []
        self._num_calls = self._num_skipped = 0
        self._num_input_tokens = self._num_separate_tokens = 0
        self._busy_s = 0.0
        self._begin_update()

    def _begin_update(self) -> None:
        self._num_passes = 0
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self._device)

    def setup(self, master_addr: str, port: int) -> None:
        """Collective. Joins the gang, loads the model and builds the optimiser."""
        if self._device.type == "cpu":
            torch.set_num_threads(count_threads(self._config.num_threads))
        else:
            torch.cuda.set_device(self._device)
        join(self._rank, self._world_size, master_addr, port, self._device, self._config.timeout_s)
        seed = derive_seed("learner", self._seed, self._rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self._policy = load_policy(
            self._model,
            self._temperature,
            self._device,
            share_prefix=self._config.share_prefix,
            checkpointing=self._config.gradient_checkpointing,
        )
        self._names = FolderNames(self._policy.model, checkpoint_shapes(self._model.path))
        self._names.check()
        if self._rank == 0:
            check_export(self._policy.model, self._model)
        self._engine = ZeroEngine(self._policy, self._config, DTYPES[self._model.dtype], self._world_size)
        self._reference = (
            Reference(self._model, self._config, self._temperature, self._device) if self._penalises else None
        )

    @property
    def _penalises(self) -> bool:
        return self._config.kl_coefficient > 0

    @property
    def _computes_all(self) -> bool:
        """Whether samples of zero advantage have a gradient too."""
        return self._penalises or self._config.entropy_coefficient > 0

    def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Collective, and with the same samples on every rank. Adds their gradients to those of this step.

        Where a batch may make several updates, it keeps the samples instead. Samples whose advantages are all 0 are
        counted but not computed, unless a KL penalty or an entropy bonus moves them too.
        """
        if self._abandoned:
            raise RuntimeError("accumulate() after abandon(): the gradients of an abandoned step are still there")
        start = time.perf_counter()
        if self._config.one_update:
            self._compute(self._share(samples))
        else:
            for sample in samples:
                check(sample)
            self._held.extend(samples)
        self._size += size_of(samples)
        self._num_calls += 1
        self._num_skipped += 0 if self._computes_all else sum(not has_gradient(sample) for sample in samples)
        self._busy_s += time.perf_counter() - start

    def _share(self, samples: Sequence[TrainSample]) -> Share:
        return share_of(samples, self._rank, self._world_size, self._config, compute_all=self._computes_all)

    def _compute(self, share: Share) -> None:
        """Forward and backward of every pass."""
        for index, rows in enumerate(share.passes):
            self._run(self._collate(rows), share.old[index] if share.old else None)
        self._num_input_tokens += share.num_input_tokens
        self._num_separate_tokens += share.num_separate_tokens

    def _collate(self, rows: Sequence[Row]) -> MicroBatch:
        batch = collate(rows, self._config.aggregation) if rows else dummy_micro_batch()
        return batch.to(self._device)

    def _run(self, batch: MicroBatch, old_N: Tensor | None = None) -> None:
        """Forward, backward, and the sums for the metrics."""
        logp_N, entropy_N = self._engine(*arguments(batch))
        computed = policy_loss(
            self._loss,
            logp_N,
            batch.sampled_N,
            batch.advantages_N,
            batch.sequence_N,
            importance_cap=self._config.importance_cap,
            old_N=old_N,
        )
        kl_N = torch.zeros_like(logp_N)
        if self._reference is not None:
            kl_N = kl_penalty(logp_N, self._reference.logprobs(batch), self._config.kl_estimator)
        kl_loss_sum = self._config.kl_coefficient * (kl_N * batch.weight_N).sum()
        loss_sum = (computed.loss_N * batch.weight_N).sum() + kl_loss_sum
        if self._config.entropy_coefficient > 0:
            loss_sum = loss_sum - self._config.entropy_coefficient * (entropy_N * batch.weight_N).sum()
        self._engine.backward(loss_sum)
        self._num_passes += 1
        if batch.num_sequences == 0:
            return
        with torch.no_grad():
            sums = {
                "loss": loss_sum,
                "entropy": entropy_N.sum(),
                "clipped": computed.clipped_N.sum(),
                "capped": computed.capped_N.sum(),
                "ppo_kl": -computed.log_ratio_N.sum(),
                "kl_sampled": (batch.sampled_N - (logp_N if old_N is None else old_N)).sum(),
                "kl": kl_N.sum(),
                "kl_loss": kl_loss_sum,
                "tokens": self._sums.new_tensor(len(logp_N)),
            }
            self._sums += torch.stack([sums[name].double() for name in SUMS])

    @torch.no_grad()
    def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> dict[int, list[float]]:
        """Collective, and with the same samples on every rank. Changes nothing.

        This rank's share: index of the sample -> log-probability of each sampled token (see `loss_mask`), at
        `temperature` (None: that of sampling). `share_prefix` as in the config, or not.
        """
        self._policy.temperature = self._temperature if temperature is None else temperature
        try:
            return self._logprobs(samples, share_prefix=share_prefix)
        finally:
            self._policy.temperature = self._temperature

    def _logprobs(self, samples: Sequence[TrainSample], *, share_prefix: bool) -> dict[int, list[float]]:
        index = {id(sample): i for i, sample in enumerate(samples)}
        budget = self._config.micro_batch_tokens
        shares = plan(samples, self._world_size, budget, share_prefix=share_prefix, compute_all=True)
        mine = shares[self._rank]
        found: dict[int, list[float]] = {}
        for position in range(max(len(share) for share in shares)):
            rows = mine[position] if position < len(mine) else []
            logp_N, _ = self._engine(*arguments(self._collate(rows)))
            in_order = [sample for row in rows for sample in row.samples]
            pieces = logp_N.cpu().split([sample.num_sampled for sample in in_order]) if rows else ()
            found |= {index[id(s)]: piece.tolist() for s, piece in zip(in_order, pieces, strict=True)}
        return found

    def start_updates(self) -> int:
        """Collective. How many updates are to be made of everything accumulated: `step` makes those that are left.

        Where there are several, computes the log-probabilities before the first. Raises RuntimeError if nothing was
        accumulated.
        """
        if self._num_calls == 0:
            raise RuntimeError("step() before accumulate(): there is no batch to learn from")
        start = time.perf_counter()
        if self._config.one_update:
            self._left = deque([None])  # its gradient is there already
        else:
            seed = derive_seed("mini-batches", self._seed, self._steps_done)
            mini_batches = split(self._held, self._config.mini_batch_prompts, seed)
            shares = [self._share(samples) for samples in mini_batches] * self._config.epochs
            if len(shares) > 1 and self._config.importance_cap is not None:
                for share in shares[: len(mini_batches)]:
                    share.old = self._old_logprobs(share)
            self._left = deque(shares)
        self._busy_s += time.perf_counter() - start
        return len(self._left)

    @torch.no_grad()
    def _old_logprobs(self, share: Share) -> list[Tensor]:
        """[N] of each pass, in the micro-batches in which it is learned from, so that the first ratio is 1."""
        return [self._engine(*arguments(self._collate(rows)))[0] for rows in share.passes]

    def update(self) -> None:
        """Collective. The next update of those that `start_updates` counted."""
        assert self._left  # else there is none
        start = time.perf_counter()
        share = self._left.popleft()
        if share is not None:
            self._compute(share)
        if self._num_passes == 0:
            # Every advantage was 0: the gradient is 0, but the optimiser's momentum still moves the weights.
            self._run(self._collate([]))
        size = self._size if share is None else share.size
        divisor = normaliser(self._config.aggregation, size, self._max_response_tokens)
        rate = self._config.learning_rate * rate_factor(self._config, self._steps_done, self._num_steps)
        self._done.append(Done(self._sums, divisor, self._engine.step(divisor, rate)))
        self._begin_update()
        self._busy_s += time.perf_counter() - start

    def step(self) -> dict[str, float]:
        """Collective. The update, or all that are left, of everything accumulated since the last; returns its metrics.

        `actor/...` are over all ranks and updates (`measured.means`). Times and memory are this rank's.
        `perf/prefix_sharing` is how many times more tokens separate sequences would have been. Raises RuntimeError if
        nothing was accumulated.
        """
        if self._left is None:
            self.start_updates()
        while self._left:
            self.update()
        start = time.perf_counter()
        metrics = means(self._done, self._world_size, penalises=self._penalises)
        self._busy_s += time.perf_counter() - start
        metrics |= {
            "actor/num_tokens": float(self._size.num_tokens),
            "actor/num_input_tokens": float(self._num_input_tokens),
            "actor/num_sequences": float(self._size.num_sequences),
            "actor/num_sequences_skipped": float(self._num_skipped),
            "perf/prefix_sharing": self._num_separate_tokens / max(1, self._num_input_tokens),
            "timing_s/update_actor": self._busy_s,
            **self._memory(),
        }
        self._steps_done += any(done.update.applied for done in self._done)
        self._forget()
        return metrics

    def _memory(self) -> dict[str, float]:
        memory = {"perf/cpu_memory_used_gb": self.rss / 2**30}
        if self._device.type == "cuda":
            memory["perf/max_memory_allocated_gb"] = torch.cuda.max_memory_allocated() / 2**30
            memory["perf/max_memory_reserved_gb"] = torch.cuda.max_memory_reserved() / 2**30
        return memory

    @property
    def rss(self) -> int:
        """Resident memory of this process, in bytes."""
        return psutil.Process().memory_info().rss

    @property
    def num_parameters(self) -> int:
        """Of the policy; tied ones once."""
        return sum(_num_elements(group) for group in self._names.groups())

    def export_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Collective: every rank iterates to the end, rank 0 alone gets something.

        Yields (name as in the model folder, CPU tensor in model.dtype); tied weights come once. On CPU a tensor may be
        the live parameter itself: read or copy it before the next step, never write to it.
        """
        dtype = DTYPES[self._model.dtype]
        groups = list(self._names.groups())
        while groups:
            bucket, size = [], 0
            while groups and (not bucket or size + _num_elements(groups[0]) <= GATHER_ELEMENTS):
                size += _num_elements(groups[0])
                bucket.append(groups.pop(0))
            with self._engine.gathered(parameter for group in bucket for _, parameter in group):
                if self._rank == 0:
                    for group in bucket:
                        whole = [(name, parameter.detach().to("cpu", dtype)) for name, parameter in group]
                        yield from self._names.of(whole)

    def export_hf(self, folder: Path) -> None:
        """Collective. Writes the policy as a Hugging Face folder: config, safetensors, tokenizer."""
        # Under ZeRO-3 a gathered parameter is only whole inside the iteration, so each one is copied.
        state = {name: tensor.contiguous().clone() for name, tensor in self.export_weights()}
        if self._rank == 0:
            write_model(folder, self._policy.model, self._model, state)

    def abandon(self) -> None:
        """No step will be made of what was accumulated since the last: the state to save is the one after that.

        The gradients stay where they are, so nothing can be accumulated any more.
        """
        self._abandoned = True

    def save(self, folder: Path) -> None:
        """Collective. Everything that `load` needs to continue with the same bits as without an interruption.

        Raises RuntimeError between `accumulate` and `step` (or `abandon`): gradients are not saved.
        """
        if self._num_calls and not self._abandoned:
            raise RuntimeError("save() between accumulate() and step() would lose gradients; call step() first")
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder)
        (folder / f"rank{self._rank}.json").write_text(
            json.dumps({**self._identity(), "steps_done": self._steps_done, "random": random_state.get()})
        )

    def load(self, folder: Path) -> None:
        """Collective. What `save` wrote with the same model, ranks and ZeRO stage; raises ConfigError otherwise."""
        record = folder / f"rank{self._rank}.json"
        if not record.is_file():
            raise ConfigError(f"no learner checkpoint for rank {self._rank} in {str(folder)!r}")
        saved = json.loads(record.read_text())
        for name, value in self._identity().items():
            if saved.get(name) != value:
                raise ConfigError(
                    f"the checkpoint in {str(folder)!r} was made with {name}={saved.get(name)}, this run has {value}; "
                    f"set it back, or start from an exported model"
                )
        self._engine.load(folder)
        self._steps_done = int(saved["steps_done"])
        random_state.restore(saved["random"])

    def _identity(self) -> dict[str, Any]:
        return {
            "learner.num_ranks": self._world_size,
            "DeepSpeed's ZeRO stage": self._engine.stage,
            "model.dtype": self._model.dtype,
        }


def _num_elements(group: Sequence[tuple[str, Tensor]]) -> int:
    """Elements of the whole parameters, also while ZeRO-3 holds only a part of them here."""
    return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for _, parameter in group)
