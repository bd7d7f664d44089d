"""The comparison before a run trains, with a real engine and the real policy: what is damaged is what is named."""

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from v05ray.config import Config, GeneratorsConfig
from v05ray.generation.environment import environment

GENERATORS = GeneratorsConfig(max_num_seqs=16, kv_cache_mib=64)
os.environ.update(environment(GENERATORS))  # before anything here imports torch

import torch  # noqa: E402

from tests.e2e.models.architectures import save  # noqa: E402
from v05ray.generation.engine import Engine  # noqa: E402
from v05ray.job.config_files import make_config  # noqa: E402
from v05ray.learning import architecture  # noqa: E402
from v05ray.learning.batching import collate, make_rows  # noqa: E402
from v05ray.learning.loading import load_policy  # noqa: E402
from v05ray.learning.policy import Policy, arguments  # noqa: E402
from v05ray.training.agreement import Disagreement, check_agreement  # noqa: E402
from v05ray.types import Prompt, TrainSample  # noqa: E402

PROMPTS = [Prompt(f"p{i}", "", tuple(range(10 + i, 40 + i)), "", "test") for i in range(8)]


class PolicyAlone:
    """The part of `ports.LearnerGroup` that is asked here, without an optimiser (whose process group is another)."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    async def logprobs(self, samples: Sequence[TrainSample], *, share_prefix: bool) -> list[list[float]]:
        rows = make_rows(samples, 1 << 20, share_prefix=share_prefix)
        logp_N = self.policy(*arguments(collate(rows, "token_mean")))[0]
        in_order = [sample for row in rows for sample in row.samples]
        pieces = logp_N.split([len(sample.response_ids) for sample in in_order])
        found = {id(sample): piece.tolist() for sample, piece in zip(in_order, pieces, strict=True)}
        return [found[id(sample)] for sample in samples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("mistral, window", tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    model = {"path": str(folder), "dtype": "float32", "max_length": 160}
    return make_config({"model": model, "data": {"train": "jsonl"}, "sampling": {"max_tokens": 24}})


@pytest.fixture
async def engine(folder: Path, config: Config, tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(folder, GENERATORS, config.model, generator_id="g", log_file=tmp_path / "vllm.log")
    await engine.ready()
    yield engine
    engine.close()


async def test_damage_is_measured_and_its_place_is_named(
    engine: Engine, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(config.model, 1.0, torch.device("cpu"), share_prefix=True, checkpointing=False)
    learners: Any = PolicyAlone(policy)
    found = await check_agreement(config, PROMPTS, engine.draw, learners)
    assert found.mean < 1e-5
    assert found.num_tokens > 100

    with monkeypatch.context() as patched:
        patched.setattr(architecture, "tree_masks", lambda settings, mask, depth: mask)
        with pytest.raises(Disagreement, match=r"without shared prefixes it is .*set learner\.share_prefix=false"):
            await check_agreement(config, PROMPTS, engine.draw, learners)

    weight = policy.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    with torch.no_grad():
        weight[3] = 0.0
    with pytest.raises(Disagreement, match="the first tokens after the prompt differ already"):
        await check_agreement(config, PROMPTS, engine.draw, learners)
