"""The value pool's actors: one V0 each, and the places of those that come and go."""

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.placement import on, request_group, until_placed
from v05ray.config import Config, ValueConfig
from v05ray.machine import layout
from v05ray.scheduling.predictors import Predictor, chunks
from v05ray.types import Prior, Prompt, SupportExample


class ValueActor:
    """Predictions are a pure function of their arguments, so a call lost with the actor is simply made again."""

    def __init__(self, config: ValueConfig, cache: Path) -> None:
        from v05ray.value.model import ValueModel

        end_with_parent()
        self._model = ValueModel.load(config, cache=cache)

    def describe(self) -> str:
        """One line: which backend, and why."""
        return self._model.choice

    def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order; computed chunk by chunk."""
        parts = [
            self._model.predict(part, support, policy_version=policy_version, seed=seed) for part in chunks(prompts)
        ]
        return [prior for part in parts for prior in part]


class RayPredictor:
    """Implements `scheduling.predictors.Predictor`."""

    def __init__(self, predictor_id: str, actor: Any) -> None:
        self._id, self.actor = predictor_id, actor

    @property
    def predictor_id(self) -> str:
        """`value-0`, `value-1`, ..."""
        return self._id

    async def ready(self) -> None:
        """Returns once the model is loaded."""
        await self.describe()

    async def describe(self) -> str:
        """One line: which backend, and why."""
        return await self.actor.describe.remote()

    async def predict(
        self, prompts: Sequence[Prompt], support: Sequence[SupportExample], *, policy_version: int, seed: int
    ) -> list[Prior]:
        """One prior per prompt, in order."""
        return await self.actor.predict.remote(prompts, support, policy_version, seed)


def predictors(actors: Sequence[Any]) -> list[RayPredictor]:
    """`value-0`, `value-1`, ..."""
    return [RayPredictor(f"value-{index}", actor) for index, actor in enumerate(actors)]


def start_values(config: Config, group: PlacementGroup, cache: Path) -> list[RayPredictor]:
    """The `value.pool_size` that a run starts with, each in its bundle of the group."""
    return predictors([_start(config, group, index, cache) for index in range(config.value.pool_size)])


def _start(config: Config, group: PlacementGroup, bundle: int, cache: Path, **name: str) -> Any:
    variables = {"OMP_NUM_THREADS": str(config.value.num_threads), "HF_HUB_OFFLINE": "1"}
    actor: Any = ray.remote(ValueActor)
    return actor.options(
        num_cpus=config.value.num_cpus,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=on(group, bundle),
        runtime_env={"env_vars": variables},
        **name,
    ).remote(config.value, cache)


class ValuePlaces:
    """Implements `scheduling.fleet.Places`: a placement group for every value actor beyond `value.pool_size`."""

    def __init__(
        self, config: Config, groups: MutableMapping[str, PlacementGroup], cache: Path, namespace: str
    ) -> None:
        """`groups` holds those that there are, by role name, and is kept up to date."""
        self._config, self._groups, self._cache, self._namespace = config, groups, cache, namespace

    async def take(self, name: str) -> Predictor:
        """Waits as long as it takes; cancelled, it withdraws the request."""
        group = request_group(layout.value_role(self._config, name))
        self._groups[name] = group
        try:
            await until_placed(group)
        except BaseException:
            await self.give_back(name)
            raise
        known_as = {"name": f"{name}:{uuid4().hex[:8]}", "namespace": self._namespace}
        return RayPredictor(name, _start(self._config, group, 0, self._cache, **known_as))

    async def give_back(self, name: str) -> None:
        """Ends the value actor by removing its placement group."""
        remove_placement_group(self._groups.pop(name))
