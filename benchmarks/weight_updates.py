"""What a weight update costs: whole or as a delta, with a proof and without, after real learner steps.

    python -m benchmarks.weight_updates [jobs/smollm2_cpu.yaml] [--rates 1e-6 2e-5] [--steps 6] [--dtype bfloat16]

One learner rank and one generator, actors as in a run, on the job's model, prompts and verifier. Each step draws a few
rollouts a prompt, learns from them (advantage: reward less the group's mean), and then sends the new weights three
times, in an order that rotates: whole, as a delta from the step before, whole with a proof. Prints a line per step and
the medians. `send` is what the learner takes to gather, compare and put the weights into the object store (with a
proof, to checksum them too), `load` what the generator takes to fetch and load them, `proof` what it takes to read them
back, and both to compute the probe's log-probabilities.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
import torch

from v05ray.actors.generator import GeneratorActor
from v05ray.actors.learner import LearnerActor, RayLearnerGroup
from v05ray.actors.placement import on, reserve
from v05ray.config import Config
from v05ray.data.loading import load_prompts
from v05ray.generation.environment import environment as generator_environment
from v05ray.job.config_files import load_config
from v05ray.job.preflight import load_tokenizer
from v05ray.launch.training import cluster
from v05ray.learning.environment import environment as learner_environment
from v05ray.machine import layout
from v05ray.ports import Served, Weights
from v05ray.rewards.verifiers import verifiers
from v05ray.seeding import rollout_seed
from v05ray.training.agreement import bound
from v05ray.training.proving import make_probe, with_probe
from v05ray.types import DrawRequest, ProbeSequence, Prompt, TrainSample
from v05ray.weights import Receiver, Sender, difference

WAYS = ("whole", "delta", "whole, proved")
MIB = 2**20


class Learner(LearnerActor):
    """A rank with two ways to send."""

    def put_by(self, version: int, way: str) -> tuple[Weights, float]:
        """(weights, seconds)."""
        senders = self.__dict__.setdefault("_senders", {"delta": Sender(True), "whole": Sender(False)})
        self._sender = senders["delta" if way == "delta" else "whole"]
        every = 1 if way == "whole, proved" else 0
        weights = self._config.weights.model_copy(update={"verify_every": every})
        self._config = self._config.model_copy(update={"weights": weights})
        start = time.perf_counter()
        return self.put_weights(version), time.perf_counter() - start


class Generator(GeneratorActor):
    """An engine with two ways to receive."""

    async def load_by(self, weights: Weights, way: str) -> Served:
        """As `load_weights`."""
        receivers = self.__dict__.setdefault("_receivers", {"delta": Receiver(), "whole": Receiver()})
        self._receiver, self._keeps = receivers["delta" if way == "delta" else "whole"], way == "delta"
        return await self.load_weights(weights)


@dataclass(frozen=True)
class Update:
    """One update by one way, in seconds and bytes."""

    way: str
    send_s: float
    load_s: float
    proof_s: float
    num_bytes: int
    share_changed: float | None


@dataclass
class Bench:
    """A learner and a generator at one learning rate."""

    config: Config
    learner: Any
    generator: Any
    prompts: Sequence[Prompt]
    rollouts_per_prompt: int
    version: int = 0
    probe: tuple[ProbeSequence, ...] = ()

    async def learn(self, step: int) -> tuple[float, float]:
        """Draws, scores, steps; (mean reward, seconds of learning)."""
        samples, rewards = [], []
        verifier = verifiers.build("last_integer", {})
        drawn = await asyncio.gather(*(self.generator.draw.remote(self._request(p, step)) for p in self.prompts))
        for prompt, rollouts in zip(self.prompts, drawn, strict=True):
            scores = [1.0 if verifier(prompt, rollout.text) else -1.0 for rollout in rollouts]
            rewards += scores
            for rollout, score in zip(rollouts, scores, strict=True):
                advantages = (score - fmean(scores),) * len(rollout.token_ids)
                samples.append(
                    TrainSample(
                        prompt.prompt_id,
                        prompt.token_ids,
                        rollout.token_ids,
                        rollout.logprobs,
                        advantages,
                        rollout.loss_mask,
                        step,
                    )
                )
        start = time.perf_counter()
        await self.learner.accumulate.remote(samples)
        await self.learner.step.remote()
        self.probe = self.probe or make_probe(samples, self.config.model.max_length)
        return fmean(rewards), time.perf_counter() - start

    def _request(self, prompt: Prompt, step: int) -> DrawRequest:
        indices = tuple(range(self.rollouts_per_prompt))
        seeds = tuple(rollout_seed(0, step, prompt.prompt_id, index) for index in indices)
        return DrawRequest(prompt.prompt_id, prompt.token_ids, indices, seeds, self.config.sampling.draws())

    async def update(self, way: str) -> Update:
        """Sends the weights, and fails where the generator's proof is not the learner's."""
        self.version += 1
        weights, send_s = await self.learner.put_by.remote(self.version, way)
        start = time.perf_counter()
        group = RayLearnerGroup([self.learner], timeout_s=600)
        weights = await with_probe(self.config, weights, self.probe, group)
        probe_s = time.perf_counter() - start if weights.probe else 0.0
        served: Served = await self.generator.load_by.remote(weights, way)
        if weights.proof is not None:
            assert served.proof is not None
            wrong = difference(weights.proof, served.proof, bound(self.config.model))
            assert wrong is None, wrong
        return Update(way, send_s, served.load_s, probe_s + served.proof_s, weights.num_bytes, weights.share_changed)


async def measure(config: Config, options: argparse.Namespace) -> list[Update]:
    """All updates at the config's learning rate."""
    groups = await reserve(layout.roles(config), wait_s=60)
    tokenizer = load_tokenizer(config)
    prompts = load_prompts(config.data.train, config.data, tokenizer, max_prompt_tokens=128, seed=0, limit=512)
    random.Random(0).shuffle(prompts)  # they come one source after the other
    learner = _start(Learner, learner_environment(config.learner), on(groups["learner"]), config, 0)
    generator = _start(Generator, generator_environment(config.generators), on(groups["generator-0"]), config, "g")
    address, port = await learner.address.remote()
    await asyncio.gather(learner.setup.remote(address, port), generator.ready.remote())
    bench = Bench(config, learner, generator, (), options.rollouts)
    for way in WAYS[:2]:  # the base of the first delta; memory that is touched for the first time
        await bench.update(way)
    updates: list[Update] = []
    for step in range(options.steps):
        bench.prompts = prompts[step * options.prompts :][: options.prompts]
        reward, learn_s = await bench.learn(step)
        order = WAYS[step % 3 :] + WAYS[: step % 3]
        done = {way: await bench.update(way) for way in order}
        updates += done.values()
        line = f"step {step}: reward {reward:+.2f}, learning {learn_s:.1f} s; "
        print(line + "; ".join(map(shown, done.values())), flush=True)
    ray.kill(learner)
    ray.kill(generator)
    for group in groups.values():
        ray.util.remove_placement_group(group)
    return updates


