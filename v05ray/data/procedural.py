"""Generated tasks of `reasoning-gym`: 106 kinds with difficulty knobs, each with its own scorer.

    {name: reasoning_gym, task: chain_sum, size: 2000, seed: 1, parameters: {min_terms: 2, max_terms: 2}}
    {name: reasoning_gym, size: 2000, tasks: [{task: chain_sum, weight: 2}, {task: gcd, parameters: {max_value: 50}}]}

Small tasks have few distinct questions (20 sums of two digits repeat soon), so questions are generated until `size`
distinct ones are found. A task that keeps repeating itself is exhausted: then the error says how many there are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from v05ray.data.rows import Row
from v05ray.data.sources import Source, sources
from v05ray.errors import ConfigError
from v05ray.registry import suggest
from v05ray.seeding import derive_seed

PATIENCE = 2_000
"""A task is exhausted after this many questions in a row that were all seen before. With N equally likely questions,
the last unseen one is missed with probability (1 - 1/N)^2000: 0.00005 at N = 200."""
CHUNK = 500
"""Questions per `reasoning_gym` data set: some tasks make all of theirs at once."""


@dataclass(frozen=True)
class _Task:
    name: str
    weight: float = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict)


@sources.register("reasoning_gym")
def reasoning_gym(
    size: int,
    seed: int,
    task: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    tasks: Sequence[Mapping[str, Any]] | None = None,
) -> Source:
    """`size` distinct questions of one task, or of a weighted mix; the metadata is what the task's scorer reads."""
    if size < 1:
        raise ConfigError(f"size must be at least 1, got {size}")
    if (task is None) == (tasks is None):
        raise ConfigError("it needs either `task` (one) or `tasks` (a mix)")
    if tasks is not None and parameters is not None:
        raise ConfigError("give `parameters` inside each entry of `tasks`")
    wanted = [_Task(task, parameters=parameters or {})] if task is not None else [_task(one) for one in tasks or ()]
    if not wanted:
        raise ConfigError("`tasks` is empty")
    generators = [_Questions(one, derive_seed("reasoning_gym", seed, i, one.name)) for i, one in enumerate(wanted)]
    rows = _mix(generators, [one.weight for one in wanted], Random(derive_seed("mix", seed)))
    return Source(rows, f"reasoning_gym {' + '.join(one.name for one in wanted)}", size)


def _task(entry: Mapping[str, Any]) -> _Task:
    valid = ("task", "weight", "parameters")
    for key in entry:
        if key not in valid:
            raise ConfigError(f"a mix entry has no {key!r}{suggest(key, valid)}")
    if "task" not in entry:
        raise ConfigError(f"a mix entry needs `task`, got {dict(entry)}")
    weight = float(entry.get("weight", 1.0))
    if not 0 < weight < float("inf"):
        raise ConfigError(f"weight of {entry['task']!r} must be above 0, got {weight}")
    return _Task(str(entry["task"]), weight, entry.get("parameters") or {})


class _Questions:
    """Distinct questions of one task, in a stable order, until it is exhausted."""

    def __init__(self, task: _Task, seed: int) -> None:
        self.name = task.name
        self._task, self._seed = task, seed
        self._index = 0
        self._dataset = self._chunk()
        self._seen: set[str] = set()
        _check_survives_json(task.name, self._dataset, self._dataset[0])

    def _chunk(self) -> Any:
        return _create(self._task, derive_seed("chunk", self._seed, self._index // CHUNK))

    def next_row(self) -> Row | None:
        """The next question not seen before; None once exhausted."""
        for _ in range(PATIENCE):
            entry = self._dataset[self._index % CHUNK]
            self._index += 1
            if self._index % CHUNK == 0:
                self._dataset = self._chunk()
            if entry["question"] not in self._seen:
                self._seen.add(entry["question"])
                return self._row(entry)
        return None

    def _row(self, entry: Mapping[str, Any]) -> Row:
        plain = json.loads(json.dumps(entry))
        return Row(
            messages=(("user", plain["question"]),),
            answer="" if plain["answer"] is None else str(plain["answer"]),
            source=self.name,
            where=f"reasoning_gym {self.name}:{self._index}",
            metadata={"task": self.name, "entry": plain},
        )


def _mix(generators: Sequence[_Questions], weights: Sequence[float], rng: Random) -> Iterator[Row]:
    """Draws from the tasks by weight; a task of which all questions are out leaves the mix."""
    open_tasks, open_weights = list(generators), list(weights)
    while open_tasks:
        (i,) = rng.choices(range(len(open_tasks)), open_weights)
        row = open_tasks[i].next_row()
        if row is None:
            del open_tasks[i], open_weights[i]
        else:
            yield row


def _create(task: _Task, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task.name not in DATASETS:
        raise ConfigError(f"reasoning_gym has no task {task.name!r}{suggest(task.name, DATASETS)}")
    config_class = DATASETS[task.name][1]
    valid = set(config_class.__dataclass_fields__) - {"seed", "size"}
    for parameter in task.parameters:
        if parameter not in valid:
            raise ConfigError(f"task {task.name!r} has no parameter {parameter!r}{suggest(parameter, valid)}")
    try:
        return reasoning_gym.create_dataset(task.name, seed=seed, size=CHUNK, **task.parameters)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"task {task.name!r} refuses its parameters {dict(task.parameters)}: {error}") from error


def _check_survives_json(name: str, dataset: Any, entry: Mapping[str, Any]) -> None:
    """Metadata crosses processes as JSON; a scorer that compares tuples would then call every right answer wrong."""
    try:
        plain = json.loads(json.dumps(entry))
    except TypeError as error:
        raise ConfigError(f"task {name!r} cannot be used: its metadata is not JSON ({error})") from error
    answer = entry["answer"]
    if isinstance(answer, str) and dataset.score_answer(answer, entry) != dataset.score_answer(answer, plain):
        raise ConfigError(f"task {name!r} cannot be used: its scorer does not accept its own metadata after JSON")
