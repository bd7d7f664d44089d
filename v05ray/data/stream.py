"""Prompts without end, batch by batch, from one source or several, with a cursor that fits in a checkpoint.

Within a source, epoch e is a permutation of its prompts, seeded by (seed, e). Every prompt is dealt once an epoch. A
batch that reaches over the end of an epoch takes the rest from the next one, where prompts already in the batch are
passed over and dealt later.

Between sources, each next place goes to the source that is furthest behind its weight (Sainte-Lague):

    argmax over sources i of weight_i / (2 dealt_i + 1)

so after any number of prompts every source is within about one prompt of its share, and a small source with a large
weight comes round more often than a large one.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from v05ray.errors import ConfigError
from v05ray.seeding import derive_seed
from v05ray.types import Prompt


@dataclass(frozen=True, slots=True)
class PromptSource:
    """The prompts of one entry of `data.train`, such as `PromptSource("gcd", prompts, weight=2)`."""

    name: str
    prompts: Sequence[Prompt]
    weight: float = 1.0
    """Above 0, relative to the other sources' weights."""


def shares(sources: Sequence[PromptSource]) -> list[float]:
    """The part of all dealt prompts that each source gives; they add up to 1."""
    total = sum(source.weight for source in sources)
    return [source.weight / total for source in sources]


def describe(sources: Sequence[PromptSource]) -> list[str]:
    """A line per source: how many prompts, which weight, which share of what is dealt; none for a source alone."""
    if len(sources) < 2:
        return []
    width = max(len(source.name) for source in sources)
    return [
        f"source {source.name:<{width}}  {len(source.prompts):>6,} prompts  weight {source.weight:<6g}  "
        f"share {share:.1%}"
        for source, share in zip(sources, shares(sources), strict=True)
    ]


def next_source(weights: Sequence[float], dealt: Sequence[int], open_: Collection[int]) -> int:
    """Index of the source that the next prompt is taken from, one of `open_`; the first one where several are equal."""
    return max(sorted(open_), key=lambda i: weights[i] / (2 * dealt[i] + 1))


