"""DeepSpeed ZeRO, driven so that gradients add up first and are normalised once.

A batch streams in while its last prompts still generate, so the number of tokens to divide by is unknown during the
backward passes. Gradients are therefore summed unnormalised, over passes and ranks, and divided in `step`, before their
norm is taken and clipped: any split of a batch into passes gives the same update.
"""

import contextlib
import datetime
import logging
import math
import os
import pickle
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v05ray.config import LearnerConfig
from v05ray.errors import ConfigError
from v05ray.lean_imports import without


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimiser step did."""

    grad_norm: float
    """Global L2 norm of the normalised gradient, before clipping."""
    learning_rate: float
    """The rate this update used."""
    applied: bool
    """False if the gradient was not finite; the weights are then unchanged."""


def zero_stage(learner: LearnerConfig, dtype: torch.dtype, world_size: int) -> int:
    """The stage that runs: 0 where `learner.zero_stage` 1 has nothing to shard.

    With one rank in float32, ZeRO-1 only copies: of SmolLM2-135M's gradients and weights 1 GiB, for 1.5 s a step.
    (In bfloat16 it holds the float32 weights, and has to stay.)
    """
    return 0 if (learner.zero_stage, world_size, dtype) == (1, 1, torch.float32) else learner.zero_stage


def zero_config(learner: LearnerConfig, dtype: torch.dtype, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Any number of backward passes may precede a step; each step is a boundary."""
    zero: dict[str, Any] = {
        "stage": zero_stage(learner, dtype, world_size),
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
    }
    if learner.zero_stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 100_000_000}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": learner.max_grad_norm,
        "steps_per_print": 1_000_000_000,
        "zero_optimization": zero,
    }
    if dtype == torch.bfloat16:
        # Each gradient is added to its float32 sum as soon as it is computed, while it is still in the cache.
        config |= {
            "bf16": {"enabled": True, "immediate_grad_update": learner.zero_stage == 1},
            "data_types": {"grad_accum_dtype": "fp32"},
        }
    return config


def join(rank: int, world_size: int, master_addr: str, port: int, device: torch.device, timeout_s: float) -> None:
    """Joins the gang's process group; returns when all ranks are there, raises when they are not within `timeout_s`."""
    with without("mlflow"):  # its autotuner, which is not used, would import it
        import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR=master_addr, MASTER_PORT=str(port))
    os.environ.setdefault("LOCAL_RANK", "0")
    if device.type == "cpu":
        if master_addr in ("127.0.0.1", "localhost"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        # Else DeepSpeed compiles a shared-memory all-reduce with the C++ compiler: half a minute on every machine.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="gloo" if device.type == "cpu" else "nccl",
        timeout=datetime.timedelta(seconds=timeout_s),
        verbose=False,
    )


