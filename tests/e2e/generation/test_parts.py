"""An engine over two parts, each in a process of its own: what it draws, and how all of it ends."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.generation.conftest import GENERATORS, Reference, request
from tests.e2e.generation.test_logprobs import worst_error
from tests.e2e.generation.test_proof import PROBE, sent_proof
from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.errors import ConfigError
from v05ray.generation.engine import Engine, EngineDead
from v05ray.generation.environment import environment
from v05ray.generation.sharing import NAME
from v05ray.models import tiny
from v05ray.weights import difference, pack

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

PARTS = GENERATORS.model_copy(update={"tensor_parallel": 2})
SECONDS_TO_END = 20


@pytest.fixture(autouse=True)
def parts_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(PARTS).items():
        monkeypatch.setenv(name, value)


def workers() -> list[psutil.Process]:
    return [psutil.Process(c.pid) for c in multiprocessing.active_children() if c.name.startswith("VllmWorker")]


async def test_two_parts_draw_what_one_does_before_and_after_an_update(
    start: Callable[..., tuple[Engine, Reference]],
):
    asked = request(seeds=tuple(range(8)), max_tokens=40)
    alone, reference = start(tied=True)
    expected = await alone.draw(asked)
    alone.close()

    engine, _ = start(tied=True, tensor_parallel=2)
    before = await engine.draw(asked)
    assert len(workers()) == 2
    assert [r.token_ids for r in before] == [r.token_ids for r in expected]
    assert worst_error(before, reference) <= 1e-4

    reference.perturb(0.3, seed=5)
    buckets = list(pack(reference.named(), version=1, bucket_bytes=1 << 19))
    assert len(buckets) > 2
    assert worst_error(before, reference) > 1e-3
    await engine.load_weights(1, buckets)
    assert not any(NAME in m.path for part in workers() for m in part.memory_maps(grouped=False))
    for bucket in buckets:
        bucket.data[:] = 0
    after = await engine.draw(asked)
    assert {r.policy_version for r in after} == {1}
    assert worst_error(after, reference) <= 1e-4
    # No part has a whole tensor to checksum; the probe covers all of them.
    proof, sent = await engine.prove(PROBE), sent_proof(reference)
    assert proof.checksums == dict.fromkeys(sent.checksums)
    assert difference(sent, proof, 1e-4) is None
    reference.perturb(0.1, seed=6)
    assert "log-probabilities differ" in str(difference(sent_proof(reference), proof, 1e-3))
    assert engine.stats()["rss_bytes"] > sum(part.memory_info().rss for part in workers())

    engine.close()
    assert workers() == []


@pytest.mark.parametrize("busy", [True, False], ids=["drawing", "idle"])
async def test_a_killed_part_ends_the_engine(busy: bool, start: Callable[..., tuple[Engine, Reference]]):
    engine, _ = start(tied=True, tensor_parallel=2)
    await engine.draw(request())
    parts = workers()
    long = [request(f"p{i}", seeds=tuple(range(16)), max_tokens=75) for i in range(200)]
    drawing = [asyncio.create_task(engine.draw(each)) for each in (long if busy else [])]
    await asyncio.sleep(0.3)
    parts[1].kill()
    killed = time.monotonic()
    async with asyncio.timeout(SECONDS_TO_END):
        while engine.alive:  # noqa: ASYNC110 - the engine's thread sets no event
            await asyncio.sleep(0.05)
    print(f"the engine was dead {time.monotonic() - killed:.1f} s after its part")
    ends = await asyncio.gather(*drawing, return_exceptions=True)
    assert not busy or any(isinstance(end, EngineDead) for end in ends)
    with pytest.raises(EngineDead, match="the engine died"):
        await engine.draw(request())
    engine.close()
    assert psutil.wait_procs(parts, timeout=SECONDS_TO_END)[1] == []


async def test_a_start_that_is_refused_leaves_no_part(tmp_path: Path):
    folder = tiny.prepare(tmp_path / "model", tied=True, success=0)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"max_position_embeddings": 512', '"max_position_embeddings": 99999')
    )
    generators = GeneratorsConfig(kv_cache_mib=16, tensor_parallel=2)
    engine = Engine(folder, generators, ModelConfig(path=folder, max_length=90_000), generator_id="g0")
    with pytest.raises(ConfigError, match="KV cache"):
        await engine.ready()
    engine.close()
    assert workers() == []


SERVE = """
import asyncio, multiprocessing, sys
from tests.e2e.generation.conftest import MAX_LENGTH, request
from tests.e2e.generation.test_parts import PARTS
from v05ray.config import ModelConfig
from v05ray.generation.engine import Engine

async def main():
    model = ModelConfig(path=sys.argv[1], dtype="float32", max_length=MAX_LENGTH)
    engine = Engine(sys.argv[1], PARTS, model, generator_id="g0")
    await engine.ready()
    print(*(c.pid for c in multiprocessing.active_children()), flush=True)
    while True:
        await engine.draw(request(seeds=tuple(range(16)), max_tokens=75))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process whose engine never stops drawing, and its parts."""
    folder = tiny.prepare(tmp_path / "model", tied=True, success=0)
    (tmp_path / "serve.py").write_text(SERVE)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "serve.py"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": os.getcwd()},
    )
    assert child.stdout is not None
    parts = [psutil.Process(int(pid)) for pid in child.stdout.readline().split()]
    yield child, parts
    for process in (*parts, child):
        if process.is_running() if isinstance(process, psutil.Process) else process.poll() is None:
            process.kill()
    child.wait()


def test_the_parts_of_a_killed_process_end_by_themselves_even_one_that_hangs(
    served: tuple[subprocess.Popen[str], list[psutil.Process]],
):
    child, parts = served
    assert len(parts) == 2
    time.sleep(0.5)
    parts[1].send_signal(signal.SIGSTOP)  # the other part waits for its share of a sum, and would for good
    time.sleep(0.5)
    child.kill()
    child.wait()
    assert psutil.wait_procs(parts, timeout=5)[1] == []
