"""One rank of the learner: samples in, gradients added up, one update, weights out.

    learner.setup(master_addr, port)        all ranks together
    for samples in arrivals:                any number of times, while other prompts still generate
        learner.accumulate(samples)         every rank gets the same samples and takes its own share of them
    metrics = learner.step()                one update of everything accumulated

The update is that of loss = sum over samples and tokens of weight * token loss / normaliser (see `losses`), however the
samples were split over calls, ranks and micro-batches. A token's loss is the policy's, plus kl_coefficient times its KL
penalty from the policy that the run started from.
"""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
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
from v05ray.learning.batching import MicroBatch, Row, collate, dummy_micro_batch, has_gradient, plan
from v05ray.learning.engine import ZeroEngine, join
from v05ray.learning.export import check_export, write_model
from v05ray.learning.loading import load_policy
from v05ray.learning.names import FolderNames
from v05ray.learning.policy import DTYPES, arguments, check_folder
from v05ray.learning.reference import Reference
from v05ray.losses.aggregation import BatchSize, normaliser
from v05ray.losses.kl import kl_penalty
from v05ray.losses.policy import policy_loss
from v05ray.models.huggingface import checkpoint_shapes
from v05ray.seeding import derive_seed
from v05ray.types import TrainSample

GATHER_ELEMENTS = 64_000_000
"""Parameters that ZeRO-3 makes whole at once when weights are exported."""
_SUMS = ("loss", "entropy", "clipped", "capped", "kl_sampled", "kl", "kl_loss", "tokens")
"""What is added up per computed token, over micro-batches and ranks."""


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
    ) -> None:
        """`temperature` is that of sampling; `max_response_tokens` is L of `constant_length`, unused otherwise."""
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
        self._abandoned = False
        self._device = torch.device("cuda", 0) if learner.num_gpus > 0 else torch.device("cpu")
        self._forget()

    def _forget(self) -> None:
        self._size = BatchSize()
        self._num_calls = self._num_passes = self._num_skipped = 0
        self._num_input_tokens = self._num_separate_tokens = 0
        self._busy_s = 0.0
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=self._device)

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

    def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Collective, and with the same samples on every rank. Adds their gradients to those of this step.

        Samples whose advantages are all 0 are counted but not computed, unless a KL penalty moves them too.
        """
        if self._abandoned:
            raise RuntimeError("accumulate() after abandon(): the gradients of an abandoned step are still there")
        start = time.perf_counter()
        shares = plan(
            samples,
            self._world_size,
            self._config.micro_batch_tokens,
            share_prefix=self._config.share_prefix,
            compute_all=self._penalises,
        )
        mine = shares[self._rank]
        for index in range(max(len(share) for share in shares)):
            # A rank with fewer micro-batches runs dummies: ZeRO's collectives need equally many passes everywhere.
            self._run(self._collate(mine[index]) if index < len(mine) else dummy_micro_batch())
        self._size += BatchSize(sum(len(sample.response_ids) for sample in samples), len(samples))
        self._num_calls += 1
        self._num_skipped += 0 if self._penalises else sum(not has_gradient(sample) for sample in samples)
        rows = [row for share in shares for batch in share for row in batch]
        self._num_input_tokens += sum(row.num_tokens for row in rows)
        self._num_separate_tokens += sum(len(s.prompt_ids) + len(s.response_ids) - 1 for r in rows for s in r.samples)
        self._busy_s += time.perf_counter() - start

    def _collate(self, rows: Sequence[Row]) -> MicroBatch:
        return collate(rows, self._config.aggregation)

    def _run(self, batch: MicroBatch) -> None:
        """Forward, backward, and the sums for the metrics."""
        batch = batch.to(self._device)
        logp_N, entropy_N = self._engine(*arguments(batch))
        computed = policy_loss(
            self._loss,
            logp_N,
            batch.sampled_N,
            batch.advantages_N,
            batch.sequence_N,
            importance_cap=self._config.importance_cap,
        )
        kl_N = torch.zeros_like(logp_N)
        if self._reference is not None:
            kl_N = kl_penalty(logp_N, self._reference.logprobs(batch), self._config.kl_estimator)
        kl_loss_sum = self._config.kl_coefficient * (kl_N * batch.weight_N).sum()
        loss_sum = (computed.loss_N * batch.weight_N).sum() + kl_loss_sum
        self._engine.backward(loss_sum)
        self._num_passes += 1
        if batch.num_sequences == 0:
            return
        with torch.no_grad():
            sums = (
                loss_sum,
                entropy_N.sum(),
                computed.clipped_N.sum(),
                computed.capped_N.sum(),
                (batch.sampled_N - logp_N).sum(),
                kl_N.sum(),
                kl_loss_sum,
            )
            self._sums += torch.stack([*(value.double() for value in sums), self._sums.new_tensor(len(logp_N))])

    @torch.no_grad()
    def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> dict[int, list[float]]:
        """Collective, and with the same samples on every rank. Changes nothing.

        This rank's share: index of the sample -> [T] log-probability of each response token, at `temperature` (None:
        that of sampling). `share_prefix` as in the config, or not.
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
            batch = (self._collate(rows) if rows else dummy_micro_batch()).to(self._device)
            logp_N, _ = self._engine(*arguments(batch))
            in_order = [sample for row in rows for sample in row.samples]
            pieces = logp_N.cpu().split([len(sample.response_ids) for sample in in_order]) if rows else ()
            found |= {index[id(s)]: piece.tolist() for s, piece in zip(in_order, pieces, strict=True)}
        return found

    def step(self) -> dict[str, float]:
        """Collective. One update over everything accumulated since the last; returns its metrics.

        `actor/...` are over all ranks: means are over computed tokens (samples of zero advantage are not computed), the
        loss is over all. Times and memory are this rank's. `perf/prefix_sharing` is how many times more tokens separate
        sequences would have been. With a KL penalty, `actor/kl` is its estimator's mean in nats a token and
        `actor/kl_loss` its share of `actor/loss`. Raises RuntimeError if nothing was accumulated.
        """
        if self._num_calls == 0:
            raise RuntimeError("step() before accumulate(): there is no batch to learn from")
        start = time.perf_counter()
        if self._num_passes == 0:
            # Every advantage was 0: the gradient is 0, but the optimiser's momentum still moves the weights.
            self._run(dummy_micro_batch())
        divisor = normaliser(self._config.aggregation, self._size, self._max_response_tokens)
        update = self._engine.step(divisor)
        if self._world_size > 1:
            torch.distributed.all_reduce(self._sums)
        totals = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        num_computed = max(1.0, totals["tokens"])
        self._busy_s += time.perf_counter() - start
        metrics = {
            "actor/loss": totals["loss"] / divisor,
            "actor/entropy": totals["entropy"] / num_computed,
            "actor/grad_norm": update.grad_norm,
            "actor/lr": update.learning_rate,
            "actor/clip_fraction": totals["clipped"] / num_computed,
            "actor/kl_sampled": totals["kl_sampled"] / num_computed,
            "actor/importance_capped_fraction": totals["capped"] / num_computed,
            "actor/num_tokens": float(self._size.num_tokens),
            "actor/num_tokens_computed": totals["tokens"],
            "actor/num_input_tokens": float(self._num_input_tokens),
            "actor/num_sequences": float(self._size.num_sequences),
            "actor/num_sequences_skipped": float(self._num_skipped),
            "actor/update_skipped": 0.0 if update.applied else 1.0,
            "perf/prefix_sharing": self._num_separate_tokens / max(1, self._num_input_tokens),
            "timing_s/update_actor": self._busy_s,
            **self._memory(),
        }
        if self._penalises:
            metrics["actor/kl"] = totals["kl"] / num_computed
            metrics["actor/kl_loss"] = totals["kl_loss"] / divisor
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
        """Collective. Everything that `load` needs to go on bit by bit as if nothing had happened.

        Raises RuntimeError between `accumulate` and `step` (or `abandon`): gradients are not saved.
        """
        if self._num_calls and not self._abandoned:
            raise RuntimeError("save() between accumulate() and step() would lose gradients; call step() first")
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder)
        (folder / f"rank{self._rank}.json").write_text(json.dumps({**self._identity(), "random": _random_state()}))

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
        _restore_random_state(saved["random"])

    def _identity(self) -> dict[str, Any]:
        return {
            "learner.num_ranks": self._world_size,
            "learner.zero_stage": self._config.zero_stage,
            "model.dtype": self._model.dtype,
        }


def _num_elements(group: Sequence[tuple[str, Tensor]]) -> int:
    """Elements of the whole parameters, also while ZeRO-3 holds only a part of them here."""
    return sum(int(getattr(parameter, "ds_numel", parameter.numel())) for _, parameter in group)


def _random_state() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators in JSON values: reading it back runs no code."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = bytes(torch.cuda.get_rng_state().tolist()).hex()
    return state


def _restore_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["torch"])), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(list(bytes.fromhex(state["cuda"])), dtype=torch.uint8))
