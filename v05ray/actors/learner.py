"""The learner gang: one DeepSpeed rank per actor, called together, and given up together when one fails."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup

from v05ray.actors.lifeline import end_with_parent
from v05ray.actors.loss import describe_loss, fault, reason
from v05ray.actors.placement import on
from v05ray.config import Config
from v05ray.errors import ConfigError
from v05ray.ports import PendingCall, RoleLost, Weights
from v05ray.stopping.outstanding import Outstanding
from v05ray.types import TrainSample, WeightsProof
from v05ray.weights import Sender, checksum, pack

if TYPE_CHECKING:
    from torch import Tensor

SETUP_TIMEOUT_S = 1200.0
"""Longest start of the gang, where `learner.timeout_s` is shorter: processes, libraries and the model are loaded."""
DEATH_NOTICE_S = 10.0
"""How long Ray may take to say that a rank is dead, once its peers have lost their connection to it."""


class LearnerActor:
    """One rank's process."""

    def __init__(self, config: Config, rank: int) -> None:
        from v05ray.learning.learner import Learner

        learner = config.learner
        end_with_parent()
        self._config = config
        self._sender = Sender(config.sends_deltas)
        self._learner = Learner(
            rank,
            learner.num_ranks,
            config.model,
            learner,
            seed=config.run.seed,
            temperature=config.sampling.temperature,
            max_response_tokens=config.sampling.max_tokens,
            num_steps=config.run.num_steps,
        )

    def address(self) -> tuple[str, int]:
        """This rank's node and a port that is free on it, for the gang to meet at."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def setup(self, address: str, port: int) -> None:
        """Joins the gang, loads the model."""
        self._learner.setup(address, port)

    def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Forward and backward on this rank's share."""
        self._learner.accumulate(samples)

    def logprobs(
        self, samples: Sequence[TrainSample], share_prefix: bool, temperature: float | None
    ) -> dict[int, list[float]]:
        """Log-probabilities of this rank's share."""
        return self._learner.logprobs(samples, share_prefix=share_prefix, temperature=temperature)

    def start_updates(self) -> int:
        """How many updates are to be made of what was accumulated."""
        return self._learner.start_updates()

    def update(self) -> None:
        """One of them."""
        self._learner.update()

    def step(self) -> dict[str, float]:
        """Those that are left; the metrics of all."""
        return self._learner.step()

    def abandon(self) -> None:
        """Ends the work, so that it can be saved as it was after the last step."""
        self._learner.abandon()

    def put_weights(self, version: int) -> Weights:
        """On rank 0 the packed buckets, or what changed of them, in the object store; the others only gather."""
        proves = self._config.weights.proves(version, self._learner.num_parameters)
        checksums: dict[str, int | None] = {}

        def named() -> "Iterator[tuple[str, Tensor]]":
            for name, tensor in self._learner.export_weights():
                if proves:
                    checksums[name] = checksum(tensor)
                yield name, tensor

        self._sender.begin()
        sent = []
        for bucket in pack(named(), version=version):
            part = self._sender.link(bucket)
            sent.append((part, ray.put(part)))
        num_bytes = sum(part.num_bytes for part, _ in sent)
        proof = WeightsProof(checksums) if checksums else None
        return Weights(version, self._sender.chains(sent), num_bytes, self._sender.share_changed, proof)

    def save(self, folder: Path) -> None:
        """The state of this rank."""
        self._learner.save(folder)

    def load(self, folder: Path) -> None:
        """What `save` wrote."""
        self._learner.load(folder)

    def export(self, folder: Path) -> None:
        """The policy as a Hugging Face folder (written by rank 0)."""
        self._learner.export_hf(folder)


