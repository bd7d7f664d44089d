"""Real vLLM engines over tiny models, one at a time in this process, and transformers as the reference."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from v05ray.config import GeneratorsConfig, ModelConfig
from v05ray.generation.environment import environment

GENERATORS = GeneratorsConfig(max_num_seqs=16, kv_cache_mib=64)
MAX_LENGTH = 160
os.environ.update(environment(GENERATORS))  # before anything here imports torch

import torch  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from v05ray.generation.engine import Engine  # noqa: E402
from v05ray.models import tiny  # noqa: E402
from v05ray.types import DrawRequest, Sampling  # noqa: E402

PROMPT = tuple(range(10, 90))
"""80 tokens of the tiny vocabulary: two whole blocks of the KV cache that draws share, and a part of a third."""


def request(
    prompt_id: str = "p",
    *,
    token_ids: tuple[int, ...] = PROMPT,
    seeds: tuple[int, ...] = (1, 2, 3),
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 12,
    stop_token_ids: tuple[int, ...] = (),
    stop: tuple[str, ...] = (),
    include_stop: bool = False,
) -> DrawRequest:
    sampling = Sampling(temperature, top_p, max_tokens, stop_token_ids, stop, include_stop)
    return DrawRequest(prompt_id, token_ids, tuple(range(len(seeds))), seeds, sampling)


class Reference:
    """transformers' own forward pass of a model folder, whose weights a test may change."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    def named(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, parameter.detach().clone()) for name, parameter in self.model.named_parameters()]

    def perturb(self, scale: float, seed: int) -> None:
        """Adds noise of `scale` standard deviations to every parameter."""
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                noise = torch.randn(parameter.shape, generator=rng)
                parameter += (noise * scale * max(parameter.float().std().item(), 0.1)).to(parameter.dtype)

    def logits(self, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
        """[T, V] float32, one row per token of the response."""
        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + response])).logits[0]
        return logits[len(prompt) - 1 : -1].float()

    def logprobs(self, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
        """[T] of the tokens of the response."""
        scaled = (self.logits(prompt, response) / temperature).log_softmax(-1)
        return scaled.gather(-1, torch.tensor(response)[:, None])[:, 0]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[Engine, Reference]]]:
    """Makes a random tiny model and an engine that serves it; closes what it made."""
    engines: list[Engine] = []

    def make(*, tied: bool, dtype: str = "float32", tensor_parallel: int = 1) -> tuple[Engine, Reference]:
        root = tmp_path_factory.mktemp("engine")
        folder = tiny.prepare(root / "model", tied=tied, success=0)
        model = ModelConfig.model_validate({"path": folder, "dtype": dtype, "max_length": MAX_LENGTH})
        generators = GENERATORS.model_copy(update={"tensor_parallel": tensor_parallel})
        engines.append(Engine(folder, generators, model, generator_id="g7", log_file=root / "vllm.log"))
        return engines[-1], Reference(folder, getattr(torch, dtype))

    yield make
    for engine in engines:
        engine.close()
