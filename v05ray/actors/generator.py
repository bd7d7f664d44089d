"""A generator actor: one vLLM engine in a process of its own, and the port that the pool draws through."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, OutOfDiskError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.loss import fault, reason
from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.ports import GeneratorLost, Served, Weights
from v05ray.types import DrawRequest, Rollout
from v05ray.weights import Chains, Receiver


class GeneratorActor:
    """The engine's process. The actor ends when the engine does."""

    def __init__(self, config: Config, generator_id: str) -> None:
        from v05ray.generation.engine import Engine

        end_with_parent()
        self._receiver, self._keeps = Receiver(), config.sends_deltas
        self._engine = Engine(config.model.path, config.generators, config.model, generator_id=generator_id)

    async def ready(self) -> None:
        """Returns once the engine can take work."""
        await self._engine.ready()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """All rollouts of the request, in the order of its sample indices."""
        return await self._engine.draw(request)

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's unfinished rollouts."""
        await self._engine.abort(prompt_id)

    async def load_weights(self, weights: Weights) -> Served:
        """Fetches what it lacks, then serves the version, and proves that where it is asked to."""
        start = time.perf_counter()
        chains: Chains = weights.payload
        links = self._receiver.missing(chains)
        fetched = [await asyncio.gather(*(link.reference for link in of_bucket)) for of_bucket in links]
        buckets = self._receiver.assemble(chains, fetched, keep=self._keeps)
        version = await self._engine.load_weights(weights.version, buckets)
        loaded = time.perf_counter()
        proof = await self._engine.prove(weights.probe) if weights.proof is not None else None
        num_bytes = sum(link.num_bytes for of_bucket in links for link in of_bucket)
        return Served(version, proof, num_bytes, loaded - start, time.perf_counter() - loaded)

    async def stats(self) -> dict[str, float]:
        """Memory, live requests, version."""
        return dict(self._engine.stats())


class RayGenerator:
    """Implements `ports.Generator`; starts its actor when first asked for it, and again in the same place after a loss.

    Until then it is a plain value, so it can be sent to the scheduler, whose process then owns the actor.
    """

    def __init__(
        self, generator_id: str, config: Config, place: PlacementGroupSchedulingStrategy, namespace: str | None = None
    ) -> None:
        """`namespace`: where the actor is to be found under the name `ID:...`; None gives it no name."""
        self._id, self._config, self._place, self._namespace = generator_id, config, place, namespace
        self._actor: Any = None

    @property
    def generator_id(self) -> str:
        """The replica's name, the same over restarts."""
        return self._id

    def _start(self) -> None:
        from v05ray.generation.environment import environment

        settings = self._config.generators
        # A name of its own for every start: the one before may still exist for a moment.
        name = {"name": f"{self._id}:{uuid4().hex[:8]}", "namespace": self._namespace} if self._namespace else {}
        self._actor = (
            ray.remote(GeneratorActor)
            .options(
                num_cpus=settings.num_cpus * settings.tensor_parallel,
                num_gpus=settings.num_gpus * settings.tensor_parallel,
                max_concurrency=10_000,
                scheduling_strategy=self._place,
                runtime_env={"env_vars": environment(settings)},
                **name,
            )
            .remote(self._config, self._id)
        )

    async def ready(self) -> None:
        """Waits for the engine, however long it loads."""
        if self._actor is None:
            self._start()
        await self._call("ready")

    async def restart(self) -> None:
        """Kills what is left of the actor and starts another one."""
        ray.kill(self._actor, no_restart=True)
        self._start()

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """All rollouts of the request, in the order of its sample indices."""
        return await self._call("draw", request)

    async def abort(self, prompt_id: str) -> None:
        """Ends a prompt's unfinished rollouts."""
        await self._call("abort", prompt_id)

    async def load_weights(self, weights: Weights) -> Served:
        """Serves the version from now on, once every tensor is in place."""
        return await self._call("load_weights", weights)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """One call of the actor; its death is `GeneratorLost`, and so is a failed start or weight update.

        An error in the code of a draw is raised as it is: another generator would raise it too. So is a `ConfigError`,
        which another start would raise again, whichever call reports it.
        """
        from v05ray.generation.engine import EngineDead

        try:
            return await getattr(self._actor, method).remote(*arguments)
        except (RayActorError, GetTimeoutError) as error:
            if isinstance(refused := fault(error), ConfigError):
                raise refused from error
            raise GeneratorLost(f"{self._id}: {reason(error)}") from error
        except RayTaskError as error:
            if isinstance(refused := fault(error), ConfigError):
                raise refused from error
            if isinstance(error.cause, EngineDead) or method in ("ready", "load_weights"):
                no_room = isinstance(error.cause, OutOfDiskError | ObjectStoreFullError)
                raise GeneratorLost(f"{self._id}: {error.cause!r}", no_room=no_room) from error
            raise
