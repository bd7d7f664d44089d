"""One vLLM engine, called from one thread. All that knows vLLM: this file, `cpu_kernels`, `reloading` and `reading`.

What is not obvious about vLLM, each found by a test that failed without it:
- On CPU, tied embeddings go stale: a reload leaves the packed output projection old (log-probs off by 0.4 to 1.2).
- On CPU, experts of a mixture are packed at the start, and a reload leaves them unpacked (log-probs off by 2 to 4).
- On CPU, a per-request seed with chunked prefill ends the engine; so prefill is not chunked there.
- Only `processed_logprobs` are those of the distribution that was sampled (temperature and top-p included).
- A stop text is looked for in what the response says, not in the prompt; the tokens that hold it stay in the output,
  with their log-probabilities, while `text` ends before it.
- The prefix cache is not emptied, silently, while requests run; so a reload demands that none does.

With `generators.tensor_parallel` > 1 the model's parts run in worker processes (vLLM's `mp` executor), one a device;
the scheduler and everything else stay in this process, and `collective_rpc` reaches every part.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.errors import ConfigError
from v05ray.generation.reloading import reload, reload_part, reload_recorded
from v05ray.generation.sharing import shared
from v05ray.lean_imports import lean_transformers, without
from v05ray.models.huggingface import checkpoint_shapes, is_derived
from v05ray.types import FinishReason, ProbeSequence, Sampling
from v05ray.weights import Bucket, TensorEntry, check_names

if TYPE_CHECKING:
    from vllm import SamplingParams

CPU_BLOCK_TOKENS = 32
"""Tokens of one block of the KV cache on CPU: what a prompt shares is counted in whole blocks."""

CPU_NORMS = "v05ray"
"""Name under which `cpu_kernels` offers its norms to vLLM."""
NORMS = ("rms_norm", "fused_add_rms_norm")

CPU_BATCH_TOKENS = 4096
"""Most tokens of one batch on CPU, where a prompt must fit into one batch."""


@dataclass(frozen=True, slots=True)
class Output:
    """One finished (or aborted) request."""

    request_id: str
    token_ids: tuple[int, ...]
    """[T]"""
    logprobs: tuple[float, ...]
    """[T]"""
    finish_reason: FinishReason
    text: str | None = None
    """Up to the stop text that ended it, or through it, special tokens and all; None where none ended it."""
    given_logprobs: tuple[float, ...] = ()
    """[T] of the response that a probe was given; empty for what is drawn."""


class VllmCore:
    """Builds the engine, and drives it step by step. One thread makes it, calls it and closes it."""

    def __init__(
        self,
        model_path: Path,
        generators: GeneratorsConfig,
        model: ModelConfig,
        *,
        log_file: Path | None = None,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes seconds. Raises `ConfigError` for what another try would not fix.

        `on_loss` is called, from a thread of vLLM's, when a worker process has ended by itself.

        Those are a missing environment, a folder without safetensors, a vLLM built for another device, settings that
        vLLM refuses (a `model.max_length` that the model or the KV cache has no room for).
        """
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            raise ConfigError(
                "the generator's environment is not set (VLLM_ENABLE_V1_MULTIPROCESSING is not 0); set"
                " v05ray.generation.environment.environment(...) before the process imports torch"
            )
        self._shapes = checkpoint_shapes(model_path)
        _route_logs(log_file)

        seldom = ("cv2", "scipy") if lean_transformers() else ("cv2",)
        with without(*seldom):  # for models that see and hear
            from vllm import EngineArgs
            from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
        from vllm.exceptions import VLLMValidationError

        arguments = _engine_arguments(generators, model)
        _check_build(generators)
        on_cpu = generators.num_gpus == 0
        if on_cpu and generators.tensor_parallel == 1:
            from v05ray.generation import cpu_kernels

            cpu_kernels.register_norms(CPU_NORMS)
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(model=str(model_path), **arguments))
        except (ValueError, VLLMValidationError) as error:  # what vLLM will not serve; another try would not help
            _end_workers()
            cleanup_dist_env_and_memory()
            raise ConfigError(f"vLLM cannot serve model.path {model_path}: {_first_reason(error)}") from error
        self._tokenizer = self._engine.get_tokenizer()
        self._internal_ids: dict[str, str] = {}
        self._probed: dict[str, int] = {}
        """Prompt tokens of every probe in flight."""
        self._sent: dict[str, TensorEntry] = {}
        """Of the version that is served, once one was loaded."""
        self._places: Mapping[str, Any] | None = None
        self._closed = False
        self._in_parts = generators.tensor_parallel > 1
        if self._in_parts:
            executor = cast(Any, self._engine.engine_core).engine_core.model_executor
            executor.register_failure_callback(on_loss)
            self._engine.collective_rpc(partial(_settle, log_file=log_file, owner=os.getpid()))
        if on_cpu:
            self._engine.collective_rpc(_use_cpu_kernels)

    def add(self, request_id: str, token_ids: Sequence[int], seed: int, sampling: Sampling) -> None:
        """Queues one request; raises `ConfigError` for one that vLLM will not take."""
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs import TokensPrompt

        try:
            self._internal_ids[request_id] = self._engine.add_request(
                request_id, TokensPrompt(prompt_token_ids=list(token_ids)), _sampling_params(seed, sampling)
            )
        except (ValueError, VLLMValidationError) as error:  # a bad request; anything else is a broken engine
            raise ConfigError(f"the engine refused a request with {sampling}: {error}") from error

    def add_probe(self, request_id: str, sequence: ProbeSequence) -> None:
        """Queues a response that is given, for its log-probabilities at temperature 1 (`Output.given_logprobs`).

        It is computed as a prompt is, and never from the prefix cache. Raises `ConfigError` as `add` does.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        token_ids = [*sequence.prompt_ids, *sequence.response_ids]
        wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, logprobs=0, detokenize=False)
        wanted.output_kind = RequestOutputKind.FINAL_ONLY
        try:
            self._internal_ids[request_id] = self._engine.add_request(
                request_id, TokensPrompt(prompt_token_ids=token_ids), wanted
            )
        except ValueError as error:
            raise ConfigError(f"the engine refused a probe of {len(token_ids)} tokens: {error}") from error
        self._probed[request_id] = len(sequence.prompt_ids)

    def step(self) -> list[Output]:
        """One batch; returns the requests that ended with it."""
        return [self._output(finished) for finished in self._engine.step() if finished.finished]

    def abort(self, request_ids: Iterable[str]) -> list[Output]:
        """Ends requests at once; returns what they had got so far."""
        outputs = []
        states = self._engine.output_processor.request_states
        for request_id in request_ids:
            internal_id = self._internal_ids.pop(request_id)
            self._probed.pop(request_id, None)
            # vLLM forgets an aborted request silently, so its tokens are read before.
            state = states[internal_id]
            token_ids = tuple(state.detokenizer.output_token_ids) if state.detokenizer else ()
            entries = state.logprobs_processor.logprobs if state.logprobs_processor else None
            outputs.append(Output(request_id, token_ids, _sampled_logprobs(token_ids, entries), "abort"))
            self._engine.abort_request([internal_id], internal=True)
        return outputs

    def check(self, buckets: Iterable[Bucket]) -> None:
        """Raises `WeightsError` unless the bundle's tensors are the model's own, by name and shape."""
        # A projection tied to the embedding is stored by some and not by others; old models store a derived buffer.
        optional = ["lm_head.weight"] if self._tied else []
        optional += [name for name in self._shapes if is_derived(name)]
        check_names(buckets, self._shapes, optional=optional)

    def load(self, buckets: Iterable[Bucket]) -> None:
        """Puts a checked bundle in place. No request may be live; when this raises, the weights are a mixture."""
        if self._internal_ids:
            raise RuntimeError(f"weights cannot change under {len(self._internal_ids)} live requests")
        bundle = list(buckets)
        if self._in_parts:
            with shared(bundle) as there:
                self._engine.collective_rpc(partial(reload_part, bundle=there))
        elif self._places is None:
            (self._places,) = self._engine.collective_rpc(lambda worker: reload_recorded(worker, bundle))
        else:
            self._engine.collective_rpc(lambda worker: reload(worker, bundle))
        self._sent = {entry.name: entry for bucket in bundle for entry in bucket.entries}
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache of the old weights")

    def checksums(self) -> dict[str, int | None]:
        """Of what is served, read back (see `reading`), by the names of the version loaded last; before one, empty.

        None for what cannot be read. That is everything where the model is split: each part has slices of its own.
        """
        if self._places is None:
            return dict.fromkeys(self._sent)
        places, sent = self._places, self._sent

        def read(worker: Any) -> dict[str, int | None]:
            from v05ray.generation.reading import Reader

            shapes = {name: entry.shape for name, entry in sent.items()}
            dtype = next(iter(sent.values())).dtype
            return Reader(worker.model_runner.get_model(), places, shapes, dtype).checksums(tied=self._tied)

        (found,) = self._engine.collective_rpc(read)
        return found

    def decode(self, output: Output) -> str:
        """Text without special tokens, cut where a stop text ended it. May be called from any one other thread."""
        if output.text is None:
            return cast(str, self._tokenizer.decode(list(output.token_ids), skip_special_tokens=True))
        # A stop text may begin and end within tokens: only vLLM, which looks at each token as it comes, knows where.
        text, tokenizer = output.text, cast(Any, self._tokenizer)
        for token in tokenizer.added_tokens_decoder.values():
            if token.special:
                text = text.replace(token.content, "")
        return text

    def close(self) -> None:
        """Gives memory and the process group back, so that the process can build another engine."""
        if self._closed:
            return
        self._closed = True
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        del self._engine
        _end_workers()
        cleanup_dist_env_and_memory()

    @property
    def _tied(self) -> bool:
        return bool(getattr(self._engine.model_config.hf_config, "tie_word_embeddings", False))

    def _output(self, finished: Any) -> Output:
        completion = finished.outputs[0]
        del self._internal_ids[finished.request_id]
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with {completion.finish_reason!r}")
        token_ids = tuple(completion.token_ids)
        return Output(
            finished.request_id,
            token_ids,
            _sampled_logprobs(token_ids, completion.logprobs),
            completion.finish_reason,
            text=completion.text if isinstance(completion.stop_reason, str) else None,
            given_logprobs=self._given_logprobs(finished),
        )

    def _given_logprobs(self, finished: Any) -> tuple[float, ...]:
        num_prompt_tokens = self._probed.pop(finished.request_id, None)
        if num_prompt_tokens is None:
            return ()
        token_ids = finished.prompt_token_ids[num_prompt_tokens:]
        return _sampled_logprobs(token_ids, finished.prompt_logprobs[num_prompt_tokens:])


def _check_build(generators: GeneratorsConfig) -> None:
    """vLLM is built for one kind of device, and says so only in passing."""
    from vllm.platforms import current_platform

    if generators.num_gpus > 0 and current_platform.is_cpu():
        raise ConfigError(
            f"generators.num_gpus is {generators.num_gpus:g}, but the installed vLLM is the one for CPUs; set it to 0,"
            " or install v05ray[gpu]"
        )
    if generators.num_gpus == 0 and not current_platform.is_cpu():
        raise ConfigError(
            "generators.num_gpus is 0, but the installed vLLM is the one for GPUs; set it to 1, or install v05ray[cpu]"
        )


def _first_reason(error: Exception) -> str:
    """vLLM's reason in one line. pydantic's errors hold a title, the field, the reason, and then the whole input."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("Value error, ")), lines[0] if lines else repr(error))
    return reason.removeprefix("Value error, ").partition(" [type=")[0]