class PromptStream:
    """Deterministic from its seed; `state_dict` taken between two batches continues with the second."""

    def __init__(self, sources: Sequence[PromptSource], *, batch_size: int, shuffle: bool, seed: int) -> None:
        """Raises `ConfigError` for a batch that would need one prompt twice."""
        if batch_size < 1:
            raise ConfigError(f"run.prompts_per_step must be at least 1, got {batch_size}")
        num_prompts = sum(len(source.prompts) for source in sources)
        if batch_size > num_prompts:
            raise ConfigError(
                f"a batch of {batch_size} prompts needs as many different ones, and data.train has {num_prompts}; "
                "lower run.prompts_per_step, or give more data"
            )
        _check_sizes(sources, batch_size)
        self._sources, self._batch_size = tuple(sources), batch_size
        self._shuffle, self._seed = shuffle, seed
        # A single source's order does not depend on its name: earlier checkpoints were made without one.
        keys: list[tuple[int | str, ...]] = (
            [(seed, source.name) for source in sources] if len(sources) > 1 else [(seed,)]
        )
        self._cursors = [
            _Cursor(len(source.prompts), key if shuffle else None) for source, key in zip(sources, keys, strict=True)
        ]

    @property
    def sources(self) -> tuple[PromptSource, ...]:
        """The sources that prompts are dealt from."""
        return self._sources

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts of all sources, in order."""
        return tuple(prompt for source in self._sources for prompt in source.prompts)

    @property
    def epochs(self) -> dict[str, float]:
        """Passes over each source's prompts so far, by its name."""
        pairs = zip(self._sources, self._cursors, strict=True)
        return {source.name: cursor.dealt / len(source.prompts) for source, cursor in pairs}

    def next_batch(self) -> tuple[Prompt, ...]:
        """The next `batch_size` prompts, all different."""
        weights = [source.weight for source in self._sources]
        dealt = [cursor.dealt for cursor in self._cursors]
        counts = [0] * len(weights)
        open_ = set(range(len(weights)))
        picks: list[int] = []
        for _ in range(self._batch_size):
            i = next_source(weights, dealt, open_)
            picks.append(i)
            dealt[i] += 1
            counts[i] += 1
            if counts[i] == len(self._sources[i].prompts):  # another one would repeat a prompt within the batch
                open_.discard(i)
        taken = [iter(cursor.take(count)) for cursor, count in zip(self._cursors, counts, strict=True)]
        return tuple(self._sources[i].prompts[next(taken[i])] for i in picks)

    def state_dict(self) -> dict[str, Any]:
        """The cursor, as JSON values."""
        pairs = zip(self._sources, self._cursors, strict=True)
        return {
            "sources": [_identity(source) | cursor.state_dict() for source, cursor in pairs],
            "shuffle": self._shuffle,
            "seed": self._seed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken; raises `ConfigError` if the prompts or their order were others."""
        for name, value in {"shuffle": self._shuffle, "seed": self._seed}.items():
            _check_same(name, state[name], value)
        saved = state.get("sources")
        if saved is None:  # written when there was one source, without name and weight
            saved = [_identity(self._sources[0]) | dict(state)]
        _check_same("sources", len(saved), len(self._sources))
        for source, cursor, one in zip(self._sources, self._cursors, saved, strict=True):
            for name, value in _identity(source).items():
                # The weight of a source that is alone means nothing.
                if len(saved) > 1 or name == "prompts":
                    _check_same(name, one[name], value)
            cursor.load_state_dict(one)


class _Cursor:
    """Where a source's dealing is: epoch, place in it, and what its first batch had from the epoch before."""

    def __init__(self, size: int, key: tuple[int | str, ...] | None) -> None:
        """`key` seeds the shuffling; None keeps the prompts in their own order."""
        self._size, self._key = size, key
        self._epoch, self._position = 0, 0
        # What the batch that opened this epoch had from the last one, and how many prompts it took from this one.
        self._carried: tuple[int, ...] = ()
        self._num_after_carried = 0
        self._order = self._make_order()

    @property
    def dealt(self) -> int:
        """Prompts taken so far."""
        return self._epoch * self._size + self._position

    def take(self, count: int) -> list[int]:
        """Indices of the next `count` prompts, all different; `count` is at most the size."""
        taken = self._order[self._position : self._position + count]
        self._position += len(taken)
        missing = count - len(taken)
        if missing:
            self._epoch, self._position = self._epoch + 1, missing
            self._carried, self._num_after_carried = tuple(taken), missing
            self._order = self._make_order()
            taken = taken + self._order[:missing]
        return taken

    def _make_order(self) -> list[int]:
        """The epoch's permutation; the first `num_after_carried` prompts not carried over are moved to its head."""
        order = list(range(self._size))
        if self._key is not None:
            Random(derive_seed("shuffle", *self._key, self._epoch)).shuffle(order)
        carried = set(self._carried)
        head = [i for i in order if i not in carried][: self._num_after_carried]
        in_head = set(head)
        return head + [i for i in order if i not in in_head]

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "position": self._position,
            "carried": list(self._carried),
            "num_after_carried": self._num_after_carried,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._carried, self._num_after_carried = tuple(state["carried"]), int(state["num_after_carried"])
        self._order = self._make_order()


def _check_sizes(sources: Sequence[PromptSource], batch_size: int) -> None:
    """Raises `ConfigError` for a source whose share of a batch is larger than the source."""
    for source, share in zip(sources, shares(sources), strict=True):
        if share * batch_size > len(source.prompts) + 1e-9:
            raise ConfigError(
                f"data.train: source {source.name!r} has {len(source.prompts)} prompts, and its weight gives it "
                f"{share * batch_size:.1f} of the {batch_size} of a step; lower its weight or run.prompts_per_step, "
                "or give it more prompts"
            )


def _check_same(name: str, saved: object, mine: object) -> None:
    if saved != mine:
        raise ConfigError(
            f"the checkpoint's prompt cursor has {name} {saved!r}, this run has {mine!r}; "
            "resume with the data, data.shuffle and run.seed that the checkpoint was made with"
        )


def _identity(source: PromptSource) -> dict[str, Any]:
    """What a cursor belongs to: name, weight, and the prompts as their number and a hash of their ids, in order."""
    ids = "\x1f".join(prompt.prompt_id for prompt in source.prompts)
    fingerprint = f"{len(source.prompts)}:{hashlib.blake2b(ids.encode(), digest_size=8).hexdigest()}"
    return {"name": source.name, "weight": source.weight, "prompts": fingerprint}