def _start(actor: type, variables: dict[str, str], place: Any, *arguments: Any) -> Any:
    options = {"runtime_env": {"env_vars": variables}, "scheduling_strategy": place, "num_cpus": 0.25}
    return ray.remote(actor).options(**options).remote(*arguments)


def shown(update: Update) -> str:
    """One update in a few words."""
    share = "" if update.share_changed is None else f", {update.share_changed:.2%} changed"
    proof = f", proof {update.proof_s:.2f} s" if update.proof_s else ""
    seconds = f"send {update.send_s:.2f} s, load {update.load_s:.2f} s{proof}"
    return f"{update.way}: {update.num_bytes / MIB:.1f} MiB{share}, {seconds}"


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, nargs="?", default=Path("jobs/smollm2_cpu.yaml"))
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 2e-5])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rollouts", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = parser.parse_args()
    print(f"{torch.backends.cpu.get_cpu_capability()}, {options.threads} threads, {options.dtype}")
    for rate in options.rates:
        overrides = [f"learner.learning_rate={rate}", "learner.warmup_steps=0", f"model.dtype={options.dtype}"]
        overrides.append("cluster.object_store_mib=2048")  # two senders' weights at once, none of them on disk
        overrides += [f"{role}.num_threads={options.threads}" for role in ("learner", "generators")]
        config = load_config(options.job, overrides)
        print(f"learning rate {rate:g}")
        with cluster(config, Path(tempfile.mkdtemp(prefix="v05w-")) / "logs"):
            updates = asyncio.run(measure(config, options))
        for way, of_way in groupby(sorted(updates, key=lambda one: one.way), key=lambda one: one.way):
            print("median of", shown(median(way, list(of_way))), flush=True)


def median(way: str, updates: Sequence[Update]) -> Update:
    """Each figure's median; the share changed is that of the deltas."""
    shares = [one.share_changed for one in updates if one.share_changed is not None]
    middle = {
        name: statistics.median(getattr(one, name) for one in updates)
        for name in ("send_s", "load_s", "proof_s", "num_bytes")
    }
    return replace(updates[0], way=way, share_changed=statistics.median(shares) if shares else None, **middle)


if __name__ == "__main__":
    main()
