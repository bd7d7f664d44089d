"""The engine of one generator: asyncio outside, one dedicated thread inside.

    draw(), abort(), load_weights()          any event loop
        | commands                      ^ futures
        v                               |
    the engine thread: run all commands, then one batch, then hand out what ended with it; wait when there is no work

The core (vLLM) is made, called and closed by that thread alone. Commands run between batches, so weights never change
within one. Draws that are unfinished when weights change start again from their first token, with the same seeds, on
the new weights: every token of every rollout of one draw comes from the one version that its rollouts carry.
"""

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psutil

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.errors import ConfigError
from v05ray.generation.parts import check_parts
from v05ray.types import DrawRequest, ProbeSequence, Rollout, Sampling, Turn, WeightsProof
from v05ray.weights import Bucket, WeightsError, check_bundle

if TYPE_CHECKING:
    from v05ray.generation.core import Output

T = TypeVar("T")


class EngineDead(RuntimeError):
    """The engine has ended and will do nothing more; its process should end too."""


class Core(Protocol):
    """What the engine thread drives; `core.VllmCore` is the real one."""

    def add(self, request_id: str, token_ids: Sequence[int], seed: int, sampling: Sampling) -> None: ...  # noqa: D102

    def step(self) -> "list[Output]": ...  # noqa: D102

    def abort(self, request_ids: Iterable[str]) -> "list[Output]": ...  # noqa: D102

    def add_probe(self, request_id: str, sequence: ProbeSequence) -> None: ...  # noqa: D102

    def checksums(self) -> dict[str, int | None]: ...  # noqa: D102

    def check(self, buckets: Iterable[Bucket]) -> None: ...  # noqa: D102

    def load(self, buckets: Iterable[Bucket]) -> None: ...  # noqa: D102

    def decode(self, output: "Output") -> str: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


@dataclass(slots=True, eq=False)
class _Draw:
    """One call of `draw` until all its rollouts have ended."""

    request: DrawRequest
    accepted_s: float
    future: "Future[list[tuple[Output, float]]]"
    version: int = 0
    ended: "dict[int, tuple[Output, float]]" = field(default_factory=dict)
    """By position in the request: the output, and the seconds it took."""