def shard_frozen(module: nn.Module, dtype: torch.dtype) -> Any:
    """`module` for forward passes alone, its parameters spread over the ranks by ZeRO-3 and gathered as they are used.

    Collective, as is every forward pass of what it returns. `dtype` is that of its parameters.
    """
    import deepspeed

    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 1_000_000_000,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    initialize: Any = deepspeed.initialize
    with contextlib.redirect_stdout(sys.stderr):
        return initialize(model=module, config=config)[0]


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Inside, `torch.compile` leaves functions as they are.

    As it looks whether an optimiser is one of its own, DeepSpeed imports another one that marks a function with it, and
    to mark it is to import the compiler: a second.
    """
    before: Any = torch.compile
    torch.compile = lambda model=None, **options: model or (lambda function: function)
    try:
        yield
    finally:
        torch.compile = before


class ZeroEngine:
    """A model with its sharded AdamW optimiser. All ranks call the same methods in the same order."""

    def __init__(self, module: nn.Module, learner: LearnerConfig, dtype: torch.dtype, world_size: int) -> None:
        import deepspeed

        self._world_size = world_size
        self.stage = zero_stage(learner, dtype, world_size)
        """DeepSpeed's ZeRO stage, which its checkpoints depend on."""
        # torch's fused AdamW: one pass over the weights on CPU and GPU, and nothing to compile.
        self._adamw = torch.optim.AdamW(
            module.parameters(),
            lr=learner.learning_rate,
            betas=learner.betas,
            eps=1e-8,
            weight_decay=learner.weight_decay,
            fused=True,
        )
        # Any: which of DeepSpeed's engines and optimisers comes back depends on the configuration.
        initialize: Any = deepspeed.initialize
        # Its bfloat16 optimiser prints memory tables as it is built.
        with contextlib.redirect_stdout(sys.stderr), _uncompiled():
            self._engine, self._optimiser, _, _ = initialize(
                model=module,
                optimizer=self._adamw,
                config=zero_config(learner, dtype, world_size),
            )
        if self.stage == 0:
            self._engine.enable_backward_allreduce = False  # there is one rank
        elif not self._sums_in_own_buffers:
            self._optimiser.override_loss_scale(1.0)

    @property
    def _sums_in_own_buffers(self) -> bool:
        """ZeRO-1 in bfloat16 is another optimiser class, with float32 sums of its own and no loss scale."""
        return hasattr(self._optimiser, "fp32_groups_gradients_flat")

    def __call__(self, *arguments: Any) -> Any:
        """The module's forward pass."""
        return self._engine(*arguments)

    def backward(self, loss_sum: Tensor) -> None:
        """Adds the gradient of an unnormalised loss. All ranks make equally many calls."""
        self._engine.backward(loss_sum, scale_wrt_gas=False)
        if self._sums_in_own_buffers:
            # Else the next pass would zero them and add to them, which costs as much as the sums themselves.
            self._optimiser.clear_lp_grads(set_to_none=True)

    def step(self, normaliser: float, learning_rate: float) -> Update:
        """Updates by (sum of all gradients over passes and ranks) / normaliser, clipped, and forgets the gradients."""
        for group in self._adamw.param_groups:  # DeepSpeed's optimisers step this one
            group["lr"] = learning_rate
        # DeepSpeed averages over ranks, the normaliser counts all of them.
        divisor = normaliser / self._world_size
        if self.stage == 0:
            norm = self._normalise(divisor)
            applied = math.isfinite(norm)
            if applied:
                self._engine.step()
            else:
                self._engine.zero_grad()
            return Update(norm, learning_rate, applied)
        if self._sums_in_own_buffers:
            for sums in self._optimiser.fp32_groups_gradients_flat:
                sums.div_(divisor)
            self._engine.step()
        else:
            # The loss scale is what DeepSpeed divides gradients by before it takes their norm.
            self._optimiser.override_loss_scale(divisor)
            self._engine.step()
            self._optimiser.override_loss_scale(1.0)
        norm = float(self._engine.get_global_grad_norm())
        return Update(norm, float(self._engine.get_lr()[0]), bool(self._engine.was_step_applied()))

    def _normalise(self, divisor: float) -> float:
        """Divides the gradients, zeros where no pass reached a parameter (AdamW still moves it); returns their norm."""
        gradients = []
        for parameter in self._engine.module.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad.div_(divisor))
        return float(nn.utils.get_total_norm(gradients))

    def gathered(self, parameters: Iterable[nn.Parameter]) -> contextlib.AbstractContextManager[Any]:
        """Inside, the parameters are whole; a collective under ZeRO-3."""
        if self.stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters))

    def save(self, folder: Path) -> None:
        """Weights and optimiser of every rank, in DeepSpeed's format."""
        self._engine.save_checkpoint(str(folder), tag="zero", save_latest=False)

    def load(self, folder: Path) -> None:
        """What `save` wrote; raises ConfigError for a file that holds more, of which nothing has run."""
        self._engine.checkpoint_engine.load = _read_plain
        path, _ = self._engine.load_checkpoint(str(folder), tag="zero")
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed checkpoint in {folder}")


def _read_plain(path: str, map_location: Any = None) -> Any:
    """One file of a DeepSpeed checkpoint, in place of DeepSpeed's own reader, which unpickles whatever is in it.

    A pickle may name any function to be called. torch's restricted unpickler knows tensors, plain values and the three
    classes that DeepSpeed writes, and stops at every other name.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is refused: it holds more than a checkpoint's tensors and plain values ({_culprit(error)}), and "
            "loading that could run code; it is not as it was written: delete this checkpoint, resume from an older one"
        ) from error


def _culprit(error: pickle.UnpicklingError) -> str:
    """What the restricted unpickler stopped at, out of its page of advice on how to load the file all the same."""
    found = re.search(r"GLOBAL \S+|Unsupported operand \d+", str(error))
    return found[0] if found else "torch's restricted unpickler stopped"
