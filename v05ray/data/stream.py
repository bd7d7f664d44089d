"""Prompts for ever, batch by batch, with a cursor that fits in a checkpoint.

Epoch e is a permutation of the prompts, seeded by (seed, e). Every prompt is dealt once an epoch. A batch that reaches
over the end of an epoch takes the rest from the next one, where prompts already in the batch are passed over and dealt
later.
"""

import hashlib
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from v05ray.registry import ConfigError
from v05ray.seeding import derive_seed
from v05ray.types import Prompt


class PromptStream:
    """Deterministic from its seed; `state_dict` taken between two batches continues with the second."""

    def __init__(self, prompts: Sequence[Prompt], *, batch_size: int, shuffle: bool, seed: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"run.prompts_per_step must be at least 1, got {batch_size}")
        if batch_size > len(prompts):
            raise ConfigError(
                f"a batch of {batch_size} prompts needs as many different ones, and data.train has {len(prompts)}; "
                "lower run.prompts_per_step, or give more data"
            )
        self._prompts = tuple(prompts)
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._epoch, self._position = 0, 0
        # What the batch that opened this epoch had from the last one, and how many prompts it took from this one.
        self._carried: tuple[int, ...] = ()
        self._num_after_carried = 0
        self._order = self._make_order()

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All of them, in the order given."""
        return self._prompts

    @property
    def epoch(self) -> int:
        """Whole passes over the prompts so far."""
        return self._epoch

    def next_batch(self) -> tuple[Prompt, ...]:
        """The next `batch_size` prompts, all different."""
        taken = self._order[self._position : self._position + self._batch_size]
        self._position += len(taken)
        missing = self._batch_size - len(taken)
        if missing:
            self._epoch, self._position = self._epoch + 1, missing
            self._carried, self._num_after_carried = tuple(taken), missing
            self._order = self._make_order()
            taken = taken + self._order[:missing]
        return tuple(self._prompts[i] for i in taken)

    def _make_order(self) -> list[int]:
        """The epoch's permutation; the first `num_after_carried` prompts not carried over are moved to its head."""
        order = list(range(len(self._prompts)))
        if self._shuffle:
            Random(derive_seed("shuffle", self._seed, self._epoch)).shuffle(order)
        carried = set(self._carried)
        head = [i for i in order if i not in carried][: self._num_after_carried]
        in_head = set(head)
        return head + [i for i in order if i not in in_head]

    def state_dict(self) -> dict[str, Any]:
        """The cursor, as JSON values."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "carried": list(self._carried),
            "num_after_carried": self._num_after_carried,
            "prompts": self._fingerprint(),
            "shuffle": self._shuffle,
            "seed": self._seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken; raises `ConfigError` if the prompts or their order were others."""
        mine = {"prompts": self._fingerprint(), "shuffle": self._shuffle, "seed": self._seed}
        for name, value in mine.items():
            if state[name] != value:
                raise ConfigError(
                    f"the checkpoint's prompt cursor has {name} {state[name]!r}, this run has {value!r}; "
                    "resume with the data, data.shuffle and run.seed that the checkpoint was made with"
                )
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._carried, self._num_after_carried = tuple(state["carried"]), int(state["num_after_carried"])
        self._order = self._make_order()

    def _fingerprint(self) -> str:
        """Number of prompts and a hash of their ids, in order."""
        ids = "\x1f".join(prompt.prompt_id for prompt in self._prompts)
        return f"{len(self._prompts)}:{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"