class RayLearnerGroup:
    """Implements `ports.LearnerGroup`. The first rank's failure ends every call: a hung peer is never waited for."""

    def __init__(self, actors: Sequence[Any], *, timeout_s: float) -> None:
        """`actors` by rank; a collective call may take `timeout_s` seconds."""
        self.actors, self._timeout_s = list(actors), timeout_s
        self._given = Outstanding()

    async def setup(self) -> None:
        """Brings the gang up."""
        places = await asyncio.gather(*(rank.address.remote() for rank in self.actors))
        address, port = places[0]
        if len({host for host, _ in places}) == 1:
            address = "127.0.0.1"  # one machine: nothing has to cross a network
        await self._all("setup", address, port)

    async def accumulate(self, samples: Sequence[TrainSample]) -> None:
        """Forward and backward; every rank takes its own share of the samples."""
        await self._all("accumulate", ray.put(list(samples)))

    async def logprobs(
        self, samples: Sequence[TrainSample], *, share_prefix: bool, temperature: float | None = None
    ) -> list[list[float]]:
        """Of every sample, in order, put together from the ranks' shares."""
        shares = await self._all("logprobs", ray.put(list(samples)), share_prefix, temperature)
        found = {index: logprobs for share in shares for index, logprobs in share.items()}
        return [found[index] for index in range(len(samples))]

    async def step(self, updated: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One optimiser update, or several; rank 0's metrics, which are those of all."""
        # Call by call, so that a rank that stands still is found within one update's time.
        for _ in range((await self._all("start_updates"))[0] - 1):
            await self._all("update")
            updated()
        return (await self._all("step"))[0]

    async def abandon(self) -> None:
        """No step is made of what was accumulated."""
        await self._all("abandon")

    async def weights(self, version: int) -> Weights:
        """Packed into the object store by rank 0."""
        return (await self._all("put_weights", version))[0]

    async def save(self, folder: Path) -> None:
        """Every rank's state."""
        await self._all("save", folder)

    async def load(self, folder: Path) -> None:
        """What `save` wrote."""
        await self._all("load", folder)

    async def export(self, folder: Path) -> None:
        """The policy as a Hugging Face folder."""
        await self._all("export", folder)

    async def waiting(self) -> Sequence[PendingCall]:
        """Ranks that have not answered, and what they were asked."""
        return self._given.pending()

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """One collective call.

        Raises the first failure, or `RoleLost` naming the ranks that died, or those that did not answer within
        `learner.timeout_s`.
        """
        calls = [
            asyncio.ensure_future(self._call(rank, method, getattr(actor, method).remote(*arguments)))
            for rank, actor in enumerate(self.actors)
        ]
        timeout_s = max(self._timeout_s, SETUP_TIMEOUT_S) if method == "setup" else self._timeout_s
        done, pending = await asyncio.wait(calls, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
        refused = any(isinstance(fault(error), ConfigError) for call in done if (error := call.exception()))
        if pending and not refused and any(call.exception() for call in done):
            # A dead rank's peers fail first, with an error of their own about a broken connection: ask who died.
            _, pending = await asyncio.wait(pending, timeout=DEATH_NOTICE_S, return_when=asyncio.FIRST_EXCEPTION)
        for call in pending:
            call.cancel()
        ended = {rank: call.exception() for rank, call in enumerate(calls) if call not in pending}
        failed = {rank: error for rank, error in ended.items() if error is not None}
        dead = {rank: reason(error) for rank, error in failed.items() if describe_loss(error)}
        if dead:
            ranks = ", ".join(map(str, dead))
            raise RoleLost(f"learner rank {ranks} was lost in {method!r} ({next(iter(dead.values()))})")
        for error in failed.values():
            raise error
        if pending:
            silent = ", ".join(str(rank) for rank, call in enumerate(calls) if call in pending)
            raise RoleLost(
                f"learner rank {silent} (of {len(calls)}) did not finish {method!r} within {timeout_s:g} s; "
                "raise learner.timeout_s if the work is that long"
            )
        return [call.result() for call in calls]

    async def _call(self, rank: int, method: str, reference: Any) -> Any:
        with self._given(f"learner rank {rank}", method):
            return await reference


def start_learners(config: Config, group: PlacementGroup) -> RayLearnerGroup:
    """One actor per rank, each in its bundle of the gang's place; `setup` brings them together."""
    from v05ray.learning.environment import environment

    learner = config.learner
    return RayLearnerGroup(
        [
            ray.remote(LearnerActor)
            .options(
                num_cpus=learner.num_cpus,
                num_gpus=learner.num_gpus,
                max_restarts=0,
                scheduling_strategy=on(group, rank),
                runtime_env={"env_vars": environment(learner)},
            )
            .remote(config, rank)
            for rank in range(learner.num_ranks)
        ],
        timeout_s=learner.timeout_s,
    )