def _engine_arguments(generators: GeneratorsConfig, model: ModelConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dtype": model.dtype,
        "max_model_len": model.max_length,
        "max_num_seqs": generators.max_num_seqs,
        "trust_remote_code": model.trust_remote_code,
        # By themselves these look for Mistral's own files, and would take them instead of the folder's.
        "config_format": "hf",
        "load_format": "safetensors",
        "tokenizer_mode": "hf",
        "logprobs_mode": "processed_logprobs",
        # Between two steps nothing is in flight: that is what makes it safe to change the weights there.
        "async_scheduling": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if generators.tensor_parallel > 1:
        arguments |= {"tensor_parallel_size": generators.tensor_parallel, "distributed_executor_backend": "mp"}
    if generators.num_gpus > 0:
        return arguments | {"gpu_memory_utilization": generators.gpu_memory_utilization}
    return arguments | {
        "enforce_eager": True,  # compiling takes longer than it saves
        "block_size": CPU_BLOCK_TOKENS,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCH_TOKENS, model.max_length),
        "kv_cache_memory_bytes": (generators.kv_cache_mib << 20) // generators.tensor_parallel,
        # A worker process of a split engine looks for them before anything of ours runs in it.
        **({"ir_op_priority": {name: [CPU_NORMS] for name in NORMS}} if generators.tensor_parallel == 1 else {}),
    }