class Engine:
    """vLLM in this process, with `generators.tensor_parallel` > 1 the model's parts in processes that it starts.

    Give the process `environment(generators)` before it imports torch.
    """

    def __init__(
        self,
        model_path: str | Path,
        generators: GeneratorsConfig,
        model: ModelConfig,
        *,
        generator_id: str,
        log_file: Path | None = None,
        make_core: Callable[[], Core] | None = None,
    ) -> None:
        """Starts to load in the background; `ready` waits for it.

        `log_file` takes all of vLLM's log; without it, its errors go to stderr. `make_core` replaces vLLM. Raises
        `ConfigError` when the model folder does not exist, and when the model cannot be split over
        `generators.tensor_parallel` parts.
        """
        folder = Path(model_path)
        if make_core is None and not (folder / "config.json").is_file():
            raise ConfigError(f"model.path {str(model_path)!r} is not a model folder (no config.json in it)")
        if make_core is None:
            check_parts(folder, generators.tensor_parallel)
        self._id = generator_id
        self._max_length = model.max_length
        self._make_core = make_core or (lambda: _vllm_core(folder, generators, model, log_file, self.lose))
        self._in_parts = generators.tensor_parallel > 1
        self._core: Core | None = None
        self._version = 0
        self._num_tokens = 0
        self._names = itertools.count()
        self._draws: set[_Draw] = set()
        self._live: dict[str, tuple[_Draw, int]] = {}
        self._probes: dict[str, Future[tuple[float, ...]]] = {}
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._end_lock = threading.Lock()
        self._dead: EngineDead | None = None
        self._started = _running_future()
        self._thread = threading.Thread(target=self._run, name=f"engine-{generator_id}", daemon=True)
        self._thread.start()

    # ---- the owner's side: any thread, any event loop ----

    @property
    def alive(self) -> bool:
        """False once the engine has died, failed to start or been closed; then nothing brings it back."""
        return self._dead is None

    @property
    def version(self) -> int:
        """Of the weights that are served; the model folder's own are version 0."""
        return self._version

    async def ready(self) -> None:
        """Returns once the engine takes work; `ConfigError` if the settings cannot be served, else `EngineDead`."""
        await asyncio.shield(asyncio.wrap_future(self._started))

    async def draw(self, request: DrawRequest) -> list[Rollout]:
        """All rollouts of the request, in the order of its sample indices, batched with whatever else runs.

        A response ends at the end-of-sequence token, a stop token, or the token that completes a stop text (each kept
        in its tokens; all have the finish reason `stop`), after `max_tokens`, or where prompt and response reach
        `model.max_length`. Its text has no special tokens, and ends before the stop text unless `include_stop`.
        Log-probabilities are those of the distribution that was sampled (temperature and top-p included; at temperature
        0, of the unscaled distribution). Rollouts that `abort` ended carry what they had got, which may be nothing. A
        cancelled draw is aborted.

        Raises `ConfigError` for a request that cannot be served, `EngineDead` when the engine ends meanwhile.
        """
        self._check(request)
        draw = _Draw(request, time.perf_counter(), _running_future())
        begun = self._submit(lambda: self._begin(draw))
        try:
            await asyncio.wrap_future(begun)
            ended = await asyncio.wrap_future(draw.future)
        except asyncio.CancelledError:
            with contextlib.suppress(EngineDead):
                self._submit(lambda: self._forget(draw))
            raise
        return [self._rollout(draw, position, *ended[position]) for position in range(len(ended))]

    async def abort(self, prompt_id: str) -> int:
        """Ends the unfinished rollouts of a prompt, whose draws then return; returns how many there were."""
        return await self._do(lambda: self._abort(prompt_id))

    async def load_weights(self, version: int, buckets: Sequence[Bucket]) -> int:
        """Serves a new version from its first token on; returns it.

        The bundle is checked before anything changes: `WeightsError` leaves the old version in service. An error while
        it is put in place leaves a mixture, so it ends the engine (`EngineDead`). Unfinished draws start again.
        """
        bundle = check_bundle(buckets, version=version)
        return await self._do(lambda: self._load(version, bundle))

    async def prove(self, probe: Sequence[ProbeSequence] = ()) -> WeightsProof:
        """What is served now: a checksum of every tensor, as far as it can be read back, and the probe's log-probs.

        Raises `ConfigError` for a sequence that cannot be served, `WeightsError` where the weights change meanwhile.
        """
        checksums = await self._do(lambda: self._running.checksums())
        waiting: list[Future[tuple[float, ...]]] = [_running_future() for _ in probe]
        await self._do(lambda: self._begin_probes(probe, waiting))
        return WeightsProof(checksums, tuple(await asyncio.gather(*map(asyncio.wrap_future, waiting))))

    def lose(self) -> None:
        """Ends the engine, which has lost a part of itself; for the core's use, from any thread."""

        def fail() -> None:
            raise RuntimeError("a worker process ended by itself")

        with contextlib.suppress(EngineDead):
            self._submit(fail)

    def stats(self) -> dict[str, float]:
        """`rss_bytes` (with the parts'), `live_requests`, `version` served, `tokens_generated`, `alive`."""
        return {
            "rss_bytes": float(_memory(psutil.Process(), with_children=self._in_parts)),
            "live_requests": float(len(self._live)),
            "version": float(self._version),
            "tokens_generated": float(self._num_tokens),
            "alive": float(self.alive),
        }

    def close(self) -> None:
        """Ends the engine after the batch in hand and waits for it; pending calls raise `EngineDead`."""
        self._commands.put(None)
        self._thread.join()

    def _check(self, request: DrawRequest) -> None:
        num_tokens, name = len(request.token_ids), request.prompt_id
        if num_tokens == 0:
            raise ConfigError(f"prompt {name!r} has no tokens")
        if num_tokens >= self._max_length:
            raise ConfigError(
                f"prompt {name!r} has {num_tokens} tokens, which leaves no room for a response within model.max_length"
                f" ({self._max_length}); raise it, or leave the prompt out"
            )
        if not request.sample_indices or len(request.sample_indices) != len(request.seeds):
            raise ConfigError(
                f"a draw of prompt {name!r} has {len(request.sample_indices)} sample indices and {len(request.seeds)}"
                " seeds; it needs one or more, and as many of each"
            )

    def _rollout(self, draw: _Draw, position: int, output: "Output", seconds: float) -> Rollout:
        turn = Turn(
            text=self._running.decode(output),
            token_ids=output.token_ids,
            logprobs=output.logprobs,
            finish_reason=output.finish_reason,
            policy_version=draw.version,
            generator_id=self._id,
            seconds=seconds,
        )
        return Rollout(draw.request.prompt_id, draw.request.sample_indices[position], (turn,))

    def _submit(self, action: Callable[[], T]) -> "Future[T]":
        future: Future[T] = _running_future()
        with self._end_lock:
            if self._dead is not None:
                raise self._dead
            self._commands.put((action, future))
        return future

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(action))

    @property
    def _running(self) -> Core:
        """The core, which exists from before the first command until after the last."""
        if self._core is None:
            raise EngineDead(f"{self._id}: the engine never started")
        return self._core

    # ---- the engine thread ----

    def _run(self) -> None:
        try:
            self._core = self._make_core()
            self._started.set_result(None)
            while self._serve_commands():
                self._hand_out(self._core.step())
            self._end(EngineDead(f"{self._id}: the engine was closed"))
        except BaseException as error:
            if isinstance(error, ConfigError) and not self._started.done():
                # For the user to fix: a fresh process would fail the same way, and a traceback would not help.
                self._end(self._died(error), start_error=error)
                return
            self._end(self._died(error))
            raise  # the thread's traceback belongs into the process's log
        finally:
            if self._core is not None:
                self._core.close()

    def _serve_commands(self) -> bool:
        """Runs all that is queued, and waits for more while there is nothing to generate; False means stop."""
        while True:
            try:
                command = self._commands.get(block=not self._live and not self._probes)
            except queue.Empty:
                return True
            if command is None:
                return False
            action, future = command
            try:
                future.set_result(action())
            except (ConfigError, WeightsError) as error:  # refused before anything changed
                future.set_exception(error)
            except BaseException as error:
                future.set_exception(self._died(error))
                raise

    def _begin(self, draw: _Draw) -> None:
        """Queues all of a draw's requests, or raises `ConfigError` and queues none."""
        draw.version, draw.ended = self._version, {}
        request, added = draw.request, {}
        try:
            for position, seed in enumerate(request.seeds):
                name = str(next(self._names))
                self._running.add(name, request.token_ids, seed, request.sampling)
                added[name] = (draw, position)
        except ConfigError:
            self._running.abort(added)
            raise
        self._draws.add(draw)
        self._live |= added

    def _begin_probes(self, probe: Sequence[ProbeSequence], waiting: "Sequence[Future[tuple[float, ...]]]") -> None:
        names = [str(next(self._names)) for _ in probe]
        for index, (name, sequence) in enumerate(zip(names, probe, strict=True)):
            try:
                self._running.add_probe(name, sequence)
            except ConfigError:
                self._running.abort(names[:index])
                raise
        self._probes |= zip(names, waiting, strict=True)

    def _hand_out(self, outputs: "Iterable[Output]") -> None:
        now = time.perf_counter()
        for output in outputs:
            if output.request_id in self._probes:
                self._probes.pop(output.request_id).set_result(output.given_logprobs)
                continue
            draw, position = self._live.pop(output.request_id)
            draw.ended[position] = (output, now - draw.accepted_s)
            self._num_tokens += len(output.token_ids)
            if len(draw.ended) == len(draw.request.seeds):
                self._draws.remove(draw)
                draw.future.set_result([draw.ended[i] for i in range(len(draw.ended))])

    def _abort(self, prompt_id: str) -> int:
        names = [name for name, (draw, _) in self._live.items() if draw.request.prompt_id == prompt_id]
        self._hand_out(self._running.abort(names))
        return len(names)

    def _forget(self, draw: _Draw) -> None:
        names = [name for name, (other, _) in self._live.items() if other is draw]
        self._running.abort(names)
        for name in names:
            del self._live[name]
        self._draws.discard(draw)

    def _load(self, version: int, bundle: Sequence[Bucket]) -> int:
        self._running.check(bundle)
        self._running.abort([*self._live, *self._probes])
        self._live.clear()
        for waiting in self._probes.values():
            waiting.set_exception(WeightsError(f"version {version} came while an earlier one was being proved"))
        self._probes.clear()
        try:
            self._running.load(bundle)
        except Exception as error:
            # Whatever it was, some tensors may be new and some old: no longer an error of the bundle's alone.
            raise RuntimeError(f"version {version} could not be put in place: {error}") from error
        self._version = version
        for draw in tuple(self._draws):
            self._begin(draw)
        return version

    def _died(self, error: BaseException) -> EngineDead:
        return EngineDead(f"{self._id}: the engine died: {type(error).__name__}: {error}")

    def _end(self, reason: EngineDead, *, start_error: ConfigError | None = None) -> None:
        """Every waiting caller and every later one gets the reason; those that wait for the start get its own error."""
        with self._end_lock:
            self._dead = reason
        pending = [*(draw.future for draw in self._draws), *self._probes.values()]
        while not self._commands.empty():
            command = self._commands.get()
            if command is not None:
                pending.append(command[1])
        if not self._started.done():
            self._started.set_exception(start_error or reason)
        for future in pending:
            if not future.done():
                future.set_exception(reason)
        self._draws.clear()
        self._live.clear()
        self._probes.clear()


def _memory(process: psutil.Process, *, with_children: bool) -> int:
    """Resident bytes; of shared pages once for every process that has them."""
    held = process.memory_info().rss
    for child in process.children(recursive=True) if with_children else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            held += child.memory_info().rss
    return held


def _vllm_core(
    folder: Path,
    generators: GeneratorsConfig,
    model: ModelConfig,
    log_file: Path | None,
    on_loss: Callable[[], None],
) -> Core:
    from v05ray.generation.core import VllmCore

    return VllmCore(folder, generators, model, log_file=log_file, on_loss=on_loss)


def _running_future() -> "Future[Any]":
    """A future that an awaiting task's cancellation does not cancel: the engine thread may always set it."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
