"""The engine's thread over a scripted core: what is answered, refused, restarted and reported at the end.

The scripted core makes one token of every live request a step; a request asks for `seed` tokens of them.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.errors import ConfigError
from v05ray.generation.core import Output
from v05ray.generation.engine import Engine, EngineDead
from v05ray.types import DrawRequest, ProbeSequence, Sampling
from v05ray.weights import Bucket, WeightsError, pack

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=100)
FOREVER = 1_000_000


@dataclass
class ScriptedCore:
    """`engine.Core`: every token of a request is the number of the bundle it was made with."""

    fail_load: Exception | None = None
    fail_step: Exception | None = None
    refused_seed: int | None = None
    live: dict[str, tuple[int, list[int]]] = field(default_factory=dict)
    probes: dict[str, ProbeSequence] = field(default_factory=dict)
    served: int = 0
    closed: bool = False
    pause_at: int | None = None
    """The step, counted from 1, that says so (`paused`) and waits for `go`."""
    num_steps: int = 0
    num_added: int = 0
    paused: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def add(self, request_id: str, token_ids: Sequence[int], seed: int, sampling: Sampling) -> None:
        if seed == self.refused_seed:
            raise ConfigError(f"seed {seed} is refused")
        self.num_added += 1
        self.live[request_id] = (seed, [])

    def add_probe(self, request_id: str, sequence: ProbeSequence) -> None:
        if not sequence.response_ids:
            raise ConfigError("a probe of no tokens")
        self.probes[request_id] = sequence

    def checksums(self) -> dict[str, int | None]:
        return {"w": self.served}

    def step(self) -> list[Output]:
        self.num_steps += 1
        if self.num_steps == self.pause_at:
            self.paused.set()
            assert self.go.wait(20)
        if self.fail_step is not None:
            raise self.fail_step
        for _, tokens in self.live.values():
            tokens.append(self.served)
        ended = [name for name, (seed, tokens) in self.live.items() if len(tokens) == seed]
        probed = [
            Output(name, (0,), (-9.0,), "length", given_logprobs=tuple(-0.1 * token for token in one.response_ids))
            for name, one in self.probes.items()
        ]
        self.probes.clear()
        return [*probed, *(self._take(name, aborted=False) for name in ended)]

    def abort(self, request_ids: Iterable[str]) -> list[Output]:
        for name in (names := list(request_ids)):
            self.probes.pop(name, None)
        return [self._take(name, aborted=True) for name in names if name in self.live]

    def _take(self, name: str, *, aborted: bool) -> Output:
        tokens = tuple(self.live.pop(name)[1])
        return Output(name, tokens, (-0.5,) * len(tokens), "abort" if aborted else "stop")

    def check(self, buckets: Iterable[Bucket]) -> None:
        if [entry.name for bucket in buckets for entry in bucket.entries] != ["w"]:
            raise WeightsError("not the model's tensors")

    def load(self, buckets: Iterable[Bucket]) -> None:
        assert not self.live
        assert not self.probes
        if self.fail_load is not None:
            raise self.fail_load
        self.served = next(iter(buckets)).version

    def decode(self, output: Output) -> str:
        return "/".join(map(str, output.token_ids))

    def close(self) -> None:
        self.closed = True


def bundle(version: int, name: str = "w") -> list[Bucket]:
    return list(pack([(name, torch.zeros(2))], version=version))


def ask(prompt_id: str, *seeds: int) -> DrawRequest:
    return DrawRequest(prompt_id, (1, 2), tuple(range(len(seeds))), seeds, SAMPLING)


def started(core: ScriptedCore) -> Engine:
    model = ModelConfig(path=Path("unused"), max_length=16)
    return Engine("unused", GeneratorsConfig(), model, generator_id="g0", make_core=lambda: core)


@pytest.fixture
def core() -> ScriptedCore:
    return ScriptedCore()


@pytest.fixture
def engine(core: ScriptedCore) -> Iterator[Engine]:
    engine = started(core)
    yield engine
    engine.close()
    assert core.closed


async def live(engine: Engine, count: int) -> None:
    async with asyncio.timeout(20):
        while engine.stats()["live_requests"] != count:  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.001)


async def test_a_draw_keeps_the_order_of_its_samples_whatever_ends_first(engine: Engine):
    await engine.ready()
    rollouts = await engine.draw(ask("p", 5, 1, 3))
    assert [len(r.token_ids) for r in rollouts] == [5, 1, 3]
    assert [r.sample_index for r in rollouts] == [0, 1, 2]
    assert rollouts[1].text == "0"
    assert rollouts[2].logprobs == (-0.5, -0.5, -0.5)
    assert {(r.prompt_id, r.generator_id, r.policy_version) for r in rollouts} == {("p", "g0", 0)}
    assert engine.stats()["tokens_generated"] == 9


async def test_one_prompt_drawn_twice_at_once_gives_two_answers(engine: Engine):
    first, second = await asyncio.gather(engine.draw(ask("p", 2)), engine.draw(ask("p", 4)))
    assert [len(first[0].token_ids), len(second[0].token_ids)] == [2, 4]


async def test_abort_ends_one_prompt_and_leaves_the_others(engine: Engine):
    aborted = asyncio.create_task(engine.draw(ask("long", FOREVER, 1)))
    other = asyncio.create_task(engine.draw(ask("other", FOREVER)))
    await live(engine, 2)
    assert await engine.abort("long") == 1
    assert [r.finish_reason for r in await aborted] == ["abort", "stop"]
    assert not other.done()
    assert await engine.abort("unknown") == 0
    assert await engine.abort("other") == 1
    assert (await other)[0].finish_reason == "abort"


async def test_a_draw_is_refused_whole(engine: Engine, core: ScriptedCore):
    core.refused_seed = 7
    with pytest.raises(ConfigError, match="seed 7 is refused"):
        await engine.draw(ask("p", FOREVER, 7))
    assert core.live == {}
    assert engine.stats()["live_requests"] == 0
    assert len(await engine.draw(ask("p", 1))) == 1


async def test_an_interrupted_draw_starts_again_and_is_of_one_version(engine: Engine, core: ScriptedCore):
    core.pause_at = 10
    drawing = asyncio.create_task(engine.draw(ask("p", 2, 40)))
    await asyncio.to_thread(core.paused.wait, 20)  # by now the short one has ended, on version 0
    assert engine.stats()["live_requests"] == 1
    loading = asyncio.create_task(engine.load_weights(4, bundle(4)))
    await asyncio.sleep(0)
    core.go.set()
    assert await loading == 4
    rollouts = await drawing
    assert [set(r.token_ids) for r in rollouts] == [{4}, {4}]
    assert [len(r.token_ids) for r in rollouts] == [2, 40]
    assert {r.policy_version for r in rollouts} == {4}


@pytest.mark.parametrize(
    ("buckets", "message"),
    [(bundle(5), "got buckets of version 5"), ([], "no buckets came"), (bundle(6, "other"), "not the model's")],
)
async def test_a_refused_bundle_changes_nothing(engine: Engine, core: ScriptedCore, buckets: list, message: str):
    drawing = asyncio.create_task(engine.draw(ask("p", FOREVER)))
    await live(engine, 1)
    with pytest.raises(WeightsError, match=message):
        await engine.load_weights(6, buckets)
    assert engine.version == core.served == 0
    await engine.abort("p")
    assert set((await drawing)[0].token_ids) <= {0}
    assert core.num_added == 1  # it was not started again


@pytest.mark.parametrize("error", [OSError("half way"), WeightsError("half way"), ConfigError("half way")])
async def test_a_load_that_fails_half_way_ends_the_engine(error: Exception):
    core = ScriptedCore(fail_load=error)
    engine = started(core)
    drawing = asyncio.create_task(engine.draw(ask("p", FOREVER)))
    await live(engine, 1)
    with pytest.raises(EngineDead, match="version 6 could not be put in place: half way"):
        await engine.load_weights(6, bundle(6))
    with pytest.raises(EngineDead, match="half way"):
        await drawing
    assert not engine.alive
    engine.close()


async def test_when_a_step_fails_everybody_hears_of_it_and_so_does_who_comes_later():
    core = ScriptedCore(fail_step=MemoryError("no room"), pause_at=1)
    engine = started(core)
    begun = asyncio.create_task(engine.draw(ask("p0", FOREVER)))
    await asyncio.to_thread(core.paused.wait, 20)
    queued = [asyncio.create_task(engine.draw(ask("p1", 1))), asyncio.create_task(engine.abort("p0"))]
    await asyncio.sleep(0)
    core.go.set()
    for call in (begun, *queued, engine.draw(ask("late", 1)), engine.load_weights(1, bundle(1)), engine.abort("x")):
        with pytest.raises(EngineDead, match="g0: the engine died: MemoryError: no room"):
            await call
    assert engine.stats()["alive"] == 0
    engine.close()
    assert core.closed


async def test_closing_ends_what_is_pending(core: ScriptedCore):
    engine = started(core)
    drawing = asyncio.create_task(engine.draw(ask("p", FOREVER)))
    await live(engine, 1)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineDead, match="the engine was closed"):
        await drawing
    with pytest.raises(EngineDead, match="the engine was closed"):
        await engine.draw(ask("p", 1))
    engine.close()
    assert core.closed


async def test_a_cancelled_draw_is_forgotten(engine: Engine, core: ScriptedCore):
    drawing = asyncio.create_task(engine.draw(ask("p", FOREVER, FOREVER)))
    other = asyncio.create_task(engine.draw(ask("p", FOREVER)))
    await live(engine, 3)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    await live(engine, 1)
    assert len(core.live) == 1
    await engine.load_weights(1, bundle(1))  # restarts the other one alone
    await live(engine, 1)
    await engine.abort("p")
    assert len(await other) == 1


async def test_a_start_that_fails_is_raised_by_ready():
    def broken() -> ScriptedCore:
        raise OSError("disk full")

    def misconfigured() -> ScriptedCore:
        raise ConfigError("raise generators.kv_cache_mib")

    model = ModelConfig(path=Path("unused"), max_length=16)
    engine = Engine("unused", GeneratorsConfig(), model, generator_id="g0", make_core=broken)
    with pytest.raises(EngineDead, match="g0: the engine died: OSError: disk full"):
        await engine.ready()
    with pytest.raises(EngineDead, match="disk full"):
        await engine.draw(ask("p", 1))
    engine = Engine("unused", GeneratorsConfig(), model, generator_id="g0", make_core=misconfigured)
    with pytest.raises(ConfigError, match=r"raise generators\.kv_cache_mib"):
        await engine.ready()


def test_a_model_folder_that_is_not_there_is_named_at_once(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model\.path '.*nowhere' is not a model folder \(no config\.json in it\)"):
        Engine(tmp_path / "nowhere", GeneratorsConfig(), ModelConfig(path=tmp_path / "nowhere"), generator_id="g0")


def test_draws_may_come_from_event_loops_that_come_and_go(engine: Engine):
    for length in (1, 2, 3):
        (rollout,) = asyncio.run(engine.draw(ask("p", length)))
        assert len(rollout.token_ids) == length


async def test_a_lost_part_ends_an_engine_that_waits(engine: Engine):
    await engine.ready()
    engine.lose()
    async with asyncio.timeout(5):
        while engine.alive:  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.001)
    with pytest.raises(EngineDead, match="a worker process ended by itself"):
        await engine.draw(ask("p", 1))
    engine.lose()  # says nothing: it has ended


async def test_a_proof_is_of_what_is_served_beside_draws_that_go_on(engine: Engine):
    drawing = asyncio.create_task(engine.draw(ask("p", FOREVER)))
    await live(engine, 1)
    await engine.load_weights(3, bundle(3))
    proof = await engine.prove([ProbeSequence((1, 2), (5, 6)), ProbeSequence((1,), (7,))])
    assert proof.checksums == {"w": 3}
    assert [list(one) for one in proof.logprobs] == [pytest.approx([-0.5, -0.6]), pytest.approx([-0.7])]
    assert not drawing.done()
    assert engine.stats()["live_requests"] == 1
    with pytest.raises(ConfigError, match="no tokens"):
        await engine.prove([ProbeSequence((1,), (2,)), ProbeSequence((1,), ())])
    await engine.abort("p")
    await drawing
    assert (await engine.prove()).logprobs == ()