def _sampling_params(seed: int, sampling: Sampling) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop_token_ids=list(sampling.stop_token_ids) or None,
        **_stop_texts(sampling),
        seed=None if sampling.temperature == 0 else seed,
        logprobs=0,  # of the sampled token alone
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _stop_texts(sampling: Sampling) -> dict[str, Any]:
    # Token by token, in the engine's thread: so only where texts are looked for.
    if not sampling.stop:
        return {"detokenize": False}
    return {
        "stop": list(sampling.stop),
        "include_stop_str_in_output": sampling.include_stop,
        "detokenize": True,
        "skip_special_tokens": False,  # a stop text may be one: `<|im_end|>` of a base model's prompts
    }


def _sampled_logprobs(token_ids: Sequence[int], entries: Any) -> tuple[float, ...]:
    """[T] from vLLM's one mapping per position, token id -> log-probability."""
    return tuple(float(entry[token].logprob) for token, entry in zip(token_ids, entries or [], strict=True))


def _use_cpu_kernels(worker: Any) -> None:
    from v05ray.generation import cpu_kernels

    cpu_kernels.use_for(worker)


def _settle(worker: Any, log_file: Path | None, owner: int) -> None:
    """Runs inside a worker process: its log to the owner's file, and its end with the owner's."""
    _route_logs(log_file)
    # vLLM's own watch ends a worker between two batches; a worker stuck in an all-reduce, with a peer that was killed
    # as well, would stay indefinitely. The kernel's signal comes when the thread that started the worker ends, however
    # that ends.
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)


def _end_workers() -> None:
    """Ends the worker processes that vLLM has left (a start that was refused), and waits for them."""
    for child in multiprocessing.active_children():
        if child.name.startswith("VllmWorker-"):
            child.kill()
            child.join()


def _route_logs(log_file: Path | None) -> None:
    """All of vLLM's log to the owner's file, or else its errors alone to stderr; never anything to stdout."""
    logger = logging.getLogger("vllm")
    if log_file is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.ERROR)
    else:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
